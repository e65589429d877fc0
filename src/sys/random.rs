//! Makes words that nobody can guess.

use std::fs::File;
use std::io::Read as _;

use super::digest::hex;

/// Returns `bytes` random bytes of the kernel in hexadecimal.
///
/// # Panics
/// If the kernel has no `/dev/urandom`: then nothing here is safe.
pub(crate) fn word(bytes: usize) -> String {
    let mut random = vec![0; bytes];
    File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut random))
        .expect("/dev/urandom is readable");
    hex(&random)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_words_are_alike() {
        let words = [word(16), word(16)];
        assert!(words.iter().all(|word| word.len() == 32));
        assert_ne!(words[0], words[1]);
    }
}
