//! A connection with a buffer of read bytes, whose reads and writes end by a deadline.

use std::fs::File;
use std::io::{Error, ErrorKind, Read, Result, Write};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::sendfile::sendfile;
use nix::sys::socket::{MsgFlags, recv};

use super::sockets::Socket;

/// Bytes of a file that are read and written at a time.
pub(super) const PIECE_BYTES: usize = 256 << 10;
/// Bytes of heads and chunk sizes that are read at a time.
const READ_BYTES: usize = 16 << 10;

pub(super) struct Wire {
    socket: Socket,
    input: Vec<u8>,
}

impl Wire {
    pub(super) fn new(socket: Socket) -> Self {
        // Without it, small heads wait for acknowledgements. Works without as well.
        let _ = socket.set_nodelay(true);
        Self {
            socket,
            input: Vec::new(),
        }
    }

    pub(super) fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Returns the bytes that are read but not consumed.
    pub(super) fn input(&self) -> &[u8] {
        &self.input
    }

    pub(super) fn consume(&mut self, count: usize) {
        self.input.drain(..count);
    }

    /// Reads once and appends to the input; false if the peer has closed its side.
    pub(super) fn fill(&mut self, until: Instant) -> Result<bool> {
        let mut buffer = [0; READ_BYTES];
        self.socket.set_read_timeout(Some(left(until)?))?;
        let count = read_once(&self.socket, &mut buffer)?;
        self.input.extend_from_slice(&buffer[..count]);
        Ok(count > 0)
    }

    /// Appends the bytes that have already arrived to the input; false if there are none.
    pub(super) fn fill_now(&mut self) -> bool {
        let mut buffer = [0; READ_BYTES];
        let arrived = recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT);
        // An error occurs again when the next read has to wait.
        let count = arrived.unwrap_or(0);
        self.input.extend_from_slice(&buffer[..count]);
        count > 0
    }

    /// Reads once, from the input first; 0 if the peer has closed its side.
    pub(super) fn read(&mut self, buffer: &mut [u8], until: Instant) -> Result<usize> {
        if self.input.is_empty() {
            self.socket.set_read_timeout(Some(left(until)?))?;
            return read_once(&self.socket, buffer);
        }
        let count = buffer.len().min(self.input.len());
        buffer[..count].copy_from_slice(&self.input[..count]);
        self.consume(count);
        Ok(count)
    }

    pub(super) fn write_all(&self, mut bytes: &[u8], until: Instant) -> Result<()> {
        while !bytes.is_empty() {
            self.socket.set_write_timeout(Some(left(until)?))?;
            match (&*self.socket).write(bytes) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(timed_out(error)),
            }
        }
        Ok(())
    }

    /// Sends the next `bytes` of `file`; each piece may take `piece_time`.
    pub(super) fn send_file(&self, file: &File, bytes: u64, piece_time: Duration) -> Result<()> {
        let mut missing = bytes;
        self.socket.set_write_timeout(Some(piece_time))?;
        while missing > 0 {
            let most = usize::try_from(missing).map_or(PIECE_BYTES, |most| most.min(PIECE_BYTES));
            match sendfile(&*self.socket, file, None, most) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => missing -= count as u64,
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(timed_out(errno.into())),
            }
        }
        Ok(())
    }
}

fn read_once(mut stream: &std::net::TcpStream, buffer: &mut [u8]) -> Result<usize> {
    loop {
        match stream.read(buffer) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            other => return other.map_err(timed_out),
        }
    }
}

fn left(until: Instant) -> Result<Duration> {
    match until.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(ErrorKind::TimedOut.into()),
        left => Ok(left),
    }
}

/// Linux reports a socket timeout as "would block".
pub(super) fn timed_out(error: Error) -> Error {
    match error.kind() {
        ErrorKind::WouldBlock => ErrorKind::TimedOut.into(),
        _ => error,
    }
}
