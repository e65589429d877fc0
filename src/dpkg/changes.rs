//! Pure: parses the files, sizes and checksums of a .changes.
//!
//! `Files`, `Checksums-Sha1` and `Checksums-Sha256` must list the same files with the same sizes.
//! Only plain file names are accepted (docs/wire.md §3.6). The callers, `verify_results` and the
//! master, open and check the files themselves.

use super::Error;
use super::control::{Field, Paragraph};
use crate::protocol::FileName;

/// The largest .changes accepted, in bytes; those of the Linux kernel have under 200 KB.
pub(crate) const MAX_BYTES: u64 = 8 << 20;

/// A file as the .changes declares it; checksums are lower-case hexadecimal.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) name: FileName,
    /// In bytes.
    pub(crate) size: u64,
    pub(crate) md5: String,
    pub(crate) sha1: Option<String>,
    pub(crate) sha256: Option<String>,
}

/// Parses a .changes. Bytes that are not UTF-8 are harmless: the fields read here are ASCII.
pub(crate) fn parse(bytes: &[u8]) -> Result<Vec<Entry>, Error> {
    if bytes.len() as u64 > MAX_BYTES {
        return Err(Error::TooLarge(MAX_BYTES));
    }
    let text = String::from_utf8_lossy(bytes);
    let paragraph = Paragraph::parse(&text)?;
    let files = paragraph.get("Files").ok_or(Error::NoField("Files"))?;
    let mut entries = parse_files(files)?;
    if let Some(field) = paragraph.get("Checksums-Sha1") {
        add_checksums("Checksums-Sha1", field, 40, &mut entries, |entry| {
            &mut entry.sha1
        })?;
    }
    if let Some(field) = paragraph.get("Checksums-Sha256") {
        add_checksums("Checksums-Sha256", field, 64, &mut entries, |entry| {
            &mut entry.sha256
        })?;
    }
    Ok(entries)
}

/// Parses `Files`: one line per file, of MD5, size, section, priority and name.
fn parse_files(field: &Field<'_>) -> Result<Vec<Entry>, Error> {
    let mut entries: Vec<Entry> = Vec::new();
    for (line, words) in rows(field) {
        let wrong = |problem| Error::Field {
            field: "Files",
            line,
            problem,
        };
        let &[md5, size, _, _, name] = &words[..] else {
            return Err(wrong(
                "expected checksum, size, section, priority and name".to_owned(),
            ));
        };
        let size = parse_size(size).map_err(wrong)?;
        let md5 = parse_checksum(md5, 32).map_err(wrong)?;
        let name = FileName::parse(name).map_err(|e| wrong(format!("{name:?}: {e}")))?;
        if entries.iter().any(|entry| entry.name == name) {
            return Err(wrong(format!("{name} is listed twice")));
        }
        entries.push(Entry {
            name,
            size,
            md5,
            sha1: None,
            sha256: None,
        });
    }
    Ok(entries)
}

/// Parses a `Checksums-…` field into `entries`; a checksum has `digits` hexadecimal digits.
fn add_checksums(
    name: &'static str,
    field: &Field<'_>,
    digits: usize,
    entries: &mut [Entry],
    checksum_of: impl Fn(&mut Entry) -> &mut Option<String>,
) -> Result<(), Error> {
    for (line, words) in rows(field) {
        let wrong = |problem| Error::Field {
            field: name,
            line,
            problem,
        };
        let &[checksum, size, file] = &words[..] else {
            return Err(wrong("expected checksum, size and name".to_owned()));
        };
        let size = parse_size(size).map_err(wrong)?;
        let Some(entry) = entries.iter_mut().find(|entry| entry.name.as_str() == file) else {
            return Err(wrong(format!("{file:?} is not listed in Files")));
        };
        if entry.size != size {
            return Err(wrong(format!(
                "{file}: {size} bytes, but {} in Files",
                entry.size
            )));
        }
        if checksum_of(entry)
            .replace(parse_checksum(checksum, digits).map_err(wrong)?)
            .is_some()
        {
            return Err(wrong(format!("{file} is listed twice")));
        }
    }
    for entry in entries {
        if checksum_of(entry).is_none() {
            let problem = format!("{} is missing", entry.name);
            return Err(Error::Field {
                field: name,
                line: field.line,
                problem,
            });
        }
    }
    Ok(())
}

/// Returns the blank-separated words of each line of the field, with the line's number.
fn rows<'a>(field: &'a Field<'_>) -> impl Iterator<Item = (usize, Vec<&'a str>)> {
    let lines = field
        .lines
        .iter()
        .enumerate()
        .filter(|(_, line)| !line.is_empty());
    lines.map(|(index, line)| (field.line + index, line.split_ascii_whitespace().collect()))
}

fn parse_size(word: &str) -> Result<u64, String> {
    word.parse().map_err(|_| format!("not a size: {word:?}"))
}

fn parse_checksum(word: &str, digits: usize) -> Result<String, String> {
    if word.len() == digits && word.bytes().all(|b| b.is_ascii_hexdigit()) {
        Ok(word.to_ascii_lowercase())
    } else {
        Err(format!(
            "not a checksum of {digits} hexadecimal digits: {word:?}"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MD5: &str = "5d41402abc4b2a76b9719d911017c592";
    const SHA1: &str = "aaf4c61ddcc5e8a2dabede0f3b482cd9aea9434d";

    fn text(files: &str, checksums: &str) -> String {
        format!("Format: 1.8\nSource: h\nFiles:\n{files}Checksums-Sha1:\n{checksums}Changes:\n h\n")
    }

    #[test]
    fn checksums_are_added_to_the_files_of_their_name() {
        let files = format!(" {MD5} 5 devel optional a.deb\n {MD5} 7 - - b.buildinfo\n");
        let checksums = format!(" {SHA1} 7 b.buildinfo\n {SHA1} 5 a.deb\n");
        let entries = parse(text(&files, &checksums).as_bytes()).unwrap();
        assert_eq!(entries.len(), 2);
        assert_eq!(
            (entries[1].name.as_str(), entries[1].size),
            ("b.buildinfo", 7)
        );
        assert_eq!(entries[0].sha1.as_deref(), Some(SHA1));
        assert_eq!(entries[0].sha256, None);
    }

    #[test]
    fn other_fields_may_hold_any_bytes() {
        assert!(parse(b"Maintainer: \xe9\nFiles:\n").unwrap().is_empty());
    }

    #[test]
    fn errors_name_field_and_line() {
        let good = format!(" {MD5} 5 devel optional a.deb\n");
        let checksum = format!(" {SHA1} 5 a.deb\n");
        let check = |files: &str, checksums: &str, expect: &str| {
            let error = parse(text(files, checksums).as_bytes())
                .unwrap_err()
                .to_string();
            assert!(error.starts_with(expect), "{error}");
        };
        check(
            " x 5 - - a\n",
            &checksum,
            "Files, line 4: not a checksum of 32",
        );
        check(
            &good.replace(" 5 ", " -5 "),
            &checksum,
            "Files, line 4: not a size: \"-5\"",
        );
        check(
            &good.replace("a.deb", "../../etc/passwd"),
            &checksum,
            "Files, line 4: \"../../etc",
        );
        check(
            &format!("{good}{good}"),
            &checksum,
            "Files, line 5: a.deb is listed twice",
        );
        check(
            " a.deb\n",
            &checksum,
            "Files, line 4: expected checksum, size",
        );
        check(&good, "", "Checksums-Sha1, line 5: a.deb is missing");
        check(
            &good,
            &checksum.replace(" 5 ", " 6 "),
            "Checksums-Sha1, line 6: a.deb: 6 bytes",
        );
        check(
            &good,
            &checksum.replace("a.deb", "b"),
            "Checksums-Sha1, line 6: \"b\" is not listed",
        );
        check(
            &good,
            &format!("{checksum}{checksum}"),
            "Checksums-Sha1, line 7: a.deb is listed twice",
        );
        assert_eq!(
            parse(b"Source: x\n").unwrap_err().to_string(),
            "no Files field"
        );
    }
}
