//! Names, lists and joins the files of a build log.
//!
//! `LOG` has the first half of the limit. Later output goes to segments named `LOG.HEAD.OFFSET`, of
//! which the last two are kept. HEAD is the length of the first half, OFFSET the segment's position
//! in the whole log, both in bytes. So the names show which bytes are missing, and any process can
//! read or join the log after a crash.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write as _};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;

/// A file of a log other than `LOG` itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Segment {
    /// The length of the first half, in bytes.
    pub(super) head: u64,
    /// The position in the whole log, in bytes.
    pub(super) offset: u64,
    pub(super) path: PathBuf,
}

pub(super) fn name(path: &Path, head: u64, offset: u64) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(format!(".{head}.{offset}"));
    name.into()
}

/// Returns the segments of the log at `path`, by offset.
pub(super) fn list(path: &Path) -> io::Result<Vec<Segment>> {
    let (Some(folder), Some(log)) = (path.parent(), path.file_name()) else {
        return Ok(Vec::new());
    };
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut segments = Vec::new();
    for entry in entries {
        let entry = entry?;
        if let Some((head, offset)) = numbers(&entry.file_name(), log) {
            let path = entry.path();
            segments.push(Segment { head, offset, path });
        }
    }
    segments.sort_by_key(|segment| segment.offset);
    Ok(segments)
}

/// Parses HEAD and OFFSET from a segment's name.
fn numbers(name: &OsStr, log: &OsStr) -> Option<(u64, u64)> {
    let rest = name.as_bytes().strip_prefix(log.as_bytes())?;
    let (head, offset) = std::str::from_utf8(rest)
        .ok()?
        .strip_prefix('.')?
        .split_once('.')?;
    Some((head.parse().ok()?, offset.parse().ok()?))
}

/// Opens a file of a log for reading. Follows no link and never blocks on a FIFO.
pub(super) fn open(path: &Path) -> io::Result<File> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    File::options()
        .read(true)
        .custom_flags(flags.bits())
        .open(path)
}

/// Returns the line that replaces missing bytes.
pub(super) fn marker(left_out: u64, head: u64) -> String {
    let limit = head.saturating_mul(2);
    format!("\n[... {left_out} bytes of log left out here: over the limit of {limit} bytes ...]\n")
}

/// Parses a marker at the start of `bytes`: the bytes left out, and the length of the marker.
pub(super) fn parse_marker(bytes: &[u8]) -> Option<(u64, usize)> {
    let end = bytes.iter().skip(1).position(|&byte| byte == b'\n')? + 2;
    let text = std::str::from_utf8(bytes.get(..end)?).ok()?;
    let (count, rest) = text.strip_prefix("\n[... ")?.split_once(' ')?;
    let whole = rest.starts_with("bytes of log left out here: ") && rest.ends_with(" ...]\n");
    whole.then_some((count.parse().ok()?, end))
}

/// Joins the log at `path` into one file: the first half, a marker if bytes were dropped, and the
/// last half. Does nothing without segments.
///
/// After a failure, such as a full disk, or a crash, the segments remain and a retry is possible.
pub(crate) fn join(path: &Path) -> io::Result<()> {
    let segments = list(path)?;
    let Some(head) = segments.first().map(|segment| segment.head) else {
        return Ok(());
    };
    let mut log = OpenOptions::new().append(true).create(true).open(path)?;
    let before = log.metadata()?.len();
    if before > head {
        // An interrupted join left these bytes.
        log.set_len(head)?;
    }
    let whole = before.min(head);
    if let Err(error) = append(&segments, head, whole, &mut log) {
        let _ = log.set_len(whole);
        return Err(error);
    }
    log.sync_data()?;
    // Oldest first: after a crash, the remaining segments are still the end of the log.
    remove(&segments)
}

/// Appends the last `head` bytes of the segments to the log, whose length is `at`.
fn append(segments: &[Segment], head: u64, mut at: u64, log: &mut File) -> io::Result<()> {
    let (mut files, mut end) = (Vec::new(), head);
    for segment in segments {
        let file = open(&segment.path)?;
        end = segment.offset.saturating_add(file.metadata()?.len());
        files.push((segment.offset, file));
    }
    let from = end.saturating_sub(head).max(head);
    for (offset, mut file) in files {
        let start = offset.max(from);
        let len = file.metadata()?.len();
        if start >= offset.saturating_add(len) {
            continue;
        }
        if start > at {
            log.write_all(marker(start - at, head).as_bytes())?;
        }
        file.seek(SeekFrom::Start(start - offset))?;
        at = offset + len;
        io::copy(&mut file.take(at - start), log)?;
    }
    Ok(())
}

/// Removes segments in the given order.
pub(super) fn remove(segments: &[Segment]) -> io::Result<()> {
    for segment in segments {
        match fs::remove_file(&segment.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}
