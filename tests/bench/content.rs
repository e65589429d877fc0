//! The large files for the measurements.

use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use tempfile::TempDir;

use crate::support::machine::sum;

/// 1 GiB.
pub(crate) const BIG_BYTES: u64 = 1 << 30;

/// Large files, made on first use.
pub(crate) struct Content {
    dir: TempDir,
    big: OnceLock<String>,
}

impl Content {
    pub(crate) fn new() -> Self {
        let dir = tempfile::Builder::new()
            .prefix("buildd-bench-")
            .tempdir()
            .unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        Self {
            dir,
            big: OnceLock::new(),
        }
    }

    /// A file of 1 GiB of pseudo-random bytes, and its SHA-1.
    pub(crate) fn big(&self) -> (PathBuf, &str) {
        let path = self.dir.path().join("big");
        let sum = self.big.get_or_init(|| {
            let mut word = 0x9e37_79b9_7f4a_7c15_u64;
            let block: Vec<u8> = (0..1 << 17)
                .flat_map(|_| next(&mut word).to_ne_bytes())
                .collect();
            let mut file = File::create(&path).unwrap();
            for number in 0..BIG_BYTES / block.len() as u64 {
                file.write_all(&number.to_ne_bytes()).unwrap();
                file.write_all(&block[8..]).unwrap();
            }
            sum("sha1sum", &path)
        });
        (path, sum)
    }

    /// Makes a file of about that length with lines of a compiler, and sometimes a URL with a
    /// password.
    pub(crate) fn log(&self, name: &str, megabytes: usize) -> PathBuf {
        let path = self.dir.path().join(name);
        let mut text = String::new();
        for number in 0..5000 {
            text.push_str(&format!(
                "gcc -DHAVE_CONFIG_H -I. -I.. -g -O2 -fstack-protector-strong -Wformat -c -o \
                 lib/part-{number}.o ../lib/part-{number}.c\n"
            ));
            if number % 100 == 0 {
                text.push_str(
                    "Get:7 https://user:secret@archive.example.org/debian bookworm/main\n",
                );
            }
        }
        let mut file = BufWriter::new(File::create(&path).unwrap());
        for _ in 0..megabytes * 1_000_000 / text.len() {
            file.write_all(text.as_bytes()).unwrap();
        }
        file.flush().unwrap();
        path
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

/// Marsaglia's xorshift.
fn next(word: &mut u64) -> u64 {
    *word ^= *word << 13;
    *word ^= *word >> 7;
    *word ^= *word << 17;
    *word
}

/// Links a file, or copies it to another file system.
pub(crate) fn place(from: &Path, to: &Path) {
    if fs::hard_link(from, to).is_err() {
        let mut copy = Command::new("cp");
        assert!(copy.arg(from).arg(to).status().unwrap().success());
    }
}
