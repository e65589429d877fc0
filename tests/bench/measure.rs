//! The figures and the cost of a run.

use std::collections::HashMap;
use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::{Pid, SysconfVar, sysconf};

/// One run: its figure and its cost.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    pub(crate) figure: f64,
    pub(crate) usage: Usage,
}

/// The resources that processes have used.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Usage {
    pub(crate) cpu_secs: f64,
    /// The peak of resident memory, summed over the processes.
    pub(crate) peak_bytes: u64,
}

/// Runs both alternately.
pub(crate) fn by_turns(
    runs: usize,
    mut ours: impl FnMut() -> Sample,
    mut theirs: impl FnMut() -> Sample,
) -> (Vec<Sample>, Vec<Sample>) {
    (0..runs).map(|_| (ours(), theirs())).unzip()
}

/// Measures running processes.
pub(crate) struct Watch {
    pids: Vec<u32>,
    cpu_secs: f64,
}

impl Watch {
    /// Begins to measure; resets the peak of memory.
    pub(crate) fn new(pids: &[u32]) -> Self {
        for pid in pids {
            // This fails only for a process that has just ended.
            let _ = fs::write(format!("/proc/{pid}/clear_refs"), "5");
        }
        Self {
            pids: pids.to_vec(),
            cpu_secs: cpu_of(pids),
        }
    }

    /// The same for a process from its start.
    pub(crate) fn since_start(pid: u32) -> Self {
        Self {
            pids: vec![pid],
            cpu_secs: 0.0,
        }
    }

    /// The resources used since then.
    pub(crate) fn usage(&self) -> Usage {
        Usage {
            cpu_secs: cpu_of(&self.pids) - self.cpu_secs,
            peak_bytes: self
                .pids
                .iter()
                .map(|pid| memory_bytes(*pid, "VmHWM"))
                .sum(),
        }
    }

    /// A sample with this figure and the resources used since then.
    pub(crate) fn sample(&self, figure: f64) -> Sample {
        Sample {
            figure,
            usage: self.usage(),
        }
    }
}

/// Runs a command that must succeed; returns its seconds and its usage, with that of its children.
pub(crate) fn time(command: &mut Command) -> (f64, Usage) {
    let began = Instant::now();
    let mut child = command.spawn().unwrap();
    let pid = child.id();
    let ended = AtomicBool::new(false);
    let (secs, usage) = thread::scope(|scope| {
        let peak = scope.spawn(|| {
            let mut peak = 0;
            while !ended.load(Ordering::Relaxed) {
                peak = peak.max(memory_bytes(pid, "VmHWM"));
                thread::sleep(Duration::from_millis(5));
            }
            peak
        });
        let dead = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
        waitid(Id::Pid(Pid::from_raw(pid as i32)), dead).unwrap();
        let secs = began.elapsed().as_secs_f64();
        let cpu_secs = cpu_of(&[pid]);
        ended.store(true, Ordering::Relaxed);
        (
            secs,
            Usage {
                cpu_secs,
                peak_bytes: peak.join().unwrap(),
            },
        )
    });
    let status = child.wait().unwrap();
    assert!(status.success(), "{command:?}: {status}");
    (secs, usage)
}

/// The processor time of processes and of the children they have waited for, in seconds.
fn cpu_of(pids: &[u32]) -> f64 {
    let ticks: u64 = pids
        .iter()
        .filter_map(|pid| fs::read_to_string(format!("/proc/{pid}/stat")).ok())
        .map(|text| {
            let (_, rest) = text.rsplit_once(") ").unwrap();
            // The state is the third field; user and system time are 14 to 17.
            let fields = rest.split(' ').skip(11).take(4);
            fields
                .map(|field| field.parse::<u64>().unwrap())
                .sum::<u64>()
        })
        .sum();
    let per_second = sysconf(SysconfVar::CLK_TCK).unwrap().unwrap();
    ticks as f64 / per_second as f64
}

/// A value of `/proc/PID/status`, in bytes; 0 for a process that has ended.
pub(crate) fn memory_bytes(pid: u32, key: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let kib = text
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    let kib = kib.and_then(|kib| kib.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// The living descendants of a process.
pub(crate) fn descendants(root: i32) -> Vec<i32> {
    let mut children: HashMap<i32, Vec<(i32, bool)>> = HashMap::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(text) = fs::read_to_string(entry.path().join("stat")) else {
            continue;
        };
        let Some((pid, rest)) = text
            .split_once(' ')
            .zip(text.rsplit_once(") "))
            .map(|(a, b)| (a.0, b.1))
        else {
            continue;
        };
        let mut fields = rest.split(' ');
        let zombie = fields.next() == Some("Z");
        let parent = fields.next().and_then(|field| field.parse().ok());
        if let (Ok(pid), Some(parent)) = (pid.parse(), parent) {
            children.entry(parent).or_default().push((pid, zombie));
        }
    }
    let (mut found, mut queue) = (Vec::new(), vec![root]);
    while let Some(pid) = queue.pop() {
        for (child, zombie) in children.get(&pid).into_iter().flatten() {
            queue.push(*child);
            if !zombie {
                found.push(*child);
            }
        }
    }
    found
}

/// The median.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 {
        values[middle]
    } else {
        (values[middle - 1] + values[middle]) / 2.0
    }
}
