//! The latency of `status` under load.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::json;

use super::Plan;
use super::client::Caller;
use super::content::place;
use super::measure::{Sample, Watch, by_turns};
use super::reference::Server;
use super::table::{Line, Target, Unit};
use crate::support::machine::{Machine, machine};
use crate::support::package::Package;
use crate::support::real_slave::Slave;
use crate::support::{Daemon, within};

const TIME: Duration = Duration::from_millis(600);
const CALLS: usize = 1000;
/// The pause between two calls.
const PAUSE: Duration = Duration::from_millis(1);
const LONG: Duration = Duration::from_secs(120);

/// Measures `status` in BUILDING, and its worst latency under each kind of load.
pub(crate) fn rows(plan: &Plan) -> Vec<Line> {
    let mut lines = long_log(plan);
    let twisted = Server::twisted();
    let echo = Caller::new(twisted.port, "echo", "hello", false);
    lines.push(line("idle", while_idle(&echo)));
    lines.push(line("ensurepresent", while_fetching(plan, &echo)));
    lines.push(line("gathering", while_gathering(plan, &echo)));
    lines.push(line("100 MB/s of log", while_logging(&echo)));
    lines
}

/// The same while a chroot is unpacked; no row if real builds cannot run.
pub(crate) fn unpacking(_plan: &Plan) -> Vec<Line> {
    let twisted = Server::twisted();
    let echo = Caller::new(twisted.port, "echo", "hello", false);
    let both = machine().map(|machine| while_unpacking(machine, &echo));
    both.map(|both| line("unpacking", both))
        .into_iter()
        .collect()
}

fn line(what: &str, (ours, theirs): Both) -> Line {
    Line {
        what: format!("status, worst of {CALLS}: {what}"),
        unit: Unit::Milliseconds,
        ours,
        theirs,
        reference: "twisted's echo",
        target: Target::AtMost(20.0),
        worst: true,
    }
}

/// Measures calls per second with 1 GB of log, and of an idle slave.
fn long_log(plan: &Plan) -> Vec<Line> {
    let log = plan.content.log("gigabyte", 1000);
    let building = Daemon::start("[limits]\nlog_size = 4 GiB");
    building.on("sbuild", &format!("cat {}; hold", log.display()));
    building.build("b1", json!({}));
    within(LONG, "gigabyte of log", || {
        building.path("at-sbuild").exists().then_some(())
    });
    fs::remove_file(log).unwrap();
    let idle = Daemon::start("");
    let lines = [(true, "kept"), (false, "one per call")].map(|(kept, how)| {
        let run = |daemon: &Daemon| {
            let watch = Watch::new(&[daemon.pid()]);
            let caller = Caller::new(daemon.port, "status", "", kept);
            watch.sample(caller.rate(1, TIME))
        };
        let (ours, theirs) = by_turns(plan.runs, || run(&building), || run(&idle));
        Line {
            what: format!("status with 1 GB of log, connection {how}"),
            unit: Unit::PerSecond,
            ours,
            theirs,
            reference: "ours, IDLE",
            target: Target::RatioAtLeast(0.9),
            worst: false,
        }
    });
    building.let_go("sbuild");
    building.wait_for("WAITING", LONG);
    lines.into()
}

type Both = (Vec<Sample>, Vec<Sample>);

fn while_idle(echo: &Caller) -> Both {
    let daemon = Daemon::start("");
    worst(&daemon, echo, |busy| {
        busy.on();
        while !busy.is_enough() {
            thread::sleep(PAUSE);
        }
    })
}

fn while_fetching(plan: &Plan, echo: &Caller) -> Both {
    let (big, sum) = plan.content.big();
    let nginx = Server::nginx();
    place(&big, &nginx.root().join("big"));
    let url = format!("http://127.0.0.1:{}/big", nginx.port);
    let daemon = Daemon::start("");
    worst(&daemon, echo, |busy| {
        busy.on();
        // The wrong hash makes the download fail at its end, so it can be repeated.
        let wrong = format!("{}{}", &sum[1..], &sum[..1]);
        daemon.ok(
            "ensurepresent",
            &[json!(wrong), json!(url), json!(""), json!("")],
        );
    })
}

fn while_gathering(plan: &Plan, echo: &Caller) -> Both {
    let (big, _) = plan.content.big();
    let daemon = Daemon::start("");
    let script = format!(
        "cp {} \"$work/hello.bin\"; changes hello.bin; : >\"$site/at-$name\"",
        big.display()
    );
    worst(&daemon, echo, |busy| {
        daemon.reset();
        daemon.on("sbuild", &script);
        daemon.build("b1", json!({}));
        within(LONG, "result", || {
            daemon.path("at-sbuild").exists().then_some(())
        });
        busy.on();
        daemon.wait_for("WAITING", LONG);
        busy.off();
        daemon.clean();
    })
}

fn while_logging(echo: &Caller) -> Both {
    let daemon = Daemon::start("");
    // The script prints a megabyte every 10 ms.
    let script = "exec perl -MTime::HiRes=time,sleep -e '
        $| = 1; $began = time; $text = (\"x\" x 99 . \"\\n\") x 10000;
        for (1 .. 3000) { print $text; $early = $began + $_ / 100 - time; sleep $early if $early > 0 }'";
    worst(&daemon, echo, |busy| {
        daemon.reset();
        daemon.on("sbuild", script);
        daemon.build("b1", json!({}));
        busy.on();
        while !busy.is_enough() && daemon.state() == "BUILDING" {
            thread::sleep(20 * PAUSE);
        }
        busy.off();
        if busy.is_enough() {
            daemon.ok("abort", &[]);
        }
        daemon.wait_for("WAITING", LONG);
        daemon.clean();
    })
}

fn while_unpacking(machine: &'static Machine, echo: &Caller) -> Both {
    let slave = Slave::start(machine, "unpacking", "");
    let files = slave.pack(&Package::new("toy", "echo fine"));
    let port = slave.url.trim_end_matches('/').rsplit(':').next().unwrap();
    let status = Caller::new(port.parse().unwrap(), "status", "", false);
    worst_of(&status, &[slave.process.id()], echo, |busy| {
        slave.begin_in(&machine.chroot_sum, &files, json!({}));
        slave.await_log("] UNPACK");
        busy.on();
        slave.await_log("] MOUNT");
        busy.off();
        slave.call("abort", &[]);
        slave.wait();
        slave.call("clean", &[]);
        let unpacked = machine.home.join("chroots").join(&machine.chroot_sum);
        fs::remove_dir_all(unpacked).unwrap();
    })
}

fn worst(daemon: &Daemon, echo: &Caller, load: impl Fn(&Busy) + Sync) -> Both {
    let status = Caller::new(daemon.port, "status", "", false);
    worst_of(&status, &[daemon.pid()], echo, load)
}

/// Calls both alternately while `load` repeats; returns the worst latency of both.
fn worst_of(status: &Caller, pids: &[u32], echo: &Caller, load: impl Fn(&Busy) + Sync) -> Both {
    let busy = Busy::default();
    let watch = Watch::new(pids);
    let (mut ours, mut theirs) = (Duration::ZERO, Duration::ZERO);
    thread::scope(|scope| {
        let loading = scope.spawn(|| {
            while !busy.is_enough() {
                load(&busy);
            }
        });
        let mut calls = 0;
        while calls < CALLS {
            // The scope reports the panic of that thread.
            if loading.is_finished() {
                break;
            }
            if busy.is_on() {
                ours = ours.max(status.once().unwrap());
                theirs = theirs.max(echo.once().unwrap());
                calls += 1;
            }
            thread::sleep(PAUSE);
        }
        busy.enough.store(true, Ordering::SeqCst);
    });
    let millis = |time: Duration| time.as_secs_f64() * 1e3;
    let theirs = Sample {
        figure: millis(theirs),
        usage: Default::default(),
    };
    (vec![watch.sample(millis(ours))], vec![theirs])
}

/// The state of a load in one thread while another thread measures.
#[derive(Default)]
struct Busy {
    on: AtomicBool,
    enough: AtomicBool,
}

impl Busy {
    fn on(&self) {
        self.on.store(true, Ordering::SeqCst);
    }

    fn off(&self) {
        self.on.store(false, Ordering::SeqCst);
    }

    fn is_on(&self) -> bool {
        self.on.load(Ordering::SeqCst)
    }

    fn is_enough(&self) -> bool {
        self.enough.load(Ordering::SeqCst)
    }
}
