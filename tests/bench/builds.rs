//! The throughput of build logs, and the time of an abort.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Plan;
use super::measure::{Sample, Usage, Watch, by_turns, time};
use super::table::{Line, Target, Unit};
use crate::support::{Daemon, within};

/// The number of aborted builds.
pub(crate) const ABORTS: usize = 20;
/// The number of process trees in each of them.
const TREES: usize = 400;
const MEGABYTES: usize = 400;
/// The longest that any build here takes.
const LONG: Duration = Duration::from_secs(120);

/// Each tree has its own login session, ignores signals, and has a process that keeps forking.
const STUBBORN: &str = "\
$SIG{$_} = 'IGNORE' for qw(TERM INT HUP);
for (1 .. TREES) {
    next if fork;
    use POSIX 'setsid';
    setsid;
    fork and do { sleep 1000; exit };
    while (1) { sleep 1 + int rand 3; fork and exit }
}
open my $ready, '>', \"$ARGV[0]/at-sbuild\";
sleep 1000;
";

/// Measures a program that writes at full speed into the log of a public and of a private build.
pub(crate) fn log(plan: &Plan) -> Vec<Line> {
    let whole = plan.content.log("log", MEGABYTES);
    let part = plan.content.log("part", MEGABYTES / 4);
    let daemon = Daemon::start("");
    let other = plan.content.path("other");
    let mut lines = Vec::new();
    for (private, whose) in [(false, "public"), (true, "private")] {
        let (ours, theirs) = by_turns(
            plan.runs,
            || ingest(&daemon, &whole, private),
            || cat(&whole, &other),
        );
        lines.push(Line {
            what: format!("log of a {whose} build"),
            unit: Unit::MegabytesPerSecond,
            ours: ours.clone(),
            theirs,
            reference: "cat | cat >file",
            target: Target::AtLeast(200.0),
            worst: false,
        });
        let memory = |sample: Sample| Sample {
            figure: sample.usage.peak_bytes as f64,
            ..sample
        };
        let shorter = (0..plan.runs)
            .map(|_| memory(ingest(&daemon, &part, private)))
            .collect();
        lines.push(Line {
            what: "  its memory".into(),
            unit: Unit::Megabytes,
            ours: ours.into_iter().map(memory).collect(),
            theirs: shorter,
            reference: "a quarter of it",
            target: Target::RatioAtMost(1.2),
            worst: false,
        });
    }
    lines
}

/// Runs a build that prints `file`. The figure is megabytes a second, the cost that of the shim and
/// the program.
fn ingest(daemon: &Daemon, file: &Path, private: bool) -> Sample {
    daemon.reset();
    daemon.on("sbuild", &format!("cat {}; exit 3", file.display()));
    daemon.build("b1", json!({"archive_private": private}));
    let journal = daemon.path("home/journal/b1");
    let shim: u32 = fs::read_to_string(journal.join("lock"))
        .unwrap()
        .parse()
        .unwrap();
    let watch = Watch::new(&[shim]);
    let mut usage = Usage::default();
    within(LONG, "end of the log", || {
        let now = watch.usage();
        // A process that has ended has no figures.
        if now.peak_bytes > 0 {
            usage = now;
        }
        journal.join("verdict.json").exists().then_some(())
    });
    daemon.wait_for("WAITING", LONG);
    let verdict: Value =
        serde_json::from_str(&fs::read_to_string(journal.join("verdict.json")).unwrap()).unwrap();
    let stages = verdict["stages"].as_array().unwrap();
    let sbuild = stages.iter().find(|stage| stage[0] == "SBUILD").unwrap();
    let bytes = fs::metadata(file).unwrap().len();
    daemon.clean();
    Sample {
        figure: bytes as f64 / 1e6 / sbuild[1].as_f64().unwrap(),
        usage,
    }
}

fn cat(from: &Path, to: &Path) -> Sample {
    let mut command = Command::new("sh");
    command
        .args(["-c", "cat \"$0\" | cat >\"$1\""])
        .arg(from)
        .arg(to);
    let (secs, usage) = time(&mut command);
    fs::remove_file(to).unwrap();
    let figure = fs::metadata(from).unwrap().len() as f64 / 1e6 / secs;
    Sample { figure, usage }
}

/// Measures from the answer to `abort` until the build has ended and has no process.
pub(crate) fn abort(_plan: &Plan) -> Vec<Line> {
    let daemon = Daemon::start("");
    fs::write(
        daemon.path("stubborn.pl"),
        STUBBORN.replace("TREES", &TREES.to_string()),
    )
    .unwrap();
    let aborts: Vec<Sample> = (0..ABORTS).map(|_| abort_one(&daemon)).collect();
    vec![Line {
        what: format!("abort, {TREES} stubborn trees, worst"),
        unit: Unit::Seconds,
        ours: aborts,
        theirs: Vec::new(),
        reference: "n/a",
        target: Target::AtMost(0.5),
        worst: true,
    }]
}

fn abort_one(daemon: &Daemon) -> Sample {
    daemon.reset();
    daemon.on("sbuild", "exec perl \"$site/stubborn.pl\" \"$site\"");
    daemon.build("b1", json!({}));
    daemon.wait_at("sbuild");
    let watch = Watch::new(&[daemon.pid()]);
    daemon.ok("abort", &[]);
    let began = Instant::now();
    while !daemon.ok("status", &[])[0]
        .as_str()
        .unwrap()
        .ends_with("ABORTED")
    {
        assert!(began.elapsed() < LONG, "the abort does not end");
        thread::sleep(Duration::from_millis(2));
    }
    let secs = began.elapsed().as_secs_f64();
    assert_eq!(daemon.strays().len(), 0, "{:?}", daemon.strays());
    let sample = watch.sample(secs);
    daemon.clean();
    sample
}
