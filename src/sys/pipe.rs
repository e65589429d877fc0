//! Makes a pipe, as `std::io::pipe` of Rust 1.87.

use std::fs::File;
use std::io;

use rustix::pipe::{PipeFlags, pipe_with};

/// Returns the reading and the writing end. No other program inherits them by accident.
pub(crate) fn pipe() -> io::Result<(File, File)> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
    Ok((File::from(reader), File::from(writer)))
}
