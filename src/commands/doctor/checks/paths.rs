//! Pure: grades the folders and programs of the configuration, and the space on their disks.

use std::path::PathBuf;

use crate::config::{Config, Limits};
use crate::config_file::{self, PathProblem, Wrong};

use super::super::facts::{DiskOf, Free};
use super::super::finding::Finding;
use super::super::mend::{Mend, Step};

/// Less free space gives a warning.
const SCARCE_BYTES: u64 = 2 << 30;
/// The same in inodes: a chroot with build dependencies takes about as many.
const SCARCE_INODES: u64 = 50_000;

/// Grades the problems of the configured paths.
pub(super) fn folders(config: &Config, problems: &[PathProblem]) -> Vec<Finding> {
    if problems.is_empty() {
        return vec![Finding::ok("paths", "all can be used")];
    }
    let findings = problems.iter().map(|problem| {
        let subject = format!("path of {}", problem.key);
        Finding::fail(&subject, problem.found()).mend(mend(config, problem))
    });
    findings.collect()
}

/// Chooses the mend of a path. It names the path of `config`, never that of `problem`, which comes
/// from another process.
fn mend(config: &Config, problem: &PathProblem) -> Mend {
    let (home, user) = (&config.slave.home, config.slave.user.as_str());
    let Some(path) = path_of(config, &problem.key) else {
        return Mend::operator("correct the path in the configuration");
    };
    let shown = path.display().to_string();
    let shown = shown.as_str();
    match &problem.wrong {
        // A folder of home belongs to the user, and so does each link in it.
        Wrong::AbsentFolder if path.starts_with(home) && path != *home => {
            Mend::Steps(vec![Step::run_as(user, &["mkdir", "--mode=0700", shown])])
        }
        Wrong::AbsentFolder => {
            let mode = if path == *home { "0755" } else { "0700" };
            Mend::command(&["install", "-d", "-m", mode, "-o", user, "-g", user, shown])
        }
        Wrong::Unreachable(_) => Mend::operator(format!(
            "let {user} pass each folder of the path; `namei -l {shown}` shows their owners and \
             modes"
        )),
        Wrong::NotFolder => Mend::operator(format!(
            "move it away if nobody needs it (mv {shown} {shown}.old), or configure another path"
        )),
        Wrong::NotWritable { is_link: true, .. } => Mend::operator(format!(
            "it is a link; give the folder that it names to {user}; `namei -l {shown}` shows the \
             owners"
        )),
        Wrong::NotWritable { own: true, .. } => {
            Mend::Steps(vec![Step::run_as(user, &["chmod", "u+rwx", shown])])
        }
        // Not what is in it: unpacked chroots belong to the subordinate ids.
        Wrong::NotWritable { own: false, .. } => {
            let owner = format!("{user}:");
            Mend::command(&["chown", "--no-dereference", &owner, shown])
        }
        Wrong::ReadOnlyDisk => Mend::operator(format!(
            "find out why it is read-only (dmesg), and remount it; `findmnt --target {shown}` \
             shows it"
        )),
        Wrong::NoProgram(_) => {
            Mend::operator("install the site's program there, or remove the key")
        }
        Wrong::NotExecutable => Mend::command(&["chmod", "a+x", shown]),
    }
}

/// Returns the path that `config` has for a key.
fn path_of(config: &Config, key: &str) -> Option<PathBuf> {
    let folders = config_file::folders(config).into_iter();
    let programs = config_file::programs(config).into_iter();
    folders
        .map(|folder| (folder.key, folder.path))
        .chain(programs.map(|(key, path)| (key, path.to_owned())))
        .find_map(|(known, path)| (known == key).then_some(path))
}

/// Checks what is free on a file system. A build below the reserve ends at once, and `/healthz`
/// answers 503.
pub(super) fn space(disk: &DiskOf, limits: &Limits) -> Finding {
    let path = &disk.path;
    let subject = format!("space at {path}");
    let mend = || {
        Mend::operator(format!(
            "remove what nobody needs, or use a larger disk; `df -h {path}; df -i {path}` shows \
             what is free"
        ))
    };
    if disk.read_only {
        let remount = Mend::operator("find out why (dmesg), and remount it");
        return Finding::fail(&subject, "the file system is read-only").mend(remount);
    }
    let Some(free) = disk.free else {
        let unknown = "unknown: the file system cannot be examined";
        return Finding::warn(&subject, unknown).mend(mend());
    };
    let mut shown = format!("{:.1} GiB free", gib(free.bytes));
    if free.inodes < u64::MAX {
        shown = format!("{shown}, {} inodes free", free.inodes);
    }
    let reserve = Free {
        bytes: limits.reserve,
        inodes: limits.reserve_inodes.into(),
    };
    if free.bytes < reserve.bytes {
        Finding::fail(&subject, format!("{shown}, less than [limits] reserve")).mend(mend())
    } else if free.inodes < reserve.inodes {
        let found = format!("{shown}, less than [limits] reserve_inodes");
        Finding::fail(&subject, found).mend(mend())
    } else if free.bytes < SCARCE_BYTES || free.inodes < SCARCE_INODES {
        Finding::warn(&subject, format!("only {shown}")).mend(mend())
    } else {
        Finding::ok(&subject, shown)
    }
}

fn gib(bytes: u64) -> f64 {
    // Printed with one decimal, so the loss of precision does not matter.
    (bytes >> 20) as f64 / 1024.0
}
