//! Pure: decides which clients may use the server, by address and by credentials.
//!
//! `http` answers 403 when it accepts a connection; `connection` answers 401 to each request.

use super::Error;
use super::message::find;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::hint::black_box;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use tiny_http::Header;

/// The allowed clients. The default allows every client that reaches the bind address.
#[derive(Clone, Default)]
pub(crate) struct Access {
    /// Addresses that may connect; empty means any.
    pub(crate) allow: Vec<Cidr>,
    /// User and password that every request must carry (HTTP Basic), if any.
    pub(crate) credentials: Option<(String, String)>,
}

/// The allowed clients of a running server, which may change.
#[derive(Clone)]
pub(crate) struct SharedAccess(Arc<RwLock<Access>>);

impl SharedAccess {
    pub(super) fn new(access: Access) -> Self {
        Self(Arc::new(RwLock::new(access)))
    }

    /// Replaces the allowed clients, from the next connection and the next request on.
    pub(crate) fn replace(&self, access: Access) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = access;
    }

    pub(super) fn allows(&self, peer: IpAddr) -> bool {
        self.read().allows(peer)
    }

    pub(super) fn authorizes(&self, headers: &[Header]) -> bool {
        self.read().authorizes(headers)
    }

    fn read(&self) -> RwLockReadGuard<'_, Access> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Access {
    /// Returns whether `peer` may connect.
    pub(crate) fn allows(&self, peer: IpAddr) -> bool {
        self.allow.is_empty() || self.allow.iter().any(|block| block.contains(peer))
    }

    /// Returns whether these headers carry the required credentials, if any are required.
    pub(crate) fn authorizes(&self, headers: &[Header]) -> bool {
        self.accepts(find(headers, "Authorization"))
    }

    /// Returns whether the value of an `Authorization` header has the required credentials, if any
    /// are required.
    pub(crate) fn accepts(&self, authorization: Option<&str>) -> bool {
        let Some((user, password)) = &self.credentials else {
            return true;
        };
        let expected = STANDARD.encode(format!("{user}:{password}"));
        let Some((scheme, given)) = authorization.and_then(|value| value.split_once(' ')) else {
            return false;
        };
        scheme.eq_ignore_ascii_case("Basic")
            && constant_time_eq(given.trim().as_bytes(), expected.as_bytes())
    }
}

/// Compares in a time that depends only on the length of `given`. `expected` must not be empty.
fn constant_time_eq(given: &[u8], expected: &[u8]) -> bool {
    let differing = given
        .iter()
        .zip(expected.iter().cycle())
        .fold(0, |differing, (a, b)| black_box(differing | (a ^ b)));
    differing == 0 && given.len() == expected.len()
}

/// A block of addresses: `10.0.0.0/8`, `2001:db8::/32`, or one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cidr {
    /// The first address in IPv6 form; an IPv4 address is `::ffff:a.b.c.d`.
    network: u128,
    mask: u128,
}

impl Cidr {
    /// Returns whether `address` is in the block; both forms of an IPv4 address are equal.
    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        to_ipv6(address).to_bits() & self.mask == self.network
    }
}

impl FromStr for Cidr {
    type Err = Error;

    /// Parses an address with an optional `/length`; bits after the length are ignored.
    fn from_str(text: &str) -> Result<Self, Error> {
        let error = || Error::Cidr(text.to_owned());
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| error())?;
        let bits: u32 = if address.is_ipv4() { 32 } else { 128 };
        let length = match length {
            None => bits,
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => digits
                .parse()
                .ok()
                .filter(|length| *length <= bits)
                .ok_or_else(error)?,
            Some(_) => return Err(error()),
        };
        let mask = u128::MAX.checked_shl(bits - length).unwrap_or(0);
        // The prefix `::ffff:` is part of the mask, so that "0.0.0.0/0" contains IPv4 only.
        let mask = if bits == 32 {
            mask | u128::MAX << 32
        } else {
            mask
        };
        Ok(Self {
            network: to_ipv6(address).to_bits() & mask,
            mask,
        })
    }
}

fn to_ipv6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(block: &str, inside: &[&str], outside: &[&str]) {
        let block: Cidr = block.parse().unwrap();
        for address in inside {
            assert!(
                block.contains(address.parse().unwrap()),
                "{address} in {block:?}"
            );
        }
        for address in outside {
            assert!(
                !block.contains(address.parse().unwrap()),
                "{address} not in {block:?}"
            );
        }
    }

    #[test]
    fn a_block_contains_only_its_addresses() {
        check(
            "127.0.0.1",
            &["127.0.0.1", "::ffff:127.0.0.1"],
            &["127.0.0.2", "::1"],
        );
        check(
            "10.0.0.0/8",
            &["10.255.0.1", "::ffff:10.1.1.1"],
            &["11.0.0.0", "9.255.255.255"],
        );
        check("10.9.8.7/8", &["10.0.0.1"], &["11.0.0.0"]);
        check("192.0.2.128/25", &["192.0.2.255"], &["192.0.2.127"]);
        check("0.0.0.0/0", &["203.0.113.9"], &["::1", "2001:db8::1"]);
        check("::1", &["::1"], &["::2", "127.0.0.1"]);
        check("2001:db8::/32", &["2001:db8:ffff::1"], &["2001:db9::"]);
        check("::ffff:10.0.0.0/104", &["10.1.2.3"], &["11.0.0.1"]);
        check("::/0", &["::1", "2001:db8::1", "192.0.2.1"], &[]);
    }

    #[test]
    fn malformed_blocks_are_refused() {
        for text in [
            "",
            "localhost",
            "10.0.0.0/33",
            "::/129",
            "10.0.0.0/",
            "10/8",
            "::1/-1",
        ] {
            assert!(text.parse::<Cidr>().is_err(), "{text:?}");
        }
        assert!("10.0.0.0/+8".parse::<Cidr>().is_err());
        let error = "10.0.0.0/33".parse::<Cidr>().unwrap_err().to_string();
        assert!(error.contains("10.0.0.0/33"), "{error}");
    }

    #[test]
    fn an_empty_list_allows_all() {
        assert!(Access::default().allows("192.0.2.1".parse().unwrap()));
        let access = Access {
            allow: vec!["::1".parse().unwrap()],
            credentials: None,
        };
        assert!(access.allows("::1".parse().unwrap()));
        assert!(!access.allows("192.0.2.1".parse().unwrap()));
    }

    #[test]
    fn only_the_exact_basic_credentials_authorize() {
        let access = Access {
            credentials: Some(("master".into(), "päss:word".into())),
            ..Access::default()
        };
        let header = |value: &str| vec![Header::from_bytes("authorization", value).unwrap()];
        let right = STANDARD.encode("master:päss:word");
        assert!(access.authorizes(&header(&format!("Basic {right}"))));
        assert!(access.authorizes(&header(&format!("basic  {right}"))));
        for wrong in [
            String::new(),
            "Basic".into(),
            "Basic ".into(),
            format!("Bearer {right}"),
            format!("Basic {right}{right}"),
            format!("Basic {}", &right[..4]),
            format!("Basic {}", STANDARD.encode("master:other")),
        ] {
            assert!(!access.authorizes(&header(&wrong)), "{wrong:?}");
        }
        assert!(!access.authorizes(&[]));
        assert!(Access::default().authorizes(&[]));
    }
}
