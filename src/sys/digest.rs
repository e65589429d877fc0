//! Computes the SHA-1 of files and streams.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use sha1::{Digest as _, Sha1};

const CHUNK_BYTES: usize = 256 << 10;

/// Returns the SHA-1 of the file at `path`, in lower-case hexadecimal, and its length in bytes.
pub(crate) fn sha1_of(path: &Path) -> io::Result<(String, u64)> {
    sha1_from(&mut File::open(path)?)
}

/// Reads `source` to its end; returns its SHA-1 in lower-case hexadecimal and its length in bytes.
pub(crate) fn sha1_from(source: &mut impl Read) -> io::Result<(String, u64)> {
    let (mut hasher, mut length) = (Sha1::new(), 0);
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        match source.read(&mut buffer) {
            Ok(0) => return Ok((hex(&hasher.finalize()), length)),
            Ok(count) => {
                hasher.update(&buffer[..count]);
                length += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Returns bytes in lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sha1_and_length_of_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        std::fs::write(&path, "Hello World").unwrap();
        let sha1 = "0a4d55a8d778e5022fab701977c5d840bbc486d0".to_owned();
        assert_eq!(sha1_of(&path).unwrap(), (sha1, 11));
        assert!(sha1_of(&dir.path().join("y")).is_err());
    }
}
