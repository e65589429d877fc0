//! Pure: the content types of files, as stored and as sent.
//!
//! Compressed text is sent with `Content-Encoding`, so that browsers show build logs
//! (docs/farm.md §4.3).

const UNKNOWN: &str = "application/octet-stream";

/// Types by file name extension, for uploads without a type.
const BY_ENDING: &[(&str, &str)] = &[
    (".txt", "text/plain"),
    (".log", "text/plain"),
    (".txt.gz", "text/plain"),
    (".log.gz", "text/plain"),
    (".diff", "text/x-diff"),
    (".patch", "text/x-diff"),
    (".dsc", "text/prs.debian.dsc"),
    (".changes", "text/prs.debian.changes"),
    (".buildinfo", "text/prs.debian.buildinfo"),
    (".html", "text/html"),
    (".json", "application/json"),
    (".deb", "application/vnd.debian.binary-package"),
    (".ddeb", "application/vnd.debian.binary-package"),
    (".udeb", "application/vnd.debian.binary-package"),
    (".tar", "application/x-tar"),
    (".gz", "application/gzip"),
    (".bz2", "application/x-bzip2"),
    (".xz", "application/x-xz"),
    (".zst", "application/zstd"),
];

/// Returns the type for the longest known extension of `name`.
pub(super) fn by_name(name: &str) -> &'static str {
    let found = BY_ENDING
        .iter()
        .filter(|(ending, _)| name.ends_with(ending));
    found
        .max_by_key(|(ending, _)| ending.len())
        .map_or(UNKNOWN, |(_, kind)| *kind)
}

/// Returns whether a type can be stored and sent as a header.
pub(super) fn is_good(kind: &str) -> bool {
    (1..=200).contains(&kind.len()) && kind.bytes().all(|byte| matches!(byte, b' '..=b'~'))
}

/// Returns the `Content-Type` a file is sent with, and its `Content-Encoding` if it has one.
pub(super) fn as_sent<'a>(name: &str, stored: &'a str) -> (&'a str, Option<&'static str>) {
    if name.ends_with(".txt.gz") {
        ("text/plain; charset=utf-8", Some("gzip"))
    } else if name.ends_with(".diff.gz") {
        ("text/plain", Some("gzip"))
    } else {
        (stored, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_extension_counts() {
        for (name, expect) in [
            ("buildlog_ubuntu.txt.gz", "text/plain"),
            ("hello_1.diff.gz", "application/gzip"),
            ("hello_1.tar.gz", "application/gzip"),
            ("hello_1.dsc", "text/prs.debian.dsc"),
            ("hello", UNKNOWN),
            ("", UNKNOWN),
        ] {
            assert_eq!(by_name(name), expect, "{name}");
        }
    }

    #[test]
    fn compressed_text_is_sent_as_text() {
        let text = ("text/plain; charset=utf-8", Some("gzip"));
        assert_eq!(as_sent("buildlog.txt.gz", "application/x-gzip"), text);
        assert_eq!(as_sent("x.diff.gz", "a/b"), ("text/plain", Some("gzip")));
        assert_eq!(as_sent("x.tar.gz", "a/b"), ("a/b", None));
    }

    #[test]
    fn a_type_is_one_printable_line() {
        assert!(is_good("text/plain; charset=\"utf-8\"") && is_good("unknown/unknown"));
        assert!(!is_good("") && !is_good("a\nb") && !is_good("ä") && !is_good(&"x".repeat(201)));
    }
}
