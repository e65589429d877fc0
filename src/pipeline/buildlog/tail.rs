//! Reads the last bytes of a log while it is written.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::reader::{Opened, Piece};

/// The open files of a log that is being written. Threads may share it.
#[derive(Debug)]
pub(crate) struct Tail {
    files: Vec<Piece>,
    /// The length at which the writer begins another file, in bytes.
    full: u64,
    folder: PathBuf,
    /// The modification time of the folder: when a file was last added or removed.
    changed: SystemTime,
}

impl Tail {
    /// Opens the log at `path`, which its writer limits to `limit_bytes`.
    pub(crate) fn open(path: &Path, limit_bytes: u64) -> io::Result<Self> {
        let folder = path.parent().unwrap_or(path).to_owned();
        // Read before the files are listed, so that a later change is noticed.
        let changed = fs::metadata(&folder)?.modified()?;
        Ok(Self {
            files: Opened::new(path)?.files,
            full: limit_bytes / 2,
            folder,
            changed,
        })
    }

    /// True if these files still hold the end of the log: the last one is not full, and no file was
    /// added. On a full disk, the writer may add a file earlier.
    pub(crate) fn is_current(&self) -> bool {
        let last = self.files.last().and_then(|last| last.file.metadata().ok());
        let changed = fs::metadata(&self.folder).and_then(|about| about.modified());
        last.is_some_and(|about| about.len() < self.full)
            && changed.is_ok_and(|changed| changed == self.changed)
    }

    /// Returns the last `count` bytes.
    ///
    /// With `drop_first`, for private builds, the first line is left out even if it is whole, and
    /// so is the last line end (docs/wire.md §1.6).
    pub(crate) fn read(&self, count: usize, drop_first: bool) -> io::Result<Vec<u8>> {
        let mut end = Vec::new();
        for (index, Piece { file, len, .. }) in self.files.iter().enumerate().rev() {
            // Only the last one grows.
            let grows = index + 1 == self.files.len();
            let len = if grows { file.metadata()?.len() } else { *len };
            let mut part = last_bytes(file, len, count - end.len())?;
            part.append(&mut end);
            end = part;
        }
        if drop_first {
            let first = end
                .iter()
                .position(|&b| b == b'\n')
                .map_or(end.len(), |at| at + 1);
            end.drain(..first);
            if end.last() == Some(&b'\n') {
                end.pop();
            }
        }
        Ok(end)
    }
}

/// Returns the last `count` of the first `len` bytes of a file.
fn last_bytes(file: &File, len: u64, count: usize) -> io::Result<Vec<u8>> {
    let count = usize::try_from(len).map_or(count, |len| len.min(count));
    let (mut bytes, mut filled) = (vec![0; count], 0);
    while filled < count {
        let at = len - (count - filled) as u64;
        match file.read_at(&mut bytes[filled..], at) {
            // The file was truncated, for instance after a full disk.
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

/// Returns the last `count` bytes of the log at `path`; a missing log is empty. [`Tail::read`]
/// explains `drop_first`.
pub(crate) fn tail(path: &Path, count: usize, drop_first: bool) -> io::Result<Vec<u8>> {
    match Tail::open(path, 0) {
        Ok(tail) => tail.read(count, drop_first),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}
