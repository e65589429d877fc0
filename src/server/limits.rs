//! Pure: the limits on what clients may make the server spend.
//!
//! The configuration overrides all defaults but `uploads` and `lowest_rate`. `http` and
//! `connection` enforce them.

use std::time::Duration;

/// Limits per client and for all clients together. [`Limits::default`] has the values.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    /// Bytes of a request line and its headers; a longer head is answered 431.
    pub(crate) head_bytes: usize,
    /// Bytes of a request body; a longer body is answered 413 before any of it is read. One peer's
    /// open bodies over 16 KiB may total this much, all peers' twice as much; others wait. This
    /// limits the memory of calls, which is several times that of their bodies.
    pub(crate) body_bytes: usize,
    /// Concurrent requests whose body is a stream; one more waits.
    pub(crate) uploads: usize,
    /// Open connections, and so threads. One more evicts an idle connection, or waits.
    pub(crate) connections: usize,
    /// Open connections from one IPv4 address or IPv6 /64 network.
    pub(crate) connections_per_peer: usize,
    /// Calls being handled at once that may take long; one more waits.
    pub(crate) calls: usize,
    /// Such calls of one peer.
    pub(crate) calls_per_peer: usize,
    /// Files being sent at once; one more waits. Other answers do not count.
    pub(crate) downloads: usize,
    /// Files being sent at once to one peer.
    pub(crate) downloads_per_peer: usize,
    /// Concurrent answers of unknown length ([`BodyStream`](super::BodyStream)); one more is
    /// answered 503.
    pub(crate) followers: usize,
    /// Connections that wait for their turn, without a thread. One more takes the place of another
    /// peer's if that peer has more, or is answered 503 at once.
    pub(crate) waiting: usize,
    /// Seconds that a connection may wait for its turn; then 503.
    pub(crate) wait_secs: u64,
    /// Seconds from the first byte of a request to the last of its body; then 408. For a streamed
    /// body: the longest silence, and the time added to what `lowest_rate` allows.
    pub(crate) request_secs: u64,
    /// Seconds a connection may stay open without a request.
    pub(crate) idle_secs: u64,
    /// Seconds a client may take to read one piece (256 KiB) of an answer.
    pub(crate) write_secs: u64,
    /// Lowest average rate of an answer or a streamed body, in bytes per second; a slower one is
    /// cut off.
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
            calls: 128,
            calls_per_peer: 64,
            downloads: 16,
            downloads_per_peer: 16,
            followers: 16,
            waiting: 512,
            wait_secs: 600,
            request_secs: 30,
            idle_secs: 60,
            write_secs: 30,
            lowest_rate: 16 << 10,
        }
    }
}

impl Limits {
    /// Returns how long an answer of `len` bytes may take.
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
    fn the_answer_timeout_grows_with_the_length() {
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
