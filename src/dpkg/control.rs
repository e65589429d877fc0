//! Pure: what fields does a Debian control paragraph (a .dsc, a .changes) hold, and on what line?
//!
//! Reads the first paragraph only, inside or outside an OpenPGP clear-signature, whose signature
//! it drops and does not verify. Refuses a field given twice and lines that belong to none.
//! Called by `depwait`, `changes`, and the commands for the hand.

use super::Error;

/// A field: its name, the number of its first line (from 1), and its lines without line ends.
///
/// The first line is what follows the colon; all are trimmed.
#[derive(Debug)]
pub(crate) struct Field<'a> {
    name: &'a str,
    pub(crate) line: usize,
    pub(crate) lines: Vec<&'a str>,
}

/// The fields of one paragraph.
#[derive(Debug)]
pub(crate) struct Paragraph<'a>(Vec<Field<'a>>);

impl<'a> Paragraph<'a> {
    /// Reads the first paragraph of `text`.
    pub(crate) fn parse(text: &'a str) -> Result<Self, Error> {
        let mut fields: Vec<Field<'a>> = Vec::new();
        let mut in_armour_head = false;
        for (index, line) in text.lines().enumerate() {
            let number = index + 1;
            if line.starts_with("-----BEGIN PGP SIGNED MESSAGE") && fields.is_empty() {
                in_armour_head = true;
            } else if line.trim().is_empty() {
                if !fields.is_empty() {
                    break;
                }
                in_armour_head = false;
            } else if in_armour_head || line.starts_with('#') {
                continue;
            } else if line.starts_with("-----BEGIN PGP SIGNATURE") {
                break;
            } else {
                add_line(&mut fields, number, line)?;
            }
        }
        Ok(Self(fields))
    }

    /// Returns the field called `name`, in any case.
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
            .ok_or_else(|| wrong("continues no field"))?;
        field.lines.push(line.trim());
        return Ok(());
    }
    let (name, value) = line
        .split_once(':')
        .ok_or_else(|| wrong("neither field nor blank"))?;
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
    fn a_signed_paragraph_is_read_without_its_armour() {
        let text = "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA512\n\nSource: x\nFiles:\n a\n b\n\n\
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
        check(" a\n", "line 1: continues no field");
        check("A: b\nfoo\n", "line 2: neither field nor blank");
        check("A: b\na: c\n", "line 2: field given twice");
    }
}
