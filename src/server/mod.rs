//! An HTTP server: reads one request at a time from each connection and lets a [`Handler`] answer.
//!
//! Against hostile clients, [`Limits`] covers all that a client can make the server spend: bytes,
//! connections, threads and time. Nothing here depends on builds or XML-RPC.
//!
//! ```text
//! http.rs ──accept──▶ connection.rs, one thread of a fixed pool per admitted connection
//!   │ access.rs          │ head.rs     parses and checks the head
//!   │ sessions.rs        │ wire.rs     reads and writes under a deadline
//!   │ turns.rs           └ Handler     answers, with route.rs and files.rs
//!   └ 403, 503
//! ```
//!
//! `turns.rs` has the line of all that wait: for one of the slots (`slots.rs`), and for what their
//! request needs beside (`quota.rs`). `waiting.rs` says whose turn is next.
//!
//! Another [`Protocol`] may replace HTTP, with the same limits on connections.

mod access;
mod connection;
mod deadline;
mod files;
mod framing;
mod group;
mod head;
mod http;
mod limits;
mod message;
mod protocol;
mod quota;
mod route;
mod sessions;
mod slots;
#[cfg(test)]
mod tests;
mod turns;
mod waiting;
mod wire;

pub(crate) use access::{Access, Cidr, SharedAccess};
pub(crate) use files::serve_file;
pub(crate) use group::{Events, Group, address, report_ready};
pub(crate) use http::{Server, StopHandle};
pub(crate) use limits::Limits;
pub(crate) use message::{Body, BodyStream, Handler, Method, Request, Response};
pub(crate) use protocol::Protocol;
pub(crate) use route::{Route, route};
pub(crate) use slots::ConnectionSlot;
pub(crate) use turns::Parked;
pub(crate) use wire::Wire;

/// Why a server cannot start. Once it runs, no client can cause one of these errors.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {}", http::explain(source))]
    Listen {
        /// The address as configured.
        address: String,
        /// The system's error.
        source: std::io::Error,
    },
    /// The threads, one for each connection, cannot be started.
    #[error("cannot start {0} threads: raise the limit on processes or allow fewer connections")]
    Threads(usize),
    /// An entry of the allow list is neither an address nor a block of addresses.
    #[error("not an address or block: {0:?}: write 192.0.2.7, 10.0.0.0/8, ::1 or 2001:db8::/32")]
    Cidr(String),
    /// Another system call failed, for a thread or for signal handling.
    #[error("{0}")]
    System(#[from] std::io::Error),
}
