//! Pure: the SHA-256 that the archive's index states for a file.
//!
//! A URL below `by-hash/SHA256/` states it itself. The other hashes come from package lists. They
//! may be forged, so they only name cache entries: an entry always has the hash of its name.

use std::collections::HashMap;
use std::fmt::Write as _;

use super::url::{Url, Userinfo};

/// The most files that are remembered; Debian and Ubuntu have less than 100,000 each.
const MAX_FILES: usize = 1_000_000;

/// A SHA-256.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Sha256Hash([u8; 32]);

impl Sha256Hash {
    pub(super) fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Parses 64 hexadecimal digits.
    pub(super) fn parse(text: &str) -> Option<Self> {
        if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        let mut bytes = [0; 32];
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
        }
        Some(Self(bytes))
    }

    /// Returns the hash in lower-case hexadecimal.
    pub(super) fn hex(&self) -> String {
        self.0.iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    }
}

/// A file as an index describes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Expected {
    pub(super) sha256: Sha256Hash,
    pub(super) bytes: Option<u64>,
}

/// The files of all indexes that the gate was told.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// By URL, or by the path below an archive. Two archives may use one path for different files.
    files: HashMap<String, Vec<Expected>>,
}

impl Known {
    /// Remembers the SHA-256 and size of a file, by its URL or by its path below its archive.
    /// Ignores a malformed one.
    pub(super) fn insert(&mut self, name: &str, sha256: &str, bytes: u64) {
        let Some(sha256) = Sha256Hash::parse(sha256) else {
            return;
        };
        let key = if name.contains("://") {
            match Url::parse(name, Userinfo::Drop) {
                Ok(url) => key(&url),
                Err(_) => return,
            }
        } else {
            name.split('/')
                .filter(|segment| !segment.is_empty() && *segment != ".")
                .collect::<Vec<_>>()
                .join("/")
        };
        if self.files.len() >= MAX_FILES {
            return;
        }
        let expected = Expected {
            sha256,
            bytes: Some(bytes),
        };
        let all = self.files.entry(key).or_default();
        if !all.contains(&expected) {
            all.push(expected);
        }
    }

    /// Returns the files that `url` may be; `below` are its paths below its archives.
    pub(super) fn find(&self, url: &Url, below: &[String]) -> Vec<Expected> {
        if let [.., folder, kind, digits] = url.segments.as_slice() {
            if folder == "by-hash" && kind == "SHA256" {
                let sha256 = Sha256Hash::parse(digits);
                return sha256
                    .map(|sha256| Expected {
                        sha256,
                        bytes: None,
                    })
                    .into_iter()
                    .collect();
            }
        }
        if let Some(exact) = self.files.get(&key(url)) {
            return exact.clone();
        }
        let found = below.iter().filter_map(|path| self.files.get(path));
        found.flatten().copied().collect()
    }
}

fn key(url: &Url) -> String {
    format!("{}/{}", url.origin, url.segments.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    const B: &str = "BBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBB";

    fn find(known: &Known, url: &str, below: &[&str]) -> Vec<String> {
        let url = Url::parse(url, Userinfo::Refuse).unwrap();
        let below: Vec<String> = below.iter().map(|&path| path.to_owned()).collect();
        let found = known.find(&url, &below).into_iter();
        found.map(|file| file.sha256.hex()).collect()
    }

    #[test]
    fn hashes_are_found_by_url_path_and_by_hash() {
        let mut known = Known::default();
        known.insert("./pool/g++_1.deb", A, 5);
        known.insert("pool/g++_1.deb", B, 6);
        known.insert("http://Deb.example:80/d/pool/g%2b%2b_1.deb", B, 6);
        known.insert("http://deb.example/d/x", "short", 6);
        let b = B.to_lowercase();
        let url = "http://deb.example/d/pool/g++_1.deb";
        assert_eq!(
            find(&known, url, &["pool/g++_1.deb"]),
            std::slice::from_ref(&b)
        );
        let other = "http://other.example/d/pool/g%2B%2B_1.deb";
        assert_eq!(find(&known, other, &["pool/g++_1.deb"]), [A, &b]);
        assert_eq!(find(&known, "http://deb.example/d/x", &["x"]), [""; 0]);
        let by_hash = format!("http://deb.example/d/main/by-hash/SHA256/{B}");
        assert_eq!(find(&known, &by_hash, &[]), [b]);
        let cut = format!("http://deb.example/d/main/by-hash/SHA256/{}", &B[1..]);
        assert_eq!(find(&known, &cut, &[]), [""; 0]);
    }
}
