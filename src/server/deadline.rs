//! A socket whose reads and writes all end by one deadline, however slowly bytes arrive.
//!
//! A plain socket timeout restarts with each byte. This file sets the timeout to the remaining time
//! before each call. The caller decides what a passed deadline means. Used by `wire`.

use nix::errno::Errno;
use nix::sys::sendfile::sendfile;
use std::fs::File;
use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// Bytes per `sendfile` call. The kernel sends this many at once, and applies the whole timeout to
/// each such part of a longer call.
const SEND_BYTES: usize = 64 << 10;

/// A borrowed socket that fails with [`ErrorKind::TimedOut`] after its deadline.
pub(super) struct Deadline<'a> {
    stream: &'a TcpStream,
    until: Instant,
}

impl<'a> Deadline<'a> {
    pub(super) fn new(stream: &'a TcpStream, until: Instant) -> Self {
        Self { stream, until }
    }

    fn left(&self) -> Result<Duration> {
        match self.until.saturating_duration_since(Instant::now()) {
            Duration::ZERO => Err(ErrorKind::TimedOut.into()),
            left => Ok(left),
        }
    }
}

impl Deadline<'_> {
    /// Sends the next `len` bytes of `file`; fails if the file is shorter.
    pub(super) fn send(&self, file: &File, len: u64) -> Result<()> {
        let mut left = len;
        while left > 0 {
            self.stream.set_write_timeout(Some(self.left()?))?;
            let count = usize::try_from(left).map_or(SEND_BYTES, |left| left.min(SEND_BYTES));
            match sendfile(self.stream, file, None, count) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => left -= count as u64,
                Err(Errno::EINTR) => {}
                Err(error) => return Err(timed_out(error.into())),
            }
        }
        Ok(())
    }
}

impl Read for Deadline<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        self.stream.set_read_timeout(Some(self.left()?))?;
        self.stream.read(buffer).map_err(timed_out)
    }
}

impl Write for Deadline<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        self.stream.set_write_timeout(Some(self.left()?))?;
        self.stream.write(bytes).map_err(timed_out)
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

/// Linux reports a socket timeout as "would block".
fn timed_out(error: Error) -> Error {
    match error.kind() {
        ErrorKind::WouldBlock => ErrorKind::TimedOut.into(),
        _ => error,
    }
}
