//! Which processes are there, and how are they ended?
//!
//! Reads `/proc`. A shim is a child subreaper, so everything it ever started that is not inside a
//! pid namespace of its own stays among its descendants, whatever it forked, `setsid` or ignored.

use std::collections::HashMap;
use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// What `/proc/PID/stat` says of one process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    pub(crate) parent: i32,
    pub(crate) session: i32,
    /// The one-letter state: `Z` is a zombie, `D` waits for the kernel.
    pub(crate) state: char,
    pub(crate) name: String,
}

/// Parses the text of `/proc/PID/stat`; the name may hold blanks and parentheses.
fn parse_stat(text: &str) -> Option<Process> {
    let open = text.find('(')?;
    let close = text.rfind(')')?;
    let mut rest = text.get(close + 1..)?.split_ascii_whitespace();
    Some(Process {
        pid: text.get(..open)?.trim().parse().ok()?,
        name: text.get(open + 1..close)?.to_owned(),
        state: rest.next()?.chars().next()?,
        parent: rest.next()?.parse().ok()?,
        session: rest.nth(1)?.parse().ok()?,
    })
}

/// Returns every process that `/proc` shows.
pub(crate) fn all() -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else {
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

/// Picks the living descendants of `root` (itself excluded) out of `processes`.
fn descendants(processes: &[Process], root: i32) -> Vec<Process> {
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

/// Kills what `select` picks, again and again until nothing is left or `bound` is over; returns
/// what would not die.
fn kill_until_gone(bound: Duration, select: impl Fn() -> Vec<Process>) -> Vec<Process> {
    let deadline = Instant::now() + bound;
    loop {
        let left = select();
        if left.is_empty() || Instant::now() >= deadline {
            return left;
        }
        for process in &left {
            // It may have ended by itself in between.
            let _ = kill(Pid::from_raw(process.pid), Signal::SIGKILL);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Kills all descendants of this process and returns those that outlived `bound`.
pub(crate) fn kill_descendants(bound: Duration) -> Vec<Process> {
    let me = Pid::this().as_raw();
    let left = kill_until_gone(bound, || descendants(&all(), me));
    reap_zombies();
    left
}

/// Kills every process of the login session `session` (what a dead shim left behind), this one
/// excepted; returns those that outlived `bound`.
pub(crate) fn kill_session(session: i32, bound: Duration) -> Vec<Process> {
    let me = Pid::this().as_raw();
    kill_until_gone(bound, || {
        all()
            .into_iter()
            .filter(|p| p.session == session && p.pid != me && p.state != 'Z')
            .collect()
    })
}

/// Collects ended children that nobody waits for (orphans that came to a subreaper).
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
            session: 0,
            state,
            name: String::new(),
        }
    }

    #[test]
    fn stat_lines_with_awkward_names() {
        let parsed = parse_stat("42 (a) (b c) S 7 42 41 0 -1 4194560 1").unwrap();
        assert_eq!((parsed.pid, parsed.parent, parsed.session), (42, 7, 41));
        assert_eq!(parsed.name, "a) (b c");
        assert_eq!(parse_stat("nonsense"), None);
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
