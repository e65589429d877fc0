//! Who is connected, and who makes room when all places are taken?
//!
//! A newcomer gets a place as long as there is one, in all and for its address. After that, who
//! holds fewest comes first: of the address with the most places, the connection that has waited
//! longest for its client has to go, unless that address holds no more than the newcomer's. So no
//! crowd of idle or slow clients, from however many addresses, keeps an honest one out; and who is
//! being served is never sent away. Used by `http` to let in, by `connection` and `wire` to say
//! what is waited for.

use super::admission::counted_as;
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

/// A number of connections, shared by all peers.
pub(super) struct Places {
    most: usize,
    most_per_peer: usize,
    held: Arc<Mutex<Held>>,
}

/// Those who count: who was sent away does not, though it may take a moment to go.
#[derive(Default)]
struct Held {
    all: usize,
    /// Sent away, and still going.
    leaving: usize,
    /// None of these is empty.
    by_peer: HashMap<IpAddr, Vec<Arc<Place>>>,
}

/// One connection.
pub(crate) struct Place {
    stream: TcpStream,
    peer: SocketAddr,
    doing: Mutex<Doing>,
}

/// What a connection is at.
#[derive(Debug, Clone, Copy)]
enum Doing {
    /// Something that no other client should end.
    Served,
    /// Waiting for the client to ask, or to go on asking, since then.
    Listening(Instant),
    /// Waiting for the client to take an answer, since then.
    Telling(Instant),
    /// Sent away.
    Leaving,
}

/// A place taken; it is free again when this is dropped.
pub(super) struct Taken {
    place: Arc<Place>,
    held: Arc<Mutex<Held>>,
}

impl Places {
    /// Makes `most` places, of which one peer may hold `most_per_peer`.
    pub(super) fn new(most: usize, most_per_peer: usize) -> Self {
        Self {
            most,
            most_per_peer,
            held: Arc::default(),
        }
    }

    /// Takes a place for a connection, or gives the stream back where it cannot have one.
    pub(super) fn admit(&self, stream: TcpStream, peer: SocketAddr) -> Result<Taken, TcpStream> {
        let key = counted_as(peer.ip());
        let mut held = lock(&self.held);
        let own = held.by_peer.get(&key).map_or(0, Vec::len);
        if own >= self.most_per_peer || (held.all >= self.most && !held.send_away(own)) {
            return Err(stream);
        }
        let place = Arc::new(Place {
            stream,
            peer,
            doing: Mutex::new(Doing::Listening(Instant::now())),
        });
        held.all += 1;
        held.by_peer
            .entry(key)
            .or_default()
            .push(Arc::clone(&place));
        metrics().connections.inc();
        Ok(Taken {
            place,
            held: Arc::clone(&self.held),
        })
    }

    /// Sends away until `count` are going, whoever wants in; says whether any are.
    pub(super) fn make_room(&self, count: usize) -> bool {
        let mut held = lock(&self.held);
        while held.leaving < count && held.send_away(0) {}
        held.leaving > 0
    }
}

impl Held {
    /// Sends away the one who is first to go, of those whose address has more than `own` places.
    fn send_away(&mut self, own: usize) -> bool {
        loop {
            let crowds = self.by_peer.values().filter(|places| places.len() > own);
            let waiting = crowds.flat_map(|places| {
                let rank = |place| Some((places.len(), Reverse(Place::waits_since(place)?)));
                places
                    .iter()
                    .filter_map(move |place| Some((rank(place)?, place)))
            });
            let Some((_, first)) = waiting.max_by_key(|(rank, _)| *rank) else {
                return false;
            };
            let first = Arc::clone(first);
            if first.leave() {
                self.forget(&first);
                self.leaving += 1;
                return true;
            }
        }
    }

    /// Counts a place no longer.
    fn forget(&mut self, place: &Arc<Place>) {
        let key = counted_as(place.peer.ip());
        let Some(places) = self.by_peer.get_mut(&key) else {
            return;
        };
        let before = places.len();
        places.retain(|other| !Arc::ptr_eq(other, place));
        self.all -= before - places.len();
        if places.is_empty() {
            self.by_peer.remove(&key);
        }
    }
}

impl Place {
    /// Returns the connection's socket.
    pub(super) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Returns who is connected.
    pub(crate) fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Says that the client has to ask, or to go on asking. The time counts from the first word of
    /// that, so that a byte now and then is no merit.
    pub(super) fn listens(&self) {
        let mut doing = lock(&self.doing);
        if matches!(*doing, Doing::Served | Doing::Telling(_)) {
            *doing = Doing::Listening(Instant::now());
        }
    }

    /// Says that the client has to take an answer.
    pub(super) fn tells(&self) {
        let mut doing = lock(&self.doing);
        if !matches!(*doing, Doing::Leaving) {
            *doing = Doing::Telling(Instant::now());
        }
    }

    /// Says that the client is being served: nobody takes its place. False if that comes too late.
    pub(super) fn is_served(&self) -> bool {
        let mut doing = lock(&self.doing);
        if !matches!(*doing, Doing::Leaving) {
            *doing = Doing::Served;
        }
        matches!(*doing, Doing::Served)
    }

    /// Says whether somebody else has got this place.
    pub(super) fn is_lost(&self) -> bool {
        matches!(*lock(&self.doing), Doing::Leaving)
    }

    fn waits_since(&self) -> Option<Instant> {
        match *lock(&self.doing) {
            Doing::Listening(since) | Doing::Telling(since) => Some(since),
            Doing::Served | Doing::Leaving => None,
        }
    }

    /// Ends what the connection waits for, so that its thread goes on; false if it waits no more.
    fn leave(&self) -> bool {
        let mut doing = lock(&self.doing);
        let what = match *doing {
            // What it waited for is there: its thread is about to see it.
            Doing::Listening(_) if self.has_input() => {
                *doing = Doing::Served;
                return false;
            }
            // A last word can still be said.
            Doing::Listening(_) => Shutdown::Read,
            Doing::Telling(_) => Shutdown::Both,
            Doing::Served | Doing::Leaving => return false,
        };
        *doing = Doing::Leaving;
        // If this fails the connection has ended by itself.
        let _ = self.stream.shutdown(what);
        true
    }

    fn has_input(&self) -> bool {
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        recv(self.stream.as_raw_fd(), &mut [0], flags).is_ok_and(|count| count > 0)
    }
}

impl Deref for Taken {
    type Target = Place;

    fn deref(&self) -> &Place {
        &self.place
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let mut held = lock(&self.held);
        if self.place.is_lost() {
            held.leaving -= 1;
        } else {
            held.forget(&self.place);
        }
        metrics().connections.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    /// Pairs of connected sockets; whose address a place counts for is the test's to say.
    struct Pairs(TcpListener);

    impl Pairs {
        fn new() -> Self {
            Self(TcpListener::bind("127.0.0.1:0").unwrap())
        }

        fn admit(&self, places: &Places, peer: &str) -> Option<(Taken, TcpStream)> {
            let client = TcpStream::connect(self.0.local_addr().unwrap()).unwrap();
            let (stream, _) = self.0.accept().unwrap();
            let peer = SocketAddr::new(peer.parse().unwrap(), 1);
            let taken = places.admit(stream, peer).ok()?;
            Some((taken, client))
        }
    }

    fn is_told_to_go(taken: &Taken) -> bool {
        taken.is_lost() && matches!(taken.stream().read(&mut [0]), Ok(0))
    }

    #[test]
    fn who_holds_most_and_waits_longest_makes_room() {
        let (pairs, places) = (Pairs::new(), Places::new(4, 3));
        let single = pairs.admit(&places, "192.0.2.1").unwrap();
        let crowd = [(); 3].map(|()| pairs.admit(&places, "192.0.2.2").unwrap());
        assert!(pairs.admit(&places, "192.0.2.2").is_none(), "per peer");
        // A byte now and then does not make it younger.
        crowd[0].0.listens();
        let newcomer = pairs.admit(&places, "192.0.2.3").unwrap();
        assert!(is_told_to_go(&crowd[0].0));
        assert!(!single.0.is_lost() && !crowd[1].0.is_lost() && !newcomer.0.is_lost());
        // It is still going, and counts no more.
        let second = pairs.admit(&places, "192.0.2.4").unwrap();
        assert!(is_told_to_go(&crowd[1].0) && !crowd[2].0.is_lost());
        // All have one now: the longest waiting goes, but not for one who has a place.
        assert!(pairs.admit(&places, "192.0.2.3").is_none());
        let _third = pairs.admit(&places, "192.0.2.5").unwrap();
        assert!(is_told_to_go(&single.0) && !second.0.is_lost());
    }

    #[test]
    fn who_is_served_stays() {
        let (pairs, places) = (Pairs::new(), Places::new(2, 2));
        let held = [(); 2].map(|()| pairs.admit(&places, "192.0.2.1").unwrap());
        assert!(held.iter().all(|(taken, _)| taken.is_served()));
        assert!(pairs.admit(&places, "192.0.2.2").is_none());
        assert!(!places.make_room(9));
        held[1].0.tells();
        let newcomer = pairs.admit(&places, "192.0.2.2").unwrap();
        assert!(held[1].0.is_lost() && !held[1].0.is_served());
        assert!(places.make_room(9) && is_told_to_go(&newcomer.0));
    }

    #[test]
    fn who_has_asked_stays() {
        let (pairs, places) = (Pairs::new(), Places::new(1, 1));
        let (first, mut client) = pairs.admit(&places, "192.0.2.1").unwrap();
        client.write_all(b"x").unwrap();
        first.stream().peek(&mut [0]).unwrap();
        assert!(pairs.admit(&places, "192.0.2.2").is_none());
        assert!(!first.is_lost() && first.is_served());
    }

    #[test]
    fn a_place_left_is_free() {
        let (pairs, places) = (Pairs::new(), Places::new(1, 1));
        let first = pairs.admit(&places, "192.0.2.1").unwrap();
        assert!(pairs.admit(&places, "192.0.2.1").is_none());
        drop(first);
        assert!(pairs.admit(&places, "192.0.2.1").is_some());
        assert!(lock(&places.held).by_peer.is_empty());
        let held = lock(&places.held);
        assert_eq!((held.all, held.leaving), (0, 0));
    }
}
