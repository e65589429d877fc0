//! Writes a stream to a file; writing, hashing and flushing run in parallel.
//!
//! One thread computes the SHA-1 and another flushes to disk while the caller writes. Memory use
//! is constant. Small files get no threads.

use std::io::{self, Read};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread::{self, JoinHandle};

use sha1::{Digest as _, Sha1};

use super::digest::hex;
use super::fs::{Error, TempFile};

/// The size of a piece. Large enough to make the cost of system calls and channels negligible.
pub(crate) const PIECE_BYTES: usize = 256 << 10;
/// The number of pieces that may wait to be hashed.
const PIECES: usize = 4;
/// The file size in bytes from which threads are used.
const SMALL_BYTES: u64 = 1 << 20;
/// The number of bytes between two flushes to disk.
const FLUSH_BYTES: u64 = 32 << 20;

/// A file being written and hashed.
#[derive(Debug)]
pub(crate) struct HashingWriter {
    temp: TempFile,
    len: u64,
    hashing: Hashing,
}

#[derive(Debug)]
enum Hashing {
    Inline(Sha1),
    Threads(Threads),
}

#[derive(Debug)]
struct Threads {
    pieces: SyncSender<Vec<u8>>,
    /// Hashed pieces, to be filled again.
    spare: Receiver<Vec<u8>>,
    hasher: JoinHandle<Sha1>,
    flush: SyncSender<()>,
}

impl HashingWriter {
    pub(crate) fn to(temp: TempFile) -> Self {
        Self {
            temp,
            len: 0,
            hashing: Hashing::Inline(Sha1::new()),
        }
    }

    /// Returns the number of bytes written so far.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    pub(crate) fn temp(&self) -> &TempFile {
        &self.temp
    }

    /// Returns a buffer for the next piece.
    pub(crate) fn spare(&self) -> Vec<u8> {
        match &self.hashing {
            Hashing::Inline(_) => Vec::new(),
            Hashing::Threads(threads) => threads.spare.try_recv().unwrap_or_default(),
        }
    }

    /// Appends a piece.
    pub(crate) fn write(&mut self, piece: Vec<u8>) -> Result<(), Error> {
        self.temp.write_all(&piece)?;
        let before = self.len;
        self.len += piece.len() as u64;
        match &self.hashing {
            Hashing::Inline(hasher) if self.len >= SMALL_BYTES => {
                // If the system refuses a thread, hashing stays in this one.
                if let Ok(threads) = Threads::start(hasher.clone(), &self.temp) {
                    self.hashing = Hashing::Threads(threads);
                }
            }
            _ => {}
        }
        match &mut self.hashing {
            Hashing::Inline(hasher) => hasher.update(&piece),
            Hashing::Threads(threads) => {
                let sent = threads.pieces.send(piece);
                sent.expect("the hash thread receives until the sender is dropped");
                if self.len / FLUSH_BYTES > before / FLUSH_BYTES {
                    // A full channel means that a flush is already due.
                    let _ = threads.flush.try_send(());
                }
            }
        }
        Ok(())
    }

    /// Returns the file and its SHA-1 in lower-case hexadecimal. The file is neither renamed nor
    /// synced yet.
    pub(crate) fn finish(self) -> (TempFile, String) {
        let hasher = match self.hashing {
            Hashing::Inline(hasher) => hasher,
            Hashing::Threads(Threads { pieces, hasher, .. }) => {
                drop(pieces);
                hasher.join().expect("hashing does not panic")
            }
        };
        (self.temp, hex(&hasher.finalize()))
    }
}

impl Threads {
    fn start(mut hasher: Sha1, temp: &TempFile) -> io::Result<Self> {
        let (pieces, coming) = mpsc::sync_channel::<Vec<u8>>(PIECES);
        let (give_back, spare) = mpsc::channel();
        let hash_loop = move || {
            for piece in coming {
                hasher.update(&piece);
                // The writer may have been dropped.
                let _ = give_back.send(piece);
            }
            hasher
        };
        let (flush, requests) = mpsc::sync_channel::<()>(1);
        let file = temp.handle()?;
        let flush_loop = move || {
            for () in requests {
                // The final sync reports errors.
                let _ = file.sync_data();
            }
        };
        let hasher = thread::Builder::new()
            .name("hash".into())
            .spawn(hash_loop)?;
        thread::Builder::new()
            .name("flush".into())
            .spawn(flush_loop)?;
        Ok(Self {
            pieces,
            spare,
            hasher,
            flush,
        })
    }
}

/// Fills `piece` with the next bytes of `source`, at most [`PIECE_BYTES`]. Empty means the end.
pub(crate) fn fill(source: &mut (impl Read + ?Sized), piece: &mut Vec<u8>) -> io::Result<()> {
    piece.resize(PIECE_BYTES, 0);
    let mut filled = 0;
    while filled < PIECE_BYTES / 2 {
        match source.read(&mut piece[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    piece.truncate(filled);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::digest::sha1_of;

    /// Yields its bytes in pieces of odd lengths.
    struct Odd<'a>(&'a [u8]);

    impl Read for Odd<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let count = self.0.len().min(buffer.len()).min(7777);
            let (now, later) = self.0.split_at(count);
            buffer[..count].copy_from_slice(now);
            self.0 = later;
            Ok(count)
        }
    }

    #[test]
    fn files_of_all_sizes_are_written_and_hashed() {
        let dir = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = (0..40_000_000_u32).map(|n| (n % 251) as u8).collect();
        let small = usize::try_from(SMALL_BYTES).unwrap();
        for len in [0, 5, small - 1, small, bytes.len()] {
            let mut source = Odd(&bytes[..len]);
            let mut writer = HashingWriter::to(TempFile::create(dir.path()).unwrap());
            loop {
                let mut piece = writer.spare();
                fill(&mut source, &mut piece).unwrap();
                if piece.is_empty() {
                    break;
                }
                writer.write(piece).unwrap();
            }
            assert_eq!(writer.len(), len as u64);
            let (temp, sha1) = writer.finish();
            let path = dir.path().join("file");
            temp.persist(&path, 0o644).unwrap();
            assert_eq!(sha1_of(&path).unwrap(), (sha1, len as u64));
        }
    }

    #[test]
    fn a_dropped_writer_leaves_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = HashingWriter::to(TempFile::create(dir.path()).unwrap());
        writer.write(vec![1; 2 << 20]).unwrap();
        drop(writer);
        assert_eq!(dir.path().read_dir().unwrap().count(), 0);
    }
}
