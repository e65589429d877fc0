//! Measures the memory and the threads of a set of processes from `/proc`.
//!
//! Counts what is used, not what is reserved, and leaves out pages of files on disk, which the
//! kernel can drop. Reading the status of a process is cheap, but counts a page that processes
//! share once for each. The exact share of each process takes the kernel longer to compute.

use std::fs;

use super::procs::Process;

/// The memory and the threads of some processes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Private memory, in bytes.
    private: u64,
    /// Mapped pages of files in memory, and other shared memory, in bytes.
    mapped: u64,
    pub(crate) threads: u64,
}

impl Usage {
    /// Returns the bytes, if all files in memory have `file_bytes`. Some of these may be mapped.
    pub(crate) fn bytes(&self, file_bytes: u64) -> u64 {
        self.private.saturating_add(self.mapped.max(file_bytes))
    }

    fn add(self, other: Self) -> Self {
        Self {
            private: self.private.saturating_add(other.private),
            mapped: self.mapped.saturating_add(other.mapped),
            threads: self.threads.saturating_add(other.threads),
        }
    }
}

/// Returns the usage, with shared pages counted for each process. A process that has ended counts
/// as nothing.
pub(crate) fn upper_bound(processes: &[Process]) -> Usage {
    total(processes, |process| {
        of_status(&read(process.pid, "status").unwrap_or_default())
    })
}

/// Returns the usage, with each shared page divided among its processes. A process whose pages this
/// user may not examine counts as in [`upper_bound`].
pub(crate) fn exact(processes: &[Process]) -> Usage {
    total(processes, |process| {
        let status = of_status(&read(process.pid, "status").unwrap_or_default());
        let share = read(process.pid, "smaps_rollup").and_then(|text| of_rollup(&text));
        let (private, mapped) = share.unwrap_or((status.private, status.mapped));
        Usage {
            private,
            mapped,
            ..status
        }
    })
}

fn total(processes: &[Process], of: impl Fn(&Process) -> Usage) -> Usage {
    processes.iter().map(of).fold(Usage::default(), Usage::add)
}

fn read(pid: i32, file: &str) -> Option<String> {
    fs::read_to_string(format!("/proc/{pid}/{file}")).ok()
}

/// Parses `/proc/PID/status`. A kernel thread or a zombie has no memory.
fn of_status(text: &str) -> Usage {
    Usage {
        private: kib(text, "RssAnon:").unwrap_or_default(),
        mapped: kib(text, "RssShmem:").unwrap_or_default(),
        threads: number(text, "Threads:").unwrap_or_default(),
    }
}

/// Parses `/proc/PID/smaps_rollup`: private and mapped bytes. `None` if it lacks them.
fn of_rollup(text: &str) -> Option<(u64, u64)> {
    Some((kib(text, "Pss_Anon:")?, kib(text, "Pss_Shmem:")?))
}

/// Returns the bytes of a line such as `RssAnon:     12 kB`.
fn kib(text: &str, name: &str) -> Option<u64> {
    number(text, name).map(|kib| kib.saturating_mul(1024))
}

fn number(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::procs;

    #[test]
    fn status_and_shares_are_parsed() {
        let status = "Name:\tx\nVmRSS:\t  999 kB\nRssAnon:\t    10 kB\nRssFile:\t   500 kB\n\
                      RssShmem:\t     4 kB\nThreads:\t3\n";
        let found = of_status(status);
        assert_eq!((found.bytes(0), found.threads), (14 << 10, 3));
        assert_eq!(
            found.bytes(2 << 10),
            14 << 10,
            "the files are the mapped ones"
        );
        assert_eq!(found.bytes(9 << 10), 19 << 10);
        let rollup = "00400000-7fff [rollup]\nRss: 900 kB\nPss: 20 kB\nPss_Anon: 7 kB\n\
                      Pss_File: 12 kB\nPss_Shmem: 1 kB\n";
        assert_eq!(of_rollup(rollup), Some((7 << 10, 1 << 10)));
        assert_eq!(of_rollup("Rss: 1 kB\n"), None);
        assert_eq!(of_status("Name:\tkthreadd\n"), Usage::default());
    }

    /// Python maps memory that is reserved, and memory that forked children share.
    #[test]
    fn reserved_and_shared_memory_is_not_counted_twice() {
        let script = "import mmap, os, sys\n\
             reserved = mmap.mmap(-1, 8 << 30, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)\n\
             used = bytearray(os.urandom(1)) * (64 << 20)\n\
             for _ in range(3):\n    if os.fork() == 0: break\n\
             print('ready', flush=True); sys.stdin.read()";
        let mut parent = std::process::Command::new("python3")
            .args(["-c", script])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let lines = std::io::BufReader::new(parent.stdout.take().unwrap());
        let ready = std::io::BufRead::lines(lines).take(4).flatten().count();
        assert_eq!(ready, 4);
        let (all, root) = (procs::all(), parent.id() as i32);
        let mut tree = procs::descendants(&all, root);
        tree.extend(all.into_iter().filter(|process| process.pid == root));
        let (upper, exact) = (upper_bound(&tree), exact(&tree));
        drop(parent.stdin.take());
        parent.wait().unwrap();
        let mib = |usage: Usage| usage.bytes(0) >> 20;
        assert_eq!((upper.threads, exact.threads), (4, 4));
        assert!((256..400).contains(&mib(upper)), "{} MiB", mib(upper));
        assert!((64..130).contains(&mib(exact)), "{} MiB", mib(exact));
    }
}
