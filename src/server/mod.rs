//! HTTP in: accepts connections, reads one request at a time from each, hands it to a [`Handler`]
//! and writes the answer.
//!
//! Knows nothing of builds or XML-RPC. Holds against hostile clients by limits on everything a
//! client can make it spend: bytes, connections, threads and time ([`Limits`]).
//!
//! ```text
//! http.rs ──accept──▶ connection.rs, one thread of a fixed pool per admitted connection
//!   │ access.rs          │ head.rs     bytes to a checked head, or why not
//!   │ places.rs          │ wire.rs     no read or write outlives its deadline
//!   └ 403, 503           └ Handler     route.rs, files.rs help it to answer
//! ```
//!
//! Another [`Protocol`] may stand in the place of HTTP, behind the same door.

mod access;
mod connection;
mod deadline;
mod files;
mod group;
mod head;
mod http;
mod limits;
mod message;
mod protocol;
mod quota;
mod route;
mod slots;
#[cfg(test)]
mod tests;
mod wire;

pub(crate) use access::{Access, Cidr};
pub(crate) use files::serve_file;
pub(crate) use group::{Group, address};
pub(crate) use http::{Server, StopHandle};
pub(crate) use limits::Limits;
pub(crate) use message::{Body, BodyStream, Handler, Method, Request, Response};
pub(crate) use protocol::Protocol;
pub(crate) use route::{Route, route};
pub(crate) use slots::ConnectionSlot;
pub(crate) use wire::Wire;

/// What keeps a server from being set up. Once it runs, nothing a client does is an error here.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {}", http::explain(source))]
    Listen {
        /// The address as configured.
        address: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The system refuses a thread for each connection.
    #[error("cannot start {0} threads: raise the limit on processes or allow fewer connections")]
    Threads(usize),
    /// An entry of the allow list is neither an address nor a block of them.
    #[error("not an address or block: {0:?}: write 192.0.2.7, 10.0.0.0/8, ::1 or 2001:db8::/32")]
    Cidr(String),
    /// A thread or the handling of signals, say.
    #[error("{0}")]
    System(#[from] std::io::Error),
}
