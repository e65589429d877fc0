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
    /// Reads the first paragraph of `text`.
    pub(crate) fn parse(text: &'a str) -> Result<Self, Error> {
        let mut fields: Vec<Field<'a>> = Vec::new();
        let mut in_armour_header = false;
        for (index, line) in text.lines().enumerate() {
            let number = index + 1;
            if line.starts_with("-----BEGIN PGP SIGNED MESSAGE") && fields.is_empty() {
                in_armour_header = true;
            } else if line.trim().is_empty() {
                if !fields.is_empty() {
                    break;
                }
                in_armour_header = false;
            } else if in_armour_header || line.starts_with('#') {
                continue;
            } else if line.starts_with("-----BEGIN PGP SIGNATURE") {
                break;
            } else {
                add_line(&mut fields, number, line)?;
            }
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
        .ok_or_else(|| wrong("neither a field nor blank"))?;
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
        check("A: b\na: c\n", "line 2: field given twice");
    }
}
