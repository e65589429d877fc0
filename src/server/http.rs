//! Listens on an address, and admits or rejects each connection.
//!
//! No client and no resource shortage ends the accept loop, and it never waits for a client. An
//! admitted connection gets a thread of a pool that is started beforehand; any other waits for its
//! turn without a thread (`turns`). One more thread hands out turns.
//! A [`Protocol`] serves admitted connections. Only this file uses `TcpListener`.

use super::Error;
use super::access::{Access, SharedAccess};
use super::connection::{self, Service};
use super::limits::Limits;
use super::message::Handler;
use super::protocol::Protocol;
use super::sessions::Sessions;
use super::slots::ConnectionSlot;
use super::turns::{Turn, Turns};
use crate::sys::lock::lock;
use crate::sys::service_manager::{self, Pulse};
use nix::sys::socket::{Backlog, Shutdown, listen, shutdown};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::fmt::Display;
use std::io::{self, ErrorKind, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::AsRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};
use threadpool::ThreadPool;

/// Stack of a connection's thread; only touched pages take memory.
const STACK_BYTES: usize = 512 << 10;
/// Connections that the kernel queues between two accepts.
const BACKLOG: i32 = 4096;
/// Pause after a failed accept (no descriptors, no memory) if no connection can be evicted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Connections to evict after a failed accept.
const EVICTED_AT_ONCE: usize = 16;
/// Pause for evicted connections to close their sockets.
const EVICT_PAUSE: Duration = Duration::from_millis(1);
/// Minimum time between two warnings of the same kind.
const WARN_EVERY: Duration = Duration::from_secs(60);
/// Rejected connections kept half open, so that data their clients still send does not reset the
/// connection before the answer arrives. The oldest is closed first.
const REJECTED_KEPT: usize = 64;

/// A bound address that is not served yet.
pub(crate) struct Server {
    listener: Arc<TcpListener>,
    stopping: Arc<AtomicBool>,
    turns: Turns,
    limits: Limits,
    access: SharedAccess,
    pulse: Option<Pulse>,
}

/// Ends [`Server::run`] from another thread.
#[derive(Clone)]
pub(crate) struct StopHandle {
    listener: Arc<TcpListener>,
    stopping: Arc<AtomicBool>,
}

impl StopHandle {
    /// Makes [`Server::run`] return. Open exchanges continue until the process ends.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        // On Linux this wakes a blocked accept. It fails only if the listener is closed already.
        let _ = shutdown(self.listener.as_raw_fd(), Shutdown::Both);
    }
}

impl Server {
    /// Listens on `address` (`host:port`; port 0 takes a free port). Clients can connect from now
    /// on; they are answered once [`Server::run`] runs.
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
            turns: Turns::new(&limits),
            limits,
            access: SharedAccess::new(access),
            pulse: None,
        })
    }

    /// Makes the accept loop prove that it runs, if the service manager has a watchdog.
    pub(super) fn prove_life(&mut self) -> Option<Pulse> {
        let limit = service_manager::watchdog()?;
        let pulse = Pulse::new("accept loop", limit);
        self.pulse = Some(pulse.clone());
        Some(pulse)
    }

    /// Returns the bound address, with the real port.
    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Returns a handle that changes the allowed clients.
    pub(crate) fn access(&self) -> SharedAccess {
        self.access.clone()
    }

    /// Returns a handle that ends [`Server::run`].
    pub(crate) fn stop_handle(&self) -> StopHandle {
        StopHandle {
            listener: Arc::clone(&self.listener),
            stopping: Arc::clone(&self.stopping),
        }
    }

    /// Serves HTTP until stopped. Fails only if the threads cannot be started.
    pub(crate) fn run(self, handler: Arc<dyn Handler>) -> Result<(), Error> {
        let protocol = self.http(handler);
        self.run_protocol(protocol, || ())
    }

    /// Returns an HTTP protocol with this server's limits and access rules.
    pub(crate) fn http(&self, handler: Arc<dyn Handler>) -> Arc<dyn Protocol> {
        Arc::new(Service {
            handler,
            limits: self.limits.clone(),
            access: self.access.clone(),
            turns: self.turns.clone(),
        })
    }

    /// Serves `protocol` until stopped. Calls `started` when nothing can fail any more. Fails only
    /// if the threads cannot be started.
    pub(crate) fn run_protocol(
        self,
        protocol: Arc<dyn Protocol>,
        started: impl FnOnce(),
    ) -> Result<(), Error> {
        let dispatcher = Arc::new(Dispatcher {
            pool: start_threads(self.limits.connections)?,
            turns: self.turns.clone(),
            protocol,
            rejected: Mutex::default(),
            full_warning: Mutex::default(),
        });
        let waits = Arc::clone(&dispatcher);
        let turns = thread::Builder::new().name("turns".into());
        let turns = turns.spawn(move || waits.run())?;
        let acceptor = Acceptor {
            access: self.access.clone(),
            sessions: Sessions::of(&self.listener),
            session_warning: WarningThrottle::default(),
            dispatcher,
        };
        started();
        self.accept(acceptor);
        self.turns.stop();
        turns
            .join()
            .map_err(|_| io::Error::other("the thread that hands out turns panicked").into())
    }

    /// Accepts connections until stopped.
    fn accept(&self, mut acceptor: Acceptor) {
        let mut accept_warning = WarningThrottle::default();
        loop {
            self.wait_for_client();
            let accepted = self.listener.accept();
            if self.stopping.load(Ordering::SeqCst) {
                return;
            }
            match accepted {
                Ok((stream, peer)) => acceptor.handle(stream, peer),
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    let pause = acceptor.dispatcher.free_descriptors();
                    if accept_warning.is_due() {
                        log::warn!("cannot accept a connection: {error}; retrying in {pause:?}");
                    }
                    thread::sleep(pause);
                }
            }
        }
    }
}

impl Server {
    /// With a watchdog, waits for a connection and beats meanwhile. Without one, accept waits.
    fn wait_for_client(&self) {
        let Some(pulse) = &self.pulse else { return };
        // Too long for the kernel's clock only if there is no limit at all.
        let timeout = Timespec::try_from(pulse.interval()).ok();
        loop {
            pulse.beat();
            let mut ready = [PollFd::new(&self.listener, PollFlags::IN)];
            match poll(&mut ready, timeout.as_ref()) {
                Ok(0) => {}
                Err(error) if error == Errno::INTR => {}
                // A failure shows in accept.
                Ok(_) | Err(_) => return,
            }
        }
    }
}

/// Starts all threads now, so that starting one cannot fail later.
fn start_threads(count: usize) -> Result<ThreadPool, Error> {
    let pool = threadpool::Builder::new()
        .num_threads(count)
        .thread_name("http".to_owned())
        .thread_stack_size(STACK_BYTES);
    // threadpool panics when a thread cannot be started.
    catch_unwind(|| pool.build()).map_err(|_| Error::Threads(count))
}

/// Admits or rejects accepted connections.
struct Acceptor {
    access: SharedAccess,
    sessions: Sessions,
    session_warning: WarningThrottle,
    dispatcher: Arc<Dispatcher>,
}

impl Acceptor {
    /// Hands a connection to a thread, lets it wait, or rejects it. Never waits itself.
    fn handle(&mut self, stream: TcpStream, peer: SocketAddr) {
        let reject = |stream, reason| {
            let slot = Arc::new(ConnectionSlot::new(stream, peer));
            self.dispatcher.reject(slot, 403, reason);
        };
        if !self.access.allows(peer.ip()) {
            log::debug!("{peer}: rejected: not on the allow list");
            return reject(stream, "your address is not allowed here");
        }
        if let Some(reason) = self.sessions.refusal(&stream, peer) {
            let level = match self.session_warning.is_due() {
                true => log::Level::Warn,
                false => log::Level::Debug,
            };
            log::log!(level, "{peer}: rejected: {reason}");
            return reject(stream, "build sessions may not connect");
        }
        self.dispatcher.turns.arrive(stream, peer);
        self.dispatcher.hand_out();
    }
}

/// Starts the turns of connections on threads of the pool, and rejects others.
struct Dispatcher {
    turns: Turns,
    protocol: Arc<dyn Protocol>,
    pool: ThreadPool,
    rejected: Mutex<VecDeque<Arc<ConnectionSlot>>>,
    full_warning: Mutex<WarningThrottle>,
}

impl Dispatcher {
    /// Hands out turns as they become possible, until stopped.
    fn run(&self) {
        while self.turns.wait() {
            self.hand_out();
        }
    }

    /// Starts all turns that are possible now, and ends the waits that are too long.
    fn hand_out(&self) {
        while let Some(turn) = self.turns.next() {
            self.serve(turn);
        }
        for refused in self.turns.take_refused() {
            let reason = refused.reason();
            if lock(&self.full_warning).is_due() {
                let peer = refused.slot.peer();
                log::warn!("{peer}: rejected: {reason}, in all or from this address");
            }
            self.reject(Arc::clone(&refused.slot), 503, reason);
        }
    }

    /// Closes rejected, waiting and idle connections, since accept may lack descriptors. Returns
    /// how long to wait before the next accept.
    fn free_descriptors(&self) -> Duration {
        lock(&self.rejected).clear();
        let ends = self.turns.free_descriptors(EVICTED_AT_ONCE);
        self.hand_out();
        lock(&self.rejected).clear();
        match ends {
            true => EVICT_PAUSE,
            false => ACCEPT_PAUSE,
        }
    }

    /// Queues the connection for a thread. There is a thread for every slot, but the thread of an
    /// evicted connection needs a moment to end it.
    fn serve(&self, Turn { slot, parked }: Turn) {
        let protocol = Arc::clone(&self.protocol);
        let turns = self.turns.clone();
        self.pool.execute(move || {
            let served = catch_unwind(AssertUnwindSafe(|| match parked {
                Some((rest, permit)) => rest(&slot, permit),
                None => {
                    // Sends answers without delay; a failure only delays them.
                    let _ = slot.stream().set_nodelay(true);
                    protocol.serve(&slot)
                }
            }));
            match served {
                Ok(None) => {}
                Ok(Some(parked)) => turns.park(slot, parked),
                Err(panic) => {
                    let panic = connection::panic_text(panic.as_ref());
                    log::error!("{}: the connection's thread panicked: {panic}", slot.peer());
                }
            }
        });
    }

    /// Writes the rejection and closes the write side, without waiting for the client.
    fn reject(&self, slot: Arc<ConnectionSlot>, status: u16, reason: &str) {
        connection::count_refusal(status);
        let answer = self.protocol.rejection(status, reason);
        let mut stream = slot.stream();
        let sent = stream
            .set_nonblocking(true)
            .and_then(|()| stream.write_all(&answer))
            .and_then(|()| stream.shutdown(std::net::Shutdown::Write));
        if sent.is_ok() {
            let mut rejected = lock(&self.rejected);
            rejected.truncate(REJECTED_KEPT - 1);
            rejected.push_front(slot);
        }
    }
}

/// Limits how often a warning is logged.
#[derive(Default)]
struct WarningThrottle(Option<Instant>);

impl WarningThrottle {
    /// Returns whether the warning may be logged now, and if so restarts the interval.
    fn is_due(&mut self) -> bool {
        let due = self.0.is_none_or(|last| last.elapsed() >= WARN_EVERY);
        if due {
            self.0 = Some(Instant::now());
        }
        due
    }
}

/// Describes a failed bind and how to fix it.
pub(super) fn explain(error: &io::Error) -> String {
    let advice = match error.kind() {
        ErrorKind::AddrInUse => "another process listens on it: `ss -ltnp` shows which",
        ErrorKind::AddrNotAvailable => "no interface of this host has that address",
        ErrorKind::PermissionDenied => "ports below 1024 need privileges: choose a higher one",
        _ => return error.to_string(),
    };
    format!("{error}: {advice}")
}
