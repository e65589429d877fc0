//! Counts what is in use at once, in all and per peer, and says no above the limit.
//!
//! It never waits: whoever is refused is told so at once. Used for
//! downloads, uploads and the bytes of long bodies by `connection`; connections, which can be sent
//! away, are counted by `places`.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex};

use crate::sys::lock::lock;

/// An amount of something, shared by all peers.
pub(super) struct Admission {
    most: usize,
    most_per_peer: usize,
    used: Arc<Mutex<Used>>,
}

#[derive(Default)]
struct Used {
    all: usize,
    per_peer: HashMap<IpAddr, usize>,
}

/// A part of it taken; it is free again when this is dropped.
pub(super) struct Ticket {
    peer: IpAddr,
    amount: usize,
    used: Arc<Mutex<Used>>,
}

impl Admission {
    /// Lets `most` be taken, of which one peer may hold `most_per_peer`.
    pub(super) fn new(most: usize, most_per_peer: usize) -> Self {
        Self {
            most,
            most_per_peer,
            used: Arc::default(),
        }
    }

    /// Takes `amount` for `peer`, or returns `None` where a limit would be passed.
    pub(super) fn admit(&self, peer: IpAddr, amount: usize) -> Option<Ticket> {
        let peer = counted_as(peer);
        let mut used = lock(&self.used);
        let within = |held: usize, most| held.checked_add(amount).filter(|sum| *sum <= most);
        let all = within(used.all, self.most)?;
        let held = used.per_peer.get(&peer).copied().unwrap_or(0);
        let held = within(held, self.most_per_peer)?;
        used.all = all;
        used.per_peer.insert(peer, held);
        Some(Ticket {
            peer,
            amount,
            used: Arc::clone(&self.used),
        })
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut used = lock(&self.used);
        used.all -= self.amount;
        if let Some(held) = used.per_peer.get_mut(&self.peer) {
            *held -= self.amount;
            if *held == 0 {
                used.per_peer.remove(&self.peer);
            }
        }
    }
}

/// Returns the address a peer's places are counted under. One host commonly owns a whole IPv6
/// /64, so those count as one.
pub(super) fn counted_as(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn one_peer_cannot_take_every_place() {
        let admission = Admission::new(3, 2);
        let (one, two) = (ip("192.0.2.1"), ip("192.0.2.2"));
        let first = admission.admit(one, 1).unwrap();
        let _second = admission.admit(ip("::ffff:192.0.2.1"), 1).unwrap();
        assert!(
            admission.admit(one, 1).is_none(),
            "per peer, however its address is written"
        );
        let _third = admission.admit(two, 1).unwrap();
        assert!(admission.admit(two, 1).is_none(), "in all");
        drop(first);
        assert!(admission.admit(two, 1).is_some());
    }

    #[test]
    fn a_host_with_a_network_of_addresses_is_one_peer() {
        let admission = Admission::new(9, 1);
        let _held = admission.admit(ip("2001:db8::1"), 1).unwrap();
        assert!(admission.admit(ip("2001:db8::ffff:1"), 1).is_none());
        assert!(admission.admit(ip("2001:db8:0:1::1"), 1).is_some());
    }

    #[test]
    fn amounts_are_counted_not_tickets() {
        let admission = Admission::new(10, 6);
        let one = ip("192.0.2.1");
        let _held = admission.admit(one, 5).unwrap();
        assert!(admission.admit(one, 2).is_none() && admission.admit(one, usize::MAX).is_none());
        let last = admission.admit(one, 1).unwrap();
        assert!(admission.admit(ip("192.0.2.2"), 5).is_none());
        drop(last);
        assert!(admission.admit(ip("192.0.2.2"), 5).is_some());
    }

    #[test]
    fn peers_that_left_are_forgotten() {
        let admission = Admission::new(9, 9);
        drop([
            admission.admit(ip("192.0.2.1"), 1),
            admission.admit(ip("192.0.2.2"), 1),
        ]);
        assert!(lock(&admission.used).per_peer.is_empty());
        assert_eq!(lock(&admission.used).all, 0);
    }
}
