//! A daemon under attack, and its checks: memory, answers to others, and service afterwards.

use std::fs;
use std::io::{BufReader, Write};
use std::net::Ipv4Addr;
use std::ops::Deref;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use sha1_smol::Sha1;

use super::crowd::{BEAT, Caller, Gone, connect_from, crowd};
use crate::support::rpc::{parse_answer, render_call};
use crate::support::{Answer, DEADLINE, Daemon, read_answer};

/// The length of an attack, unless the environment variable sets another.
const ATTACK_SECONDS: u64 = 10;
const SECONDS_VARIABLE: &str = "BUILDD_ATTACK_SECONDS";
/// The sizes of crowds.
const CROWDS: [usize; 3] = [1, 8, 2000];
/// The most memory that the daemon may use at any moment.
const MOST_BYTES: u64 = 64_000_000;
/// The longest that another client may wait for an answer.
const SOON: Duration = Duration::from_secs(1);
/// The pause between two calls of the other client.
const PAUSE: Duration = Duration::from_millis(100);
/// The length of the file to download, which is more than all socket buffers hold.
pub(crate) const FILE_BYTES: u64 = 64 << 20;

/// An attack that keeps a processor busy holds this lock.
static BUSY: Mutex<()> = Mutex::new(());
/// An attack of more than `MANY` clients holds this lock while they all connect, so that two
/// daemons do not compete for the processors.
static ONSETS: Mutex<()> = Mutex::new(());
const MANY: usize = 100;
const ONSET: Duration = Duration::from_millis(500);

/// A daemon with a large file in its cache, and client addresses of its own.
pub(crate) struct Siege {
    daemon: Daemon,
    /// The path of the large file.
    pub(crate) file: String,
    network: u8,
    /// Whether the attackers have so many addresses that they use all connections.
    pub(crate) crowded: bool,
    /// The longest time to an answer so far, in milliseconds.
    worst: AtomicU64,
}

impl Deref for Siege {
    type Target = Daemon;

    fn deref(&self) -> &Daemon {
        &self.daemon
    }
}

impl Siege {
    /// Starts the daemon; `more` is as for `Site::new`.
    pub(crate) fn start(more: &str) -> Self {
        static NETWORKS: AtomicU8 = AtomicU8::new(1);
        let daemon = Daemon::start(more);
        Self {
            file: format!("/filecache/{}", add_large_file(&daemon)),
            daemon,
            network: NETWORKS.fetch_add(1, Ordering::Relaxed),
            crowded: false,
            worst: AtomicU64::new(0),
        }
    }

    /// The address of the first attacker.
    pub(crate) fn attacker(&self) -> Ipv4Addr {
        Ipv4Addr::new(127, self.network, 0, 1)
    }

    /// The addresses of all attackers.
    pub(crate) fn attackers(&self) -> impl Iterator<Item = Ipv4Addr> + use<> {
        let network = self.network;
        (0..250).flat_map(move |a| (1..250).map(move |b| Ipv4Addr::new(127, network, a, b)))
    }

    /// The address of another client.
    pub(crate) fn other_client(&self) -> Ipv4Addr {
        Ipv4Addr::new(127, self.network, 255, 1)
    }

    /// Sends a request from `address` and returns the answer.
    pub(crate) fn ask(&self, address: Ipv4Addr, request: &[u8]) -> std::io::Result<Answer> {
        let mut stream = connect_from(address, self.port, DEADLINE)?;
        stream.write_all(request)?;
        read_answer(&mut BufReader::new(stream), false)
    }

    /// Calls `status` from `address` and checks that the answer comes soon.
    pub(crate) fn check_status(&self, address: Ipv4Addr) {
        let (begun, before) = (Instant::now(), Processors::of(&self.daemon));
        let mut answer = self.ask(address, &call("status"));
        // While all connections wait for their first byte, the server may answer 503.
        while self.crowded && answer.as_ref().is_ok_and(|answer| answer.status == 503) {
            assert!(begun.elapsed() < DEADLINE, "503 for {DEADLINE:?}");
            std::thread::sleep(BEAT);
            answer = self.ask(address, &call("status"));
        }
        let took = begun.elapsed();
        let answer = answer.unwrap_or_else(|error| panic!("status after {took:?}: {error}"));
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert!(parse_answer(&answer.body).is_ok(), "{}", answer.text());
        if took > SOON {
            let left = before.left_by_others(&self.daemon);
            assert!(
                took.mul_f64(left) < SOON,
                "status took {took:?} at {left} of the processors"
            );
        }
        let took = u64::try_from(took.as_millis()).unwrap();
        self.worst.fetch_max(took, Ordering::Relaxed);
    }

    /// Calls `status` as another client until `ending`, and checks the memory.
    pub(crate) fn watch(&self, ending: Instant) {
        while Instant::now() < ending {
            self.check_status(self.other_client());
            // The pace of the other client.
            std::thread::sleep(PAUSE);
        }
        self.check_memory();
    }

    /// Checks the peak of the memory.
    pub(crate) fn check_memory(&self) {
        let most = self.memory("VmHWM");
        assert!(most < MOST_BYTES, "{most} bytes of memory");
    }

    /// Checks that every client is served, the former attacker included.
    pub(crate) fn check_service(&self) {
        self.check_status(self.other_client());
        // The daemon may not have seen the end of all connections yet.
        let begun = Instant::now();
        while !self
            .ask(self.attacker(), &call("status"))
            .is_ok_and(|answer| answer.status == 200)
        {
            assert!(begun.elapsed() < SOON, "no service for the former attacker");
        }
        let get = format!("GET {} HTTP/1.0\r\n\r\n", self.file);
        let answer = self.ask(self.other_client(), get.as_bytes()).unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.body.len() as u64, FILE_BYTES);
        // The only error that an attack may cause is a thread that the system refuses.
        let errs = |line: &str| line.contains(" ERROR") && !line.contains("cannot start build");
        let said = self.said();
        assert!(!said.contains("panic") && !said.lines().any(errs), "{said}");
    }

    /// Prints the measured time and memory.
    pub(crate) fn show(&self, what: &str) {
        let (worst, most) = (self.worst.load(Ordering::Relaxed), self.memory("VmHWM"));
        eprintln!(
            "{what}: answers within {worst} ms, at most {} MB",
            most / 1_000_000
        );
    }

    /// A figure of `/proc/PID/status`, in bytes.
    fn memory(&self, key: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        let kibibytes = line.and_then(|line| line.split_whitespace().nth(1));
        kibibytes.unwrap().parse::<u64>().unwrap() << 10
    }
}

/// Runs the attack with crowds of every size at once, on a daemon each, from one address.
pub(crate) fn withstands(
    name: &str,
    step: impl Fn(&Siege, &mut Caller) -> Result<(), Gone> + Sync,
) {
    std::thread::scope(|scope| {
        for clients in CROWDS {
            let step = &step;
            scope.spawn(move || {
                let siege = Siege::start("");
                let from = vec![siege.attacker(); clients];
                attacked(&siege, &from, |caller| step(&siege, caller));
                siege.check_service();
                siege.show(&format!("{name}, {clients} clients"));
            });
        }
    });
}

/// The same for attacks that keep a processor busy, one at a time.
pub(crate) fn withstands_busy(
    name: &str,
    step: impl Fn(&Siege, &mut Caller) -> Result<(), Gone> + Sync,
) {
    let _alone = alone(&BUSY);
    withstands(name, step);
}

fn alone(lock: &Mutex<()>) -> MutexGuard<'_, ()> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs one crowd, and checks the service to others meanwhile.
pub(crate) fn attacked(
    siege: &Siege,
    from: &[Ipv4Addr],
    step: impl Fn(&mut Caller) -> Result<(), Gone> + Send,
) {
    allow_many_files();
    let onset = (from.len() > MANY).then(|| alone(&ONSETS));
    let begun = Instant::now();
    let ending = begun + attack_time();
    std::thread::scope(|scope| {
        scope.spawn(|| crowd(siege.port, from, ending, step));
        siege.watch(begun + ONSET);
        drop(onset);
        siege.watch(ending);
    });
}

pub(crate) fn attack_time() -> Duration {
    let given = std::env::var(SECONDS_VARIABLE).ok();
    Duration::from_secs(given.map_or(ATTACK_SECONDS, |seconds| seconds.parse().unwrap()))
}

/// A call without parameters, as masters make it.
pub(crate) fn call(method: &str) -> Vec<u8> {
    post(render_call(method, &[]).as_bytes())
}

/// A call of `echo` on a persistent connection.
pub(crate) fn echo_again(params: &str) -> String {
    let body =
        format!("<methodCall><methodName>echo</methodName><params>{params}</params></methodCall>");
    let request = String::from_utf8(post(body.as_bytes())).unwrap();
    request.replace("HTTP/1.0", "HTTP/1.1")
}

/// A call with this body.
pub(crate) fn post(body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST /rpc HTTP/1.0\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// Raises the limit of open files, as every client is a file of this process.
fn allow_many_files() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
}

/// Processor time of this machine, in ticks since its start.
struct Processors {
    all: u64,
    /// The time of all processes except the daemon.
    others: u64,
}

impl Processors {
    fn of(daemon: &Daemon) -> Self {
        let numbers = |text: &str| -> Vec<u64> {
            text.split(' ')
                .filter_map(|word| word.parse().ok())
                .collect()
        };
        let stat = fs::read_to_string("/proc/stat").unwrap();
        let machine = numbers(stat.lines().next().unwrap());
        let stat = fs::read_to_string(format!("/proc/{}/stat", daemon.pid())).unwrap();
        let process = numbers(stat.rsplit_once(')').unwrap().1);
        let all = machine[..8].iter().sum();
        // Fields 3 and 4 of the machine are idle times; 10 and 11 of a process are user and system.
        let busy = all - machine[3] - machine[4];
        Self {
            all,
            others: busy.saturating_sub(process[10] + process[11]),
        }
    }

    /// Returns the share of the time since then that other processes have left to the daemon. On a
    /// busy machine every answer takes longer.
    fn left_by_others(&self, daemon: &Daemon) -> f64 {
        let now = Self::of(daemon);
        let others = now.others.saturating_sub(self.others) as f64;
        1.0 - others / (now.all - self.all).max(1) as f64
    }
}

/// Puts a file of zeros into the cache; returns its hash.
fn add_large_file(daemon: &Daemon) -> String {
    static SUM: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    let sum = SUM.get_or_init(|| {
        let (mut sum, piece) = (Sha1::new(), vec![0; 1 << 20]);
        (0..FILE_BYTES >> 20).for_each(|_| sum.update(&piece));
        sum.digest().to_string()
    });
    let file = fs::File::create(daemon.path("home/filecache").join(sum)).unwrap();
    file.set_len(FILE_BYTES).unwrap();
    sum.clone()
}
