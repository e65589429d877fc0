//! Pure: how much a client may make the server spend.
//!
//! Every limit has a name, a unit and a default that suits a builder with one master; a farm's
//! own values come from the configuration. Enforced by `http` and `connection`.

use std::time::Duration;

/// What one client, and all of them together, may use. See [`Limits::default`] for the values.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    /// Bytes of a request line and its headers; more is answered 431.
    pub(crate) head_bytes: usize,
    /// Bytes of a request body; more is answered 413 before any of it is read. Of bodies over 16
    /// KiB, one peer may have that much under way at once, and all together twice as much; more is
    /// answered 503. Bounds the memory that calls take, which is several times that of their bodies.
    pub(crate) body_bytes: usize,
    /// Requests whose body is taken as a stream under way at once; one more is answered 503.
    pub(crate) uploads: usize,
    /// Connections open at once, and so threads; one more is answered 503 at once.
    pub(crate) connections: usize,
    /// Connections open at once from one IPv4 address or IPv6 /64 network.
    pub(crate) connections_per_peer: usize,
    /// Files being sent at once; one more is answered 503. Other answers do not count.
    pub(crate) downloads: usize,
    /// The same for one peer.
    pub(crate) downloads_per_peer: usize,
    /// Answers that are still being made ([`BodyStream`](super::BodyStream)) under way at once; one more is
    /// answered 503.
    pub(crate) followers: usize,
    /// Seconds from the first byte of a request to the last of its body; then 408. For a body that
    /// is taken as a stream: its longest silence, and what is added to the time its pace allows.
    pub(crate) request_secs: u64,
    /// Seconds a connection may stay open with no request under way.
    pub(crate) idle_secs: u64,
    /// Seconds a client may take to accept any one piece (256 KiB) of an answer.
    pub(crate) write_secs: u64,
    /// Bytes per second below which an answer as a whole, or a body taken as a stream, is cut off.
    pub(crate) lowest_rate: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head_bytes: 16 << 10,
            body_bytes: 1 << 20,
            uploads: 16,
            connections: 256,
            connections_per_peer: 128,
            downloads: 16,
            downloads_per_peer: 16,
            followers: 16,
            request_secs: 30,
            idle_secs: 60,
            write_secs: 30,
            lowest_rate: 16 << 10,
        }
    }
}

impl Limits {
    /// Returns how long an answer of `len` bytes may take in all.
    pub(super) fn answer_timeout(&self, len: u64) -> Duration {
        Duration::from_secs(
            self.write_secs
                .saturating_add(len / self.lowest_rate.max(1)),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_answer_gets_the_time_its_length_needs() {
        let limits = Limits {
            write_secs: 30,
            lowest_rate: 1000,
            ..Limits::default()
        };
        assert_eq!(limits.answer_timeout(0), Duration::from_secs(30));
        assert_eq!(limits.answer_timeout(60_000), Duration::from_secs(90));
        let odd = Limits {
            lowest_rate: 0,
            ..limits
        };
        assert_eq!(odd.answer_timeout(u64::MAX), Duration::from_secs(u64::MAX));
    }
}
