//! A farm of a million finished builds: the commands of its operator, and the work of its master.
//!
//! `BUILDD_MILLION_PART=20` measures a twentieth of that farm.

use std::fs;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Plan;
use super::measure::{Sample, Usage, Watch, memory_bytes, time};
use super::table::{Line, Target, Unit};
use crate::farm::support::million::Size;
use crate::farm::support::{Engine, Farm, from_env};
use crate::support::within;

/// The targets of the commands.
const COMMAND_SECS: f64 = 0.3;
const COMMAND_BYTES: f64 = 64.0 * 1024.0 * 1024.0;
/// The longest that the master's first chores may take before it is idle.
const SETTLING: Duration = Duration::from_secs(300);
/// The time over which an idle master is measured.
const IDLE: Duration = Duration::from_secs(30);
/// The interval between two probes of how long a write is blocked.
const PROBE: Duration = Duration::from_millis(10);
/// After this time, a collection of the librarian is given up.
const GC_LIMIT: Duration = Duration::from_secs(180);

/// Measures the farm on both engines.
pub(crate) fn rows(plan: &Plan) -> Vec<Line> {
    let mut lines = Vec::new();
    for engine in [Engine::Sqlite, Engine::Postgres] {
        let size = Size::part(from_env("BUILDD_MILLION_PART", 1));
        let farm = Farm::new(engine, "");
        let began = Instant::now();
        farm.generate(size);
        let took = began.elapsed().as_secs();
        eprintln!("       {engine:?}: {} builds in {took} s", size.finished);
        lines.extend(commands(&farm, engine, size, plan.runs));
        lines.extend(submit(&farm, engine, plan.runs));
        lines.extend(master(&farm, engine, size));
        lines.push(gc(&farm, engine));
    }
    lines
}

fn line(engine: Engine, what: &str, unit: Unit, ours: Vec<Sample>, target: f64) -> Line {
    Line {
        what: format!("million: {what}, {engine:?}"),
        unit,
        ours,
        theirs: Vec::new(),
        reference: "-",
        target: Target::AtMost(target),
        worst: false,
    }
}

fn sample(figure: f64) -> Sample {
    Sample {
        figure,
        usage: Usage::default(),
    }
}

/// Measures the commands that list and explain, and the memory of the largest.
fn commands(farm: &Farm, engine: Engine, size: Size, runs: usize) -> Vec<Line> {
    let last = (size.finished + size.running + size.queued).to_string();
    let mut lines = Vec::new();
    let mut peak = 0;
    for args in [
        &["master", "builds"][..],
        &[
            "master",
            "builds",
            "--state",
            "FULLYBUILT",
            "--series",
            "series2",
        ],
        &["master", "builds", "--state", "NEEDSBUILD"],
        &["master", "show", "1000"],
        &["master", "show", &last],
        &["master", "queue", "--limit", "50"],
        &["master", "queue", "why", &last],
        &["master", "builder", "list"],
    ] {
        let samples: Vec<Sample> = (0..runs).map(|_| command(farm, args)).collect();
        peak = samples
            .iter()
            .map(|run| run.usage.peak_bytes)
            .fold(peak, u64::max);
        let what = args[1..].join(" ");
        lines.push(line(engine, &what, Unit::Seconds, samples, COMMAND_SECS));
    }
    let peak = vec![sample(peak as f64)];
    let what = "memory of these commands";
    lines.push(line(engine, what, Unit::Megabytes, peak, COMMAND_BYTES));
    let lines_of_why = farm.ok(&["master", "queue", "why", &last]).lines().count();
    let height = vec![sample(lines_of_why as f64)];
    lines.push(line(
        engine,
        "lines of queue why",
        Unit::Count,
        height,
        24.0,
    ));
    lines
}

fn command(farm: &Farm, args: &[&str]) -> Sample {
    let output = fs::File::create(farm.path("output")).unwrap();
    let (figure, usage) = time(farm.farm_command(args).stdout(output).stderr(Stdio::null()));
    Sample { figure, usage }
}

/// Submits sources for eight architectures.
fn submit(farm: &Farm, engine: Engine, runs: usize) -> Vec<Line> {
    let librarian = farm.librarian();
    let run = |number: usize| {
        let dsc = farm.dsc(&format!("bench{number}"), "1", "any", "");
        command(farm, &["master", "submit", &dsc, "--series", "series2"])
    };
    let samples = (0..runs).map(run).collect();
    librarian.stop();
    vec![line(
        engine,
        "submit for 8 architectures",
        Unit::Seconds,
        samples,
        0.5,
    )]
}

/// Measures a master whose builders are all disabled: its first chores with a queue that is scored
/// anew, then its idle rounds.
fn master(farm: &Farm, engine: Engine, size: Size) -> Vec<Line> {
    farm.db.execute(
        "UPDATE builder SET builderok = FALSE; UPDATE build_queue SET lastscore = -1, manual = FALSE",
    );
    if engine == Engine::Postgres {
        farm.db.run("VACUUM ANALYZE build_queue");
    }
    let stop = AtomicBool::new(false);
    let (master, scoring, blocked) = thread::scope(|scope| {
        let probe = scope.spawn(|| longest_write(farm, &stop));
        let master = farm.master("master");
        wait_score(farm, "MIN");
        let began = Instant::now();
        // Jobs are scored in the order of their ids.
        wait_score(farm, "MAX");
        let scoring = began.elapsed();
        settle(master.child.id());
        stop.store(true, Ordering::SeqCst);
        (master, scoring, probe.join().unwrap())
    });
    let pid = master.child.id();
    let watch = Watch::new(&[pid]);
    thread::sleep(IDLE);
    let usage = watch.usage();
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap().count();
    let memory = memory_bytes(pid, "VmRSS");
    master.stop();
    let busy = usage.cpu_secs / IDLE.as_secs_f64();
    let idle = vec![Sample {
        figure: busy,
        usage,
    }];
    let secs = vec![sample(scoring.as_secs_f64())];
    let longest = vec![sample(blocked.as_secs_f64())];
    let threads = vec![sample(threads as f64)];
    eprintln!("       {engine:?}: the idle master has {memory} bytes");
    let builders = size.builders;
    vec![
        line(
            engine,
            "rescoring all that waits",
            Unit::Seconds,
            secs,
            20.0,
        ),
        line(
            engine,
            "longest write meanwhile",
            Unit::Seconds,
            longest,
            0.1,
        ),
        line(engine, "idle master, of a core", Unit::Percent, idle, 0.05),
        line(
            engine,
            &format!("threads for {builders} disabled builders"),
            Unit::Count,
            threads,
            64.0,
        ),
    ]
}

/// Waits until the first (`MIN`) or the last (`MAX`) waiting job has a new score. A count of all
/// jobs would take the processor from the master.
fn wait_score(farm: &Farm, which: &str) {
    let sql = format!(
        "SELECT lastscore FROM build_queue
         WHERE id = (SELECT {which}(id) FROM build_queue WHERE status = 0)"
    );
    within(SETTLING, "a new score", || {
        (farm.db.number(&sql) != -1).then_some(())
    });
}

/// Waits until a process has used less than a hundredth of a core for ten seconds. In a shorter
/// time, a chore may just wait for the database.
fn settle(pid: u32) {
    let window = Duration::from_secs(10);
    within(SETTLING, "idle master", || {
        let watch = Watch::new(&[pid]);
        thread::sleep(window);
        (watch.usage().cpu_secs < window.as_secs_f64() / 100.0).then_some(())
    });
}

/// Writes a row now and again, and returns how long the slowest write took.
fn longest_write(farm: &Farm, stop: &AtomicBool) -> Duration {
    let mut session = farm.db.session();
    let mut longest = Duration::ZERO;
    while !stop.load(Ordering::SeqCst) {
        let began = Instant::now();
        session.execute("UPDATE builder SET title = 'probe' WHERE id = 1");
        longest = longest.max(began.elapsed());
        thread::sleep(PROBE);
    }
    longest
}

/// Collects the files that nothing refers to, a twentieth of all.
fn gc(farm: &Farm, engine: Engine) -> Line {
    let mut command = farm.farm_command(&["librarian", "gc"]);
    let output = fs::File::create(farm.path("output")).unwrap();
    let mut child = command.stdout(output).spawn().unwrap();
    let began = Instant::now();
    let ended = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status.success();
        }
        if began.elapsed() > GC_LIMIT {
            kill(Pid::from_raw(child.id() as i32), Signal::SIGKILL).unwrap();
            child.wait().unwrap();
            break false;
        }
        thread::sleep(PROBE);
    };
    let figure = match ended {
        true => began.elapsed().as_secs_f64(),
        false => f64::INFINITY,
    };
    let samples = vec![sample(figure)];
    line(
        engine,
        "gc of 100,000 candidates",
        Unit::Seconds,
        samples,
        60.0,
    )
}
