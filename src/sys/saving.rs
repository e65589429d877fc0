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
pub(crate) struct Saving {
    temp: TempFile,
    len: u64,
    sum: Sum,
}

#[derive(Debug)]
enum Sum {
    Here(Sha1),
    Threads(Threads),
}

#[derive(Debug)]
struct Threads {
    pieces: SyncSender<Vec<u8>>,
    /// Pieces that are summed, to be filled again.
    spare: Receiver<Vec<u8>>,
    sum: JoinHandle<Sha1>,
    flush: SyncSender<()>,
}

impl Saving {
    pub(crate) fn to(temp: TempFile) -> Self {
        Self {
            temp,
            len: 0,
            sum: Sum::Here(Sha1::new()),
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
        match &self.sum {
            Sum::Here(_) => Vec::new(),
            Sum::Threads(threads) => threads.spare.try_recv().unwrap_or_default(),
        }
    }

    /// Appends a piece.
    pub(crate) fn write(&mut self, piece: Vec<u8>) -> Result<(), Error> {
        self.temp.write_all(&piece)?;
        let before = self.len;
        self.len += piece.len() as u64;
        if let Sum::Here(hasher) = &mut self.sum {
            if self.len < SMALL_BYTES {
                hasher.update(&piece);
                return Ok(());
            }
            let threads = Threads::start(std::mem::take(hasher), &self.temp);
            self.sum = Sum::Threads(threads.map_err(self.temp.failed_to("start a thread for"))?);
        }
        if let Sum::Threads(threads) = &self.sum {
            let taken = threads.pieces.send(piece);
            taken.expect("it sums until we stop sending");
            if self.len / FLUSH_BYTES > before / FLUSH_BYTES {
                // It may still be at the last one.
                let _ = threads.flush.try_send(());
            }
        }
        Ok(())
    }

    /// Returns the file, not yet named nor all on disk, and its SHA-1 in lower-case hexadecimal.
    pub(crate) fn finish(self) -> (TempFile, String) {
        let hasher = match self.sum {
            Sum::Here(hasher) => hasher,
            Sum::Threads(Threads { pieces, sum, .. }) => {
                drop(pieces);
                sum.join().expect("summing does not panic")
            }
        };
        (self.temp, hex(&hasher.finalize()))
    }
}

impl Threads {
    fn start(mut hasher: Sha1, temp: &TempFile) -> io::Result<Self> {
        let (pieces, coming) = mpsc::sync_channel::<Vec<u8>>(PIECES);
        let (give_back, spare) = mpsc::channel();
        let summing = move || {
            for piece in coming {
                hasher.update(&piece);
                // Nobody wants it back after the last one.
                let _ = give_back.send(piece);
            }
            hasher
        };
        let (flush, told) = mpsc::sync_channel::<()>(1);
        let file = temp.handle()?;
        let flushing = move || {
            for () in told {
                // The end tells what went wrong.
                let _ = file.sync_data();
            }
        };
        let sum = thread::Builder::new().name("sum".into()).spawn(summing)?;
        thread::Builder::new()
            .name("flush".into())
            .spawn(flushing)?;
        Ok(Self {
            pieces,
            spare,
            sum,
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
