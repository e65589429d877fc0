//! Limits open connections, in all and per peer, and evicts idle ones for new ones.
//!
//! When all slots are in use, a new connection evicts an older one: of the peer with the most
//! slots, the one that has waited longest for its client. If its own peer holds as many slots, the
//! new connection evicts nothing. So idle or slow clients cannot block other peers, even with many
//! addresses. A connection that is being served is never evicted. `http` takes slots; `connection`
//! and `wire` record what a connection waits for.

use super::quota::quota_key;
use crate::metrics::metrics;
use crate::sys::lock::lock;
use nix::sys::socket::{MsgFlags, recv};
use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::ops::Deref;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// The slots of one server, shared by all peers.
pub(super) struct ConnectionSlots {
    limit: usize,
    limit_per_peer: usize,
    occupied: Arc<Mutex<Occupied>>,
}

/// The connections that count against the limits. Evicted ones do not, though their threads may
/// still be ending.
#[derive(Default)]
struct Occupied {
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
    /// Handling a request; must not be evicted.
    Serving,
    /// Waiting since then for a request or the rest of one.
    Reading(Instant),
    /// Waiting since then for the client to read an answer.
    Writing(Instant),
    /// Another connection has its slot.
    Evicted,
}

/// Holds a slot; dropping it frees the slot.
pub(super) struct SlotGuard {
    slot: Arc<ConnectionSlot>,
    occupied: Arc<Mutex<Occupied>>,
}

impl ConnectionSlots {
    /// Creates `limit` slots, of which one peer may hold `limit_per_peer`.
    pub(super) fn new(limit: usize, limit_per_peer: usize) -> Self {
        Self {
            limit,
            limit_per_peer,
            occupied: Arc::default(),
        }
    }

    /// Takes a slot for a connection; evicts another connection if needed. Returns the stream if
    /// there is no slot.
    pub(super) fn admit(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
    ) -> Result<SlotGuard, TcpStream> {
        let key = quota_key(peer.ip());
        let mut occupied = lock(&self.occupied);
        let own = occupied.by_peer.get(&key).map_or(0, Vec::len);
        if own >= self.limit_per_peer || (occupied.all >= self.limit && !occupied.evict_one(own)) {
            return Err(stream);
        }
        let slot = Arc::new(ConnectionSlot {
            stream,
            peer,
            activity: Mutex::new(Activity::Reading(Instant::now())),
        });
        occupied.all += 1;
        occupied
            .by_peer
            .entry(key)
            .or_default()
            .push(Arc::clone(&slot));
        metrics().connections.inc();
        Ok(SlotGuard {
            slot,
            occupied: Arc::clone(&self.occupied),
        })
    }

    /// Evicts idle connections of any peer until `count` are ending. Returns whether any are
    /// ending.
    pub(super) fn evict_idle(&self, count: usize) -> bool {
        let mut occupied = lock(&self.occupied);
        while occupied.evicted < count && occupied.evict_one(0) {}
        occupied.evicted > 0
    }
}

impl Occupied {
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
            if first.try_evict() {
                self.remove(&first);
                self.evicted += 1;
                return true;
            }
        }
    }

    /// Stops counting a slot.
    fn remove(&mut self, slot: &Arc<ConnectionSlot>) {
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
}

impl ConnectionSlot {
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
            Activity::Reading(since) | Activity::Writing(since) => Some(since),
            Activity::Serving | Activity::Evicted => None,
        }
    }

    /// Shuts the socket down, which wakes the connection's thread. Returns false if the connection
    /// is not idle.
    fn try_evict(&self) -> bool {
        let mut activity = lock(&self.activity);
        let sides = match *activity {
            // Input has arrived: the thread is about to read it.
            Activity::Reading(_) if self.has_input() => {
                *activity = Activity::Serving;
                return false;
            }
            // The write side stays open for a final answer.
            Activity::Reading(_) => Shutdown::Read,
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

impl Deref for SlotGuard {
    type Target = ConnectionSlot;

    fn deref(&self) -> &ConnectionSlot {
        &self.slot
    }
}

impl Drop for SlotGuard {
    fn drop(&mut self) {
        let mut occupied = lock(&self.occupied);
        if self.slot.is_evicted() {
            occupied.evicted -= 1;
        } else {
            occupied.remove(&self.slot);
        }
        metrics().connections.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    /// Makes connected sockets; the test chooses the peer address that a slot counts for.
    struct Pairs(TcpListener);

    impl Pairs {
        fn new() -> Self {
            Self(TcpListener::bind("127.0.0.1:0").unwrap())
        }

        fn admit(&self, slots: &ConnectionSlots, peer: &str) -> Option<(SlotGuard, TcpStream)> {
            let client = TcpStream::connect(self.0.local_addr().unwrap()).unwrap();
            let (stream, _) = self.0.accept().unwrap();
            let peer = SocketAddr::new(peer.parse().unwrap(), 1);
            let guard = slots.admit(stream, peer).ok()?;
            Some((guard, client))
        }
    }

    fn is_shut_down(guard: &SlotGuard) -> bool {
        guard.is_evicted() && matches!(guard.stream().read(&mut [0]), Ok(0))
    }

    #[test]
    fn the_longest_idle_connection_of_the_largest_peer_is_evicted() {
        let (pairs, slots) = (Pairs::new(), ConnectionSlots::new(4, 3));
        let single = pairs.admit(&slots, "192.0.2.1").unwrap();
        let many = [(); 3].map(|()| pairs.admit(&slots, "192.0.2.2").unwrap());
        assert!(pairs.admit(&slots, "192.0.2.2").is_none(), "per peer");
        // Sending single bytes does not reset its idle time.
        many[0].0.mark_reading();
        let newcomer = pairs.admit(&slots, "192.0.2.3").unwrap();
        assert!(is_shut_down(&many[0].0));
        assert!(!single.0.is_evicted() && !many[1].0.is_evicted() && !newcomer.0.is_evicted());
        // Its thread has not ended, but it no longer counts.
        let second = pairs.admit(&slots, "192.0.2.4").unwrap();
        assert!(is_shut_down(&many[1].0) && !many[2].0.is_evicted());
        // Every peer holds one slot: the longest idle is evicted, but not for a peer with a slot.
        assert!(pairs.admit(&slots, "192.0.2.3").is_none());
        let _third = pairs.admit(&slots, "192.0.2.5").unwrap();
        assert!(is_shut_down(&single.0) && !second.0.is_evicted());
    }

    #[test]
    fn a_connection_being_served_is_not_evicted() {
        let (pairs, slots) = (Pairs::new(), ConnectionSlots::new(2, 2));
        let occupied = [(); 2].map(|()| pairs.admit(&slots, "192.0.2.1").unwrap());
        assert!(occupied.iter().all(|(guard, _)| guard.mark_serving()));
        assert!(pairs.admit(&slots, "192.0.2.2").is_none());
        assert!(!slots.evict_idle(9));
        occupied[1].0.mark_writing();
        let newcomer = pairs.admit(&slots, "192.0.2.2").unwrap();
        assert!(occupied[1].0.is_evicted() && !occupied[1].0.mark_serving());
        assert!(slots.evict_idle(9) && is_shut_down(&newcomer.0));
    }

    #[test]
    fn a_connection_with_unread_input_is_not_evicted() {
        let (pairs, slots) = (Pairs::new(), ConnectionSlots::new(1, 1));
        let (first, mut client) = pairs.admit(&slots, "192.0.2.1").unwrap();
        client.write_all(b"x").unwrap();
        first.stream().peek(&mut [0]).unwrap();
        assert!(pairs.admit(&slots, "192.0.2.2").is_none());
        assert!(!first.is_evicted() && first.mark_serving());
    }

    #[test]
    fn dropping_the_guard_frees_the_slot() {
        let (pairs, slots) = (Pairs::new(), ConnectionSlots::new(1, 1));
        let first = pairs.admit(&slots, "192.0.2.1").unwrap();
        assert!(pairs.admit(&slots, "192.0.2.1").is_none());
        drop(first);
        assert!(pairs.admit(&slots, "192.0.2.1").is_some());
        assert!(lock(&slots.occupied).by_peer.is_empty());
        let occupied = lock(&slots.occupied);
        assert_eq!((occupied.all, occupied.evicted), (0, 0));
    }
}
