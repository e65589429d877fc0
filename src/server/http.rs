//! Listens, and lets connections in or turns them away at the acceptor.
//!
//! The accept loop never ends by anything a client or a shortage does, and never waits for a
//! client: an admitted connection goes to a thread of its own from a pool started beforehand, any
//! other is told so at once. What is spoken behind the acceptor is a [`Protocol`]'s affair. The only
//! file that names `TcpListener`. Started by `serve` and the farm's servers.

use super::Error;
use super::access::Access;
use super::connection::{self, Service};
use super::limits::Limits;
use super::message::Handler;
use super::protocol::Protocol;
use super::slots::{ConnectionSlots, SlotGuard};
use nix::sys::socket::{Backlog, Shutdown, listen, shutdown};
use std::collections::VecDeque;
use std::fmt::Display;
use std::io::{self, ErrorKind, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::AsRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use threadpool::ThreadPool;

/// Stack of a connection's thread; only what is touched takes memory.
const STACK_BYTES: usize = 512 << 10;
/// Connections the system may hold for us between two accepts.
const BACKLOG: i32 = 4096;
/// How long to wait when the system cannot give us a connection (no descriptors, no memory), and
/// nobody can be sent away.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How many are sent away otherwise, and the time for that.
const EVICTED_AT_ONCE: usize = 16;
const EVICT_PAUSE: Duration = Duration::from_millis(1);
/// Least time between two warnings of the same kind.
const WARN_EVERY: Duration = Duration::from_secs(60);
/// Connections turned away that are kept half open, so that what their clients still send does
/// not destroy the answer; the oldest makes room.
const REJECTED_KEPT: usize = 64;

/// A bound address, not yet served.
pub(crate) struct Server {
    listener: Arc<TcpListener>,
    stopping: Arc<AtomicBool>,
    limits: Limits,
    access: Access,
}

/// Ends [`Server::run`] from another thread.
#[derive(Clone)]
pub(crate) struct StopHandle {
    listener: Arc<TcpListener>,
    stopping: Arc<AtomicBool>,
}

impl StopHandle {
    /// Makes [`Server::run`] return. Exchanges under way go on until the process ends.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        // On Linux this ends a blocked accept; a listener that is gone has ended it already.
        let _ = shutdown(self.listener.as_raw_fd(), Shutdown::Both);
    }
}

impl Server {
    /// Listens on `address` (`host:port`; port 0 takes a free one). From here on clients can
    /// connect; they are answered once [`Server::run`] runs.
    pub(crate) fn bind(
        address: impl ToSocketAddrs + Display,
        limits: Limits,
        access: Access,
    ) -> Result<Self, Error> {
        let listener = TcpListener::bind(&address)
            .and_then(|listener| {
                listen(&listener, Backlog::new(BACKLOG)?)?;
                Ok(listener)
            })
            .map_err(|source| Error::Listen {
                address: address.to_string(),
                source,
            })?;
        Ok(Self {
            listener: Arc::new(listener),
            stopping: Arc::default(),
            limits,
            access,
        })
    }

    /// Returns the address that is listened on, with the real port.
    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Returns what ends [`Server::run`].
    pub(crate) fn stop_handle(&self) -> StopHandle {
        StopHandle {
            listener: Arc::clone(&self.listener),
            stopping: Arc::clone(&self.stopping),
        }
    }

    /// Serves HTTP until stopped. Fails only if the threads cannot be started.
    pub(crate) fn run(self, handler: Arc<dyn Handler>) -> Result<(), Error> {
        let protocol = self.http(handler);
        self.run_protocol(protocol)
    }

    /// Returns what speaks HTTP behind this server's acceptor, under its limits.
    pub(crate) fn http(&self, handler: Arc<dyn Handler>) -> Arc<dyn Protocol> {
        let service = Service::new(handler, self.limits.clone(), self.access.clone());
        Arc::new(service)
    }

    /// Serves `protocol` until stopped. Fails only if the threads cannot be started.
    pub(crate) fn run_protocol(self, protocol: Arc<dyn Protocol>) -> Result<(), Error> {
        let limits = self.limits;
        let pool = start_threads(limits.connections)?;
        let mut acceptor = Acceptor {
            access: self.access,
            slots: ConnectionSlots::new(limits.connections, limits.connections_per_peer),
            protocol,
            pool,
            rejected: VecDeque::new(),
            full_warning: WarningThrottle::default(),
        };
        let mut accept_warning = WarningThrottle::default();
        loop {
            let accepted = self.listener.accept();
            if self.stopping.load(Ordering::SeqCst) {
                return Ok(());
            }
            match accepted {
                Ok((stream, peer)) => acceptor.handle(stream, peer),
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    if accept_warning.is_due() {
                        log::warn!("cannot accept connections: {error}; trying on");
                    }
                    thread::sleep(acceptor.free_descriptors());
                }
            }
        }
    }
}

/// Starts every thread there will be: none is needed, and so none can be missing, later.
fn start_threads(count: usize) -> Result<ThreadPool, Error> {
    let pool = threadpool::Builder::new()
        .num_threads(count)
        .thread_name("http".to_owned())
        .thread_stack_size(STACK_BYTES);
    // threadpool has no other way to say that a thread cannot be started.
    catch_unwind(|| pool.build()).map_err(|_| Error::Threads(count))
}

/// Where connections are let in or turned away.
struct Acceptor {
    access: Access,
    slots: ConnectionSlots,
    protocol: Arc<dyn Protocol>,
    pool: ThreadPool,
    rejected: VecDeque<TcpStream>,
    full_warning: WarningThrottle,
}

impl Acceptor {
    /// Lets a connection in, or answers it here. Never waits.
    fn handle(&mut self, stream: TcpStream, peer: SocketAddr) {
        if !self.access.allows(peer.ip()) {
            log::debug!("{peer}: not on the allow list");
            return self.reject(stream, 403, "your address is not allowed here");
        }
        match self.slots.admit(stream, peer) {
            Ok(slot) => self.serve(slot),
            Err(stream) => {
                if self.full_warning.is_due() {
                    log::warn!("{peer} turned away: too many connections, in all or from there");
                }
                self.reject(stream, 503, "too many connections");
            }
        }
    }

    /// Lets go of descriptors, which may be what is missing; returns how long to wait for that.
    fn free_descriptors(&mut self) -> Duration {
        self.rejected.clear();
        match self.slots.evict_idle(EVICTED_AT_ONCE) {
            true => EVICT_PAUSE,
            false => ACCEPT_PAUSE,
        }
    }

    /// Hands the connection to a thread. There is one for every place; that of a connection which
    /// was sent away takes a moment to be free.
    fn serve(&self, slot: SlotGuard) {
        let protocol = Arc::clone(&self.protocol);
        self.pool.execute(move || {
            let served = catch_unwind(AssertUnwindSafe(|| {
                // An answer leaves when it is written; accept_warning that it is only later.
                let _ = slot.stream().set_nodelay(true);
                protocol.serve(&slot);
            }));
            if let Err(panic) = served {
                let panic = connection::panic_text(panic.as_ref());
                log::error!("{}: panic: {panic}", slot.peer());
            }
        });
    }

    /// Says why, and closes our side. A client that does not take it at once goes without.
    fn reject(&mut self, stream: TcpStream, status: u16, reason: &str) {
        connection::count_refusal(status);
        let answer = self.protocol.rejection(status, reason);
        let told = stream
            .set_nonblocking(true)
            .and_then(|()| (&stream).write_all(&answer))
            .and_then(|()| stream.shutdown(std::net::Shutdown::Write));
        if told.is_ok() {
            self.rejected.truncate(REJECTED_KEPT - 1);
            self.rejected.push_front(stream);
        }
    }
}

/// Keeps a repeated warning from filling the log.
#[derive(Default)]
struct WarningThrottle(Option<Instant>);

impl WarningThrottle {
    /// Says whether the last warning is long enough ago, and if so counts this one.
    fn is_due(&mut self) -> bool {
        let due = self.0.is_none_or(|last| last.elapsed() >= WARN_EVERY);
        if due {
            self.0 = Some(Instant::now());
        }
        due
    }
}

/// Says why an address cannot be listened on, and what to do about it.
pub(super) fn explain(error: &io::Error) -> String {
    let advice = match error.kind() {
        ErrorKind::AddrInUse => "another process has it: `ss -ltnp` shows which",
        ErrorKind::AddrNotAvailable => "no interface of this host has that address",
        ErrorKind::PermissionDenied => "ports below 1024 need privileges: take a higher one",
        _ => return error.to_string(),
    };
    format!("{error}: {advice}")
}
