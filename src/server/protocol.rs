//! The interface of a protocol that serves admitted connections: HTTP or another.

use super::slots::ConnectionSlot;
use super::turns::Parked;
use std::sync::Arc;

/// Serves admitted connections, on many threads at once.
pub(crate) trait Protocol: Send + Sync + 'static {
    /// Serves one connection to its end, or until its exchange has to wait for its turn. A panic
    /// closes that connection.
    fn serve(self: Arc<Self>, slot: &ConnectionSlot) -> Option<Parked>;

    /// Returns the bytes to send to a rejected connection; `status` is 403 or 503, as in HTTP.
    fn rejection(&self, status: u16, reason: &str) -> Vec<u8>;
}
