//! Finds the limit that caused a failure: memory, processes, or space on a disk.

use std::path::PathBuf;

use crate::protocol::BuildStatus;
use crate::session::{launch, store};
use crate::sys::cgroup::{BuildLimits, Hits};
use crate::sys::fs::DiskUsage;
use crate::sys::host;

use super::disk::{self, Resource};
use super::running::{Build, Restart, StageError};
use super::stage::{Failure, Stage};

impl Build {
    /// Decides whose fault a full disk is. Kills everything, so that usage no longer changes.
    pub(super) fn blame_disk(&mut self, stage: Stage, resource: Resource) -> Failure {
        self.kill_everything();
        let used = match stage {
            Stage::Sbuild => self.disk_usage(),
            // No program of the package has run.
            _ => DiskUsage::default(),
        };
        self.disk.blame(resource, used)
    }

    /// Measures the build on the disk; unreadable folders count as empty.
    pub(super) fn disk_usage(&self) -> DiskUsage {
        let folders = [self.spec.session_dir(), self.spec.work_tree()];
        let Ok(ids) = launch::own_sub_ids() else {
            return DiskUsage::default();
        };
        let measure = |dir: &PathBuf| store::measure(dir, ids).unwrap_or_default();
        let [session, tree] = folders.each_ref().map(measure);
        DiskUsage {
            bytes: session.bytes.saturating_add(tree.bytes),
            inodes: session.inodes.saturating_add(tree.inodes),
        }
    }

    /// Replaces a package failure by the limit that caused it: memory, processes or disk, if the
    /// build has hit one since `before`.
    pub(super) fn blame_limit(&mut self, failure: Failure, before: Hits) -> StageError {
        if self.was_ended {
            return failure.into();
        }
        if self.layer_was_too_small() {
            return StageError::Restart(Restart::LayerFull);
        }
        let now = self.hits();
        let killed = now.oom_kills > before.oom_kills;
        let limit = if killed && self.usage.measures_memory() {
            return self.blame_host_memory(failure).into();
        } else if killed {
            if self.layer_takes_the_memory() {
                return StageError::Restart(Restart::LayerFull);
            }
            self.out_of_memory()
        } else if now.forks > before.forks {
            self.out_of_processes("ran")
        } else if self.saw_no_fork && self.usage.counts_processes() {
            self.out_of_processes("probably ran")
        } else if let Some(resource) = self.scarce_on_disk() {
            let mut blamed = self.blame_disk(Stage::Sbuild, resource);
            blamed.reason = disk::with_cause(&blamed.reason, &failure.reason);
            return blamed.into();
        } else {
            return failure.into();
        };
        let reason = format!("{limit}. {}", failure.reason);
        Failure::new(BuildStatus::PackageFail, reason).into()
    }

    /// The failure of a build when the host's OOM killer has killed a process. No group says
    /// whether the process was the build's; its use at the last measurement decides.
    pub(super) fn blame_host_memory(&self, failure: Failure) -> Failure {
        let limit = self.limits.as_ref().map_or(0, |it| it.memory_bytes);
        let used = self.usage.last_bytes();
        let status = match used > limit / 2 {
            true => BuildStatus::PackageFail,
            false => failure.status,
        };
        let reason = format!(
            "The host ran out of memory, and the kernel killed a process. The build used {} MiB \
             at its last measurement; it may use {} MiB ([limits] memory). {}",
            used >> 20,
            limit >> 20,
            failure.reason
        );
        Failure {
            reason,
            status,
            ..failure
        }
    }

    /// The resource of the disk that is short, or was when a program reported a full disk.
    pub(super) fn scarce_on_disk(&self) -> Option<Resource> {
        let below = self.disk.below_reserve().map(|(_, resource)| resource);
        below
            .or_else(|| self.disk_is_full().then_some(Resource::Bytes))
            .or_else(|| self.disk.broken_promise().filter(|_| self.saw_disk_full))
    }

    /// The beginning of a reason.
    pub(super) fn out_of_memory(&self) -> String {
        let mib = self.limits.as_ref().map_or(0, |it| it.memory_bytes) >> 20;
        format!("The build ran out of memory: it may use {mib} MiB ([limits] memory)")
    }

    /// The same for processes.
    pub(super) fn out_of_processes(&self, ran: &str) -> String {
        let count = self.limits.as_ref().map_or(0, |it| it.processes);
        format!("The build {ran} out of processes: it may have {count} ([limits] processes)")
    }

    /// True if a layer in memory takes much of the build's memory: a layer on disk may help.
    pub(super) fn layer_takes_the_memory(&self) -> bool {
        let limit = self.limits.as_ref().map_or(u64::MAX, |it| it.memory_bytes);
        self.layer_bytes() > limit / 4
    }

    /// The folders of the session on file systems that keep their files in memory.
    pub(super) fn folders_in_memory(&self) -> Vec<PathBuf> {
        let Some(_) = &self.session else {
            return Vec::new();
        };
        let shared = self.root().join("dev/shm");
        let mut folders: Vec<_> = self.in_memory.then(|| self.root()).into_iter().collect();
        folders.extend(host::is_on_tmpfs(&shared).then_some(shared));
        folders
    }

    /// How often the build hit its limits so far.
    pub(super) fn hits(&self) -> Hits {
        self.limits
            .as_ref()
            .map(BuildLimits::hits)
            .unwrap_or_default()
    }

    /// The bytes used in a layer in memory.
    pub(super) fn layer_bytes(&self) -> u64 {
        match &self.session {
            Some(_) if self.in_memory => host::used_bytes(&self.root()).unwrap_or_default(),
            _ => 0,
        }
    }
}
