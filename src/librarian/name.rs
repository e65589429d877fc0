//! Pure: the names of files in the library, and their URLs.
//!
//! A name is part of the URL and of the answers' lines. It is also a weak secret, needed to
//! download the file. Invalid names are refused, not repaired.

/// Longest name, in bytes: the limit of file systems, on which clients save the file.
const MAX_BYTES: usize = 255;

/// Returns whether a file may have this name.
pub(super) fn is_good(name: &str) -> bool {
    (1..=MAX_BYTES).contains(&name.len())
        && !name.contains(|c: char| c == '/' || c.is_control())
        && !matches!(name, "." | "..")
}

/// Returns the URL of an alias below the librarian's `base`, which ends in `/`.
pub(crate) fn alias_url(base: &str, id: i64, name: &str) -> String {
    format!("{base}{id}/{}", quote(name))
}

/// Percent-encodes a name as UTF-8 for a URL's path (docs/farm.md §4.3).
pub(super) fn quote(name: &str) -> String {
    let mut quoted = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~+".contains(&byte) {
            quoted.push(char::from(byte));
        } else {
            quoted.push_str(&format!("%{byte:02X}"));
        }
    }
    quoted
}

/// Decodes a percent-encoded name; `None` if it is invalid.
pub(super) fn unquote(quoted: &str) -> Option<String> {
    let mut parts = quoted.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at_checked(2)?;
        let is_hex = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        bytes.push(u8::from_str_radix(digits, 16).ok().filter(|_| is_hex)?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_quoted_and_unquoted() {
        for (name, expect) in [
            ("hello_2.10-3.dsc", "hello_2.10-3.dsc"),
            ("a b", "a%20b"),
            ("a+b~1", "a+b~1"),
            ("grün", "gr%C3%BCn"),
            ("a/b", "a%2Fb"),
            ("50%?#", "50%25%3F%23"),
        ] {
            assert_eq!(
                alias_url("http://l:8000/", 7, name),
                format!("http://l:8000/7/{expect}")
            );
            assert_eq!(unquote(expect).as_deref(), Some(name));
        }
        for bad in ["%", "%4", "%zz", "%+1", "%ff"] {
            assert_eq!(unquote(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_name_is_one_path_component_without_control_characters() {
        for good in [
            "HelloWorld.txt",
            "a b",
            "grün",
            "-x",
            "...",
            &"x".repeat(255),
        ] {
            assert!(is_good(good), "{good}");
        }
        for bad in [
            "",
            ".",
            "..",
            "a/b",
            "/",
            "a\nb",
            "a\0",
            "\u{85}",
            &"x".repeat(256),
        ] {
            assert!(!is_good(bad), "{bad:?}");
        }
    }
}
