//! Pure: the names from the wire that may become a path, a URL or a command's argument.
//!
//! Each newtype can only be made by its `parse`, so code that has a `BuildId` need not check it.
//! An invalid name is refused, never repaired.

use serde::{Deserialize, Serialize};

/// How many characters of an invalid name an error repeats.
const SHOWN_CHARS: usize = 60;

/// A text that is not a valid name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid {what} {shown:?}")]
pub(crate) struct Invalid {
    what: &'static str,
    shown: String,
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $valid:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub(crate) struct $name(String);

        impl $name {
            /// Checks and wraps a name.
            ///
            /// # Errors
            /// A text outside the type's syntax.
            pub(crate) fn parse(text: &str) -> Result<Self, Invalid> {
                let valid: fn(&str) -> bool = $valid;
                if valid(text) {
                    Ok($name(text.to_owned()))
                } else {
                    Err(Invalid { what: $what, shown: text.chars().take(SHOWN_CHARS).collect() })
                }
            }

            pub(crate) fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = Invalid;

            fn try_from(text: String) -> Result<Self, Invalid> {
                $name::parse(&text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }
    };
}

name!(
    /// A SHA-1 digest in lower-case hexadecimal: the name of a file in the cache.
    Sha1Hex,
    "sha-1",
    |text| text.len() == 40 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
);

name!(
    /// The master's name for a build, also called its cookie; part of the build directory's name.
    BuildId,
    "build id",
    |text| text.len() <= 128 && is_word(text)
);

name!(
    /// The name of a source or result file in a build directory, without a path.
    ///
    /// The directory's own entries are refused, and names that a command could read as an option
    /// (docs/wire.md §1.4).
    FileName,
    "file name",
    |text| {
        (1..=255).contains(&text.len())
            && !text.starts_with('-')
            && !text.contains(|c: char| c == '/' || c.is_control())
            && !matches!(text, "." | ".." | "chroot-autobuild" | "status")
    }
);

name!(
    /// A distribution suite, series, component or architecture.
    Suite,
    "name",
    |text| text.len() <= 64 && is_word(text)
);

name!(
    /// A build profile, such as `nodoc` or `pkg.hello.small`. It has no comma, blank or `!`, which
    /// are syntax of dpkg.
    BuildProfile,
    "build profile",
    |text| text.len() <= 64 && is_word(text)
);

/// Returns whether the text is a word that a shell, a path or an option parser takes literally.
fn is_word(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._+-".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sha1_is_forty_lower_case_hex_digits() {
        let sha1 = "0a4d55a8d778e5022fab701977c5d840bbc486d0";
        assert_eq!(Sha1Hex::parse(sha1).unwrap().to_string(), sha1);
        for bad in [
            "",
            "buildlog",
            "../x",
            &sha1[1..],
            &sha1.to_uppercase(),
            &sha1.replace('a', "g"),
        ] {
            assert!(Sha1Hex::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn build_ids_are_words_of_at_most_128_bytes() {
        for good in ["8-1", "PACKAGEBUILD-12345", "a", "1.2_3+4~"].map(|id| id.replace('~', "")) {
            assert!(BuildId::parse(&good).is_ok(), "{good}");
        }
        assert!(BuildId::parse(&"x".repeat(128)).is_ok());
        for bad in [
            "",
            "-a",
            ".a",
            "a/b",
            "a b",
            "a\n",
            "\u{e9}",
            &"x".repeat(129),
        ] {
            assert!(BuildId::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn file_names_stay_in_their_directory() {
        for good in ["hello_2.10-3.dsc", ".dsc", "a b", "gr\u{fc}n~1", "..."] {
            assert!(FileName::parse(good).is_ok(), "{good}");
        }
        assert!(FileName::parse(&"x".repeat(255)).is_ok());
        for bad in [
            "",
            ".",
            "..",
            "a/b",
            "/a",
            "a\0",
            "a\n",
            "-a",
            "chroot-autobuild",
            "status",
        ] {
            assert!(FileName::parse(bad).is_err(), "{bad:?}");
        }
        assert!(FileName::parse(&"x".repeat(256)).is_err());
    }

    #[test]
    fn a_suite_cannot_be_read_as_an_option() {
        for good in [
            "sid",
            "bookworm-backports",
            "non-free",
            "kfreebsd-amd64",
            "trixie.1",
        ] {
            assert!(Suite::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "--purge", "a/b", "a b", "$(x)", &"x".repeat(65)] {
            assert!(Suite::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_error_names_the_kind_and_shows_the_text_escaped_and_shortened() {
        let error = BuildId::parse(&format!("a\n{}", "x".repeat(500)))
            .unwrap_err()
            .to_string();
        assert_eq!(
            error,
            format!("invalid build id \"a\\n{}\"", "x".repeat(58))
        );
    }

    #[test]
    fn a_stored_name_is_checked_when_loaded() {
        let id: BuildId = serde_json::from_str("\"8-1\"").unwrap();
        assert_eq!(serde_json::to_string(&id).unwrap(), "\"8-1\"");
        assert!(serde_json::from_str::<BuildId>("\"../8\"").is_err());
    }
}
