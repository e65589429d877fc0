//! Computes the hashes of files and streams.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use md5::Md5;
use sha1::{Digest as _, Sha1};
use sha2::Sha256;

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

/// The hashes of one file, in lower-case hexadecimal, and its length in bytes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Hashes {
    pub(crate) md5: String,
    pub(crate) sha1: String,
    pub(crate) sha256: String,
    pub(crate) length: u64,
}

/// Reads the file at `path` once and returns all its hashes.
pub(crate) fn hashes_of(path: &Path) -> io::Result<Hashes> {
    struct All(Md5, Sha1, Sha256);
    impl io::Write for All {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.update(bytes);
            self.1.update(bytes);
            self.2.update(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut all = All(Md5::new(), Sha1::new(), Sha256::new());
    let length = io::copy(
        &mut io::BufReader::with_capacity(CHUNK_BYTES, File::open(path)?),
        &mut all,
    )?;
    Ok(Hashes {
        md5: hex(&all.0.finalize()),
        sha1: hex(&all.1.finalize()),
        sha256: hex(&all.2.finalize()),
        length,
    })
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
        assert_eq!(sha1_of(&path).unwrap(), (sha1.clone(), 11));
        let all = Hashes {
            md5: "b10a8db164e0754105b7a99be72e3fe5".to_owned(),
            sha1,
            sha256: "a591a6d40bf420404a011733cfb7b190d62c65bf0bcda32b57b277d9ad9f146e".to_owned(),
            length: 11,
        };
        assert_eq!(hashes_of(&path).unwrap(), all);
        assert!(sha1_of(&dir.path().join("y")).is_err());
    }
}
