//! Rules about what people read: headers, sentences, lengths, citations.

use std::fs;

use crate::sources::{Source, check_in, root};

const LONGEST_FILE: usize = 600;

#[test]
fn files_have_a_limit() {
    let rule = |file: &Source, report: &mut dyn FnMut(usize, String)| {
        let lines: Vec<&str> = file.text.lines().collect();
        if lines.len() > LONGEST_FILE {
            report(lines.len(), format!("longer than {LONGEST_FILE} lines"));
        }
    };
    check_in("src", rule);
    check_in("tests", rule);
}

#[test]
fn citations_of_documents_resolve() {
    let mut cited = 0;
    let mut rule = |file: &Source, report: &mut dyn FnMut(usize, String)| {
        for (index, line) in file.text.lines().enumerate() {
            let cites = citations(line);
            for (document, sections) in cites {
                cited += 1;
                let Ok(text) = fs::read_to_string(root().join(&document)) else {
                    report(index + 1, format!("there is no {document}"));
                    continue;
                };
                for section in sections {
                    if !has_section(&text, &section) {
                        report(index + 1, format!("{document} has no section {section}"));
                    }
                }
            }
        }
    };
    check_in("src", &mut rule);
    check_in("tests", &mut rule);
    assert!(cited > 50, "only {cited} citations found");
}

/// The documents that a line cites, each with the sections it names: `docs/wire.md §3.5, §3.7`.
fn citations(line: &str) -> Vec<(String, Vec<String>)> {
    let starts = line.match_indices("docs/").map(|(at, _)| &line[at..]);
    let ends = |c: char| !(c.is_alphanumeric() || "/._-".contains(c));
    let read = |rest: &str| {
        let end = rest.find(".md")? + ".md".len();
        let document = &rest[..end];
        if document.contains(ends) {
            return None;
        }
        let after = &rest[end..];
        let after = &after[..after.find("docs/").unwrap_or(after.len())];
        let sections = after.split('§').skip(1).map(|text| {
            let end = text.find(|c: char| !c.is_ascii_digit() && c != '.');
            let number = &text[..end.unwrap_or(text.len())];
            number.trim_end_matches('.').to_owned()
        });
        Some((document.to_owned(), sections.collect()))
    };
    starts.filter_map(read).collect()
}

/// Tells whether a document has a heading with that number.
fn has_section(text: &str, number: &str) -> bool {
    let headings = text.lines().filter_map(|line| {
        let title = line.trim_start_matches('#');
        (title.len() < line.len()).then_some(title.trim_start())
    });
    headings
        .filter_map(|title| title.split_whitespace().next())
        .any(|first| first.trim_end_matches('.') == number)
}

#[test]
fn reads_citations_and_headings() {
    let line = "/// (docs/wire.md §3.5, §3.7; docs/farm.md §2), see docs/house";
    let expect = [
        (
            "docs/wire.md".to_owned(),
            vec!["3.5".to_owned(), "3.7".to_owned()],
        ),
        ("docs/farm.md".to_owned(), vec!["2".to_owned()]),
    ];
    assert_eq!(citations(line), expect);
    let text = "# A\n\n## 3. Verdicts\n### 3.5 sbuild\n";
    assert!(has_section(text, "3") && has_section(text, "3.5"));
    assert!(!has_section(text, "5") && !has_section(text, "3.50"));
}
