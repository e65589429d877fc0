//! Reads, writes and ends the byte stream of an admitted connection.
//!
//! Every wait has a deadline, and a streamed body has a lowest rate. `connection` and the other
//! protocols use it.

use super::deadline::Deadline;
use super::limits::Limits;
use super::slots::ConnectionSlot;
use nix::libc::linger;
use nix::sys::socket::{setsockopt, sockopt};
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

/// Bytes read at a time, on the stack.
const READ_BYTES: usize = 8 << 10;
/// Bytes of an answer that are written under one deadline.
pub(super) const PIECE_BYTES: usize = 256 << 10;
/// How long a client that is cut off within a request may still send before the close.
const DRAIN_TIME: Duration = Duration::from_secs(1);
/// How many bytes such a client may still send.
const DRAIN_BYTES: u64 = 16 << 20;

/// The server's side of a connection.
pub(crate) struct Wire<'a> {
    slot: &'a ConnectionSlot,
    stream: &'a TcpStream,
    limits: &'a Limits,
    /// Bytes read but not consumed. The caller of [`Wire::read_more`] limits their number.
    input: Vec<u8>,
}

impl<'a> Wire<'a> {
    pub(crate) fn new(slot: &'a ConnectionSlot, limits: &'a Limits) -> Self {
        Self::with_input(slot, limits, Vec::new())
    }

    /// Continues with bytes that another wire of the connection has read but not consumed.
    pub(super) fn with_input(slot: &'a ConnectionSlot, limits: &'a Limits, input: Vec<u8>) -> Self {
        Self {
            slot,
            stream: slot.stream(),
            limits,
            input,
        }
    }

    /// Returns the bytes that are read but not consumed.
    pub(super) fn into_input(self) -> Vec<u8> {
        self.input
    }

    /// Returns the bytes that are read but not consumed.
    pub(crate) fn input(&self) -> &[u8] {
        &self.input
    }

    /// Consumes the first `count` bytes of the input, or all of it if it is shorter.
    pub(crate) fn take(&mut self, count: usize) -> Vec<u8> {
        self.input.drain(..count.min(self.input.len())).collect()
    }

    /// Reads once and appends to the input; false if the peer has closed its side.
    pub(crate) fn read_more(&mut self, deadline: Instant) -> io::Result<bool> {
        self.slot.mark_reading();
        let mut buffer = [0; READ_BYTES];
        let count = Deadline::new(self.stream, deadline).read(&mut buffer)?;
        self.input.extend_from_slice(&buffer[..count]);
        Ok(count > 0)
    }

    /// Reads the next `len` bytes, all by `deadline`.
    pub(super) fn read_whole(&mut self, len: usize, deadline: Instant) -> io::Result<Vec<u8>> {
        self.slot.mark_reading();
        let mut body = self.take(len);
        body.reserve_exact(len - body.len());
        let missing = (len - body.len()) as u64;
        let rest = Deadline::new(self.stream, deadline);
        rest.take(missing).read_to_end(&mut body)?;
        if body.len() < len {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        Ok(body)
    }

    /// Returns a reader of the next `len` bytes, and protects the connection from eviction.
    pub(crate) fn body(&mut self, len: u64) -> BodyReader<'_, 'a> {
        // An evicted connection is shut down for reading, so its reader fails.
        self.slot.mark_serving();
        BodyReader {
            wire: self,
            left: len,
            received: 0,
            begun: Instant::now(),
            continue_line: None,
        }
    }

    /// Writes all of `bytes` by `deadline`, and each piece of them within `write_secs`.
    pub(crate) fn write(&self, bytes: &[u8], deadline: Instant) -> io::Result<()> {
        let piece_time = Duration::from_secs(self.limits.write_secs);
        bytes.chunks(PIECE_BYTES).try_for_each(|piece| {
            let until = deadline.min(Instant::now() + piece_time);
            Deadline::new(self.stream, until).write_all(piece)
        })
    }

    /// Returns whether the peer has closed its side or the connection is broken. Does not wait.
    pub(super) fn peer_has_closed(&self) -> bool {
        let peek = || {
            self.stream.set_nonblocking(true)?;
            let peeked = self.stream.peek(&mut [0]);
            self.stream.set_nonblocking(false)?;
            peeked
        };
        match peek() {
            Ok(count) => count == 0,
            Err(error) => error.kind() != ErrorKind::WouldBlock,
        }
    }

    /// Sends the next `len` bytes of `file`, at most one piece, by `deadline` and within
    /// `write_secs`. `sendfile` takes a third of the processor time of a copy in this process.
    pub(super) fn send_file(&self, file: &File, len: u64, deadline: Instant) -> io::Result<()> {
        let until = deadline.min(Instant::now() + Duration::from_secs(self.limits.write_secs));
        Deadline::new(self.stream, until).send(file, len)
    }

    /// Reads and discards what the peer still sends before the close. Data that arrives at a closed
    /// socket makes the kernel reset the connection, and the peer loses the answer.
    pub(crate) fn drain(&self) {
        self.slot.mark_reading();
        let until = Instant::now() + DRAIN_TIME;
        if self.stream.shutdown(Shutdown::Write).is_ok() {
            let mut rest = Deadline::new(self.stream, until).take(DRAIN_BYTES);
            // An error means that the peer has closed, so nothing is left to drain.
            let _ = io::copy(&mut rest, &mut io::sink());
        }
    }

    /// Makes the close discard unsent data. Otherwise the kernel keeps megabytes for a peer that
    /// has stopped reading.
    pub(crate) fn reset(&self) {
        let now = linger {
            l_onoff: 1,
            l_linger: 0,
        };
        // Best effort: on failure the kernel frees the data later.
        let _ = setsockopt(self.stream, sockopt::Linger, &now);
    }
}

/// Reads a body that is not held in memory.
///
/// A read fails with [`ErrorKind::TimedOut`] after `request_secs` of silence. It also fails so when
/// the body has taken longer than `request_secs` plus the time that the lowest rate allows. It
/// fails with [`ErrorKind::UnexpectedEof`] when the peer stops sending before the end.
pub(crate) struct BodyReader<'w, 'a> {
    wire: &'w mut Wire<'a>,
    left: u64,
    received: u64,
    begun: Instant,
    /// `100 Continue`, to be written before the first read, if the peer waits for it.
    pub(super) continue_line: Option<&'static [u8]>,
}

impl BodyReader<'_, '_> {
    /// Returns how many bytes are not read yet.
    pub(crate) fn left(&self) -> u64 {
        self.left
    }

    fn deadline(&self) -> Instant {
        let limits = self.wire.limits;
        let silence = Duration::from_secs(limits.request_secs);
        let due = Duration::from_secs(self.received / limits.lowest_rate.max(1));
        (Instant::now() + silence).min(self.begun + silence + due)
    }
}

impl Read for BodyReader<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let Some(buffer) = buffer.get_mut(..most).filter(|buffer| !buffer.is_empty()) else {
            return Ok(0);
        };
        let deadline = self.deadline();
        let count = if self.wire.input.is_empty() {
            if let Some(continue_line) = self.continue_line.take() {
                self.wire.write(continue_line, deadline)?;
            }
            Deadline::new(self.wire.stream, deadline).read(buffer)?
        } else {
            let count = self.wire.input.as_slice().read(buffer)?;
            self.wire.input.drain(..count);
            count
        };
        if count == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        self.received += count as u64;
        self.left -= count as u64;
        Ok(count)
    }
}
