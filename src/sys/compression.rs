//! Pure: detects how a file is compressed, by its name or its first bytes.

/// How a tarball is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Bzip2,
    Xz,
    Zstd,
}

/// The first bytes that [`Compression::by_magic`] needs.
pub(crate) const MAGIC_BYTES: usize = 6;

impl Compression {
    /// Detects the compression from a file's name; `None` if it is not a tarball's name.
    pub(crate) fn by_name(name: &str) -> Option<Self> {
        let (_, extension) = name.rsplit_once(".tar")?;
        Some(match extension {
            "" => Self::None,
            ".gz" => Self::Gzip,
            ".bz2" => Self::Bzip2,
            ".xz" => Self::Xz,
            ".zst" => Self::Zstd,
            _ => return None,
        })
    }

    /// Detects the compression from a file's first bytes.
    pub(crate) fn by_magic(bytes: &[u8]) -> Self {
        match bytes {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [b'B', b'Z', b'h', ..] => Self::Bzip2,
            [0xfd, b'7', b'z', b'X', b'Z', 0] => Self::Xz,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            _ => Self::None,
        }
    }

    /// Returns the option that makes tar decompress such a tarball.
    pub(crate) fn tar_option(self) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::Gzip => Some("--gzip"),
            Self::Bzip2 => Some("--bzip2"),
            Self::Xz => Some("--xz"),
            Self::Zstd => Some("--zstd"),
        }
    }

    /// Returns the program that compresses stdin to stdout, its options, and its Debian package.
    pub(crate) fn program(self) -> Option<(&'static str, &'static [&'static str], &'static str)> {
        match self {
            Self::None => None,
            Self::Gzip => Some(("gzip", &["-nc"], "gzip")),
            Self::Bzip2 => Some(("bzip2", &["-c"], "bzip2")),
            Self::Xz => Some(("xz", &["-cT0"], "xz-utils")),
            Self::Zstd => Some(("zstd", &["-qcT0"], "zstd")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compression_is_detected_from_the_first_bytes() {
        let option = |bytes: &[u8]| Compression::by_magic(bytes).tar_option();
        assert_eq!(option(&[0x1f, 0x8b, 8, 0, 0, 0]), Some("--gzip"));
        assert_eq!(option(b"BZh91A"), Some("--bzip2"));
        assert_eq!(option(&[0xfd, b'7', b'z', b'X', b'Z', 0]), Some("--xz"));
        assert_eq!(option(&[0x28, 0xb5, 0x2f, 0xfd, 4, 0]), Some("--zstd"));
        assert_eq!(option(b"./\0\0\0\0"), None);
        assert_eq!(option(b""), None);
    }

    #[test]
    fn compression_is_detected_from_the_name() {
        for (name, expect) in [
            ("a.tar", Some(Compression::None)),
            ("a.tar.zst", Some(Compression::Zstd)),
            ("a.tar.d/b.tar.gz", Some(Compression::Gzip)),
            ("a.tar.lz", None),
            ("a.zip", None),
        ] {
            assert_eq!(Compression::by_name(name), expect, "{name}");
        }
    }
}
