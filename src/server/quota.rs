//! Pure: counts concurrent use of something limited, in all and per peer.
//!
//! `turns` has one for each resource that a request may need beside its connection. Connections are
//! counted by `slots`, because they can be evicted.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};

/// A limited amount, shared by all peers. Peers are named by their [`quota_key`].
pub(super) struct Quota {
    limit: usize,
    limit_per_peer: usize,
    all: usize,
    per_peer: HashMap<IpAddr, usize>,
}

impl Quota {
    /// Allows `limit` in all, of which one peer may hold `limit_per_peer`.
    pub(super) fn new(limit: usize, limit_per_peer: usize) -> Self {
        Self {
            limit,
            limit_per_peer,
            all: 0,
            per_peer: HashMap::new(),
        }
    }

    /// Returns whether `peer` may take `amount` without exceeding a limit.
    pub(super) fn fits(&self, peer: IpAddr, amount: usize) -> bool {
        let within = |held: usize, limit| held.checked_add(amount).is_some_and(|sum| sum <= limit);
        let held = self.per_peer.get(&peer).copied().unwrap_or(0);
        within(self.all, self.limit) && within(held, self.limit_per_peer)
    }

    /// Takes an amount that fits.
    pub(super) fn take(&mut self, peer: IpAddr, amount: usize) {
        self.all += amount;
        *self.per_peer.entry(peer).or_default() += amount;
    }

    /// Gives an amount back that `peer` has taken.
    pub(super) fn give_back(&mut self, peer: IpAddr, amount: usize) {
        self.all -= amount;
        if let Some(held) = self.per_peer.get_mut(&peer) {
            *held -= amount;
            if *held == 0 {
                self.per_peer.remove(&peer);
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
        quota_key(text.parse().unwrap())
    }

    /// Takes the amount if it fits; returns whether it did.
    fn take(quota: &mut Quota, peer: &str, amount: usize) -> bool {
        let fits = quota.fits(ip(peer), amount);
        if fits {
            quota.take(ip(peer), amount);
        }
        fits
    }

    #[test]
    fn one_peer_cannot_take_everything() {
        let mut quota = Quota::new(3, 2);
        assert!(take(&mut quota, "192.0.2.1", 1));
        assert!(take(&mut quota, "::ffff:192.0.2.1", 1));
        let more = take(&mut quota, "192.0.2.1", 1);
        assert!(!more, "per peer, however its address is written");
        assert!(take(&mut quota, "192.0.2.2", 1));
        assert!(!take(&mut quota, "192.0.2.2", 1), "in all");
        quota.give_back(ip("192.0.2.1"), 1);
        assert!(take(&mut quota, "192.0.2.2", 1));
    }

    #[test]
    fn an_ipv6_network_is_one_peer() {
        let mut quota = Quota::new(9, 1);
        assert!(take(&mut quota, "2001:db8::1", 1));
        assert!(!take(&mut quota, "2001:db8::ffff:1", 1));
        assert!(take(&mut quota, "2001:db8:0:1::1", 1));
    }

    #[test]
    fn the_limit_applies_to_amounts() {
        let mut quota = Quota::new(10, 6);
        assert!(take(&mut quota, "192.0.2.1", 5));
        assert!(!take(&mut quota, "192.0.2.1", 2));
        assert!(!take(&mut quota, "192.0.2.1", usize::MAX));
        assert!(take(&mut quota, "192.0.2.1", 1));
        assert!(!take(&mut quota, "192.0.2.2", 5));
        quota.give_back(ip("192.0.2.1"), 1);
        assert!(take(&mut quota, "192.0.2.2", 5));
    }

    #[test]
    fn a_peer_that_holds_nothing_is_removed() {
        let mut quota = Quota::new(9, 9);
        for peer in ["192.0.2.1", "192.0.2.2"] {
            quota.take(ip(peer), 1);
            quota.give_back(ip(peer), 1);
        }
        assert!(quota.per_peer.is_empty());
        assert_eq!(quota.all, 0);
    }
}
