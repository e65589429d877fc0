//! A fake slave: it answers real HTTP and XML-RPC, and misbehaves as a test wants.
//!
//! Each fake has its own address, so it can vanish (connections are refused) and come back. It
//! answers calls as a slave does, in both forms of `status`. It records every call, and those that
//! no master should make. A test can have a thousand fakes.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};

use super::fake_http;
use super::fake_slave::{Slave, Work};
use crate::support::{Gate, within};

/// A request that a fake has received.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) at: Instant,
    /// The method of XML-RPC, or `GET`.
    pub(crate) method: String,
    /// Its parameters, or the path.
    pub(crate) args: Vec<Json>,
}

/// An answer that differs from that of a slave.
#[derive(Clone)]
pub(crate) enum Does {
    /// Answers with this fault.
    Fault(&'static str),
    /// Answers this value; the state does not change.
    Answer(Json),
    /// Answers with this status line, `500 Internal Server Error`.
    Http(&'static str),
    /// Answers with a page that is not XML-RPC.
    Garbage,
    /// Hangs up without an answer.
    HangUp,
    /// Does not answer until the fake ends or a test changes it.
    Stall,
    /// Acts as a slave and answers when the gate opens.
    Late(Gate),
    /// Sends other bytes than those of the file.
    Bytes(Vec<u8>),
    /// Announces the whole file and hangs up after so many bytes.
    Cut(usize),
    /// Announces the whole file and waits after so many bytes, then goes on.
    HoldAt(usize, Gate),
}

/// A fake slave; it vanishes when dropped.
pub(crate) struct Fake {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Mutex<Option<JoinHandle<()>>>,
}

/// The state that the threads of a fake share.
pub(super) struct Shared {
    inner: Mutex<Inner>,
    changed: Condvar,
}

pub(super) struct Inner {
    pub(super) slave: Slave,
    calls: Vec<Call>,
    always: HashMap<String, Does>,
    once: HashMap<String, VecDeque<Does>>,
    /// The delay of every answer.
    pub(super) delay: Duration,
    /// Counts vanishings and returns; threads of an earlier life end.
    life: u32,
    up: bool,
    open: Vec<TcpStream>,
}

impl Fake {
    /// Starts an idle slave of `tag` with today's form of `status`.
    pub(crate) fn start(tag: &str) -> Self {
        let mut fake = Self {
            address: SocketAddr::from((next_address(), 0)),
            shared: Arc::new(Shared {
                inner: Mutex::new(Inner {
                    slave: Slave::new(tag),
                    calls: Vec::new(),
                    always: HashMap::new(),
                    once: HashMap::new(),
                    delay: Duration::ZERO,
                    life: 0,
                    up: false,
                    open: Vec::new(),
                }),
                changed: Condvar::new(),
            }),
            acceptor: Mutex::new(None),
        };
        fake.address = fake.listen(fake.address);
        fake
    }

    /// Starts one with the tuples of 2008.
    pub(crate) fn start_2008(tag: &str) -> Self {
        let fake = Self::start(tag);
        fake.slave(|slave| slave.tuple = true);
        fake
    }

    /// The URL for the row of a builder.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    fn listen(&self, address: SocketAddr) -> SocketAddr {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let life = {
            let mut inner = self.shared.lock();
            inner.up = true;
            inner.life += 1;
            inner.life
        };
        let shared = Arc::clone(&self.shared);
        let accept = move || {
            for stream in listener.incoming() {
                // Without a free file descriptor the fake is slow to answer.
                let Ok(stream) = stream else { continue };
                if !shared.lock().take_in(life, &stream) {
                    return;
                }
                let shared = Arc::clone(&shared);
                let serve = move || fake_http::serve(&shared, stream, life);
                spawn("fake-connection", serve);
            }
        };
        *self.acceptor.lock().unwrap() = Some(spawn("fake-slave", accept));
        address
    }

    /// Closes all connections and refuses new ones.
    pub(crate) fn vanish(&self) {
        let open = {
            let mut inner = self.shared.lock();
            if !inner.up {
                return;
            }
            inner.up = false;
            inner.life += 1;
            std::mem::take(&mut inner.open)
        };
        self.shared.changed.notify_all();
        for stream in open {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
        // This wakes the acceptor, which sees that its life is over.
        let _ = TcpStream::connect(self.address);
        if let Some(acceptor) = self.acceptor.lock().unwrap().take() {
            let _ = acceptor.join();
        }
    }

    /// Listens again at its address, with the state it had.
    pub(crate) fn come_back(&self) {
        assert_eq!(self.listen(self.address), self.address);
    }

    // ---- settings ----

    /// Reads or changes the state of the slave.
    pub(crate) fn slave<T>(&self, look: impl FnOnce(&mut Slave) -> T) -> T {
        let mut inner = self.shared.lock();
        inner.slave.pass_time();
        let seen = look(&mut inner.slave);
        drop(inner);
        self.shared.changed.notify_all();
        seen
    }

    /// Sets the outcome of the next builds.
    pub(crate) fn works(&self, work: Work) {
        self.slave(|slave| slave.work = work);
    }

    /// Sets the answer to `what`: a method, the last part of a path (a hash, `buildlog`), or `*`.
    pub(crate) fn on(&self, what: &str, does: Does) {
        self.shared.lock().always.insert(what.to_owned(), does);
        self.shared.changed.notify_all();
    }

    /// As `on`, for the next request only; several calls form a queue.
    pub(crate) fn once(&self, what: &str, does: Does) {
        let mut inner = self.shared.lock();
        let line = inner.once.entry(what.to_owned()).or_default();
        line.push_back(does);
    }

    /// Undoes all calls of `on` and `once`.
    pub(crate) fn behave(&self) {
        let mut inner = self.shared.lock();
        inner.always.clear();
        inner.once.clear();
        drop(inner);
        self.shared.changed.notify_all();
    }

    /// Sets the delay of every answer.
    pub(crate) fn delay(&self, delay: Duration) {
        self.shared.lock().delay = delay;
    }

    // ---- records ----

    pub(crate) fn calls(&self) -> Vec<Call> {
        self.shared.lock().calls.clone()
    }

    /// The parameters of every call of `method`.
    pub(crate) fn called(&self, method: &str) -> Vec<Vec<Json>> {
        let inner = self.shared.lock();
        let calls = inner.calls.iter().filter(|call| call.method == method);
        calls.map(|call| call.args.clone()).collect()
    }

    /// The methods called so far, in order; repeated `status` calls count once.
    pub(crate) fn methods(&self) -> String {
        let inner = self.shared.lock();
        let mut methods: Vec<&str> = inner.calls.iter().map(|c| c.method.as_str()).collect();
        methods.dedup_by(|next, before| next == before && *next == "status");
        methods.join(" ")
    }

    /// Forgets the calls so far.
    pub(crate) fn forget(&self) {
        self.shared.lock().calls.clear();
    }

    /// Waits for the `count`th call of `method`, no longer than `limit`.
    pub(crate) fn wait_for(&self, method: &str, count: usize, limit: Duration) {
        let what = format!("call number {count} of {method} at {}", self.url());
        within(limit, &what, || {
            (self.called(method).len() >= count).then_some(())
        });
    }

    /// The cookies of the builds it accepted, in order.
    pub(crate) fn accepted(&self) -> Vec<String> {
        self.slave(|slave| slave.accepted.clone())
    }

    /// The calls that no master should make, such as `build` to a slave that builds.
    pub(crate) fn misdeeds(&self) -> Vec<String> {
        self.slave(|slave| slave.misdeeds.clone())
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.vanish();
    }
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the fake vanishes or its answers change.
    pub(super) fn stall(&self, life: u32, what: &str) {
        let mut inner = self.lock();
        while inner.life == life && matches!(inner.standing(what), Some(Does::Stall)) {
            inner = self
                .changed
                .wait(inner)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Inner {
    /// Records a connection; returns whether its life still lasts.
    fn take_in(&mut self, life: u32, stream: &TcpStream) -> bool {
        if self.life != life {
            return false;
        }
        // A closed connection has no peer.
        self.open.retain(|stream| stream.peer_addr().is_ok());
        self.open.extend(stream.try_clone());
        true
    }

    pub(super) fn is_alive(&self, life: u32) -> bool {
        self.life == life
    }

    pub(super) fn note(&mut self, method: &str, args: &[Json]) {
        self.calls.push(Call {
            at: Instant::now(),
            method: method.to_owned(),
            args: args.to_vec(),
        });
    }

    fn standing(&self, what: &str) -> Option<&Does> {
        self.always.get(what).or_else(|| self.always.get("*"))
    }

    /// The answer to a request, if it differs from that of a slave.
    pub(super) fn manners(&mut self, what: &str) -> Option<Does> {
        let next = self.once.get_mut(what).and_then(VecDeque::pop_front);
        next.or_else(|| self.standing(what).cloned())
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    let thread = thread::Builder::new().name(name.to_owned());
    thread.stack_size(256 << 10).spawn(work).unwrap()
}

/// An address of this host that nothing else uses, so that a port stays free after a close.
pub(crate) fn next_address() -> Ipv4Addr {
    static COUNT: AtomicU32 = AtomicU32::new(1);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let place = std::process::id().wrapping_mul(4099).wrapping_add(count) % (1 << 22);
    let [_, a, b, c] = place.to_be_bytes();
    // 127.64.0.0/10; neither .0 nor .255 in the last place is special on loopback.
    Ipv4Addr::new(127, 64 | a, b, c)
}

/// Checks at the end of a test that no slave got a wrong call.
pub(crate) fn check_manners<'a>(fakes: impl IntoIterator<Item = &'a Fake> + Clone) {
    for fake in fakes.clone() {
        assert_eq!(fake.misdeeds(), Vec::<String>::new(), "{}", fake.url());
    }
    check_once_each(fakes);
}

/// Checks that no attempt was built twice, and that no busy slave got a `build` call.
pub(crate) fn check_once_each<'a>(fakes: impl IntoIterator<Item = &'a Fake>) {
    let mut seen = HashSet::new();
    for fake in fakes {
        let builds = fake.misdeeds().into_iter();
        let builds: Vec<String> = builds.filter(|what| what.contains("build(")).collect();
        assert_eq!(builds, [""; 0], "{}", fake.url());
        for cookie in fake.accepted() {
            assert!(seen.insert(cookie.clone()), "two slaves built {cookie}");
        }
    }
}

/// The answer of a slave that lacks a file.
pub(crate) fn unknown_sum() -> Does {
    Does::Answer(json!(["BuilderStatus.UNKNOWNSUM", "CHROOTSUM -> abc"]))
}
