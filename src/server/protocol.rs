//! The protocol of an admitted connection: HTTP, or another in its slot.

use super::slots::ConnectionSlot;

/// What is spoken on admitted connections, on many threads at once.
pub(crate) trait Protocol: Send + Sync + 'static {
    /// Serves one connection to its end. A panic costs that connection.
    fn serve(&self, slot: &ConnectionSlot);

    /// Returns what somebody is told who is not let in; `status` is 403 or 503, as in HTTP.
    fn rejection(&self, status: u16, reason: &str) -> Vec<u8>;
}
