//! The one writer of a build's log; `reader` has how others read it meanwhile.
//!
//! Bytes in, bytes out, bounded: the first half of the limit goes to `PATH`; after that the
//! output goes to `segments`, each of half the limit, of which the last two are kept, and `finish`
//! appends a marker and the last half of the limit to `PATH`. So another process sees the latest
//! bytes on disk at any time.
//! A failing write never stops the build: it is remembered, and later writes are tried again.
//! The credentials of a private build never reach the disk: its unfinished last line is held
//! back until it can be scrubbed whole. Called by the shim.

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
    head: File,
    /// Half the limit: the size of the head, and of a segment.
    head_len: u64,
    head_left: u64,
    segment: Option<File>,
    segment_left: u64,
    /// How many bytes have come to be written after the head was full.
    past_head: u64,
    error: Option<io::Error>,
    /// Whether the last write failed, and that is not said in the log yet.
    has_hole: bool,
}

impl BuildLog {
    /// Starts the log at `path`, in place of an older one; at least 2 bytes of it are kept.
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

    /// Returns how many bytes are left out in the middle, so far.
    pub(crate) fn left_out_bytes(&self) -> u64 {
        self.past_head.saturating_sub(self.head_len)
    }

    /// Ends the log: one file at its path, with a marker where bytes were left out.
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
                // Until there is room for this again there is none for what follows.
                let notice = b"\n[... some of the log could not be written here ...]\n";
                self.has_hole = self.append_bounded(notice).is_err();
            }
            let written = self.append_bounded(bytes);
            self.has_hole |= written.is_err();
            self.record_error(written);
        }
    }

    fn append_bounded(&mut self, bytes: &[u8]) -> io::Result<()> {
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

    /// Begins a segment; of the older ones the last is kept.
    fn start_segment(&mut self) -> io::Result<()> {
        self.segment_left = self.head_len;
        self.segment = None;
        let mut old = segments::list(&self.path)?;
        old.pop();
        // First, so that there may be room for the new one.
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
    // Behind the end also of a log that could not be joined.
    let last = segments::list(path)?.pop();
    let file = last.map_or_else(|| path.to_owned(), |segment| segment.path);
    let mut file = OpenOptions::new().append(true).create(true).open(file)?;
    writeln!(file, "\n{}", scrub_always(line))
}

/// Returns `len`, at most `limit`.
fn clamp(len: usize, limit: u64) -> usize {
    usize::try_from(limit).map_or(len, |limit| len.min(limit))
}

#[cfg(test)]
mod tests;
