//! Reads a build log from another process while it is written.
//!
//! [`Snapshot`] is the log at one moment, [`Follow`] reads it as it grows; `tail` reads its end. A
//! reader works in any state of the files: the writer may be running, finished or killed.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::segments::{self, list, marker, open, parse_marker};

/// How often opening is retried when the files change meanwhile.
const TRIES: usize = 100;
/// The most that [`Follow::read_more`] returns.
const CHUNK_BYTES: u64 = 256 << 10;
/// Longer than any marker.
const MARKER_BYTES: u64 = 256;

/// The opened files of a log: the bytes they hold now can no longer be lost.
pub(super) struct Opened {
    /// In order; the first is the log's own file, which may be the whole, joined log.
    pub(super) files: Vec<Piece>,
    modified: SystemTime,
}

#[derive(Debug)]
pub(super) struct Piece {
    pub(super) file: File,
    /// Where the file begins in the whole log, in bytes.
    offset: u64,
    /// The bytes of the file that belong to the log.
    pub(super) len: u64,
}

impl Opened {
    pub(super) fn new(path: &Path) -> io::Result<Self> {
        for _ in 1..TRIES {
            match Self::try_new(path) {
                // A segment has been rotated away or joined since it was listed.
                Ok(None) => {}
                Ok(Some(opened)) => return Ok(opened),
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::other("the log changes too fast to be opened"))
    }

    fn try_new(path: &Path) -> io::Result<Option<Self>> {
        let segments = list(path)?;
        let file = open(path)?;
        let about = file.metadata()?;
        if !about.is_file() {
            return Err(io::Error::other("the log is not a regular file"));
        }
        let mut modified = about.modified()?;
        let limit = segments.first().map_or(u64::MAX, |segment| segment.head);
        let mut files = vec![Piece {
            file,
            offset: 0,
            len: about.len().min(limit),
        }];
        for segment in &segments {
            let file = match open(&segment.path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                other => other?,
            };
            let about = file.metadata()?;
            modified = modified.max(about.modified()?);
            files.push(Piece {
                file,
                offset: segment.offset,
                len: about.len(),
            });
        }
        Ok(Some(Self { files, modified }))
    }
}

/// A log at one moment: the beginning, a marker where bytes are missing, and the end.
///
/// Its content stays the same even if the log grows or is removed.
#[derive(Debug)]
pub(crate) struct Snapshot {
    parts: Vec<Part>,
    /// The index of the part being read, and the bytes already read of it.
    at: (usize, u64),
    modified: SystemTime,
}

#[derive(Debug)]
enum Part {
    File { file: File, len: u64 },
    Marker(Vec<u8>),
}

impl Part {
    fn len(&self) -> u64 {
        match self {
            Self::File { len, .. } => *len,
            Self::Marker(text) => text.len() as u64,
        }
    }
}

impl Snapshot {
    /// Opens the log at `path`; a missing log is an error.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let Opened { files, modified } = Opened::new(path)?;
        let mut parts = Vec::new();
        let (mut end, mut head) = (0, 0);
        for Piece { file, offset, len } in files {
            if offset > end {
                parts.push(Part::Marker(marker(offset - end, head).into_bytes()));
            }
            if parts.is_empty() {
                head = len;
            }
            end = offset.saturating_add(len);
            parts.push(Part::File { file, len });
        }
        Ok(Self {
            parts,
            at: (0, 0),
            modified,
        })
    }

    /// The length in bytes.
    pub(crate) fn len(&self) -> u64 {
        self.parts.iter().map(Part::len).sum()
    }

    /// True if the log has segments in addition to its own file.
    pub(crate) fn is_in_parts(&self) -> bool {
        self.parts.len() > 1
    }

    /// Returns the log's own file and the number of its bytes that belong to the log. The time is
    /// that of the last write to any file of the log.
    pub(crate) fn into_beginning(self) -> (File, u64, SystemTime) {
        match self.parts.into_iter().next() {
            Some(Part::File { file, len }) => (file, len, self.modified),
            Some(Part::Marker(_)) | None => unreachable!("a snapshot begins with the log's file"),
        }
    }
}

impl Read for Snapshot {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(part) = self.parts.get_mut(self.at.0) {
            let left = usize::try_from(part.len() - self.at.1).unwrap_or(usize::MAX);
            let most = left.min(buffer.len());
            let buffer = &mut buffer[..most];
            if left > 0 {
                let count = match part {
                    Part::Marker(text) => {
                        let from = text.len() - left;
                        buffer.copy_from_slice(&text[from..from + most]);
                        most
                    }
                    Part::File { file, .. } => {
                        file.seek(SeekFrom::Start(self.at.1))?;
                        file.read(buffer)?
                    }
                };
                self.at.1 += count as u64;
                return Ok(count);
            }
            self.at = (self.at.0 + 1, 0);
        }
        Ok(0)
    }
}

/// Reads a log as it grows, from its first byte.
///
/// A marker stands wherever the writer dropped bytes before they were read. No byte is lost or
/// doubled when the writer begins a segment or joins them.
#[derive(Debug)]
pub(crate) struct Follow {
    path: PathBuf,
    now: Option<Current>,
    /// The length of the log's own file when reading moved to a segment: a join appends there.
    head: u64,
}

/// The file being read.
#[derive(Debug)]
struct Current {
    file: File,
    /// The segment's offset in the whole log; `None` for the log's own file.
    segment: Option<u64>,
    /// The bytes returned so far.
    read: u64,
}

impl Current {
    /// The position in the whole log, in bytes.
    fn position(&self) -> u64 {
        self.segment.unwrap_or(0).saturating_add(self.read)
    }
}

impl Follow {
    /// The log at `path` need not exist yet.
    pub(crate) fn open(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            now: None,
            head: 0,
        }
    }

    /// Returns the next bytes, about 256 KiB at most; empty if there are none now. Never blocks.
    pub(crate) fn read_more(&mut self) -> io::Result<Vec<u8>> {
        for _ in 1..TRIES {
            // Listed before the read: a file that has a successor is complete.
            let before = list(&self.path)?;
            let Some(bytes) = self.read_current()? else {
                return Ok(Vec::new());
            };
            if !bytes.is_empty() {
                return Ok(bytes);
            }
            match self.next_file(&before)? {
                Step::Wait => return Ok(Vec::new()),
                Step::Continue => {}
                Step::Lost(marker) => return Ok(marker.into_bytes()),
            }
        }
        Ok(Vec::new())
    }

    /// Reads on in the current file; `None` if there is no log.
    fn read_current(&mut self) -> io::Result<Option<Vec<u8>>> {
        let now = match &mut self.now {
            Some(now) => now,
            none => {
                let file = match open(&self.path) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                    other => other?,
                };
                none.insert(Current {
                    file,
                    segment: None,
                    read: 0,
                })
            }
        };
        let mut bytes = Vec::new();
        now.file.seek(SeekFrom::Start(now.read))?;
        now.file
            .by_ref()
            .take(CHUNK_BYTES)
            .read_to_end(&mut bytes)?;
        if now.segment.is_none() {
            // Listed after the read: while segments exist, bytes after the head are half a join.
            if let Some(segment) = list(&self.path)?.first() {
                let left = segment.head.saturating_sub(now.read);
                bytes.truncate(usize::try_from(left).unwrap_or(usize::MAX));
            }
        }
        now.read += bytes.len() as u64;
        Ok(Some(bytes))
    }

    /// Moves on to the next file, after the current one has been read to its end.
    fn next_file(&mut self, before: &[segments::Segment]) -> io::Result<Step> {
        let Some(now) = &self.now else {
            return Ok(Step::Wait);
        };
        let position = now.position();
        let later = |segment: &&segments::Segment| {
            now.segment.is_none_or(|current| segment.offset > current)
        };
        let Some(next) = before.iter().find(later) else {
            let joined = before.is_empty() && now.segment.is_some();
            return if joined {
                self.switch_to_joined(position)
            } else {
                Ok(Step::Wait)
            };
        };
        if next.offset > position && open(&self.path)?.metadata()?.len() > next.head {
            // A join is running or was interrupted: the missing bytes will follow the head.
            return Ok(Step::Wait);
        }
        let file = match open(&next.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Step::Continue),
            other => other?,
        };
        if now.segment.is_none() {
            self.head = now.read;
        }
        self.now = Some(Current {
            file,
            segment: Some(next.offset),
            read: 0,
        });
        Ok(match next.offset.checked_sub(position) {
            Some(lost) if lost > 0 => Step::Lost(marker(lost, next.head)),
            _ => Step::Continue,
        })
    }

    /// Continues in the log's own file after a join.
    fn switch_to_joined(&mut self, position: u64) -> io::Result<Step> {
        let mut file = match open(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Step::Wait),
            other => other?,
        };
        let head = self.head;
        let mut start = Vec::new();
        file.seek(SeekFrom::Start(head))?;
        file.by_ref().take(MARKER_BYTES).read_to_end(&mut start)?;
        // The bytes after the marker begin at this position of the whole log.
        let (left_out, marker_len) = parse_marker(&start).unwrap_or((0, 0));
        let (begins, file_start) = (head + left_out, head + marker_len as u64);
        let (read, step) = match position.checked_sub(begins) {
            Some(into) => (file_start + into, Step::Continue),
            None => (file_start, Step::Lost(marker(begins - position, head))),
        };
        self.now = Some(Current {
            file,
            segment: None,
            read,
        });
        Ok(step)
    }
}

enum Step {
    /// No bytes are available now.
    Wait,
    /// The next file is open.
    Continue,
    /// The next file is open; this marker comes first.
    Lost(String),
}
