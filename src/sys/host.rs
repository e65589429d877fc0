//! Reads facts about this host, such as kernel, memory and disk, and formats commands for the log.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use nix::sys::statvfs::{FsFlags, statvfs};

/// Returns the kernel as `uname -snrvm` shows it.
pub(crate) fn kernel() -> String {
    nix::sys::utsname::uname().map_or_else(
        |error| error.to_string(),
        |name| {
            [
                name.sysname(),
                name.nodename(),
                name.release(),
                name.version(),
                name.machine(),
            ]
            .map(|part| part.to_string_lossy().into_owned())
            .join(" ")
        },
    )
}

/// Returns Debian's name of the host's architecture.
pub(crate) fn debian_arch() -> &'static str {
    debian_name(std::env::consts::ARCH)
}

/// Returns Debian's name of the Rust architecture `arch`.
fn debian_name(arch: &str) -> &str {
    match arch {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "i386",
        "arm" => "armhf",
        "powerpc64" => "ppc64el",
        "loongarch64" => "loong64",
        same => same,
    }
}

/// Returns whether an overlay works with its writable layer on a tmpfs. Before 6.6 tmpfs has no
/// `user.*` attributes: the mount succeeds, but replacing a folder of the base fails later.
pub(crate) fn memory_layer_works() -> bool {
    kernel_is_at_least(6, 6)
}

/// Returns whether the kernel has at least this release; false if its release is unreadable.
fn kernel_is_at_least(major: u32, minor: u32) -> bool {
    let release = nix::sys::utsname::uname()
        .map(|name| name.release().to_string_lossy().into_owned())
        .unwrap_or_default();
    release_of(&release).is_some_and(|found| found >= (major, minor))
}

/// Returns major and minor number of a kernel release such as `6.1.0-13-amd64`.
fn release_of(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

pub(crate) fn memory_bytes() -> u64 {
    meminfo("MemTotal:")
}

/// Returns the kernel's estimate of the memory still available, in bytes.
pub(crate) fn available_memory_bytes() -> u64 {
    meminfo("MemAvailable:")
}

/// Returns an entry of `/proc/meminfo` in bytes; 0 if it is missing.
fn meminfo(name: &str) -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix(name))
        .and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok())
        .map_or(0, |kib| kib.saturating_mul(1024))
}

/// The state of the file system that holds a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Disk {
    pub(crate) read_only: bool,
    /// Bytes an unprivileged user may still write.
    pub(crate) free_bytes: u64,
    /// Files an unprivileged user may still create; `u64::MAX` if the file system has no limit.
    pub(crate) free_inodes: u64,
}

/// Returns the state of the file system that holds `path`.
pub(crate) fn disk_of(path: &Path) -> io::Result<Disk> {
    let stat = statvfs(path)?;
    Ok(Disk {
        read_only: stat.flags().contains(FsFlags::ST_RDONLY),
        free_bytes: stat.blocks_available().saturating_mul(stat.fragment_size()),
        free_inodes: match stat.files() {
            // As btrfs, which creates inodes when it needs them.
            0 => u64::MAX,
            _ => stat.files_available(),
        },
    })
}

/// Returns whether `path` is on a file system that keeps its files in memory.
pub(crate) fn is_on_tmpfs(path: &Path) -> bool {
    statfs(path).is_ok_and(|found| found.filesystem_type() == TMPFS_MAGIC)
}

/// Returns the bytes in use on the file system that holds `path`.
pub(crate) fn used_bytes(path: &Path) -> Option<u64> {
    let stat = statvfs(path).ok()?;
    let blocks = stat.blocks().saturating_sub(stat.blocks_free());
    Some(blocks.saturating_mul(stat.fragment_size()))
}

/// Returns the files of this host's own apt sources, in apt's order, each with its text.
pub(crate) fn apt_sources() -> Vec<(PathBuf, String)> {
    let parts = fs::read_dir("/etc/apt/sources.list.d");
    let mut files: Vec<_> = parts
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default();
    files.retain(|path| {
        path.extension()
            .is_some_and(|kind| kind == "list" || kind == "sources")
    });
    files.sort();
    files.insert(0, PathBuf::from("/etc/apt/sources.list"));
    files
        .into_iter()
        .map(|path| {
            let text = fs::read_to_string(&path).unwrap_or_default();
            (path, text)
        })
        .collect()
}

/// Returns the installed version of a Debian package.
pub(crate) fn package_version(package: &str) -> Option<String> {
    let output = Command::new("dpkg-query")
        .args(["--show", "--showformat=${Version}", package])
        .stdin(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && !text.is_empty()).then_some(text)
}

/// Returns the time in `ctime` format, in UTC, as in launchpad-buildd's log.
pub(crate) fn utc_now() -> String {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let secs = i64::try_from(since.as_secs()).unwrap_or_default();
    chrono::DateTime::from_timestamp(secs, 0).map_or_else(String::new, |time| {
        time.format("%a %b %e %H:%M:%S %Y").to_string()
    })
}

pub(crate) fn name() -> String {
    nix::unistd::gethostname().map_or_else(
        |_| "localhost".into(),
        |name| name.to_string_lossy().into_owned(),
    )
}

/// Returns a command line quoted for a shell, without this program's own wrappers around it.
pub(crate) fn shown(command: &Command) -> String {
    let words: Vec<_> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(OsStr::to_string_lossy)
        .collect();
    let plain: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
    let (prefix, own) = match plain.as_slice() {
        ["/proc/self/exe", "internal", "tether", rest @ ..] => ("", rest),
        ["/proc/self/exe", "internal", "enter", _, _, "--", rest @ ..] => {
            ("in the session: ", rest)
        }
        ["/proc/self/exe", "internal", rest @ ..] => ("buildd-slave ", rest),
        all => ("", all),
    };
    let quoted: Vec<String> = own.iter().map(|word| quoted(word)).collect();
    format!("{prefix}{}", quoted.join(" "))
}

fn quoted(word: &str) -> String {
    let harmless = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:=+,@%".contains(&byte);
    if !word.is_empty() && word.bytes().all(harmless) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_architecture_has_its_debian_name() {
        for (rust, debian) in [
            ("x86_64", "amd64"),
            ("powerpc64", "ppc64el"),
            ("s390x", "s390x"),
        ] {
            assert_eq!(debian_name(rust), debian);
        }
    }

    #[test]
    fn kernel_releases_are_parsed_and_compared() {
        assert_eq!(release_of("6.1.0-13-amd64"), Some((6, 1)));
        assert_eq!(release_of("6.18-rc1"), Some((6, 18)));
        assert_eq!(release_of("weird"), None);
        assert!(kernel_is_at_least(2, 6) && !kernel_is_at_least(999, 0));
    }

    #[test]
    fn commands_are_shown_quoted_and_without_wrappers() {
        let show = |words: &[&str]| {
            let mut command = Command::new(words[0]);
            command.args(&words[1..]);
            shown(&command)
        };
        assert_eq!(show(&["/bin/echo", "it's", ""]), r"/bin/echo 'it'\''s' ''");
        assert_eq!(
            show(&["/proc/self/exe", "internal", "tether", "sbuild", "-d"]),
            "sbuild -d"
        );
        let inside = [
            "/proc/self/exe",
            "internal",
            "enter",
            "7",
            "host",
            "--",
            "apt-get",
            "-y",
        ];
        assert_eq!(show(&inside), "in the session: apt-get -y");
    }
}
