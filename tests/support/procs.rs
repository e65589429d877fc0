//! Processes of a site, and commands with a deadline.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{DEADLINE, until};

/// The environment variable that all processes of a site inherit.
pub(crate) const MARK: &str = "BUILDD_TEST_SITE";

/// A living process.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    pub(crate) command: String,
}

/// Finds the processes with the mark of `site`.
pub(crate) fn marked(site: &Path) -> Vec<Process> {
    let mark = [MARK.as_bytes(), b"=", site.as_os_str().as_bytes()].concat();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse() else {
            continue;
        };
        let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
        if environment.split(|&b| b == 0).any(|word| word == mark) {
            let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            found.push(Process { pid, command });
        }
    }
    found
}

/// Kills the processes with the mark of `site` until there are none.
pub(crate) fn kill_marked(site: &Path) {
    let begun = Instant::now();
    let mut pause = Duration::from_millis(1);
    while begun.elapsed() < DEADLINE {
        let left = marked(site);
        if left.is_empty() {
            return;
        }
        for process in left {
            let _ = kill(Pid::from_raw(process.pid), Signal::SIGKILL);
        }
        std::thread::sleep(pause);
        pause = super::PAUSE.min(pause * 2);
    }
}

/// Runs a command to its end; returns its exit code and output.
pub(crate) fn run(mut command: Command) -> (Option<i32>, String) {
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = child.id();
    until(&format!("end of process {pid}"), || {
        child.try_wait().unwrap()
    });
    let Output {
        status,
        stdout,
        stderr,
    } = child.wait_with_output().unwrap();
    let printed = String::from_utf8([stdout, stderr].concat()).unwrap();
    (status.code(), printed)
}
