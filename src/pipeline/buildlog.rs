//! Writes the log of a build, up to the limit on its size.
//!
//! The first half of the limit goes to `PATH`. Later output goes to segments of half the limit
//! each, of which the last two are kept. `finish` appends the last half of the limit to `PATH`,
//! after a marker. So readers see the latest bytes at any time (`reader`, `tail`).
//!
//! A failed write never stops the build: the error is kept, and later writes try again. Credentials
//! of a private build never reach the disk: an unfinished line is held back until it can be
//! scrubbed.

mod reader;
mod segments;
mod tail;

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::mem;
use std::path::{Path, PathBuf};

use super::scrub::{self, Scrubber, scrub_always};

pub(crate) use reader::{Follow, Snapshot};
pub(crate) use segments::join;
pub(crate) use tail::{Tail, tail};

/// The longest unfinished line held back for scrubbing; a longer one is written in pieces.
const MAX_HELD_BYTES: usize = 64 << 10;
/// The bytes at the end of such a line that stay held back: more than any credential has, so that
/// none is cut.
const STILL_HELD_BYTES: usize = 4 << 10;

/// An open build log.
#[derive(Debug)]
pub(crate) struct BuildLog {
    path: PathBuf,
    scrubber: Scrubber,
    /// The unfinished last line of a private build, not yet on disk.
    held: Vec<u8>,
    at_line_start: bool,
    head: File,
    /// Half the limit, in bytes: the size of the head and of a segment.
    head_len: u64,
    head_left: u64,
    segment: Option<File>,
    segment_left: u64,
    /// The bytes written after the head was full.
    past_head: u64,
    error: Option<io::Error>,
    /// True if a write failed and the log has no notice of that yet.
    has_hole: bool,
}

impl BuildLog {
    /// Starts the log at `path`, replacing an older one.
    pub(crate) fn create(path: &Path, private: bool, limit_bytes: u64) -> io::Result<Self> {
        segments::remove(&segments::list(path)?)?;
        let head_len = limit_bytes.max(2) / 2;
        Ok(Self {
            path: path.to_owned(),
            scrubber: Scrubber::new(private),
            held: Vec::new(),
            at_line_start: true,
            head: File::create(path)?,
            head_len,
            head_left: head_len,
            segment: None,
            segment_left: 0,
            past_head: 0,
            error: None,
            has_hole: false,
        })
    }

    /// Appends output of the build, cut anywhere.
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
                // Scrub before the cut, so that no credential is cut in two.
                let mut line = self.scrubber.scrub(&self.held).into_owned();
                self.held = line.split_off(line.len().saturating_sub(STILL_HELD_BYTES));
                self.append(&line);
            }
        }
    }

    /// Writes a line of the shim, always without credentials.
    pub(crate) fn line(&mut self, text: &str) {
        let start = if self.at_line_start { "" } else { "\n" };
        self.append(format!("{start}{}\n", scrub_always(text)).as_bytes());
    }

    /// Writes the unfinished line that is held back, at the end of a program.
    ///
    /// A URL cut by the end of the output loses all after `://`: it may be half a password.
    pub(crate) fn flush(&mut self) {
        let mut held = mem::take(&mut self.held);
        held.truncate(scrub::unfinished(&held).unwrap_or(held.len()));
        self.append(&self.scrubber.scrub(&held));
    }

    /// Returns the first error of a write, after which the log is incomplete.
    pub(crate) fn write_error(&self) -> Option<&io::Error> {
        self.error.as_ref()
    }

    /// Returns the number of bytes left out in the middle so far.
    pub(crate) fn left_out_bytes(&self) -> u64 {
        self.past_head.saturating_sub(self.head_len)
    }

    /// Joins the log into one file, with a marker where bytes were left out.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.flush();
        if self.segment.take().is_some() {
            let joined = join(&self.path);
            self.record_error(joined);
        }
        self.error.map_or(Ok(()), Err)
    }

    fn append(&mut self, bytes: &[u8]) {
        if let Some(&last) = bytes.last() {
            self.at_line_start = last == b'\n';
            if self.has_hole {
                // If the notice cannot be written, the next write tries again.
                let notice = b"\n[... some of the log could not be written here ...]\n";
                self.has_hole = self.append_limited(notice).is_err();
            }
            let written = self.append_limited(bytes);
            self.has_hole |= written.is_err();
            self.record_error(written);
        }
    }

    fn append_limited(&mut self, bytes: &[u8]) -> io::Result<()> {
        let (head, mut rest) = bytes.split_at(clamp(bytes.len(), self.head_left));
        self.head_left -= head.len() as u64;
        let mut written = self.head.write_all(head);
        while !rest.is_empty() {
            if self.segment_left == 0 {
                let started = self.start_segment();
                written = written.and(started);
            }
            let (now, later) = rest.split_at(clamp(rest.len(), self.segment_left));
            self.segment_left -= now.len() as u64;
            self.past_head += now.len() as u64;
            rest = later;
            if let Some(file) = &mut self.segment {
                let appended = file.write_all(now);
                written = written.and(appended);
            }
        }
        written
    }

    /// Begins a segment and removes all older ones but the last.
    fn start_segment(&mut self) -> io::Result<()> {
        self.segment_left = self.head_len;
        self.segment = None;
        let mut old = segments::list(&self.path)?;
        old.pop();
        // First, to free disk space for the new one.
        segments::remove(&old)?;
        let offset = self.head_len + self.past_head;
        let name = segments::name(&self.path, self.head_len, offset);
        self.segment = Some(File::create(name)?);
        Ok(())
    }

    fn record_error(&mut self, result: io::Result<()>) {
        if let Err(error) = result {
            self.error.get_or_insert(error);
        }
    }
}

/// Appends a line to the log at `path`, whose writer is dead.
pub(crate) fn append_line(path: &Path, line: &str) -> io::Result<()> {
    // A log that could not be joined ends in its last segment.
    let last = segments::list(path)?.pop();
    let file = last.map_or_else(|| path.to_owned(), |segment| segment.path);
    let mut file = OpenOptions::new().append(true).create(true).open(file)?;
    writeln!(file, "\n{}", scrub_always(line))
}

fn clamp(len: usize, limit: u64) -> usize {
    usize::try_from(limit).map_or(len, |limit| len.min(limit))
}

#[cfg(test)]
mod tests;
