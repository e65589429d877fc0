//! Pure: the bounded line of connections that wait for their turn, fair between peers.
//!
//! A turn goes to the peer that holds the least, not to the longest line. `turns` decides which
//! entry may have one.

use std::collections::HashMap;
use std::mem;
use std::net::IpAddr;
use std::time::Duration;

/// One entry of the line.
pub(super) struct Waiting<T> {
    /// The [`quota_key`](super::quota::quota_key) of the client.
    pub(super) peer: IpAddr,
    /// When the wait ends without a turn, in the time since the start of the server.
    pub(super) deadline: Duration,
    pub(super) item: T,
}

/// The entries, the longest waiting first.
pub(super) struct Line<T> {
    limit: usize,
    entries: Vec<Waiting<T>>,
}

impl<T> Line<T> {
    /// Creates a line for up to `limit` entries.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            entries: Vec::new(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Waiting<T>> {
        self.entries.iter()
    }

    /// Appends an entry; the line may be longer than its limit until it is [trimmed](Self::trim).
    pub(super) fn enter(&mut self, entry: Waiting<T>) {
        self.entries.push(entry);
    }

    /// Removes the entries that a full line has no place for, each the last one of the peer that
    /// has the most.
    pub(super) fn trim(&mut self) -> Vec<Waiting<T>> {
        let surplus = self.entries.len().saturating_sub(self.limit);
        (0..surplus)
            .filter_map(|_| self.take_last_of_largest())
            .collect()
    }

    /// Returns the place and the peer of the entry with the lowest rank, the longest waiting of
    /// several. An entry without a rank cannot have a turn now.
    pub(super) fn next<R: Ord>(
        &self,
        rank: impl Fn(&Waiting<T>) -> Option<R>,
    ) -> Option<(usize, IpAddr)> {
        let ranked = self.entries.iter().enumerate();
        let (_, place) = ranked
            .filter_map(|(place, entry)| Some((rank(entry)?, place)))
            .min()?;
        Some((place, self.entries[place].peer))
    }

    /// Removes the entry at a place that [`next`](Self::next) has returned.
    pub(super) fn take(&mut self, place: usize) -> Waiting<T> {
        self.entries.remove(place)
    }

    /// Removes the entries whose deadline has passed.
    pub(super) fn take_overdue(&mut self, now: Duration) -> Vec<Waiting<T>> {
        let all = mem::take(&mut self.entries).into_iter();
        let (overdue, rest) = all.partition(|entry| entry.deadline <= now);
        self.entries = rest;
        overdue
    }

    /// Removes the last entry of the peer that has the most; the last of all if several peers have
    /// as many.
    pub(super) fn take_last_of_largest(&mut self) -> Option<Waiting<T>> {
        // Number of entries and place of the last one, by peer.
        let mut peers = HashMap::new();
        for (place, entry) in self.entries.iter().enumerate() {
            let (count, last) = peers.entry(entry.peer).or_insert((0, place));
            *count += 1;
            *last = place;
        }
        let (_, last) = peers.into_values().max()?;
        Some(self.entries.remove(last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    fn entry(peer: u8, item: u32, deadline: Duration) -> Waiting<u32> {
        Waiting {
            peer: ip(peer),
            deadline,
            item,
        }
    }

    #[test]
    fn a_crowd_of_one_peer_does_not_delay_another() {
        let now = Duration::from_secs(9);
        let mut line = Line::new(100);
        for item in 0..99 {
            line.enter(entry(1, item, now));
        }
        line.enter(entry(2, 99, now));
        // The crowd holds five connections, the other peer none.
        let held = |entry: &Waiting<u32>| Some(if entry.peer == ip(1) { 5 } else { 0 });
        let take = |line: &mut Line<u32>| {
            let (place, peer) = line.next(held).unwrap();
            let entry = line.take(place);
            assert_eq!(entry.peer, peer);
            entry.item
        };
        assert_eq!(take(&mut line), 99);
        assert_eq!([take(&mut line), take(&mut line)], [0, 1], "in their order");
        assert!(line.next(|_| None::<u32>).is_none());
    }

    #[test]
    fn a_full_line_leaves_out_the_last_of_the_largest_peer() {
        let now = Duration::from_secs(9);
        let mut line = Line::new(4);
        for (peer, item) in [(1, 0), (1, 1), (1, 2), (2, 3)] {
            line.enter(entry(peer, item, now));
            assert!(line.trim().is_empty());
        }
        let mut left_out = |peer, item| {
            line.enter(entry(peer, item, now));
            let left_out = line.trim();
            assert_eq!(left_out.len(), 1);
            left_out[0].item
        };
        assert_eq!(left_out(1, 4), 4, "its own peer has the most");
        assert_eq!(left_out(3, 5), 2);
        assert_eq!(left_out(2, 6), 6, "it has as many as the largest");
        assert_eq!(left_out(4, 7), 1);
        assert_eq!(left_out(5, 8), 8, "every peer has one");
        let items: Vec<u32> = line.iter().map(|entry| entry.item).collect();
        assert_eq!(items, [0, 3, 5, 7]);
    }

    #[test]
    fn a_wait_ends_at_its_deadline() {
        let now = Duration::from_secs(9);
        let mut line = Line::new(9);
        line.enter(entry(1, 0, now + Duration::from_secs(2)));
        line.enter(entry(1, 1, now));
        line.enter(entry(2, 2, now + Duration::from_secs(1)));
        let overdue = |line: &mut Line<u32>, secs| {
            let entries = line.take_overdue(now + Duration::from_secs(secs));
            entries.into_iter().map(|entry| entry.item).collect()
        };
        let items: Vec<u32> = overdue(&mut line, 0);
        assert_eq!(items, [1]);
        let items: Vec<u32> = overdue(&mut line, 2);
        assert_eq!(items, [0, 2]);
        assert!(line.is_empty());
    }
}
