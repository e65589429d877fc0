//! A running gate: accepts the connections of a session until it is dropped.

use std::io::{self, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::socket;

use super::connection::Connection;
use super::journal::Fetched;
use super::response;
use super::rules::Rules;
use super::settings::Settings;
use super::shared::Shared;
use super::wire::Wire;
use crate::sys::lock::lock;

/// The pause after a failed accept, such as for lack of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The longest wait for the threads of ended connections, and the pause between two looks. Only a
/// thread that looks a name up or connects takes longer.
const CLOSE_TIME: Duration = Duration::from_millis(500);
const CLOSE_PAUSE: Duration = Duration::from_millis(2);
/// The stack of a thread that serves a connection, in bytes.
const STACK_BYTES: usize = 512 << 10;

/// A running gate. Dropping it ends all connections.
pub(crate) struct Gate {
    shared: Arc<Shared>,
    listener: Arc<TcpListener>,
    stopping: Arc<AtomicBool>,
    /// The open connections of the session.
    open: Arc<AtomicUsize>,
    accepting: Option<JoinHandle<()>>,
}

/// Starts a gate that serves the connections of `listener`.
pub(crate) fn start(listener: TcpListener, rules: Rules, settings: Settings) -> io::Result<Gate> {
    listener.set_nonblocking(false)?;
    let shared = Arc::new(Shared::new(rules, settings));
    let listener = Arc::new(listener);
    let stopping = Arc::new(AtomicBool::new(false));
    let open = Arc::new(AtomicUsize::new(0));
    let accept = {
        let (shared, listener) = (Arc::clone(&shared), Arc::clone(&listener));
        let (stopping, open) = (Arc::clone(&stopping), Arc::clone(&open));
        move || accept_all(&shared, &listener, &stopping, &open)
    };
    let accepting = thread::Builder::new().name("gate".into()).spawn(accept)?;
    Ok(Gate {
        shared,
        listener,
        stopping,
        open,
        accepting: Some(accepting),
    })
}

impl Gate {
    /// Allows further archives: lines of apt's sources in either form, or URIs.
    pub(crate) fn add_archives(&self, sources: &[String]) {
        self.shared.change_rules(|rules| rules.add(sources));
    }

    /// Tells the SHA-256 and size of files, by URL or by path below their archive.
    pub(crate) fn know<'a>(&self, files: impl IntoIterator<Item = (&'a str, &'a str, u64)>) {
        let mut known = lock(&self.shared.known);
        for (name, sha256, bytes) in files {
            known.insert(name, sha256, bytes);
        }
    }

    /// Ends all connections and refuses every request from now on: the build begins. Waits briefly
    /// for their threads, so that the record is complete.
    pub(crate) fn close(&self) {
        self.shared.sockets.close();
        let until = Instant::now() + CLOSE_TIME;
        while self.open.load(Ordering::SeqCst) > 0 && Instant::now() < until {
            thread::sleep(CLOSE_PAUSE);
        }
    }

    /// Returns what went through the gate, in order of completion.
    pub(crate) fn record(&self) -> Vec<Fetched> {
        lock(&self.shared.journal).fetched()
    }

    /// Returns sentences about what the gate refused, with the operator's mend.
    pub(crate) fn refused(&self) -> Vec<String> {
        lock(&self.shared.journal).refused()
    }

    /// Returns sentences about servers that failed: they may work later.
    pub(crate) fn failed(&self) -> Vec<String> {
        lock(&self.shared.journal).failed()
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        self.shared.sockets.close();
        // Wakes the thread that accepts.
        let _ = socket::shutdown(self.listener.as_raw_fd(), socket::Shutdown::Both);
        if let Some(accepting) = self.accepting.take() {
            // A panic there has ended the gate before.
            let _ = accepting.join();
        }
    }
}

fn accept_all(
    shared: &Arc<Shared>,
    listener: &TcpListener,
    stopping: &AtomicBool,
    open: &Arc<AtomicUsize>,
) {
    loop {
        let accepted = listener.accept();
        if stopping.load(Ordering::SeqCst) {
            return;
        }
        match accepted {
            Ok((stream, _))
                if open.load(Ordering::SeqCst) >= shared.settings.limits.connections =>
            {
                turn_away(&stream);
            }
            Ok((stream, _)) => {
                let slot = Slot::take(open);
                let shared = Arc::clone(shared);
                let serve = move || {
                    let _slot = slot;
                    let client = Wire::new(shared.sockets.client(stream));
                    // An error means that the connection is gone.
                    let _ = Connection::new(&shared, client).run();
                };
                let thread = thread::Builder::new()
                    .name("gate-client".into())
                    .stack_size(STACK_BYTES);
                if let Err(error) = thread.spawn(serve) {
                    log::warn!("no thread for a connection of the session: {error}");
                }
            }
            Err(_) => thread::sleep(ACCEPT_PAUSE),
        }
    }
}

/// Answers a connection over the limit. The few bytes fit into the socket's buffer.
fn turn_away(mut stream: &TcpStream) {
    let text = "The gate serves no more connections at the same time.";
    let answer = response::text(503, "too many connections", text, false, true);
    let _ = stream.write_all(&answer);
    let _ = stream.shutdown(Shutdown::Write);
}

/// Counts an open connection until it is dropped.
struct Slot(Arc<AtomicUsize>);

impl Slot {
    fn take(open: &Arc<AtomicUsize>) -> Self {
        open.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(open))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
