//! Tests eviction, the line and its fairness with real sockets and chosen addresses.

use super::*;
use std::io::{Read, Write};
use std::net::TcpListener;

/// Makes connected sockets; the test chooses the peer address that a slot counts for.
struct Pairs(TcpListener);

impl Pairs {
    fn new() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").unwrap())
    }

    /// Lets a client arrive, which then waits or has its turn at the next look.
    fn arrive(&self, turns: &Turns, peer: &str) -> TcpStream {
        let client = TcpStream::connect(self.0.local_addr().unwrap()).unwrap();
        let (stream, _) = self.0.accept().unwrap();
        turns.arrive(stream, SocketAddr::new(peer.parse().unwrap(), 1));
        client
    }

    /// Returns the turn of a new client; `None`, and no client, if it would have to wait.
    fn admit(&self, turns: &Turns, peer: &str) -> Option<(SlotGuard, TcpStream)> {
        let client = self.arrive(turns, peer);
        match turns.next() {
            Some(turn) => Some((turn.slot, client)),
            None => {
                lock(&turns.0.state).line.take_last_of_largest();
                None
            }
        }
    }
}

fn turns(connections: usize, connections_per_peer: usize) -> Turns {
    Turns::new(&Limits {
        connections,
        connections_per_peer,
        downloads: 2,
        downloads_per_peer: 1,
        waiting: 5000,
        ..Limits::default()
    })
}

fn is_shut_down(slot: &SlotGuard) -> bool {
    slot.is_evicted() && matches!(slot.stream().read(&mut [0]), Ok(0))
}

fn peer(turn: &Turn) -> String {
    turn.slot.peer().ip().to_string()
}

const DOWNLOAD: Need = Need {
    resource: Resource::Download,
    amount: 1,
};

fn parked() -> Parked {
    Parked {
        need: DOWNLOAD,
        rest: Box::new(|_, _| None),
    }
}

#[test]
fn the_longest_idle_connection_of_the_largest_peer_is_evicted() {
    let (pairs, turns) = (Pairs::new(), turns(4, 3));
    let single = pairs.admit(&turns, "192.0.2.1").unwrap();
    let many = [(); 3].map(|()| pairs.admit(&turns, "192.0.2.2").unwrap());
    assert!(pairs.admit(&turns, "192.0.2.2").is_none(), "per peer");
    // Sending single bytes does not reset its idle time.
    many[0].0.mark_reading();
    let newcomer = pairs.admit(&turns, "192.0.2.3").unwrap();
    assert!(is_shut_down(&many[0].0));
    assert!(!single.0.is_evicted() && !many[1].0.is_evicted() && !newcomer.0.is_evicted());
    // Its thread has not ended, but it no longer counts.
    let second = pairs.admit(&turns, "192.0.2.4").unwrap();
    assert!(is_shut_down(&many[1].0) && !many[2].0.is_evicted());
    // Every peer holds one slot: the longest idle is evicted, but not for a peer with a slot.
    assert!(pairs.admit(&turns, "192.0.2.3").is_none());
    let _third = pairs.admit(&turns, "192.0.2.5").unwrap();
    assert!(is_shut_down(&single.0) && !second.0.is_evicted());
}

#[test]
fn a_connection_being_served_is_not_evicted() {
    let (pairs, turns) = (Pairs::new(), turns(2, 2));
    let occupied = [(); 2].map(|()| pairs.admit(&turns, "192.0.2.1").unwrap());
    assert!(occupied.iter().all(|(slot, _)| slot.mark_serving()));
    assert!(pairs.admit(&turns, "192.0.2.2").is_none());
    assert!(!turns.free_descriptors(9));
    occupied[1].0.mark_writing();
    let newcomer = pairs.admit(&turns, "192.0.2.2").unwrap();
    assert!(occupied[1].0.is_evicted() && !occupied[1].0.mark_serving());
    assert!(turns.free_descriptors(9) && is_shut_down(&newcomer.0));
}

#[test]
fn a_connection_with_unread_input_is_not_evicted() {
    let (pairs, turns) = (Pairs::new(), turns(1, 1));
    let (first, mut client) = pairs.admit(&turns, "192.0.2.1").unwrap();
    client.write_all(b"x").unwrap();
    first.stream().peek(&mut [0]).unwrap();
    assert!(pairs.admit(&turns, "192.0.2.2").is_none());
    assert!(!first.is_evicted() && first.mark_serving());
}

#[test]
fn a_peer_replaces_only_its_own_connection_that_is_between_requests() {
    let (pairs, turns) = (Pairs::new(), turns(9, 2));
    let (new, _client) = pairs.admit(&turns, "192.0.2.1").unwrap();
    let (kept, _other) = pairs.admit(&turns, "192.0.2.1").unwrap();
    assert!(pairs.admit(&turns, "192.0.2.1").is_none());
    kept.mark_kept();
    kept.mark_begun();
    assert!(
        pairs.admit(&turns, "192.0.2.1").is_none(),
        "a request has begun"
    );
    kept.mark_kept();
    let _third = pairs.admit(&turns, "192.0.2.1").unwrap();
    assert!(is_shut_down(&kept) && !new.is_evicted());
}

#[test]
fn dropping_the_guard_frees_the_slot() {
    let (pairs, turns) = (Pairs::new(), turns(1, 1));
    let first = pairs.admit(&turns, "192.0.2.1").unwrap();
    assert!(pairs.admit(&turns, "192.0.2.1").is_none());
    drop(first);
    assert!(pairs.admit(&turns, "192.0.2.1").is_some());
    assert_eq!(lock(&turns.0.state).slots.counts(), [0, 0, 0]);
}

#[test]
fn a_crowd_of_one_address_does_not_delay_another() {
    let (pairs, turns) = (Pairs::new(), turns(4, 4));
    let mut served: Vec<_> = (0..4)
        .map(|_| pairs.admit(&turns, "192.0.2.1").unwrap())
        .collect();
    for (slot, _) in &served {
        slot.mark_serving();
    }
    let crowd: Vec<TcpStream> = (0..100)
        .map(|_| pairs.arrive(&turns, "192.0.2.1"))
        .collect();
    let _single = pairs.arrive(&turns, "192.0.2.2");
    assert!(turns.next().is_none());
    served.pop();
    let turn = turns.next().unwrap();
    assert_eq!(peer(&turn), "192.0.2.2", "the first turn that is free");
    drop(turn);
    let turn = turns.next().unwrap();
    assert_eq!(peer(&turn), "192.0.2.1");
    assert_eq!(
        turn.slot.stream().peer_addr().unwrap(),
        crowd[0].local_addr().unwrap()
    );
}

#[test]
fn a_parked_exchange_holds_no_slot_and_continues_with_its_permit() {
    let (pairs, turns) = (Pairs::new(), turns(1, 1));
    let ip = "192.0.2.1".parse().unwrap();
    let held = turns.acquire(ip, DOWNLOAD).unwrap();
    let (slot, client) = pairs.admit(&turns, "192.0.2.1").unwrap();
    assert!(turns.acquire(ip, DOWNLOAD).is_none() && slot.mark_serving());
    turns.park(slot, parked());
    assert!(turns.next().is_none(), "its quota is used up");
    let (other, _) = pairs.admit(&turns, "192.0.2.1").unwrap();
    assert!(other.mark_serving());
    drop(held);
    assert!(
        turns.acquire(ip, DOWNLOAD).is_none(),
        "the parked one comes first"
    );
    assert!(turns.next().is_none(), "no slot is free");
    assert!(turns.is_crowded(ip));
    drop(other);
    let Turn { slot, parked } = turns.next().unwrap();
    assert_eq!(
        slot.stream().peer_addr().unwrap(),
        client.local_addr().unwrap()
    );
    let (_rest, permit) = parked.unwrap();
    assert!(turns.acquire(ip, DOWNLOAD).is_none());
    drop(permit);
    assert!(turns.acquire(ip, DOWNLOAD).is_some());
}

#[test]
fn a_wait_that_is_too_long_is_refused_with_its_reason() {
    let (pairs, full) = (Pairs::new(), turns(1, 1));
    let limits = Limits {
        connections: 1,
        connections_per_peer: 1,
        downloads: 0,
        wait_secs: 0,
        ..Limits::default()
    };
    let hasty = Turns::new(&limits);
    let (slot, _first) = pairs.admit(&hasty, "192.0.2.1").unwrap();
    hasty.park(slot, parked());
    let (_slot, _second) = pairs.admit(&hasty, "192.0.2.1").unwrap();
    let _third = pairs.arrive(&hasty, "192.0.2.1");
    assert!(hasty.wait());
    let mut reasons: Vec<_> = hasty.take_refused().iter().map(Refused::reason).collect();
    reasons.sort_unstable();
    assert_eq!(
        reasons,
        [TOO_MANY_CONNECTIONS, "too many downloads at once"]
    );
    // A wait that may still get its turn is not refused.
    let _held = pairs.admit(&full, "192.0.2.1").unwrap();
    let _waiting = pairs.arrive(&full, "192.0.2.1");
    assert!(full.next().is_none() && full.take_refused().is_empty());
    full.stop();
    assert!(!full.wait());
}
