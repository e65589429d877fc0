//! Serves the STORE protocol of 2008 for uploads (docs/farm.md §4.1).
//!
//! `store_protocol` parses the commands. This file applies the timeouts, stores the bytes and
//! answers. An error ends the connection.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Error;
use super::intake::Library;
use super::rows::NewAlias;
use super::store_protocol::{self, Store};

use crate::server::{Access, ConnectionSlot, Limits, Parked, Protocol, Wire};

const NEEDS_CREDENTIALS: &str = "400 uploads need credentials: send Authorization: Basic";

/// One listening port.
pub(super) struct StorePort {
    pub(super) library: Arc<Library>,
    pub(super) restricted: bool,
    /// The required `Database-Name`.
    pub(super) dbname: String,
    pub(super) limits: Limits,
    /// The credentials that each head must have, if any.
    pub(super) access: Access,
}

/// The end of a connection.
enum End {
    /// The client closed it, or was idle.
    Closed,
    /// The client gets this answer.
    Refused(String),
    /// The connection is broken.
    Lost(io::Error),
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        Self::Lost(error)
    }
}

impl Protocol for StorePort {
    fn serve(self: Arc<Self>, slot: &ConnectionSlot) -> Option<Parked> {
        let peer = slot.peer();
        let mut wire = Wire::new(slot, &self.limits);
        let end = loop {
            if let Err(end) = self.store(&mut wire, peer) {
                break end;
            }
        };
        match end {
            End::Closed => {}
            End::Refused(line) => {
                log::info!("{peer}: {line}");
                if self.answer(&wire, &line).is_ok() {
                    wire.drain();
                }
            }
            End::Lost(error) => {
                log::debug!("{peer}: {error}");
                wire.reset();
            }
        }
        None
    }

    fn rejection(&self, status: u16, reason: &str) -> Vec<u8> {
        // 400 is the client's fault, 500 the server's; the protocol has no others.
        let status = if status == 403 { 400 } else { 500 };
        format!("{status} {reason}\r\n").into_bytes()
    }
}

impl StorePort {
    /// Receives one file and answers.
    fn store(&self, wire: &mut Wire<'_>, peer: SocketAddr) -> Result<(), End> {
        let store = self.read_head(wire)?;
        if let Some(debug) = &store.debug {
            log::info!(
                "{peer}: debug id {debug}: {} bytes, {}",
                store.size,
                store.name
            );
        }
        let mut body = wire.body(store.size);
        let answer = match store.ids {
            Some((content_id, alias_id)) => self
                .library
                .store_blob(content_id, store.sha1.as_ref(), &mut body, store.size)
                .map(|_| {
                    (
                        format!("{alias_id}/{} (the client inserts the rows)", store.name),
                        "200".to_owned(),
                    )
                }),
            None => self
                .library
                .store(
                    &self.alias(&store),
                    store.sha1.as_ref(),
                    &mut body,
                    store.size,
                )
                .map(|stored| {
                    let ids = format!("200 {}/{}", stored.content_id, stored.alias_id);
                    (format!("{}/{}", stored.alias_id, store.name), ids)
                }),
        };
        let (file, line) = answer.map_err(|error| refuse(&store.name, error))?;
        log::info!("{file}: {} bytes from {}", store.size, peer.ip());
        Ok(self.answer(wire, &line)?)
    }

    /// Reads the next head. The idle timeout applies to its first byte, the request timeout to the
    /// rest.
    fn read_head(&self, wire: &mut Wire<'_>) -> Result<Store, End> {
        let from_now = |secs| Instant::now() + Duration::from_secs(secs);
        if wire.input().is_empty() {
            match wire.read_more(from_now(self.limits.idle_secs)) {
                Ok(true) => {}
                Ok(false) => return Err(End::Closed),
                Err(error) if error.kind() == io::ErrorKind::TimedOut => return Err(End::Closed),
                Err(error) => return Err(End::Lost(error)),
            }
        }
        let deadline = from_now(self.limits.request_secs);
        loop {
            match store_protocol::parse(wire.input(), &self.dbname) {
                Ok(Some((store, length))) if length <= self.limits.head_bytes => {
                    if !self.access.accepts(store.authorization.as_deref()) {
                        return Err(End::Refused(NEEDS_CREDENTIALS.to_owned()));
                    }
                    wire.take(length);
                    return Ok(store);
                }
                Ok(None) if wire.input().len() < self.limits.head_bytes => {}
                Ok(_) => return Err(End::Refused("400 command and headers too long".to_owned())),
                Err(problem) => return Err(End::Refused(format!("400 {problem}"))),
            }
            match wire.read_more(deadline) {
                Ok(true) => {}
                Ok(false) => return Err(End::Lost(io::ErrorKind::UnexpectedEof.into())),
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                    return Err(End::Refused("400 too slow".to_owned()));
                }
                Err(error) => return Err(End::Lost(error)),
            }
        }
    }

    fn alias(&self, store: &Store) -> NewAlias {
        NewAlias {
            name: store.name.clone(),
            content_type: store.content_type.clone(),
            restricted: self.restricted,
            expires_at: store.expires_at,
        }
    }

    fn answer(&self, wire: &Wire<'_>, line: &str) -> io::Result<()> {
        let deadline = Instant::now() + Duration::from_secs(self.limits.write_secs);
        wire.write(format!("{line}\r\n").as_bytes(), deadline)
    }
}

/// Returns the answer to a failed upload.
fn refuse(name: &str, error: Error) -> End {
    match error {
        Error::Incomplete(source) if source.kind() != io::ErrorKind::TimedOut => End::Lost(source),
        Error::TooLarge { .. } | Error::Incomplete(_) => End::Refused(format!("400 {error}")),
        Error::Mismatch { .. } | Error::ContentExists(_) | Error::NoSpace { .. } => {
            End::Refused(format!("500 {error}"))
        }
        other => {
            log::error!("{name}: {other}");
            End::Refused("500 internal error".to_owned())
        }
    }
}
