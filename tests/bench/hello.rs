//! The overhead of a build.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use super::Plan;
use super::measure::{Sample, Usage, Watch, by_turns, time};
use super::table::{Line, Target, Unit};
use crate::support::machine::{Machine, machine, stdout};
use crate::support::real_slave::Slave;

/// The pause between two `status` calls.
const POLL: Duration = Duration::from_millis(100);
/// The longest that a build may take.
const LONG: Duration = Duration::from_secs(600);

/// Measures Debian's `hello` from `build` to WAITING in an unpacked chroot, and `dpkg-buildpackage`
/// in a chroot with the build dependencies; then the time of each stage.
pub(crate) fn rows(plan: &Plan) -> Vec<Line> {
    let Some(machine) = machine() else {
        return Vec::new();
    };
    let source: Vec<PathBuf> = fs::read_dir(&machine.hello)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    let slave = Slave::start(machine, "hello", "");
    let bare = Bare::prepare(machine, &source);
    // The first build unpacks the chroot.
    build(&slave, &source);
    let mut parts: Vec<Vec<(String, f64)>> = Vec::new();
    let (ours, theirs) = by_turns(
        plan.builds,
        || {
            let (sample, of_it) = build(&slave, &source);
            parts.push(of_it);
            sample
        },
        || bare.build(),
    );
    let line = |what, ours, theirs, reference, target| Line {
        what,
        unit: Unit::Seconds,
        ours,
        theirs,
        reference,
        target,
        worst: false,
    };
    let whole = "hello, end to end".to_owned();
    let target = Target::RatioAtMost(1.35);
    let mut lines = vec![line(whole, ours, theirs, "bare dpkg-buildpackage", target)];
    for (number, (name, _)) in parts[0].iter().enumerate() {
        let samples = parts.iter().map(|of_it| Sample {
            figure: of_it[number].1,
            usage: Usage::default(),
        });
        let samples: Vec<Sample> = samples.collect();
        if samples.iter().any(|sample| sample.figure >= 0.1) {
            lines.push(line(
                format!("  of it {name}"),
                samples,
                Vec::new(),
                "-",
                Target::None,
            ));
        }
    }
    lines
}

/// Builds once; returns the sample, and the seconds of each stage.
fn build(slave: &Slave, source: &[PathBuf]) -> (Sample, Vec<(String, f64)>) {
    // The figures of the daemon include those of the children it has waited for.
    let watch = Watch::new(&[slave.process.id()]);
    let files = slave.send(source);
    let began = Instant::now();
    slave.begin_with(&slave.machine.chroot_sum, files, json!({}));
    while slave.status()[0] != "BuilderStatus.WAITING" {
        assert!(began.elapsed() < LONG, "the build does not end");
        thread::sleep(POLL);
    }
    let figure = began.elapsed().as_secs_f64();
    let ended = slave.end();
    ended.assert("OK");
    slave.call("clean", &[]);
    let said = |start: &str| {
        let lines = ended.log.lines().rev();
        let (_, rest) = lines
            .filter_map(|line| line.split_once(start))
            .next()
            .unwrap();
        rest.to_owned()
    };
    let stages = said("] Stages: ");
    let stages = stages.split(", ").map(|stage| {
        let (name, secs) = stage.trim_end_matches(" s").split_once(' ').unwrap();
        (name.to_owned(), secs.parse().unwrap())
    });
    // sbuild prints these in whole seconds.
    let inside = ["Install-Time", "Build-Time"].map(|name| {
        let secs = said(&format!("{name}: ")).trim().parse().unwrap();
        (format!("SBUILD {name}"), secs)
    });
    (watch.sample(figure), stages.chain(inside).collect())
}

/// A chroot with the build dependencies and the source of a package.
struct Bare {
    root: PathBuf,
}

impl Bare {
    fn prepare(machine: &Machine, source: &[PathBuf]) -> Self {
        let root = machine.home.join("bare");
        fs::create_dir(&root).unwrap();
        stdout(
            Command::new("tar")
                .arg("-xf")
                .arg(&machine.chroot)
                .arg("-C")
                .arg(&root),
        );
        let lists = machine.archives().join("\n");
        fs::write(root.join("etc/apt/sources.list"), lists).unwrap();
        for file in source {
            fs::copy(file, root.join("root").join(file.file_name().unwrap())).unwrap();
        }
        let bare = Self { root };
        bare.run("apt-get -qq update && apt-get -qqy --no-install-recommends build-dep ./root/hello_*.dsc");
        bare.run("cd /root && dpkg-source --no-check -x hello_*.dsc hello >/dev/null");
        bare
    }

    /// Builds once.
    fn build(&self) -> Sample {
        self.run("rm -rf /root/once && mkdir /root/once && cp -a /root/hello /root/once/hello");
        let mut command = self.command("cd /root/once/hello && dpkg-buildpackage -b -us -uc");
        let cores = thread::available_parallelism().map_or(1, usize::from);
        command.env(
            "DEB_BUILD_OPTIONS",
            format!("noautodbgsym parallel={cores}"),
        );
        let (figure, usage) = time(command.stdout(Stdio::null()).stderr(Stdio::null()));
        Sample { figure, usage }
    }

    fn run(&self, script: &str) {
        stdout(&mut self.command(script));
    }

    fn command(&self, script: &str) -> Command {
        let mut command = Command::new("unshare");
        command.env_clear().env("HOME", "/root").env("LC_ALL", "C");
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.args(["--mount", "--pid", "--fork", "--kill-child", "sh", "-ec"]);
        command.arg(
            "mount -t proc proc \"$0/proc\"; mount --rbind /dev \"$0/dev\"; exec chroot \"$0\" sh -ec \"$1\"",
        );
        command.arg(&self.root).arg(script);
        command
    }
}
