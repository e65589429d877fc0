//! Pure: the comments of the shipped configuration to `buildd-slave.conf(5)`.

use clap_mangen::roff::{Roff, bold, roman};

use super::prose::{self, Place};
use super::{NAME, command};

/// The lines between two empty ones: keys with their defaults, and the comment above them.
#[derive(Default)]
struct Entry<'a> {
    comment: String,
    keys: Vec<(&'a str, &'a str)>,
}

/// Returns the page. `text` has the form of the shipped file: its first line names it, and each
/// section has entries of comments and of lines `#key = default`, separated by empty lines.
pub(super) fn page(text: &str, date: &str) -> String {
    let (name, text) = text.split_once('\n').unwrap_or((text, ""));
    let mut roff = Roff::new();
    command::title(&mut roff, "buildd-slave.conf", "5", date);
    roff.control("SH", ["NAME"]);
    roff.text([roman(name.trim_start_matches("# ").trim_end_matches('.'))]);
    roff.control("SH", ["DESCRIPTION"]);
    let mut begins = true;
    for part in text.split("\n\n") {
        let mut part = part.trim_start_matches('\n');
        if let Some((section, rest)) = section(part) {
            roff.control("SH", [section]);
            begins = true;
            part = rest;
        }
        let entry = entry(part);
        write(&mut roff, &entry, begins);
        begins &= entry.comment.is_empty() && entry.keys.is_empty();
    }
    command::see_also(&mut roff, &[(NAME.to_owned(), "1")]);
    roff.render()
}

/// Returns the header of a section, and the lines after it.
fn section(part: &str) -> Option<(&str, &str)> {
    let (first, rest) = part.split_once('\n').unwrap_or((part, ""));
    first.starts_with('[').then_some((first, rest))
}

fn entry(part: &str) -> Entry<'_> {
    let mut entry = Entry::default();
    for line in part.lines() {
        let line = line.strip_prefix('#').unwrap_or(line);
        match line.split_once('=') {
            Some((key, default)) if line.starts_with(|c: char| c.is_ascii_lowercase()) => {
                entry.keys.push((key.trim(), default.trim()));
            }
            _ => {
                entry
                    .comment
                    .push_str(line.strip_prefix(' ').unwrap_or(line));
                entry.comment.push('\n');
            }
        }
    }
    entry
}

/// Appends an entry. `begins`: it is the first text of its section.
fn write(roff: &mut Roff, entry: &Entry, begins: bool) {
    let blocks = prose::blocks(&entry.comment);
    if entry.keys.is_empty() {
        if !begins && !blocks.is_empty() {
            roff.control("PP", []);
        }
        prose::write(roff, &blocks, Place::Section);
        return;
    }
    for (index, (key, default)) in entry.keys.iter().enumerate() {
        roff.control(if index == 0 { "TP" } else { "TQ" }, []);
        roff.text([bold(*key), roman(format!(" = {default}").trim_end())]);
    }
    prose::write(roff, &blocks, Place::Term);
}

#[cfg(test)]
mod tests {
    use super::super::CONFIGURATION;
    use super::*;
    use crate::config;

    const SAMPLE: &str = "\
# x.conf - a configuration.
#
# All about it.


[one]

# Only text.

# Two keys: `a` and
# .dotted \\name, \"x-y\".
#
# Example:
#   a = .b
#a = 1-2
#b =
";

    /// The lines of the page after its title.
    fn body(page: &str) -> &str {
        page.split_once(".SH NAME\n").unwrap().1
    }

    #[test]
    fn sections_and_keys_become_headings_and_terms() {
        assert_eq!(
            body(&page(SAMPLE, "2026-11-28")),
            "x.conf \\- a configuration\n.SH DESCRIPTION\nAll about it.\n\
             .SH [one]\nOnly text.\n\
             .TP\n\\fBa\\fR = 1\\-2\n.TQ\n\\fBb\\fR =\n\
             Two keys: \\fBa\\fR and\n\\&.dotted \\\\name, \"x\\-y\".\n\
             .IP\nExample:\n.RS\n.RS 4\n.PP\n.EX\na = .b\n.EE\n.RE\n.RE\n\
             .SH \"SEE ALSO\"\n\\fBbuildd\\-slave\\fR(1)\n"
        );
    }

    #[test]
    fn every_key_is_a_term_of_its_section() {
        let page = page(CONFIGURATION, "");
        let known = config::known_keys();
        assert!(known.len() > 100, "{known:?}");
        let mut described = Vec::new();
        let mut section = "";
        let lines: Vec<&str> = page.lines().collect();
        for pair in lines.windows(2) {
            if let Some(heading) = pair[0].strip_prefix(".SH [") {
                section = heading.trim_end_matches(']');
            }
            match pair[1].split_once("\\fR =") {
                Some((key, _)) if matches!(pair[0], ".TP" | ".TQ") => {
                    described.push((section.to_owned(), key.replace("\\fB", "")));
                }
                _ => {}
            }
        }
        described.sort_unstable();
        assert_eq!(described, known);
    }
}
