//! The one writer of a build's log, and the reader of its end.
//!
//! Bytes in, bytes out, bounded: the first half of the limit goes to `PATH`; after that the
//! output goes round in two segments, `PATH.newer` and `PATH.older`, each of half the limit, and
//! `finish` appends a marker and the last half of the limit to `PATH`. So another process sees
//! the latest bytes on disk at any time: `tail` is for the daemon while a shim writes.
//! A failing write never stops the build: it is remembered, and later writes are tried again.
//! The credentials of a private build never reach the disk: its unfinished last line is held
//! back until it can be scrubbed whole. Called by the shim.

use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io::{self, Seek, SeekFrom, Write};
use std::mem;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::scrub::{self, Scrubber, scrub_always};

/// The longest unfinished line held back for scrubbing; more of it is passed on in pieces.
const MAX_HELD_BYTES: usize = 64 << 10;
/// What stays held back of such a line: longer than any credential, so that none is cut.
const STILL_HELD_BYTES: usize = 4 << 10;

/// An open build log.
#[derive(Debug)]
pub(crate) struct BuildLog {
    path: PathBuf,
    scrubber: Scrubber,
    /// The unfinished last line of a private build, not yet on disk.
    held: Vec<u8>,
    /// Whether the next byte to go to disk begins a line.
    at_line_start: bool,
    limit_bytes: u64,
    head: File,
    head_left: u64,
    segment: Option<File>,
    segment_left: u64,
    /// All bytes that came after the head was full.
    past_head: u64,
    error: Option<io::Error>,
}

impl BuildLog {
    /// Starts the log at `path`, in place of an older one; at least 2 bytes of it are kept.
    pub(crate) fn create(path: &Path, private: bool, limit_bytes: u64) -> io::Result<Self> {
        remove_segments(path)?;
        Ok(Self {
            path: path.to_owned(),
            scrubber: Scrubber::new(private),
            held: Vec::new(),
            at_line_start: true,
            limit_bytes: limit_bytes.max(2),
            head: File::create(path)?,
            head_left: limit_bytes.max(2) / 2,
            segment: None,
            segment_left: 0,
            past_head: 0,
            error: None,
        })
    }

    /// Appends output of the build, in chunks cut anywhere.
    pub(crate) fn write(&mut self, chunk: &[u8]) {
        if !self.scrubber.is_private() {
            return self.append(chunk);
        }
        for piece in chunk.chunks(MAX_HELD_BYTES) {
            let before = self.held.len();
            self.held.extend_from_slice(piece);
            if let Some(end) = piece.iter().rposition(|&b| b == b'\n') {
                let rest = self.held.split_off(before + end + 1);
                let lines = mem::replace(&mut self.held, rest);
                self.append(&self.scrubber.scrub(&lines));
            } else if self.held.len() > MAX_HELD_BYTES {
                // Scrubbed before it is cut: what the cut may split is longer than what stays.
                let mut line = self.scrubber.scrub(&self.held).into_owned();
                self.held = line.split_off(line.len().saturating_sub(STILL_HELD_BYTES));
                self.append(&line);
            }
        }
    }

    /// Writes a sentence of ours on a line of its own, always without credentials.
    pub(crate) fn line(&mut self, sentence: &str) {
        let start = if self.at_line_start { "" } else { "\n" };
        self.append(format!("{start}{}\n", scrub_always(sentence)).as_bytes());
    }

    /// Writes the unfinished line held back, for the end of a program whose output it is.
    ///
    /// A URL in whose middle the output ends goes from its `://` on: what follows may be half a
    /// password.
    pub(crate) fn flush(&mut self) {
        let mut held = mem::take(&mut self.held);
        held.truncate(scrub::unfinished(&held).unwrap_or(held.len()));
        self.append(&self.scrubber.scrub(&held));
    }

    /// Returns the first error of a write, after which the log is incomplete.
    pub(crate) fn write_error(&self) -> Option<&io::Error> {
        self.error.as_ref()
    }

    /// Ends the log: one file at its path, with a marker where bytes were left out.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.flush();
        if self.segment.take().is_some() {
            let joined = self.append_tail();
            self.remember(joined);
            let removed = remove_segments(&self.path);
            self.remember(removed);
        }
        self.error.map_or(Ok(()), Err)
    }

    fn append(&mut self, bytes: &[u8]) {
        if let Some(&last) = bytes.last() {
            self.at_line_start = last == b'\n';
            let written = self.append_bounded(bytes);
            self.remember(written);
        }
    }

    fn append_bounded(&mut self, bytes: &[u8]) -> io::Result<()> {
        let (head, mut rest) = bytes.split_at(clamp(bytes.len(), self.head_left));
        self.head_left -= head.len() as u64;
        self.past_head += rest.len() as u64;
        let mut written = self.head.write_all(head);
        while !rest.is_empty() {
            if self.segment_left == 0 {
                let started = self.start_segment();
                written = written.and(started);
            }
            let (now, later) = rest.split_at(clamp(rest.len(), self.segment_left));
            self.segment_left -= now.len() as u64;
            rest = later;
            if let Some(file) = &mut self.segment {
                let appended = file.write_all(now);
                written = written.and(appended);
            }
        }
        written
    }

    /// Makes the newer segment the older one and begins a new one.
    fn start_segment(&mut self) -> io::Result<()> {
        self.segment_left = self.tail_bytes();
        let newer = newer(&self.path);
        if self.segment.take().is_some() {
            fs::rename(&newer, older(&self.path))?;
        }
        self.segment = Some(File::create(newer)?);
        Ok(())
    }

    /// Appends the marker and the last half of the limit to the head.
    fn append_tail(&mut self) -> io::Result<()> {
        let keep = self.past_head.min(self.tail_bytes());
        let left_out = self.past_head - keep;
        if left_out > 0 {
            let limit = self.limit_bytes;
            writeln!(
                self.head,
                "\n[... {left_out} bytes of log left out here: over the limit of {limit} bytes ...]"
            )?;
        }
        let mut newer = File::open(newer(&self.path))?;
        let newer_bytes = newer.metadata()?.len();
        if keep > newer_bytes {
            let mut older = File::open(older(&self.path))?;
            let older_bytes = older.metadata()?.len();
            older.seek(SeekFrom::Start(
                older_bytes.saturating_sub(keep - newer_bytes),
            ))?;
            io::copy(&mut older, &mut self.head)?;
        }
        io::copy(&mut newer, &mut self.head)?;
        Ok(())
    }

    /// The bytes kept of the end, and the size of a segment.
    fn tail_bytes(&self) -> u64 {
        self.limit_bytes / 2
    }

    fn remember(&mut self, result: io::Result<()>) {
        if let Err(error) = result {
            self.error.get_or_insert(error);
        }
    }
}

/// Returns the last `count` bytes of the log at `path`, which another process may be writing;
/// a log that is not there is empty.
///
/// With `drop_first`, for private builds, the first line is left out even if it is whole, and so
/// is the last line end (slave spec §1.6).
pub(crate) fn tail(path: &Path, count: usize, drop_first: bool) -> io::Result<Vec<u8>> {
    // All are opened before any is read, newest first: a segment that changes its name in between
    // is met twice, and known by its inode.
    let mut files: Vec<(Metadata, File)> = Vec::new();
    for path in [newer(path), older(path), path.to_owned()] {
        match File::open(path) {
            Ok(file) => {
                let about = file.metadata()?;
                if files
                    .last()
                    .is_none_or(|(last, _)| last.ino() != about.ino())
                {
                    files.push((about, file));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    let mut end = Vec::new();
    for (about, file) in files {
        let mut part = last_bytes(&file, about.len(), count - end.len())?;
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

/// Reads the last `count` bytes of a file `len` bytes long, in one go: every `status` does.
fn last_bytes(file: &File, len: u64, count: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; clamp(count, len)];
    let start = len - bytes.len() as u64;
    let read = file.read_at(&mut bytes, start)?;
    bytes.truncate(read);
    Ok(bytes)
}

fn remove_segments(path: &Path) -> io::Result<()> {
    for segment in [older(path), newer(path)] {
        match fs::remove_file(segment) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn newer(path: &Path) -> PathBuf {
    with_suffix(path, ".newer")
}

fn older(path: &Path) -> PathBuf {
    with_suffix(path, ".older")
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

/// Returns `len`, at most `limit`.
fn clamp(len: usize, limit: u64) -> usize {
    usize::try_from(limit).map_or(len, |limit| len.min(limit))
}

#[cfg(test)]
mod tests;
