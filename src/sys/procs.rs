//! Lists processes by reading `/proc`, and kills them.
//!
//! A shim is a child subreaper. So every process it started stays among its descendants, even
//! after a double fork or `setsid`, unless it is in a pid namespace below.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// One process, as `/proc/PID/stat` describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    pub(crate) parent: i32,
    /// The one-letter state: `Z` is a zombie, `D` an uninterruptible wait.
    pub(crate) state: char,
    pub(crate) name: String,
    /// CPU time so far.
    pub(crate) cpu: Duration,
}

/// The unit of times in `/proc`: 1/100 s on every Debian architecture.
const TICK: Duration = Duration::from_millis(10);

/// Parses the text of `/proc/PID/stat`, where the name may contain blanks and parentheses.
fn parse_stat(text: &str) -> Option<Process> {
    let open = text.find('(')?;
    let close = text.rfind(')')?;
    let mut rest = text.get(close + 1..)?.split_ascii_whitespace();
    let (state, parent) = (rest.next()?, rest.next()?);
    // The 14th and 15th fields of `proc(5)`: in user mode and in the kernel.
    let mut ticks = rest.skip(9).map(|field| field.parse().unwrap_or(0_u32));
    let ticks = ticks.next()?.saturating_add(ticks.next()?);
    Some(Process {
        pid: text.get(..open)?.trim().parse().ok()?,
        name: text.get(open + 1..close)?.to_owned(),
        state: state.chars().next()?,
        parent: parent.parse().ok()?,
        cpu: TICK.saturating_mul(ticks),
    })
}

/// Returns every process that `/proc` shows.
pub(crate) fn all() -> Vec<Process> {
    all_in(Path::new("/proc"))
}

fn all_in(proc: &Path) -> Vec<Process> {
    let Ok(entries) = fs::read_dir(proc) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter(|entry| {
            entry
                .file_name()
                .as_encoded_bytes()
                .first()
                .is_some_and(u8::is_ascii_digit)
        })
        .filter_map(|entry| fs::read_to_string(entry.path().join("stat")).ok())
        .filter_map(|text| parse_stat(&text))
        .collect()
}

/// Returns the descendants of `root` in `processes`, without zombies and `root`. Parents come
/// before their children.
pub(crate) fn descendants(processes: &[Process], root: i32) -> Vec<Process> {
    let mut children: HashMap<i32, Vec<&Process>> = HashMap::new();
    for process in processes {
        children.entry(process.parent).or_default().push(process);
    }
    let (mut found, mut queue) = (Vec::new(), vec![root]);
    while let Some(pid) = queue.pop() {
        for child in children.get(&pid).into_iter().flatten() {
            queue.push(child.pid);
            if child.state != 'Z' {
                found.push((*child).clone());
            }
        }
    }
    found
}

/// Kills the processes that `select` returns, repeatedly, until none is left or `timeout` passes.
/// Returns the survivors.
fn kill_until_gone(timeout: Duration, select: impl Fn() -> Vec<Process>) -> Vec<Process> {
    let deadline = Instant::now() + timeout;
    loop {
        let left = select();
        if left.is_empty() || Instant::now() >= deadline {
            return left;
        }
        kill_all(&left);
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Kills all descendants of this process; returns those that survive `timeout`.
pub(crate) fn kill_descendants(timeout: Duration) -> Vec<Process> {
    let me = Pid::this().as_raw();
    // Reaps in each round: the init of a pid namespace ends only once all processes in it are
    // reaped. Some of them are reparented to this process.
    let left = kill_until_gone(timeout, || {
        reap_zombies();
        descendants(&all(), me)
    });
    reap_zombies();
    left
}

/// Kills the descendants of process `root`, as the folder `proc` shows them, until `root` has no
/// child or `timeout` passes. Returns whether it has none.
pub(crate) fn kill_below(proc: &Path, root: i32, timeout: Duration) -> bool {
    let children = proc.join(format!("{root}/task/{root}/children"));
    let deadline = Instant::now() + timeout;
    loop {
        let found = match fs::read(&children) {
            Ok(list) if list.is_empty() => return true,
            listed => (listed.is_ok(), descendants(&all_in(proc), root)),
        };
        match found {
            // A kernel without this file. While processes fork and end, a scan may find none.
            (false, left) if left.is_empty() => return true,
            _ if Instant::now() >= deadline => return false,
            (_, left) => kill_all(&left),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn kill_all(processes: &[Process]) {
    for process in processes {
        // The process may have ended meanwhile.
        let _ = kill(Pid::from_raw(process.pid), Signal::SIGKILL);
    }
}

/// Kills every process, except this one, whose environment has a variable `name` with a `wanted`
/// value. Returns those that survive `timeout`.
pub(crate) fn kill_marked(
    name: &str,
    wanted: impl Fn(&OsStr) -> bool,
    timeout: Duration,
) -> Vec<Process> {
    let me = Pid::this().as_raw();
    kill_until_gone(timeout, || {
        marked(name)
            .into_iter()
            .filter(|(process, value)| process.pid != me && wanted(value))
            .map(|(process, _)| process)
            .collect()
    })
}

/// Returns the processes with a variable `name` in their environment, and its value. Zombies are
/// left out.
pub(crate) fn marked(name: &str) -> Vec<(Process, OsString)> {
    let mark = [name.as_bytes(), b"="].concat();
    let value = |process: &Process| {
        let text = fs::read(format!("/proc/{}/environ", process.pid)).ok()?;
        let mut entries = text.split(|byte| *byte == 0);
        let value = entries.find_map(|entry| entry.strip_prefix(mark.as_slice()))?;
        Some(OsStr::from_bytes(value).to_owned())
    };
    all()
        .into_iter()
        .filter(|process| process.state != 'Z')
        .filter_map(|process| value(&process).map(|value| (process, value)))
        .collect()
}

/// Returns whether another process has `path` in its arguments.
pub(crate) fn is_named(path: &Path) -> bool {
    let (me, path) = (Pid::this().as_raw(), path.as_os_str().as_bytes());
    let holds = |pid: i32| {
        fs::read(format!("/proc/{pid}/cmdline"))
            .is_ok_and(|text| text.windows(path.len().max(1)).any(|part| part == path))
    };
    all()
        .into_iter()
        .any(|process| process.pid != me && holds(process.pid))
}

/// Returns whether the arguments of process `pid` end with `last`.
pub(crate) fn has_arguments(pid: i32, last: &[&OsStr]) -> bool {
    let text = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let end: Vec<u8> = last
        .iter()
        .flat_map(|word| [b"\0", word.as_bytes()].concat())
        .collect();
    text.strip_suffix(b"\0")
        .is_some_and(|text| text.ends_with(&end))
}

/// Reaps ended children, including orphans reparented to this process.
fn reap_zombies() {
    while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
        if status == WaitStatus::StillAlive {
            break;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: i32, parent: i32, state: char) -> Process {
        Process {
            pid,
            parent,
            state,
            name: String::new(),
            cpu: Duration::ZERO,
        }
    }

    #[test]
    fn names_with_blanks_and_parentheses_are_parsed() {
        let text = "42 (a) (b c) S 7 42 41 0 -1 4194560 1 2 3 4 150 50 0 0 20 0 1 0 99";
        let parsed = parse_stat(text).unwrap();
        assert_eq!(parsed.cpu, Duration::from_secs(2));
        assert_eq!((parsed.pid, parsed.parent, parsed.state), (42, 7, 'S'));
        assert_eq!(parsed.name, "a) (b c");
        assert_eq!(parse_stat("nonsense"), None);
    }

    #[test]
    fn marked_processes_are_found_and_killed() {
        let value = OsStr::new("/only/in/this/test");
        let mut carrier = std::process::Command::new("setsid");
        let mut carrier = carrier
            .args(["sleep", "600"])
            .env("MARK", value)
            .spawn()
            .unwrap();
        let mut other = std::process::Command::new("sleep")
            .arg("600")
            .spawn()
            .unwrap();
        // Until the child executes `setsid`, its environment is this process's.
        while fs::read(format!("/proc/{}/environ", carrier.id()))
            .is_ok_and(|text| !text.windows(5).any(|w| w == b"MARK="))
        {
            std::thread::yield_now();
        }
        let pid = i32::try_from(carrier.id()).unwrap();
        assert!(
            marked("MARK")
                .iter()
                .any(|(found, of)| found.pid == pid && of == value)
        );
        let matches = |of: &OsStr| of == value;
        assert_eq!(kill_marked("MARK", matches, Duration::from_secs(10)), []);
        assert!(!carrier.wait().unwrap().success());
        assert_eq!(other.try_wait().unwrap(), None);
        let pid = i32::try_from(other.id()).unwrap();
        let (sleep, long) = (OsStr::new("sleep"), OsStr::new("600"));
        assert!(has_arguments(pid, &[long]) && !has_arguments(pid, &[sleep]));
        other.kill().unwrap();
        other.wait().unwrap();
    }

    #[test]
    fn descendants_pass_through_zombies() {
        let table = [
            process(2, 1, 'S'),
            process(3, 2, 'Z'),
            process(4, 3, 'D'),
            process(5, 9, 'R'),
        ];
        let mut pids: Vec<i32> = descendants(&table, 1).iter().map(|p| p.pid).collect();
        pids.sort_unstable();
        assert_eq!(pids, [2, 4]);
    }
}
