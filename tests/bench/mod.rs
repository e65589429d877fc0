//! `make bench`: measures this program and Debian's programs for the same work.
//!
//! It prints one table. The runs of both alternate, and a ratio compares two adjacent runs. All
//! traffic stays on the loopback. The measurements need root or the user `buildd`, and the packages
//! that `.ci/bench` installs. A row that cannot run prints the reason. A missed target is no
//! failure, as the machine may be busy. `BENCH="echo abort" make bench` runs two rows.
#![allow(clippy::print_stdout, clippy::exit)]

mod builds;
mod client;
mod content;
mod echo;
mod hello;
mod measure;
mod million;
mod reference;
mod start;
mod status;
mod table;
mod transfer;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
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

use crate::support::mounts::not_run;

/// The rows to measure and the number of runs, separated by blanks; `.ci/bench` sets it.
const ROWS_VARIABLE: &str = "BUILDD_BENCH";

/// A row: its name, and the function that measures it.
type Row = (&'static str, fn(&Plan) -> Vec<Line>);

const ROWS: [Row; 10] = [
    ("echo", echo::rows),
    ("status", status::rows),
    ("unpack", status::unpacking),
    ("fetch", transfer::fetch),
    ("send", transfer::send),
    ("log", builds::log),
    ("abort", builds::abort),
    ("start", start::rows),
    ("hello", hello::rows),
    ("million", million::rows),
];

/// The extent of the measurements.
pub(crate) struct Plan {
    /// The number of runs of each program; the median counts.
    pub(crate) runs: usize,
    /// The same for `hello`, whose runs take half a minute each.
    pub(crate) builds: usize,
    pub(crate) content: Content,
}

#[test]
#[ignore = "takes minutes on a quiet machine: make bench"]
fn prints_one_table() {
    let Ok(words) = std::env::var(ROWS_VARIABLE) else {
        return not_run("measurements", "make bench");
    };
    let (numbers, names): (Vec<&str>, Vec<&str>) = words
        .split_whitespace()
        .partition(|word| word.parse::<usize>().is_ok());
    for name in &names {
        let known = ROWS.map(|(known, _)| known);
        assert!(
            known.contains(name),
            "{name}: no such row; there are: {}",
            known.join(" ")
        );
    }
    let asked = numbers.first().and_then(|number| number.parse().ok());
    let plan = Plan {
        runs: asked.unwrap_or(5),
        builds: asked.unwrap_or(3),
        content: Content::new(),
    };
    // Orphans of the processes started here become children of this process, which ends them.
    set_child_subreaper(true).unwrap();
    end_all_on_signals();
    let began = Instant::now();
    let mut lines = Vec::new();
    let mut broken = false;
    for (name, row) in ROWS {
        if !names.is_empty() && !names.contains(&name) {
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
    assert!(!broken, "*** NOT ALL ROWS COULD BE RUN: see above ***");
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

/// Kills all descendants on Ctrl-C; the script removes the folders.
fn end_all_on_signals() {
    let mut signals = Signals::new([SIGINT, SIGTERM]).unwrap();
    thread::spawn(move || {
        if signals.forever().next().is_some() {
            end_descendants();
            std::process::exit(130);
        }
    });
}

/// Kills the descendants of this process until there are none.
fn end_descendants() {
    let me = std::process::id() as i32;
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
