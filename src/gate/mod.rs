//! The gate: the HTTP proxy through which apt in a session reaches the archives of its build.
//!
//! ```text
//! serve.rs ──accept──▶ connection.rs, one thread per connection of the session
//!                        │ request.rs   parses a request; url.rs normalizes its URL
//!                        │ rules.rs     decides: an archive, a redirect's target, or refused
//!                        │ fetch.rs     a file: from cache.rs, or by link.rs from its server
//!                        └ tunnel.rs    CONNECT: an https archive
//! link.rs ──▶ connect.rs: looks a name up once and checks its addresses by address.rs
//! ```

mod address;
mod body;
mod cache;
mod connect;
mod connection;
mod fetch;
mod journal;
mod known;
mod link;
mod refusal;
mod request;
mod response;
mod rules;
mod serve;
mod settings;
mod shared;
mod sockets;
#[cfg(test)]
mod tests;
mod tunnel;
mod url;
mod wire;

pub(crate) use journal::Fetched;
pub(crate) use rules::{HostPattern, Rules};
pub(crate) use serve::{Gate, start};
pub(crate) use settings::{CacheSettings, Limits, Settings, Upstream};
