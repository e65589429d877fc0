//! Support for all suites: sites, daemons, the wire, file servers, processes, real builds.

pub(crate) mod clock;
mod daemon;
mod deb;
mod files;
mod http;
pub(crate) mod machine;
pub(crate) mod mounts;
pub(crate) mod package;
pub(crate) mod procs;
pub(crate) mod real_slave;
pub(crate) mod rpc;
mod session_id;
mod site;

pub(crate) use daemon::Daemon;
pub(crate) use deb::deb;
pub(crate) use files::{FileServer, Gate, send};
pub(crate) use http::{Answer, connect, exchange, read_answer};
pub(crate) use procs::{Process, run};
pub(crate) use rpc::Fault;
pub(crate) use session_id::{in_session, talk};
pub(crate) use site::Site;

use std::time::{Duration, Instant};

/// The longest that a test waits for one event.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);
/// The longest pause between two probes; the first ones are shorter.
const PAUSE: Duration = Duration::from_millis(20);

/// Calls `probe` until it returns a value.
pub(crate) fn until<T>(what: &str, probe: impl FnMut() -> Option<T>) -> T {
    within(DEADLINE, what, probe)
}

/// Calls `probe` until it returns a value, no longer than `limit`.
pub(crate) fn within<T>(limit: Duration, what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(answer) = probe() {
            return answer;
        }
        assert!(begun.elapsed() < limit, "no {what} in {limit:?}");
        std::thread::sleep(pause);
        pause = PAUSE.min(pause * 2);
    }
}

pub(crate) fn sha1(bytes: &[u8]) -> String {
    sha1_smol::Sha1::from(bytes).digest().to_string()
}
