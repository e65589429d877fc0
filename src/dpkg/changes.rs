//! Pure: which files does a .changes list, with what sizes and sums?
//!
//! Reads `Files`, `Checksums-Sha1` and `Checksums-Sha256`, which must list the same files with
//! the same sizes. Refuses names that are not plain file names (docs/wire.md §5, names in
//! .changes). Touches none of the files: the callers, `collect` and the master, check them.

use super::Error;
use super::control::{Field, Paragraph};
use crate::protocol::FileName;

/// The most bytes of a .changes that are read: the kernel's have under 200 KB.
pub(crate) const MAX_BYTES: u64 = 8 << 20;

/// A file as the .changes declares it; sums are lower-case hexadecimal.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) name: FileName,
    /// In bytes.
    pub(crate) size: u64,
    pub(crate) md5: String,
    pub(crate) sha1: Option<String>,
    pub(crate) sha256: Option<String>,
}

/// Reads the .changes `bytes`; anything that is not UTF-8 can only stand in other fields.
pub(crate) fn parse(bytes: &[u8]) -> Result<Vec<Entry>, Error> {
    if bytes.len() as u64 > MAX_BYTES {
        return Err(Error::TooLarge(MAX_BYTES));
    }
    let text = String::from_utf8_lossy(bytes);
    let paragraph = Paragraph::parse(&text)?;
    let files = paragraph.get("Files").ok_or(Error::NoField("Files"))?;
    let mut entries = parse_files(files)?;
    if let Some(field) = paragraph.get("Checksums-Sha1") {
        add_sums("Checksums-Sha1", field, 40, &mut entries, |entry| {
            &mut entry.sha1
        })?;
    }
    if let Some(field) = paragraph.get("Checksums-Sha256") {
        add_sums("Checksums-Sha256", field, 64, &mut entries, |entry| {
            &mut entry.sha256
        })?;
    }
    Ok(entries)
}

/// Reads `Files`: a line each of sum, size, section, priority and name, the name last.
fn parse_files(field: &Field<'_>) -> Result<Vec<Entry>, Error> {
    let mut entries: Vec<Entry> = Vec::new();
    for (line, words) in rows(field) {
        let wrong = |problem| Error::Field {
            field: "Files",
            line,
            problem,
        };
        let &[md5, size, _, _, name] = &words[..] else {
            return Err(wrong("not sum, size, section, priority, name".to_owned()));
        };
        let size = parse_size(size).map_err(wrong)?;
        let md5 = parse_sum(md5, 32).map_err(wrong)?;
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

/// Reads a `Checksums-…` field, of `digits` hexadecimal digits a sum, into `entries`.
fn add_sums(
    name: &'static str,
    field: &Field<'_>,
    digits: usize,
    entries: &mut [Entry],
    sum_of: impl Fn(&mut Entry) -> &mut Option<String>,
) -> Result<(), Error> {
    for (line, words) in rows(field) {
        let wrong = |problem| Error::Field {
            field: name,
            line,
            problem,
        };
        let &[sum, size, file] = &words[..] else {
            return Err(wrong("not sum, size, name".to_owned()));
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
        if sum_of(entry)
            .replace(parse_sum(sum, digits).map_err(wrong)?)
            .is_some()
        {
            return Err(wrong(format!("{file} is listed twice")));
        }
    }
    for entry in entries {
        if sum_of(entry).is_none() {
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

/// Returns the words of each line below the field's own, with the line's number.
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

fn parse_sum(word: &str, digits: usize) -> Result<String, String> {
    if word.len() == digits && word.bytes().all(|b| b.is_ascii_hexdigit()) {
        Ok(word.to_ascii_lowercase())
    } else {
        Err(format!(
            "not a sum of {digits} hexadecimal digits: {word:?}"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MD5: &str = "5d41402abc4b2a76b9719d911017c592";
    const SHA1: &str = "aaf4c61ddcc5e8a2dabede0f3b482cd9aea9434d";

    fn text(files: &str, sums: &str) -> String {
        format!("Format: 1.8\nSource: h\nFiles:\n{files}Checksums-Sha1:\n{sums}Changes:\n h\n")
    }

    #[test]
    fn files_and_sums_meet() {
        let files = format!(" {MD5} 5 devel optional a.deb\n {MD5} 7 - - b.buildinfo\n");
        let sums = format!(" {SHA1} 7 b.buildinfo\n {SHA1} 5 a.deb\n");
        let entries = parse(text(&files, &sums).as_bytes()).unwrap();
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
        let sum = format!(" {SHA1} 5 a.deb\n");
        let check = |files: &str, sums: &str, expect: &str| {
            let error = parse(text(files, sums).as_bytes()).unwrap_err().to_string();
            assert!(error.starts_with(expect), "{error}");
        };
        check(" x 5 - - a\n", &sum, "Files, line 4: not a sum of 32");
        check(
            &good.replace(" 5 ", " -5 "),
            &sum,
            "Files, line 4: not a size: \"-5\"",
        );
        check(
            &good.replace("a.deb", "../../etc/passwd"),
            &sum,
            "Files, line 4: \"../../etc",
        );
        check(
            &format!("{good}{good}"),
            &sum,
            "Files, line 5: a.deb is listed twice",
        );
        check(" a.deb\n", &sum, "Files, line 4: not sum, size");
        check(&good, "", "Checksums-Sha1, line 5: a.deb is missing");
        check(
            &good,
            &sum.replace(" 5 ", " 6 "),
            "Checksums-Sha1, line 6: a.deb: 6 bytes",
        );
        check(
            &good,
            &sum.replace("a.deb", "b"),
            "Checksums-Sha1, line 6: \"b\" is not listed",
        );
        check(
            &good,
            &format!("{sum}{sum}"),
            "Checksums-Sha1, line 7: a.deb is listed twice",
        );
        assert_eq!(
            parse(b"Source: x\n").unwrap_err().to_string(),
            "no Files field"
        );
    }
}
