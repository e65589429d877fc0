//! How do bytes that come in get to the disk, summed on the way, without one waiting for another?
//!
//! What is written is summed by a second thread and brought to the disk by a third while more
//! comes; memory is constant. A small file is not worth threads.

use std::io::{self, Read};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread::{self, JoinHandle};

use sha1::{Digest as _, Sha1};

use super::digest::hex;
use super::fs::{Error, TempFile};

/// Bytes of a piece: large enough that system calls and hand-overs do not show.
pub(crate) const PIECE_BYTES: usize = 256 << 10;
/// Pieces on their way to the sum.
const PIECES: usize = 4;
/// Bytes from which on threads are used.
const SMALL_BYTES: u64 = 1 << 20;
/// Bytes between two flushes to the disk.
const FLUSH_BYTES: u64 = 32 << 20;

/// A file being written.
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
    /// Pieces that are summed, to be filled again.
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

    /// Bytes written so far.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// The file that is written.
    pub(crate) fn temp(&self) -> &TempFile {
        &self.temp
    }

    /// Returns a piece to be filled.
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
        if let Hashing::Inline(hasher) = &self.hashing
            && self.len >= SMALL_BYTES
            // Where there are no more threads to be had, it goes without.
            && let Ok(threads) = Threads::start(hasher.clone(), &self.temp)
        {
            self.hashing = Hashing::Threads(threads);
        }
        match &mut self.hashing {
            Hashing::Inline(hasher) => hasher.update(&piece),
            Hashing::Threads(threads) => {
                let taken = threads.pieces.send(piece);
                taken.expect("it sums until we stop sending");
                if self.len / FLUSH_BYTES > before / FLUSH_BYTES {
                    // It may still be at the last one.
                    let _ = threads.flush.try_send(());
                }
            }
        }
        Ok(())
    }

    /// Returns the file, not yet named nor all on disk, and its SHA-1 in lower-case hexadecimal.
    pub(crate) fn finish(self) -> (TempFile, String) {
        let hasher = match self.hashing {
            Hashing::Inline(hasher) => hasher,
            Hashing::Threads(Threads { pieces, hasher, .. }) => {
                drop(pieces);
                hasher.join().expect("summing does not panic")
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
                // Nobody wants it back after the last one.
                let _ = give_back.send(piece);
            }
            hasher
        };
        let (flush, requests) = mpsc::sync_channel::<()>(1);
        let file = temp.handle()?;
        let flush_loop = move || {
            for () in requests {
                // The end tells what went wrong.
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

/// Replaces what is in `piece` by the next bytes of `source`; none at its end.
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
    fn small_and_large_files_come_whole_and_with_their_sums() {
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
            let (temp, sum) = writer.finish();
            let path = dir.path().join("file");
            temp.persist(&path, 0o644).unwrap();
            assert_eq!(sha1_of(&path).unwrap(), (sum, len as u64));
        }
    }

    #[test]
    fn a_file_given_up_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = HashingWriter::to(TempFile::create(dir.path()).unwrap());
        writer.write(vec![1; 2 << 20]).unwrap();
        drop(writer);
        assert_eq!(dir.path().read_dir().unwrap().count(), 0);
    }
}
