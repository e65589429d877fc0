//! Pure: parses the first paragraph of a Debian control file, such as a .dsc or a .changes.
//!
//! Each field keeps its line number for error messages. An OpenPGP clear-signature around the
//! paragraph is skipped, not verified. Duplicate fields and lines outside a field are errors.

use super::Error;

/// A field of a paragraph.
#[derive(Debug)]
pub(crate) struct Field<'a> {
    name: &'a str,
    /// The number of its first line, from 1.
    pub(crate) line: usize,
    /// Its lines, trimmed; the first is the text after the colon.
    pub(crate) lines: Vec<&'a str>,
}

/// The fields of one paragraph.
#[derive(Debug)]
pub(crate) struct Paragraph<'a>(Vec<Field<'a>>);

impl<'a> Paragraph<'a> {
    /// Reads the first paragraph of `text`, as dpkg does.
    pub(crate) fn parse(text: &'a str) -> Result<Self, Error> {
        let mut fields: Vec<Field<'a>> = Vec::new();
        let mut in_armour_header = false;
        let mut is_signed = false;
        for (index, line) in text.lines().enumerate() {
            let number = index + 1;
            let is_armour = |mark: &str| line.trim_end() == mark;
            if is_armour("-----BEGIN PGP SIGNED MESSAGE-----") && fields.is_empty() {
                (in_armour_header, is_signed) = (true, true);
            } else if line.trim().is_empty() {
                if !fields.is_empty() {
                    break;
                }
                in_armour_header = false;
            } else if in_armour_header || line.starts_with('#') {
                continue;
            } else if is_signed && is_armour("-----BEGIN PGP SIGNATURE-----") {
                break;
            } else {
                add_line(&mut fields, number, line)?;
            }
        }
        if is_signed && !has_signature(text) {
            let problem = "the OpenPGP signature has no end";
            let line = text.lines().count();
            return Err(Error::Line { line, problem });
        }
        Ok(Self(fields))
    }

    /// Returns the field `name`, ignoring case.
    pub(crate) fn get(&self, name: &str) -> Option<&Field<'a>> {
        self.0
            .iter()
            .find(|field| field.name.eq_ignore_ascii_case(name))
    }
}

/// Returns whether a clear-signed text has a whole signature; it is not verified.
fn has_signature(text: &str) -> bool {
    let mut lines = text.lines().map(str::trim_end);
    lines.any(|line| line == "-----BEGIN PGP SIGNATURE-----")
        && lines.any(|line| line == "-----END PGP SIGNATURE-----")
}

fn add_line<'a>(fields: &mut Vec<Field<'a>>, number: usize, line: &'a str) -> Result<(), Error> {
    let wrong = |problem| Error::Line {
        line: number,
        problem,
    };
    if line.starts_with([' ', '\t']) {
        let field = fields
            .last_mut()
            .ok_or_else(|| wrong("continuation line without a field"))?;
        field.lines.push(line.trim());
        return Ok(());
    }
    let (name, value) = line
        .split_once(':')
        .map(|(name, value)| (name.trim_end(), value))
        .filter(|(name, _)| !name.is_empty() && !name.contains(char::is_whitespace))
        .ok_or_else(|| wrong("neither a field nor blank"))?;
    if name.starts_with('-') {
        return Err(wrong("a field cannot start with a hyphen"));
    }
    if fields
        .iter()
        .any(|field| field.name.eq_ignore_ascii_case(name))
    {
        return Err(wrong("field given twice"));
    }
    fields.push(Field {
        name,
        line: number,
        lines: vec![value.trim()],
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signed_paragraph_is_parsed_without_its_signature() {
        let text = "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA512\n\n\
                    Source: x\nFiles:\n a\n b\n\n\
                    -----BEGIN PGP SIGNATURE-----\n\niQIz\n-----END PGP SIGNATURE-----\n";
        let paragraph = Paragraph::parse(text).unwrap();
        let files = paragraph.get("files").unwrap();
        assert_eq!((files.line, &files.lines[..]), (5, &["", "a", "b"][..]));
        assert!(paragraph.get("Hash").is_none());
        assert_eq!(paragraph.get("Source").unwrap().lines, ["x"]);
    }

    #[test]
    fn errors_name_the_line() {
        let check = |text: &str, expect: &str| {
            assert_eq!(Paragraph::parse(text).unwrap_err().to_string(), expect);
        };
        check(" a\n", "line 1: continuation line without a field");
        check("A: b\nfoo\n", "line 2: neither a field nor blank");
        check("A: b\nfoo bar: c\n", "line 2: neither a field nor blank");
        check("-A: b\n", "line 1: a field cannot start with a hyphen");
        check("A: b\na: c\n", "line 2: field given twice");
    }
}
