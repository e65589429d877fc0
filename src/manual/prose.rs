//! Pure: plain text of a help or of comments to blocks, and blocks to roff.

use clap_mangen::roff::{Inline, Roff, bold, roman};

/// A part of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Block {
    /// Lines that are filled.
    Paragraph(String),
    /// Lines that stay as they are, without their common indentation.
    Verbatim(Vec<String>),
    /// Terms, each with its description.
    Terms(Vec<(String, String)>),
}

/// The place of a text in a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Section,
    /// The description of a term, which is indented.
    Term,
}

/// Splits a text at its empty lines and where its indentation begins or ends.
///
/// Indented lines are terms if each has a term, two spaces and a description; a line that is
/// indented further continues the one above. After a line that announces examples, they are not.
pub(super) fn blocks(text: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut lines = text.lines().map(str::trim_end).peekable();
    while let Some(first) = lines.next() {
        if first.is_empty() {
            continue;
        }
        let mut part = vec![first];
        let same = |line: &&str| !line.is_empty() && indented(line) == indented(first);
        while let Some(line) = lines.next_if(same) {
            part.push(line);
        }
        blocks.push(if !indented(first) {
            Block::Paragraph(part.join("\n"))
        } else if announces_examples(blocks.last()) {
            Block::Verbatim(unindent(&part))
        } else {
            let lines = unindent(&part);
            terms(&lines).map_or(Block::Verbatim(lines), Block::Terms)
        });
    }
    blocks
}

fn indented(line: &str) -> bool {
    line.starts_with(' ')
}

fn announces_examples(block: Option<&Block>) -> bool {
    let Some(Block::Paragraph(text)) = block else {
        return false;
    };
    let last = text.lines().next_back().unwrap_or_default();
    is_heading_of_examples(last) || last.ends_with("Example:")
}

/// Returns whether a line is the heading of examples, such as `Examples:`.
pub(super) fn is_heading_of_examples(line: &str) -> bool {
    line.starts_with("Examples") && line.ends_with(':')
}

/// Removes the indentation that all lines have.
fn unindent(lines: &[&str]) -> Vec<String> {
    let depth = |line: &&str| line.len() - line.trim_start().len();
    let common = lines.iter().map(depth).min().unwrap_or(0);
    lines.iter().map(|line| line[common..].to_owned()).collect()
}

/// Returns the terms, if all lines have that form.
fn terms(lines: &[String]) -> Option<Vec<(String, String)>> {
    let mut terms: Vec<(String, String)> = Vec::new();
    for line in lines {
        if indented(line) {
            let (_, description) = terms.last_mut()?;
            description.push('\n');
            description.push_str(line.trim_start());
        } else if let Some(item) = line.strip_prefix("- ") {
            terms.push(("-".to_owned(), item.to_owned()));
        } else {
            let (term, description) = line.split_once("  ")?;
            terms.push((term.to_owned(), description.trim_start().to_owned()));
        }
    }
    Some(terms)
}

/// Appends blocks to a page, the first one without a macro in front.
pub(super) fn write(roff: &mut Roff, blocks: &[Block], place: Place) {
    for (index, block) in blocks.iter().enumerate() {
        match block {
            Block::Paragraph(text) => {
                if index > 0 {
                    roff.control(place.paragraph(), []);
                }
                roff.text(inlines(text));
            }
            Block::Verbatim(lines) => {
                place.indent(roff);
                // Directly below a heading, the macro would be superfluous.
                if index > 0 {
                    roff.control("PP", []);
                }
                roff.control("EX", []);
                for line in lines {
                    roff.text([roman(line)]);
                }
                roff.control("EE", []);
                place.unindent(roff);
            }
            Block::Terms(terms) => {
                place.indent(roff);
                for (term, description) in terms {
                    write_term(roff, term, description);
                }
                place.unindent(roff);
            }
        }
    }
}

fn write_term(roff: &mut Roff, term: &str, description: &str) {
    if term == "-" {
        roff.control("IP", [r"\(bu", "2"]);
    } else {
        roff.control("TP", []);
        roff.text([bold(term)]);
    }
    roff.text(inlines(description));
}

impl Place {
    fn paragraph(self) -> &'static str {
        match self {
            Self::Section => "PP",
            Self::Term => "IP",
        }
    }

    fn indent(self, roff: &mut Roff) {
        if self == Self::Term {
            // To the column of the description.
            roff.control("RS", []);
        }
        roff.control("RS", ["4"]);
    }

    fn unindent(self, roff: &mut Roff) {
        roff.control("RE", []);
        if self == Self::Term {
            roff.control("RE", []);
        }
    }
}

/// Makes words in backticks bold. Without its partner, a backtick stays.
pub(super) fn inlines(text: &str) -> Vec<Inline> {
    if text.matches('`').count() % 2 == 1 {
        return vec![roman(text)];
    }
    let parts = text.split('`').enumerate();
    parts
        .filter(|(_, part)| !part.is_empty())
        .map(|(index, part)| {
            if index % 2 == 1 {
                bold(part)
            } else {
                roman(part)
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paragraph(text: &str) -> Block {
        Block::Paragraph(text.to_owned())
    }

    fn lines(lines: &[&str]) -> Vec<String> {
        lines.iter().map(|&line| line.to_owned()).collect()
    }

    fn rendered(text: &str, place: Place) -> String {
        let mut roff = Roff::new();
        write(&mut roff, &blocks(text), place);
        roff.to_roff()
    }

    #[test]
    fn examples_keep_their_lines() {
        let text = "One\nparagraph.\n\nExamples:\n  run a  # comment\n    --more\n\nEnd.";
        let expected = [
            paragraph("One\nparagraph."),
            paragraph("Examples:"),
            Block::Verbatim(lines(&["run a  # comment", "  --more"])),
            paragraph("End."),
        ];
        assert_eq!(blocks(text), expected);
        let inline = blocks("Default: none. Example:\n  a  b");
        assert_eq!(inline[1], Block::Verbatim(lines(&["a  b"])));
    }

    #[test]
    fn a_table_becomes_terms() {
        let text = "Values:\n  auto     first\n           second\n  all, but  third\n  - a\n    b";
        let terms = [
            ("auto", "first\nsecond"),
            ("all, but", "third"),
            ("-", "a\nb"),
        ]
        .map(|(term, description)| (term.to_owned(), description.to_owned()));
        assert_eq!(
            blocks(text),
            [paragraph("Values:"), Block::Terms(terms.to_vec())]
        );
        let command = blocks("To create it:\n  install -d folder\n");
        assert_eq!(command[1], Block::Verbatim(lines(&["install -d folder"])));
    }

    #[test]
    fn characters_of_roff_are_escaped() {
        let text = ".dot\n'quote back\\slash --hyphen\n\nExamples:\n  .dot \\\n  'a'";
        let page = rendered(text, Place::Section);
        assert_eq!(
            page,
            "\\&.dot\n\\&'quote back\\\\slash \\-\\-hyphen\n.PP\nExamples:\n\
             .RS 4\n.PP\n.EX\n\\&.dot \\\\\n\\&'a'\n.EE\n.RE\n"
        );
    }

    #[test]
    fn words_in_backticks_are_bold() {
        assert_eq!(
            rendered("`a` b\n`.c`.", Place::Term),
            "\\fBa\\fR b\n\\fB.c\\fR.\n"
        );
        assert_eq!(rendered("it`s", Place::Term), "it`s\n");
    }

    #[test]
    fn a_description_stays_indented_after_its_first_paragraph() {
        let page = rendered("One.\n\nTwo:\n  a  b\n\nThree.", Place::Term);
        assert_eq!(
            page,
            "One.\n.IP\nTwo:\n.RS\n.RS 4\n.TP\n\\fBa\\fR\nb\n.RE\n.RE\n.IP\nThree.\n"
        );
    }
}
