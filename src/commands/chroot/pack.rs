//! Writes a tar stream to a file, compressed by gzip, bzip2, xz or zstd, and hashes it.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::{ChildStdout, Command, Stdio};

use sha1_smol::Sha1;

use crate::commands::output::Output;
use crate::commands::site::{self, at};
use crate::protocol::Sha1Hex;
use crate::sys::compression::{Compression, MAGIC_BYTES};
use crate::sys::digest::sha1_of;

use super::Error;

/// Detects the compression of a file by its magic bytes.
pub(super) fn compression_of(path: &Path) -> Result<Compression, site::Error> {
    let mut magic = Vec::new();
    let file = File::open(path).map_err(at(path))?;
    let mut start = file.take(MAGIC_BYTES as u64);
    start.read_to_end(&mut magic).map_err(at(path))?;
    Ok(Compression::by_magic(&magic))
}

/// A tarball that was written.
#[derive(Debug)]
pub(super) struct Packed {
    pub(super) sha1: Sha1Hex,
    /// In bytes.
    pub(super) size: u64,
}

/// Writes `stream` to the file `to`. At the end of the stream, `check` returns an error if the
/// stream is incomplete; then the file is not created.
pub(super) fn pack(
    stream: ChildStdout,
    compression: Compression,
    to: &Path,
    check: impl FnOnce() -> Result<(), Error>,
) -> Result<Packed, Error> {
    let mut output = Output::create(to)?;
    let (mut hash, mut size) = (Sha1::new(), 0);
    let mut observe = |chunk: &[u8]| {
        hash.update(chunk);
        size += chunk.len() as u64;
    };
    match compression.program() {
        None => {
            let mut stream = stream;
            output.append(&mut stream, &mut observe)?;
        }
        Some((program, options, package)) => {
            let mut child = Command::new(program)
                .args(options)
                .stdin(Stdio::from(stream))
                .stdout(Stdio::piped())
                .spawn()
                .map_err(|source| Error::NoProgram {
                    program,
                    package,
                    source,
                })?;
            let mut compressed = child.stdout.take().expect("stdout is piped");
            let written = output.append(&mut compressed, &mut observe);
            // Close the pipe before the wait, or the program may block on it.
            drop(compressed);
            let status = child.wait().map_err(at(to))?;
            written?;
            if !status.success() {
                return Err(Error::Program {
                    program: program.to_owned(),
                    status: status.to_string(),
                    tar: to.to_owned(),
                });
            }
        }
    }
    check()?;
    output.finish()?;
    let sha1 = parse(&hash.digest().to_string());
    Ok(Packed { sha1, size })
}

/// Returns the SHA-1 of the file at `path`.
pub(super) fn sha1(path: &Path) -> Result<Sha1Hex, site::Error> {
    let (digest, _) = sha1_of(path).map_err(at(path))?;
    Ok(parse(&digest))
}

/// Returns the text of `/var/lib/dpkg/status` in a tarball; `None` if there is none.
pub(super) fn status(tar: &Path) -> Result<Option<String>, site::Error> {
    // tar runs the decompressor; it stops at the first such file.
    let output = Command::new("tar")
        .args(["--extract", "--to-stdout", "--occurrence=1", "--wildcards"])
        .args(compression_of(tar)?.tar_option())
        .arg("--file")
        .arg(tar)
        // Behind `./` or `chroot-autobuild/`.
        .arg("*var/lib/dpkg/status")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .map_err(at(tar))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok((!text.is_empty()).then_some(text))
}

fn parse(digest: &str) -> Sha1Hex {
    Sha1Hex::parse(digest).expect("a digest is forty hexadecimal digits")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn pack_text(name: &str, whole: bool) -> (tempfile::TempDir, Result<Packed, Error>) {
        let dir = tempfile::tempdir().unwrap();
        let mut echo = Command::new("echo")
            .arg("tar")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let compression = Compression::by_name(name).unwrap();
        let packed = pack(
            echo.stdout.take().unwrap(),
            compression,
            &dir.path().join(name),
            || {
                echo.wait().unwrap();
                whole.then_some(()).ok_or(Error::NoRelease)
            },
        );
        (dir, packed)
    }

    #[test]
    fn a_packed_file_has_the_returned_hash_and_size() {
        for name in ["x.tar", "x.tar.gz"] {
            let (dir, packed) = pack_text(name, true);
            let (packed, path) = (packed.unwrap(), dir.path().join(name));
            assert_eq!(packed.sha1, sha1(&path).unwrap());
            assert_eq!(packed.size, fs::metadata(&path).unwrap().len());
            assert_eq!(
                Some(compression_of(&path).unwrap()),
                Compression::by_name(name)
            );
        }
    }

    #[test]
    fn an_incomplete_stream_leaves_no_file() {
        let (dir, packed) = pack_text("x.tar.gz", false);
        assert!(packed.is_err());
        assert_eq!(dir.path().read_dir().unwrap().count(), 0);
    }
}
