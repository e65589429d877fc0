//! Kills of a master at each row of the crash table, and its successor (docs/farm.md §6.4).

use std::time::{SystemTime, UNIX_EPOCH};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use super::support::fake::check_manners;
use super::support::fake_slave::package;
use super::support::farm::{Process, on_both_engines};
use super::support::{Does, Engine, Fake, Farm, QUICK, State, Work};
use crate::support::{DEADLINE, Gate, sha1, until};

on_both_engines! {
    a_kill_between_the_claim_and_the_call_repeats_the_build
    a_kill_after_the_slave_accepted_keeps_the_build
    a_kill_during_a_download_repeats_the_download
    a_kill_between_hand_over_and_commit_repeats_neither
    a_kill_between_commit_and_clean_cleans_the_slave
    a_master_whose_lease_expired_writes_nothing
    a_master_whose_lease_expired_during_a_download_writes_nothing
    a_missing_librarian_and_a_locked_database_are_waited_for
}

const FULLYBUILT: i64 = 1;

/// A farm with one slave and one job.
struct Bench {
    farm: Farm,
    fake: Fake,
    _librarian: Process,
}

impl Bench {
    fn new(engine: Engine, work: Work) -> Self {
        // A slave that a test holds up must not run into the timeout.
        let farm = Farm::new(
            engine,
            &QUICK.replace("rpc_timeout = 5", "rpc_timeout = 60"),
        );
        farm.furnish();
        let fake = Fake::start("i386");
        fake.works(work);
        farm.add_builder("bob", &fake);
        farm.add_builds(1, 1, |_| 10);
        let librarian = farm.librarian();
        Self {
            farm,
            fake,
            _librarian: librarian,
        }
    }

    /// Checks the row of the job: its status, attempt and builder; the state and failures of its
    /// build; the clean status of its builder.
    fn check_job(&self, expected: &serde_json::Value) {
        let row = self.farm.db.row(
            "SELECT q.status, q.attempt, q.builder_id, b.state, b.failure_count, w.clean_status
             FROM build b LEFT JOIN build_queue q ON q.build_id = b.id CROSS JOIN builder w",
        );
        assert_eq!(row, *expected);
    }

    /// Starts another master and checks that the build ends with attempt number `attempt`, after so
    /// many `build` calls.
    fn check_end(&self, attempt: i64, builds: usize) {
        let master = self.farm.master("second");
        self.check_end_by(attempt, builds);
        master.stop();
    }

    fn check_end_by(&self, attempt: i64, builds: usize) {
        let Self { farm, fake, .. } = self;
        farm.wait_state(1, FULLYBUILT);
        farm.wait_row(
            "SELECT clean_status, builderok, failure_count FROM builder",
            &json!([0, 1, 0]),
        );
        let cookie = farm.cookie(1, attempt);
        assert_eq!(
            farm.db.row("SELECT leaf, failure_count FROM build"),
            json!([cookie, 0])
        );
        assert_eq!(fake.called("build").len(), builds);
        assert_eq!(fake.slave(|slave| slave.state.clone()), State::Idle);
        assert_eq!(farm.names("home/results/incoming"), [&*cookie]);
        assert_eq!(farm.names("home/results/grabbing"), [""; 0]);
        for (name, bytes) in package("source1_1.0-1", "i386") {
            let path = format!("home/results/incoming/{cookie}/{name}");
            assert_eq!(farm.read(&path).as_bytes(), bytes);
        }
        assert_eq!(farm.stored_log(1), "a log of the build\n");
        check_manners([fake]);
    }
}

/// The hash of the package that the build makes.
fn deb_sum() -> String {
    sha1(&package("source1_1.0-1", "i386")[0].1)
}

/// Whether a master has requested the package.
fn is_fetched(fake: &Fake) -> bool {
    let path = format!("/filecache/{}", deb_sum());
    fake.called("GET").iter().any(|args| args[0] == path)
}

fn a_kill_between_the_claim_and_the_call_repeats_the_build(engine: Engine) {
    for call in ["ensurepresent", "build"] {
        let bench = Bench::new(engine, Work::ends("OK"));
        bench.fake.on(call, Does::Stall);
        let master = bench.farm.master("first");
        bench.fake.wait_for(call, 1, DEADLINE);
        master.kill();
        bench.check_job(&json!([1, 1, 1, 6, 0, 1]));
        bench.fake.behave();
        let asked = bench.fake.called("build").len();
        bench.check_end(2, asked + 1);
        let said = bench.farm.read("second.log");
        let lost = said.lines().find(|line| line.contains("', got none"));
        assert!(
            lost.is_some_and(|line| line.contains("'1-100001.1-")),
            "{said}"
        );
    }
}

fn a_kill_after_the_slave_accepted_keeps_the_build(engine: Engine) {
    let bench = Bench::new(engine, Work::goes_on());
    let gate = Gate::default();
    bench.fake.once("build", Does::Late(gate.clone()));
    let master = bench.farm.master("first");
    until("build", || bench.fake.accepted().pop());
    master.kill();
    gate.open();
    bench.check_job(&json!([1, 1, 1, 6, 0, 1]));
    let master = bench.farm.master("second");
    let sql = "SELECT logtail FROM build_queue";
    bench.farm.wait_row(sql, &json!(["a log of the build\n"]));
    bench.fake.slave(|slave| slave.finish());
    bench.check_end_by(1, 1);
    master.stop();
}

fn a_kill_during_a_download_repeats_the_download(engine: Engine) {
    let bench = Bench::new(engine, Work::ends("OK"));
    let gate = Gate::default();
    bench.fake.once(&deb_sum(), Does::HoldAt(5, gate.clone()));
    let master = bench.farm.master("first");
    until("download", || is_fetched(&bench.fake).then_some(()));
    master.kill();
    gate.open();
    // The build is in GATHERING, and the half of a file is not in `incoming`.
    bench.check_job(&json!([1, 1, 1, 11, 0, 1]));
    assert_eq!(bench.farm.names("home/results/incoming"), [""; 0]);
    bench.check_end(1, 1);
}

fn a_kill_between_hand_over_and_commit_repeats_neither(engine: Engine) {
    let bench = Bench::new(engine, Work::ends("OK"));
    let gate = Gate::default();
    bench.fake.once(&deb_sum(), Does::HoldAt(5, gate.clone()));
    let master = bench.farm.master("first");
    until("download", || is_fetched(&bench.fake).then_some(()));
    let held = bench.farm.db.hold();
    gate.open();
    let cookie = bench.farm.cookie(1, 1);
    let incoming = bench.farm.path(&format!("home/results/incoming/{cookie}"));
    until("hand-over", || incoming.exists().then_some(()));
    master.kill();
    drop(held);
    bench.check_job(&json!([1, 1, 1, 11, 0, 1]));
    bench.check_end(1, 1);
    // The second master did not fetch the package again.
    let path = json!(format!("/filecache/{}", deb_sum()));
    let fetched = bench
        .fake
        .called("GET")
        .iter()
        .filter(|args| args[0] == path)
        .count();
    assert_eq!(fetched, 1);
}

fn a_kill_between_commit_and_clean_cleans_the_slave(engine: Engine) {
    let bench = Bench::new(engine, Work::ends("OK"));
    bench.fake.on("clean", Does::Stall);
    let master = bench.farm.master("first");
    bench.fake.wait_for("clean", 1, DEADLINE);
    master.kill();
    bench.check_job(&json!([null, null, null, FULLYBUILT, 0, 1]));
    bench.fake.behave();
    bench.check_end(1, 1);
}

fn signal(process: &Process, signal: Signal) {
    let pid = i32::try_from(process.child.id()).unwrap();
    kill(Pid::from_raw(pid), signal).unwrap();
}

/// The first master's lease expires while it waits for a slave. Another master takes over, and the
/// first one writes nothing when it wakes.
fn a_master_whose_lease_expired_writes_nothing(engine: Engine) {
    let bench = Bench::new(engine, Work::goes_on());
    let Bench { farm, fake, .. } = &bench;
    let gate = Gate::default();
    fake.once("build", Does::Late(gate.clone()));
    let first = farm.master("first");
    until("build", || fake.accepted().pop());
    signal(&first, Signal::SIGSTOP);
    let epoch = farm.db.number("SELECT lease_epoch FROM builder");
    let second = farm.master("second");
    farm.wait_row("SELECT lease_epoch FROM builder", &json!([epoch + 1]));
    fake.slave(|slave| slave.finish());
    farm.wait_state(1, FULLYBUILT);
    // The slave has the next job when the first master wakes.
    fake.works(Work::goes_on());
    farm.add_builds(2, 2, |_| 10);
    until("another build", || fake.accepted().get(1).cloned());
    let before = state_of_all(farm);
    gate.open();
    signal(&first, Signal::SIGCONT);
    // The first master stops cleanly after it has looked for leases.
    first.stop();
    assert_eq!(state_of_all(farm), before);
    fake.slave(|slave| slave.finish());
    farm.wait_state(2, FULLYBUILT);
    second.stop();
    assert_eq!(fake.accepted(), [farm.cookie(1, 1), farm.cookie(2, 1)]);
    check_manners([fake]);
}

fn state_of_all(farm: &Farm) -> Vec<serde_json::Value> {
    farm.db.rows(
        "SELECT b.id, b.state, b.builder_id, b.failure_count, b.leaf, b.log_alias_id, b.finished_at,
                q.status, q.attempt, q.builder_id, q.buildstart, w.clean_status, w.builderok,
                w.failure_count, w.lease_owner, w.lease_epoch
         FROM build b LEFT JOIN build_queue q ON q.build_id = b.id CROSS JOIN builder w ORDER BY b.id",
    )
}

fn a_master_whose_lease_expired_during_a_download_writes_nothing(engine: Engine) {
    let bench = Bench::new(engine, Work::ends("OK"));
    let Bench { farm, fake, .. } = &bench;
    let gate = Gate::default();
    fake.once(&deb_sum(), Does::HoldAt(5, gate.clone()));
    let first = farm.master("first");
    until("download", || is_fetched(fake).then_some(()));
    signal(&first, Signal::SIGSTOP);
    let second = farm.master("second");
    farm.wait_state(1, FULLYBUILT);
    fake.works(Work::goes_on());
    farm.add_builds(2, 2, |_| 10);
    until("another build", || fake.accepted().get(1).cloned());
    let before = state_of_all(farm);
    gate.open();
    signal(&first, Signal::SIGCONT);
    first.stop();
    assert_eq!(state_of_all(farm), before);
    fake.slave(|slave| slave.finish());
    farm.wait_state(2, FULLYBUILT);
    second.stop();
    let cookies = [farm.cookie(1, 1), farm.cookie(2, 1)];
    assert_eq!(fake.accepted(), cookies);
    assert_eq!(farm.names("home/results/incoming"), cookies);
    for (build, cookie) in [1, 2].into_iter().zip(cookies) {
        for (name, bytes) in package(&format!("source{build}_1.0-{build}"), "i386") {
            let path = format!("home/results/incoming/{cookie}/{name}");
            assert_eq!(farm.read(&path).as_bytes(), bytes);
        }
    }
    assert_eq!(farm.names("home/results/grabbing"), [""; 0]);
    check_manners([fake]);
}

fn a_missing_librarian_and_a_locked_database_are_waited_for(engine: Engine) {
    let farm = Farm::new(engine, QUICK);
    farm.furnish();
    let fake = Fake::start("i386");
    farm.add_builder("bob", &fake);
    farm.add_builds(1, 1, |_| 10);
    let master = farm.master("master");
    let logs = || {
        let asked = fake.called("GET").into_iter();
        asked
            .filter(|args| args[0] == "/filecache/buildlog")
            .count()
    };
    crate::support::within(DEADLINE, "several attempts", || (logs() >= 3).then_some(()));
    let row = farm.db.row(
        "SELECT q.status, b.failure_count, w.failure_count, w.builderok
         FROM build_queue q JOIN build b ON b.id = q.build_id CROSS JOIN builder w",
    );
    assert_eq!(row, json!([1, 0, 0, 1]));
    let librarian = farm.librarian();
    farm.wait_state(1, FULLYBUILT);
    assert_eq!(fake.called("build").len(), 1);
    assert_eq!(farm.stored_log(1), "a log of the build\n");

    // The master waits for a database that is locked until its lease has expired.
    let held = farm.db.hold();
    until("expiry of the lease", || {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let lease = farm.db.number("SELECT lease_until FROM builder");
        let lease = u128::try_from(lease).unwrap();
        (now.as_millis() > lease).then_some(())
    });
    drop(held);
    farm.add_builds(2, 2, |_| 10);
    farm.wait_state(2, FULLYBUILT);
    master.stop();
    librarian.stop();
    check_manners([&fake]);
}
