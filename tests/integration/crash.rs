//! Kills of processes at random moments of a build (docs/wire.md §5, daemon restart).
//!
//! The answer afterwards is what the journal proves, no process is left, and the builder is usable.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hasher as _};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::support::{Daemon, Process};

const DICT: &str = "statusform = dict\nverdicts = exact";
/// The number of killed builds, and of sites that run them in parallel.
const ROUNDS: u64 = 52;
const SITES: u64 = 4;
/// A build stage with a process that stays, and two results.
const SBUILD: &str =
    "(sleep 1000 &); printf Hello > $work/h.bin; echo $$ > $work/i.bin; changes h.bin i.bin";

/// Pseudo-random numbers, the same for the same seed (splitmix64).
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }
}

/// The process to kill.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Victim {
    Daemon,
    Shim,
    /// First the daemon, then the shim.
    Both,
    /// First the shim, then the daemon, which may see the shim die.
    ShimFirst,
    Stage,
}

const VICTIMS: [Victim; 5] = [
    Victim::Daemon,
    Victim::Shim,
    Victim::Both,
    Victim::ShimFirst,
    Victim::Stage,
];

fn is_shim(process: &Process) -> bool {
    process.command.contains(" internal shim ")
}

/// Kills a random one of the processes that `select` picks; returns whether there was one.
fn kill_one(daemon: &Daemon, chance: &mut Chance, select: impl Fn(&Process) -> bool) -> bool {
    let mut found = daemon.strays();
    found.retain(select);
    if found.is_empty() {
        return false;
    }
    let at = usize::try_from(chance.below(found.len() as u64)).unwrap();
    kill(Pid::from_raw(found[at].pid), Signal::SIGKILL).is_ok()
}

/// Starts a build, kills a process after a while, and checks everything. `usual` is the time that
/// an undisturbed build takes.
fn round(daemon: &mut Daemon, chance: &mut Chance, usual: Duration) {
    let victim = VICTIMS[usize::try_from(chance.below(VICTIMS.len() as u64)).unwrap()];
    let micros = u64::try_from(usual.as_micros()).unwrap() * 13 / 10;
    let after = Duration::from_micros(chance.below(micros));
    let what = format!("{victim:?} after {after:?}");
    let before = daemon.names("home/filecache");
    daemon.reset();
    daemon.on("sbuild", SBUILD);
    daemon.build("b1", json!({}));
    // The moment of the kill is what a round varies.
    thread::sleep(after);
    let mut shim_killed = false;
    match victim {
        Victim::Daemon => {}
        Victim::Shim | Victim::ShimFirst => shim_killed = kill_one(daemon, chance, is_shim),
        Victim::Both => {
            daemon.kill();
            shim_killed = kill_one(daemon, chance, is_shim);
        }
        Victim::Stage => {
            kill_one(daemon, chance, |process| !is_shim(process));
        }
    }
    match victim {
        Victim::Daemon | Victim::ShimFirst => daemon.kill(),
        Victim::Both | Victim::Shim | Victim::Stage => {}
    }
    if matches!(victim, Victim::Daemon | Victim::ShimFirst | Victim::Both) {
        daemon.restart();
    }
    // The builder has not forgotten the build: BUILDING or WAITING, from the first answer on.
    let state = daemon.state();
    assert!(
        ["BUILDING", "WAITING"].contains(&state.as_str()),
        "{what}: {state}"
    );
    let status = daemon.wait_over();
    assert_eq!(status["build_id"], "b1", "{what}");
    let verdict = status["build_status"].as_str().unwrap();
    eprintln!("{what}: {verdict}");
    match verdict {
        "BuildStatus.OK" => {
            for (name, sum) in status["filemap"].as_object().unwrap() {
                let sum = sum.as_str().unwrap();
                let answer = daemon.get(&format!("/filecache/{sum}"));
                assert_eq!(answer.status, 200, "{what}: {name}");
            }
        }
        "BuildStatus.BUILDERFAIL" => {}
        // A killed program of a stage looks like one that failed.
        "BuildStatus.CHROOTFAIL" | "BuildStatus.PACKAGEFAIL" => {
            assert_eq!(victim, Victim::Stage, "{what}: {verdict}: {}", daemon.log());
        }
        _ => panic!("{what}: {verdict}"),
    }
    assert!(
        verdict != "BuildStatus.OK" || !shim_killed || daemon.log().contains("Verdict: OK"),
        "{what}"
    );
    assert_eq!(daemon.strays().len(), 0, "{what}: {:?}", daemon.strays());
    let tree = daemon.path("home/build-b1");
    // A program killed in CLEANUP has not removed the tree.
    assert!(
        victim == Victim::Stage || !tree.exists(),
        "{what}: its work tree is left"
    );
    // Another restart changes neither the answer nor the cache.
    daemon.check_same_after_restart();
    daemon.check_cache();
    daemon.clean();
    assert_eq!(daemon.names("home/journal"), [""; 0], "{what}");
    assert!(!tree.exists(), "{what}: its work tree is left");
    assert_eq!(daemon.names("home/filecache"), before, "{what}");
    daemon.reset();
    let status = daemon.build_to_end("b1", json!({}));
    assert_eq!(
        status["build_status"], "BuildStatus.OK",
        "{what}: the next build"
    );
    daemon.clean();
}

/// To repeat a failure, set `BUILDD_TEST_SEED` to the number that the test printed.
#[test]
fn a_kill_at_any_moment_loses_no_build_and_leaves_no_process() {
    let seed = std::env::var("BUILDD_TEST_SEED").map_or_else(
        |_| RandomState::new().build_hasher().finish(),
        |text| text.parse().unwrap(),
    );
    eprintln!("BUILDD_TEST_SEED={seed}");
    thread::scope(|scope| {
        for site in 0..SITES {
            scope.spawn(move || {
                let mut chance = Chance(seed.wrapping_add(site));
                let mut daemon = Daemon::start(DICT);
                daemon.on("sbuild", SBUILD);
                let begun = Instant::now();
                daemon.build_to_end("b0", json!({}));
                let usual = begun.elapsed();
                daemon.clean();
                for _ in 0..ROUNDS / SITES {
                    round(&mut daemon, &mut chance, usual);
                }
                assert_eq!(daemon.names("home"), ["filecache", "journal"]);
            });
        }
    });
}
