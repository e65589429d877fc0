//! Limits concurrent use, in all and per peer. A request over a limit fails at once.
//!
//! `connection` uses it for downloads, uploads and the bytes of long bodies. Connections are
//! counted by `slots`, because they can be evicted.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex};

use crate::sys::lock::lock;

/// A limited amount, shared by all peers.
pub(super) struct Quota {
    limit: usize,
    limit_per_peer: usize,
    used: Arc<Mutex<Used>>,
}

#[derive(Default)]
struct Used {
    all: usize,
    per_peer: HashMap<IpAddr, usize>,
}

/// An acquired amount; dropping it gives the amount back.
pub(super) struct Permit {
    peer: IpAddr,
    amount: usize,
    used: Arc<Mutex<Used>>,
}

impl Quota {
    /// Allows `limit` in all, of which one peer may hold `limit_per_peer`.
    pub(super) fn new(limit: usize, limit_per_peer: usize) -> Self {
        Self {
            limit,
            limit_per_peer,
            used: Arc::default(),
        }
    }

    /// Acquires `amount` for `peer`; `None` if that would exceed a limit.
    pub(super) fn acquire(&self, peer: IpAddr, amount: usize) -> Option<Permit> {
        let peer = quota_key(peer);
        let mut used = lock(&self.used);
        let within = |held: usize, limit| held.checked_add(amount).filter(|total| *total <= limit);
        let all = within(used.all, self.limit)?;
        let held = used.per_peer.get(&peer).copied().unwrap_or(0);
        let held = within(held, self.limit_per_peer)?;
        used.all = all;
        used.per_peer.insert(peer, held);
        Some(Permit {
            peer,
            amount,
            used: Arc::clone(&self.used),
        })
    }
}

impl Drop for Permit {
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

/// Returns the address that `peer` is counted under. A host commonly owns a whole IPv6 /64
/// network, so its addresses count as one.
pub(super) fn quota_key(peer: IpAddr) -> IpAddr {
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
    fn one_peer_cannot_acquire_everything() {
        let quota = Quota::new(3, 2);
        let (one, two) = (ip("192.0.2.1"), ip("192.0.2.2"));
        let first = quota.acquire(one, 1).unwrap();
        let _second = quota.acquire(ip("::ffff:192.0.2.1"), 1).unwrap();
        assert!(
            quota.acquire(one, 1).is_none(),
            "per peer, however its address is written"
        );
        let _third = quota.acquire(two, 1).unwrap();
        assert!(quota.acquire(two, 1).is_none(), "in all");
        drop(first);
        assert!(quota.acquire(two, 1).is_some());
    }

    #[test]
    fn an_ipv6_network_is_one_peer() {
        let quota = Quota::new(9, 1);
        let _held = quota.acquire(ip("2001:db8::1"), 1).unwrap();
        assert!(quota.acquire(ip("2001:db8::ffff:1"), 1).is_none());
        assert!(quota.acquire(ip("2001:db8:0:1::1"), 1).is_some());
    }

    #[test]
    fn the_limit_applies_to_amounts() {
        let quota = Quota::new(10, 6);
        let one = ip("192.0.2.1");
        let _held = quota.acquire(one, 5).unwrap();
        assert!(quota.acquire(one, 2).is_none() && quota.acquire(one, usize::MAX).is_none());
        let last = quota.acquire(one, 1).unwrap();
        assert!(quota.acquire(ip("192.0.2.2"), 5).is_none());
        drop(last);
        assert!(quota.acquire(ip("192.0.2.2"), 5).is_some());
    }

    #[test]
    fn a_peer_without_permits_is_removed() {
        let quota = Quota::new(9, 9);
        drop([
            quota.acquire(ip("192.0.2.1"), 1),
            quota.acquire(ip("192.0.2.2"), 1),
        ]);
        assert!(lock(&quota.used).per_peer.is_empty());
        assert_eq!(lock(&quota.used).all, 0);
    }
}
