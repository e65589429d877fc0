//! Limits open connections, in all and per peer, and evicts idle ones for new ones.
//!
//! When all slots are in use, a new connection evicts an older one: of the peer with the most
//! slots, the one that has waited longest for its client. If its own peer holds as many slots, the
//! new connection evicts nothing. When its peer holds all that one peer may have, it evicts only a
//! connection of its own peer that is between two requests. So idle or slow clients cannot block
//! other peers, even with many addresses. A connection that is being served is never evicted.
//! `turns` takes slots; `connection` and `wire` record what a connection waits for.

use super::quota::quota_key;
use crate::sys::lock::lock;
use nix::sys::socket::{MsgFlags, recv};
use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// The connections that count against the limits. Evicted ones do not, though their threads may
/// still be ending.
pub(super) struct Slots {
    limit: usize,
    limit_per_peer: usize,
    all: usize,
    /// Evicted connections whose threads have not ended yet.
    evicted: usize,
    /// Slots by [`quota_key`]; no list is empty.
    by_peer: HashMap<IpAddr, Vec<Arc<ConnectionSlot>>>,
}

/// One open connection.
pub(crate) struct ConnectionSlot {
    stream: TcpStream,
    peer: SocketAddr,
    activity: Mutex<Activity>,
}

/// The activity of a connection.
#[derive(Debug, Clone, Copy)]
enum Activity {
    /// Handling a request, or waiting for a turn; must not be evicted.
    Serving,
    /// Waiting since then for a request or the rest of one.
    Reading(Instant),
    /// Waiting since then for another request, after an answer.
    Kept(Instant),
    /// Waiting since then for the client to read an answer.
    Writing(Instant),
    /// Another connection has its slot.
    Evicted,
}

impl Slots {
    /// Creates `limit` slots, of which one peer may hold `limit_per_peer`.
    pub(super) fn new(limit: usize, limit_per_peer: usize) -> Self {
        Self {
            limit,
            limit_per_peer,
            all: 0,
            evicted: 0,
            by_peer: HashMap::new(),
        }
    }

    /// Returns the number of slots that a peer holds, by its [`quota_key`].
    pub(super) fn held(&self, peer: IpAddr) -> usize {
        self.by_peer.get(&peer).map_or(0, Vec::len)
    }

    /// Returns whether all slots are held, and whether the peer holds all that it may have.
    pub(super) fn are_held(&self, peer: IpAddr) -> (bool, bool) {
        let own = self.held(peer) >= self.limit_per_peer;
        (self.all >= self.limit, own)
    }

    /// Returns whether a peer may have one more connection, if there is room in all.
    pub(super) fn may_hold_more(&self, peer: IpAddr) -> bool {
        self.held(peer) < self.limit_per_peer || self.longest_kept(peer).is_some()
    }

    /// Makes room for one more connection of a peer; evicts another connection if needed.
    pub(super) fn make_room(&mut self, peer: IpAddr) -> bool {
        let own = self.held(peer);
        if own >= self.limit_per_peer {
            return self.evict_own(peer);
        }
        self.all < self.limit || self.evict_one(own)
    }

    /// Counts a connection. The time that it may be idle begins now.
    pub(super) fn insert(&mut self, slot: Arc<ConnectionSlot>) {
        slot.restart_idle_time();
        self.all += 1;
        let key = quota_key(slot.peer.ip());
        self.by_peer.entry(key).or_default().push(slot);
    }

    /// Stops counting a connection whose thread has ended or that waits without one.
    pub(super) fn remove(&mut self, slot: &Arc<ConnectionSlot>) {
        if slot.is_evicted() {
            self.evicted -= 1;
        } else {
            self.uncount(slot);
        }
    }

    /// Evicts idle connections of any peer until `count` are ending. Returns whether any are
    /// ending.
    pub(super) fn evict_idle(&mut self, count: usize) -> bool {
        while self.evicted < count && self.evict_one(0) {}
        self.evicted > 0
    }

    /// Evicts the longest idle connection of the peer with the most slots, if that peer has more
    /// than `own`. Returns false if no connection can be evicted.
    fn evict_one(&mut self, own: usize) -> bool {
        loop {
            let larger = self.by_peer.values().filter(|slots| slots.len() > own);
            let waiting = larger.flat_map(|slots| {
                let rank = |slot| Some((slots.len(), Reverse(ConnectionSlot::idle_since(slot)?)));
                slots
                    .iter()
                    .filter_map(move |slot| Some((rank(slot)?, slot)))
            });
            let Some((_, first)) = waiting.max_by_key(|(rank, _)| *rank) else {
                return false;
            };
            let first = Arc::clone(first);
            if self.evict(&first) {
                return true;
            }
        }
    }

    /// Evicts the connection of a peer that is longest between two requests.
    fn evict_own(&mut self, peer: IpAddr) -> bool {
        while let Some(kept) = self.longest_kept(peer) {
            if self.evict(&kept) {
                return true;
            }
        }
        false
    }

    fn longest_kept(&self, peer: IpAddr) -> Option<Arc<ConnectionSlot>> {
        let own = self.by_peer.get(&peer)?.iter();
        let kept = own.filter_map(|slot| Some((slot.kept_since()?, slot)));
        let (_, slot) = kept.min_by_key(|(since, _)| *since)?;
        Some(Arc::clone(slot))
    }

    fn evict(&mut self, slot: &Arc<ConnectionSlot>) -> bool {
        let evicted = slot.try_evict();
        if evicted {
            self.uncount(slot);
            self.evicted += 1;
        }
        evicted
    }

    fn uncount(&mut self, slot: &Arc<ConnectionSlot>) {
        let key = quota_key(slot.peer.ip());
        let Some(slots) = self.by_peer.get_mut(&key) else {
            return;
        };
        let before = slots.len();
        slots.retain(|other| !Arc::ptr_eq(other, slot));
        self.all -= before - slots.len();
        if slots.is_empty() {
            self.by_peer.remove(&key);
        }
    }

    /// Returns the number of connections, in all and evicted, and of peers.
    #[cfg(test)]
    pub(super) fn counts(&self) -> [usize; 3] {
        [self.all, self.evicted, self.by_peer.len()]
    }
}

impl ConnectionSlot {
    pub(super) fn new(stream: TcpStream, peer: SocketAddr) -> Self {
        Self {
            stream,
            peer,
            activity: Mutex::new(Activity::Reading(Instant::now())),
        }
    }

    pub(super) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Returns the client's address.
    pub(crate) fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Records that the connection waits for the client to send. The wait keeps its start time
    /// across calls, so a client that sends single bytes does not look less idle.
    pub(super) fn mark_reading(&self) {
        let mut activity = lock(&self.activity);
        if matches!(*activity, Activity::Serving | Activity::Writing(_)) {
            *activity = Activity::Reading(Instant::now());
        }
    }

    /// Records that the connection waits for another request, after an answer.
    pub(super) fn mark_kept(&self) {
        let mut activity = lock(&self.activity);
        if !matches!(*activity, Activity::Evicted) {
            *activity = Activity::Kept(Instant::now());
        }
    }

    /// Records that the client has begun to send a request.
    pub(super) fn mark_begun(&self) {
        let mut activity = lock(&self.activity);
        if matches!(*activity, Activity::Kept(_)) {
            *activity = Activity::Reading(Instant::now());
        }
    }

    /// Records that the connection waits for the client to read an answer.
    pub(super) fn mark_writing(&self) {
        let mut activity = lock(&self.activity);
        if !matches!(*activity, Activity::Evicted) {
            *activity = Activity::Writing(Instant::now());
        }
    }

    /// Protects the connection from eviction. Returns false if it is evicted already.
    pub(super) fn mark_serving(&self) -> bool {
        let mut activity = lock(&self.activity);
        if !matches!(*activity, Activity::Evicted) {
            *activity = Activity::Serving;
        }
        matches!(*activity, Activity::Serving)
    }

    pub(super) fn is_evicted(&self) -> bool {
        matches!(*lock(&self.activity), Activity::Evicted)
    }

    fn idle_since(&self) -> Option<Instant> {
        match *lock(&self.activity) {
            Activity::Reading(since) | Activity::Kept(since) | Activity::Writing(since) => {
                Some(since)
            }
            Activity::Serving | Activity::Evicted => None,
        }
    }

    fn kept_since(&self) -> Option<Instant> {
        match *lock(&self.activity) {
            Activity::Kept(since) => Some(since),
            _ => None,
        }
    }

    /// Does not count the wait for a slot as idle time.
    fn restart_idle_time(&self) {
        let mut activity = lock(&self.activity);
        if let Activity::Reading(since) = &mut *activity {
            *since = Instant::now();
        }
    }

    /// Shuts the socket down, which wakes the connection's thread. Returns false if the connection
    /// is not idle.
    fn try_evict(&self) -> bool {
        let mut activity = lock(&self.activity);
        let sides = match *activity {
            // Input has arrived: the thread is about to read it.
            Activity::Reading(_) | Activity::Kept(_) if self.has_input() => {
                *activity = Activity::Serving;
                return false;
            }
            // The write side stays open for a final answer.
            Activity::Reading(_) | Activity::Kept(_) => Shutdown::Read,
            Activity::Writing(_) => Shutdown::Both,
            Activity::Serving | Activity::Evicted => return false,
        };
        *activity = Activity::Evicted;
        // A failure means that the connection has ended already.
        let _ = self.stream.shutdown(sides);
        true
    }

    fn has_input(&self) -> bool {
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        recv(self.stream.as_raw_fd(), &mut [0], flags).is_ok_and(|count| count > 0)
    }
}
