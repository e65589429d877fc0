//! `make bench`: how fast is it, against what Debian has for the same work?
//!
//! Prints one table. Every ratio is of figures taken in the same run, ours and the reference's by
//! turns; nothing leaves the loopback, and nothing stays. Needs root or the user of the builds, and
//! what `.ci/bench` installs. A row that cannot run says why, and the others go on. A target that is
//! missed is no failure: the machine may be busy. Rows by name: `BENCH="echo abort" make bench`.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::exit
)]

mod builds;
mod client;
mod content;
mod echo;
mod hello;
mod measure;
mod reference;
mod start;
mod status;
mod table;
mod transfer;

// A site with a daemon is what the integration tests have as well, and a real slave what the real
// builds have.
#[allow(dead_code)]
#[path = "../real/machine.rs"]
mod machine;
#[allow(dead_code)]
#[path = "../real/package.rs"]
mod package;
#[allow(dead_code)]
#[path = "../real/slave.rs"]
mod slave;
#[allow(dead_code, unused_imports)]
#[path = "../integration/support/mod.rs"]
mod support;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::thread;
use std::time::Instant;

use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::{Signal, kill};
use nix::sys::utsname::uname;
use nix::unistd::Pid;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use content::Content;
use table::Line;

/// A row: its name, and what measures it.
type Row = (&'static str, fn(&Plan) -> Vec<Line>);

const ROWS: [Row; 9] = [
    ("echo", echo::rows),
    ("status", status::rows),
    ("unpack", status::unpacking),
    ("fetch", transfer::fetch),
    ("send", transfer::send),
    ("log", builds::log),
    ("abort", builds::abort),
    ("start", start::rows),
    ("hello", hello::rows),
];

/// How much is measured.
pub(crate) struct Plan {
    /// Runs of each, ours and theirs; the median counts.
    pub(crate) runs: usize,
    /// The same of `hello`, each of which takes half a minute.
    pub(crate) builds: usize,
    pub(crate) content: Content,
}

fn main() -> ExitCode {
    // Cargo's own words for it begin with dashes.
    let words: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with("--"))
        .collect();
    let (numbers, names): (Vec<&String>, Vec<&String>) =
        words.iter().partition(|word| word.parse::<usize>().is_ok());
    if let Some(unknown) = names
        .iter()
        .find(|name| ROWS.iter().all(|(known, _)| *known != name.as_str()))
    {
        let known: Vec<&str> = ROWS.iter().map(|(name, _)| *name).collect();
        eprintln!("{unknown}: no such row; there are: {}", known.join(" "));
        return ExitCode::from(2);
    }
    let asked = numbers.first().and_then(|number| number.parse().ok());
    let plan = Plan {
        runs: asked.unwrap_or(5),
        builds: asked.unwrap_or(3),
        content: Content::new(),
    };
    // Whatever is started here comes back here when its parent dies, and is ended.
    set_child_subreaper(true).unwrap();
    end_all_on_signals();
    let began = Instant::now();
    let mut lines = Vec::new();
    let mut broken = false;
    for (name, row) in ROWS {
        if !names.is_empty() && !names.iter().any(|asked| *asked == name) {
            continue;
        }
        eprintln!("{:4} s  {name}", began.elapsed().as_secs());
        match catch_unwind(AssertUnwindSafe(|| row(&plan))) {
            Ok(measured) => lines.extend(measured),
            Err(_) => broken = true,
        }
        end_descendants();
    }
    println!("{}\n{}", table::render(&lines), machine_note(&plan, began));
    if broken {
        eprintln!("*** NOT ALL ROWS COULD BE RUN: see above ***");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn machine_note(plan: &Plan, began: Instant) -> String {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let kernel = uname().map(|name| name.release().to_string_lossy().into_owned());
    format!(
        "{} x {}, Linux {}. Medians of {} runs ({} of hello), of {} aborts and of 1,000 calls the \
         worst; a ratio is the median\nof the ratios of each run with the reference's run next to \
         it. CPU is of one run, memory its peak. {} s in all.",
        cores,
        model.map_or("an unknown processor", |(_, model)| model),
        kernel.unwrap_or_default(),
        plan.runs,
        plan.builds,
        builds::ABORTS,
        began.elapsed().as_secs()
    )
}

/// On Ctrl-C nothing is left behind either; the folders are the script's to remove.
fn end_all_on_signals() {
    let mut signals = Signals::new([SIGINT, SIGTERM]).unwrap();
    thread::spawn(move || {
        if signals.forever().next().is_some() {
            end_descendants();
            std::process::exit(130);
        }
    });
}

/// Kills what this process started, at whatever remove, until there is none of it.
fn end_descendants() {
    let me = std::process::id().cast_signed();
    loop {
        let left = measure::descendants(me);
        if left.is_empty() {
            return;
        }
        for pid in left {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        thread::sleep(std::time::Duration::from_millis(10));
    }
}
