//! Rules about what people read: headers, sentences, lengths, citations.

use std::fs;

use crate::map::quoted;
use crate::sources::{Source, check, check_in, root, sources};

const LONGEST_FILE: usize = 600;
const LONGEST_FUNCTION: usize = 100;
const LONGEST_LINE: usize = 100;

#[test]
fn every_file_has_a_header_that_states_its_job() {
    check(|file, report| {
        if !file.text.starts_with("//! ") {
            report(1, "a file begins with `//!` and its job".to_owned());
        }
        for (line, text) in header(&file.text) {
            if text.contains('?') {
                report(line, "a header states, it does not ask".to_owned());
            }
        }
    });
}

#[test]
fn sentences_begin_with_their_subject() {
    const RIDDLES: &[&str] = &["Who", "What", "Whoever", "Whatever", "Those", "Of"];
    let rule = |file: &Source, report: &mut dyn FnMut(usize, String)| {
        for (index, line) in file.text.lines().enumerate() {
            let line = line.trim_start();
            let Some(comment) = ["/// ", "//! "]
                .iter()
                .find_map(|mark| line.strip_prefix(mark))
            else {
                continue;
            };
            let first = comment.split_whitespace().next().unwrap_or_default();
            if RIDDLES.contains(&first) {
                report(index + 1, format!("a noun as subject instead of {first:?}"));
            }
        }
    };
    check_in("src", rule);
    check_in("tests", rule);
}

#[test]
fn files_functions_and_lines_have_a_limit() {
    let rule = |file: &Source, report: &mut dyn FnMut(usize, String)| {
        let lines: Vec<&str> = file.text.lines().collect();
        if lines.len() > LONGEST_FILE {
            report(lines.len(), format!("longer than {LONGEST_FILE} lines"));
        }
        for (first, length) in functions(&lines) {
            if length > LONGEST_FUNCTION {
                report(first, format!("a function of {length} lines"));
            }
        }
        for (index, line) in lines.iter().enumerate() {
            let comment = line.trim_start().starts_with("//");
            if comment && line.chars().count() > LONGEST_LINE {
                report(index + 1, format!("longer than {LONGEST_LINE} columns"));
            }
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
            let resolved: usize = cites.iter().map(|(_, sections)| sections.len()).sum();
            let code = !line.trim_start().starts_with("//");
            if !code && !line.contains("RFC") && line.matches('§').count() != resolved {
                report(
                    index + 1,
                    "name the document of a section on its line".to_owned(),
                );
            }
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

/// The documents for people, relative to the repository.
const DOCUMENTS: &[&str] = &[
    "README.md",
    "CONTRIBUTING.md",
    "RELEASE.md",
    "docs/wire.md",
    "docs/farm.md",
    "docs/debugging.md",
    "docs/glossary.md",
    "src/ARCHITECTURE.md",
];

#[test]
fn documents_name_files_that_exist() {
    let mut offences = Vec::new();
    for document in DOCUMENTS {
        let path = root().join(document);
        let folder = path.parent().unwrap();
        for (index, line) in fs::read_to_string(&path).unwrap().lines().enumerate() {
            let links = links(line).into_iter().map(|link| folder.join(link));
            // A path in backticks is that of a source below the root, `src` or `tests`.
            let named = quoted(line).into_iter().filter(|word| is_path(word));
            let missing_path = named.filter(|path| {
                let places = ["", "src", "tests", "tests/integration", "tests/farm"];
                !places
                    .iter()
                    .any(|place| root().join(place).join(path).exists())
            });
            let missing_link = links.filter(|path| !path.exists());
            let missing = missing_link.map(|path| path.display().to_string());
            for path in missing.chain(missing_path) {
                offences.push(format!("{document}:{}: there is no {path}", index + 1));
            }
        }
    }
    assert!(offences.is_empty(), "\n{}\n", offences.join("\n"));
}

#[test]
fn documents_name_tests_that_exist() {
    let sources: Vec<Source> = ["src", "tests"].into_iter().flat_map(sources).collect();
    let exists = |name: &str| {
        let head = format!("fn {name}(");
        sources.iter().any(|file| file.text.contains(&head))
    };
    let mut offences = Vec::new();
    for document in DOCUMENTS {
        let text = fs::read_to_string(root().join(document)).unwrap();
        for (index, line) in text.lines().enumerate() {
            // `module::test_name`: a test has several words, a function of the code has a `(`.
            let named = quoted(line).into_iter().filter_map(|word| {
                let (_, name) = word.rsplit_once("::")?;
                let is_test = name.matches('_').count() > 1
                    && name
                        .chars()
                        .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
                is_test.then(|| name.to_owned())
            });
            for name in named.filter(|name| !exists(name)) {
                offences.push(format!("{document}:{}: there is no test {name}", index + 1));
            }
        }
    }
    assert!(offences.is_empty(), "\n{}\n", offences.join("\n"));
}

/// Tells whether a word in backticks is the path of one source file. `NAME.rs` stands for any.
fn is_path(word: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "/._-".contains(c);
    word.ends_with(".rs") && word.contains('/') && word.chars().all(plain)
}

/// The relative targets of the links of a line, without their fragments.
fn links(line: &str) -> Vec<&str> {
    let targets = line.split("](").skip(1);
    let targets = targets.filter_map(|rest| rest.split([')', '#']).next());
    let relative = |target: &&str| !target.is_empty() && !target.contains("://");
    targets.filter(relative).collect()
}

/// The first lines of a file, its `//!`.
fn header(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().enumerate();
    let lines = lines.take_while(|(_, line)| line.starts_with("//!"));
    lines.map(|(index, line)| (index + 1, line))
}

/// The functions of a formatted file: the line each begins at, and its length in lines.
fn functions(lines: &[&str]) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        let code = line.trim_start();
        let indent = &line[..line.len() - code.len()];
        let is_function = code.split_once("fn ").is_some_and(|(before, _)| {
            let mut words = before.split_whitespace();
            words.all(|word| word == "const" || word.starts_with("pub"))
        });
        if !is_function || code.ends_with([';', '}']) {
            continue;
        }
        let end = format!("{indent}}}");
        if let Some(length) = lines[index..].iter().position(|line| *line == end) {
            found.push((index + 1, length + 1));
        }
    }
    found
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

#[test]
fn measures_functions() {
    let lines = [
        "impl X {",
        "    fn a(",
        "    ) {",
        "    }",
        "}",
        "fn b() {}",
    ];
    assert_eq!(functions(&lines), [(2, 3)]);
}
