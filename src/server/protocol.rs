//! The protocol of an admitted connection: HTTP, or another in its place.

use super::places::Place;

/// What is spoken on admitted connections, on many threads at once.
pub(crate) trait Protocol: Send + Sync + 'static {
    /// Serves one connection to its end. A panic costs that connection.
    fn serve(&self, place: &Place);

    /// Returns what somebody is told who is not let in; `status` is 403 or 503, as in HTTP.
    fn turn_away(&self, status: u16, reason: &str) -> Vec<u8>;
}
