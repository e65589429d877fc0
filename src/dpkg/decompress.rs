//! Decompresses files of archives, such as `Packages.xz`, by their first bytes.

use std::io::{self, Read};

use flate2::read::MultiGzDecoder;
use lzma_rust2::XzReader;

/// The most bytes that a file may have, decompressed.
const MAX_BYTES: u64 = 2 << 30;
/// The most memory that xz may use, in KiB: `xz -9` needs 65 MiB.
const MAX_WINDOW_KIB: u32 = 72 << 10;

const GZIP: &[u8] = b"\x1f\x8b";
const XZ: &[u8] = b"\xfd7zXZ\0";

/// Returns the content of a file that may be compressed by gzip or xz.
pub(crate) fn decompress(bytes: Vec<u8>) -> io::Result<Vec<u8>> {
    if bytes.starts_with(GZIP) {
        read(MultiGzDecoder::new(&bytes[..]))
    } else if bytes.starts_with(XZ) {
        read(XzReader::new_mem_limit(&bytes[..], true, MAX_WINDOW_KIB))
    } else {
        Ok(bytes)
    }
}

fn read(from: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > MAX_BYTES {
        true => Err(io::Error::other(format!(
            "it has more than {} MiB, decompressed",
            MAX_BYTES >> 20
        ))),
        false => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    use super::*;

    fn piped(program: &str, input: &[u8]) -> Vec<u8> {
        let mut command = Command::new(program);
        command
            .arg("-c")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        child.wait_with_output().unwrap().stdout
    }

    #[test]
    fn each_compression_gives_the_same_bytes() {
        let text = b"Package: a\nVersion: 1\n\n".repeat(100);
        for packed in [text.clone(), piped("gzip", &text), piped("xz", &text)] {
            assert_eq!(decompress(packed).unwrap(), text);
        }
        for program in ["gzip", "xz"] {
            let mut cut = piped(program, &text);
            cut.truncate(cut.len() - 10);
            assert!(decompress(cut).is_err(), "{program}");
        }
    }
}
