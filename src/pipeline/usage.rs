//! Measures a build that no control group limits, and finds the limit that it exceeds.
//!
//! The shim measures its descendants: once a second, or four times if they use much. The exact
//! share of pages that processes share is computed only if the sum could exceed the limit.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::unistd::Pid;

use crate::sys::cgroup::BuildLimits;
use crate::sys::procs::{self, Process};
use crate::sys::{host, memory};

use super::command::Exceeded;

/// The time between two measurements.
const INTERVAL: Duration = Duration::from_secs(1);
/// The same if the build uses more than 1/[`MUCH`] of a limit.
const SHORT_INTERVAL: Duration = Duration::from_millis(250);
const MUCH: u64 = 4;
/// An exact measurement takes at most one part of this many of the time.
const EXACT_SHARE: u32 = 20;

/// The limits that the shim enforces, and its measurements.
#[derive(Debug)]
pub(super) struct Usage {
    /// In bytes; `None` if a control group limits the memory.
    memory_limit: Option<u64>,
    /// `None` if a control group limits the processes.
    threads_limit: Option<u64>,
    next: Instant,
    next_exact: Instant,
    /// The bytes and threads of the last measurement. Bytes may be too many, but not too few.
    last: (u64, u64),
}

impl Usage {
    /// `limits` is `None` if an older program started the shim, which limits nothing then.
    pub(super) fn new(limits: Option<&BuildLimits>) -> Self {
        let now = Instant::now();
        let of = |must: fn(&BuildLimits) -> bool| limits.filter(|limits| must(limits));
        Self {
            memory_limit: of(BuildLimits::must_measure_memory).map(|limits| limits.memory_bytes),
            threads_limit: of(BuildLimits::must_count_processes).map(|limits| limits.processes),
            next: now,
            next_exact: now,
            last: (0, 0),
        }
    }

    /// Whether the shim enforces the memory limit.
    pub(super) fn measures_memory(&self) -> bool {
        self.memory_limit.is_some()
    }

    /// Whether the shim enforces the limit on processes.
    pub(super) fn counts_processes(&self) -> bool {
        self.threads_limit.is_some()
    }

    /// Returns the bytes of the last measurement.
    pub(super) fn last_bytes(&self) -> u64 {
        self.last.0
    }

    /// Measures if it is time, and returns the limit that the build exceeds. `in_memory` are
    /// folders, each on a file system of this build that keeps its files in memory.
    pub(super) fn check(&mut self, in_memory: &[PathBuf]) -> Option<Exceeded> {
        let now = Instant::now();
        if now < self.next || (self.memory_limit, self.threads_limit) == (None, None) {
            return None;
        }
        let me = Pid::this().as_raw();
        let processes = procs::descendants(&procs::all(), me);
        let usage = memory::upper_bound(&processes);
        self.last = (usage.bytes(file_bytes(in_memory)), usage.threads);
        let is_much = |used: u64, limit: Option<u64>| limit.is_some_and(|it| used > it / MUCH);
        let much =
            is_much(self.last.0, self.memory_limit) || is_much(self.last.1, self.threads_limit);
        self.next = now + if much { SHORT_INTERVAL } else { INTERVAL };
        if self.threads_limit.is_some_and(|limit| self.last.1 > limit) {
            return Some(Exceeded::Processes(self.last.1));
        }
        match self.memory_limit {
            Some(limit) if self.last.0 > limit && now >= self.next_exact => {
                self.measure_exactly(&processes, in_memory, limit)
            }
            _ => None,
        }
    }

    fn measure_exactly(
        &mut self,
        processes: &[Process],
        in_memory: &[PathBuf],
        limit: u64,
    ) -> Option<Exceeded> {
        let begun = Instant::now();
        let bytes = memory::exact(processes).bytes(file_bytes(in_memory));
        self.next_exact = Instant::now() + begun.elapsed() * EXACT_SHARE;
        self.last.0 = bytes;
        (bytes > limit).then_some(Exceeded::Memory(bytes))
    }
}

fn file_bytes(in_memory: &[PathBuf]) -> u64 {
    let used = |folder: &PathBuf| host::used_bytes(folder).unwrap_or_default();
    in_memory.iter().map(used).fold(0, u64::saturating_add)
}
