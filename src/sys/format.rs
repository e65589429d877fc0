//! Pure: versions of files that one version of this program writes and another may read.
//!
//! A file of JSON has the version of its format in the field `format`, and in `program` the version
//! of the program that wrote it. Files without them have format 1.

use serde::{Deserialize, Serialize};

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// A file of a newer format than this program reads.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "buildd-slave {program} wrote it in format {found}, and this is buildd-slave {VERSION}, which \
     reads formats up to {known}"
)]
pub(crate) struct Newer {
    program: String,
    found: u64,
    known: u64,
}

/// A file's own statement; all other fields are ignored.
#[derive(Deserialize)]
struct Stamp {
    format: u64,
    #[serde(default)]
    program: Option<String>,
}

#[derive(Serialize)]
struct Stamped<'a, T> {
    format: u64,
    program: &'a str,
    #[serde(flatten)]
    content: &'a T,
}

/// Returns `content` as JSON with its format.
pub(crate) fn write<T: Serialize>(format: u64, content: &T) -> serde_json::Result<Vec<u8>> {
    serde_json::to_vec_pretty(&Stamped {
        format,
        program: VERSION,
        content,
    })
}

/// Checks that this program, which reads formats up to `known`, can read a file. A file without a
/// legible format passes: it is of format 1, or damaged.
pub(crate) fn check(known: u64, text: &[u8]) -> Result<(), Newer> {
    match serde_json::from_slice::<Stamp>(text) {
        Ok(Stamp { format, program }) if format > known => Err(Newer {
            program: program.unwrap_or_else(|| "of an unknown version".to_owned()),
            found: format,
            known,
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_newer_format_is_refused_and_an_older_one_is_not() {
        let text = write(2, &json!({"status": "OK"})).unwrap();
        assert_eq!(check(2, &text), Ok(()));
        assert_eq!(check(3, &text), Ok(()));
        let error = check(1, &text).unwrap_err().to_string();
        let expected = format!(
            "buildd-slave {VERSION} wrote it in format 2, and this is buildd-slave {VERSION}, \
             which reads formats up to 1"
        );
        assert_eq!(error, expected);
        for old in [
            "{}",
            "{\"status\": \"OK\"}",
            "",
            "{\"format\": \"x\"}",
            "[7",
        ] {
            assert_eq!(check(1, old.as_bytes()), Ok(()), "{old}");
        }
    }

    #[test]
    fn the_format_does_not_hide_the_content() {
        let content = json!({"status": "OK", "files": [["a", "b"]]});
        let text = write(2, &content).unwrap();
        let mut read: serde_json::Value = serde_json::from_slice(&text).unwrap();
        let fields = read.as_object_mut().unwrap();
        assert_eq!(fields.shift_remove("format"), Some(json!(2)));
        assert_eq!(fields.shift_remove("program"), Some(json!(VERSION)));
        assert_eq!(read, content);
    }
}
