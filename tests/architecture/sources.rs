//! Reads the sources as text: files, their modules, what they import, where they go round.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// A file below `src/` or `tests/`.
pub(crate) struct Source {
    /// Relative to that folder.
    pub(crate) name: String,
    pub(crate) text: String,
}

impl Source {
    /// The folder at the top of `src/`, or the file there.
    pub(crate) fn area(&self) -> &str {
        let first = self.name.split('/').next().unwrap();
        first.strip_suffix(".rs").unwrap_or(first)
    }

    pub(crate) fn is_in(&self, home: &str) -> bool {
        self.name == home
            || (home.ends_with('/') && self.name.starts_with(home))
            || home.strip_suffix('/') == self.name.strip_suffix(".rs")
    }

    /// The path of its module, from the crate's root.
    pub(crate) fn module(&self) -> Vec<&str> {
        let path = self.name.strip_suffix(".rs").unwrap();
        let path = path.strip_suffix("/mod").unwrap_or(path);
        path.split('/').filter(|part| *part != "main").collect()
    }

    /// How many `super::` lead from here to the root of the crate.
    pub(crate) fn depth(&self) -> usize {
        self.module().len().max(1)
    }

    pub(crate) fn is_test(&self) -> bool {
        self.name.split('/').any(|part| part == "tests") || self.name.ends_with("/tests.rs")
    }

    /// The lines without comments, numbered from 1.
    pub(crate) fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(index, line)| {
            let comment = line.trim_start().starts_with("//");
            let end = line.find(" // ").unwrap_or(line.len());
            (index + 1, if comment { "" } else { &line[..end] })
        })
    }

    /// The same without tests.
    pub(crate) fn production(&self) -> impl Iterator<Item = (usize, &str)> {
        let tests = "#[cfg(test)]\nmod tests {";
        let end = match self.text.find(tests) {
            _ if self.is_test() => 0,
            Some(offset) => self.text[..offset].lines().count(),
            None => usize::MAX,
        };
        self.code().take_while(move |(line, _)| *line <= end)
    }

    /// Every path that the production code names from `crate`, `super` or `self`, as a path from
    /// the crate's root.
    pub(crate) fn paths(&self) -> BTreeSet<Vec<String>> {
        let code: Vec<&str> = self.production().map(|(_, code)| code).collect();
        let code = code.join(" ");
        let mut found = BTreeSet::new();
        for start in ["crate::", "super::", "self::"] {
            for (at, _) in code.match_indices(start) {
                let before = code[..at].chars().next_back();
                if before.is_none_or(|c| !c.is_alphanumeric() && c != '_' && c != ':') {
                    for path in expanded(&code[at..]) {
                        found.extend(self.absolute(&path));
                    }
                }
            }
        }
        found
    }

    /// Returns `path` from the crate's root; none if its `super`s lead beyond that.
    fn absolute(&self, path: &[String]) -> Option<Vec<String>> {
        let mut base: Vec<String> = self.module().into_iter().map(str::to_owned).collect();
        let mut rest = path;
        match path.first().map(String::as_str) {
            Some("crate") => base.clear(),
            Some("self") => {}
            _ => {
                while rest.first().is_some_and(|part| part == "super") {
                    base.pop()?;
                    rest = &rest[1..];
                }
                base.extend(rest.iter().cloned());
                return Some(base);
            }
        }
        base.extend(rest[1..].iter().cloned());
        Some(base)
    }
}

/// Returns the files that `file` imports. What a folder's `mod.rs`, or a file, takes from its own
/// children does not count: it is their index.
pub(crate) fn imported(file: &Source, modules: &BTreeMap<Vec<&str>, usize>) -> BTreeSet<usize> {
    let own = file.module();
    let mut found = BTreeSet::new();
    for path in file.paths() {
        let mut path: Vec<&str> = path.iter().map(String::as_str).collect();
        while !path.is_empty() && !modules.contains_key(&path) {
            path.pop();
        }
        if !path.starts_with(&own) {
            found.extend(modules.get(&path));
        }
    }
    found
}

/// Expands the path at the start of `code`, with its groups: `a::{b, c::d}` is `a::b`, `a::c::d`.
fn expanded(code: &str) -> Vec<Vec<String>> {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    let end = code.find(|c| !is_name(c)).unwrap_or(code.len());
    let (name, rest) = code.split_at(end);
    let Some(rest) = rest.strip_prefix("::") else {
        return vec![vec![name.to_owned()]];
    };
    let tails = match rest.strip_prefix('{') {
        Some(group) => members(group).into_iter().flat_map(expanded).collect(),
        None => expanded(rest),
    };
    let with_name = |tail: Vec<String>| [vec![name.to_owned()], tail].concat();
    tails.into_iter().map(with_name).collect()
}

/// Splits the inside of a group, up to its closing brace, at its own commas.
fn members(group: &str) -> Vec<&str> {
    let (mut depth, mut start, mut found) = (0, 0, Vec::new());
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                found.push(group[start..at].trim());
                start = at + 1;
                if c == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    found.retain(|member| !member.is_empty());
    found
}

/// Returns each set of nodes that all reach each other, as far as it has more than one.
pub(crate) fn circles(edges: &[BTreeSet<usize>]) -> Vec<Vec<usize>> {
    let reach: Vec<BTreeSet<usize>> = (0..edges.len()).map(|from| reached(edges, from)).collect();
    let mut found: BTreeSet<Vec<usize>> = BTreeSet::new();
    for from in 0..edges.len() {
        let circle: Vec<usize> = reach[from]
            .iter()
            .copied()
            .filter(|&to| reach[to].contains(&from))
            .collect();
        if circle.len() > 1 {
            found.insert(circle);
        }
    }
    found.into_iter().collect()
}

fn reached(edges: &[BTreeSet<usize>], from: usize) -> BTreeSet<usize> {
    let (mut seen, mut next) = (BTreeSet::new(), vec![from]);
    while let Some(at) = next.pop() {
        for &to in &edges[at] {
            if seen.insert(to) {
                next.push(to);
            }
        }
    }
    seen
}

pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Runs `rule` over all of `src/`; fails with everything it reports.
pub(crate) fn check(rule: impl FnMut(&Source, &mut dyn FnMut(usize, String))) {
    check_in("src", rule);
}

pub(crate) fn check_in(folder: &str, mut rule: impl FnMut(&Source, &mut dyn FnMut(usize, String))) {
    let mut offences = Vec::new();
    for file in sources(folder) {
        rule(&file, &mut |line, offence| {
            offences.push(format!("{folder}/{}:{line}: {offence}", file.name));
        });
    }
    assert!(offences.is_empty(), "\n{}\n", offences.join("\n"));
}

/// All Rust files below a folder of the repository, in order.
pub(crate) fn sources(folder: &str) -> Vec<Source> {
    let root = root().join(folder);
    let read = |path: PathBuf| Source {
        name: path.strip_prefix(&root).unwrap().display().to_string(),
        text: fs::read_to_string(&path).unwrap(),
    };
    files(&root).into_iter().map(read).collect()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Tells whether `code` holds `name` by itself, not as part of a longer name or path.
pub(crate) fn names(code: &str, name: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(name).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = code[at + name.len()..].chars().next();
        let open_end = name.ends_with(is_part) && after.is_some_and(is_part);
        !before.is_some_and(|c| is_part(c) || (c == ':' && name.ends_with("::"))) && !open_end
    })
}

/// The paths after each `crate::`; empty for a group.
pub(crate) fn imports(code: &str) -> Vec<&str> {
    let path = |rest: &str| {
        let is_path = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
        rest.find(|c| !is_path(c)).unwrap_or(rest.len())
    };
    code.match_indices("crate::")
        .map(|(at, found)| &code[at + found.len()..])
        .map(|rest| rest[..path(rest)].trim_end_matches("::"))
        .collect()
}

/// The longest chain of `super::`.
pub(crate) fn supers(code: &str) -> usize {
    (1..10)
        .take_while(|&count| code.contains(&"super::".repeat(count)))
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(name: &str, text: &str) -> Source {
        Source {
            name: name.to_owned(),
            text: text.to_owned(),
        }
    }

    #[test]
    fn sees_imports_and_names() {
        assert_eq!(imports("use crate::xmlrpc::{Value};"), ["xmlrpc"]);
        assert_eq!(imports("use crate::{a, b};"), [""]);
        assert_eq!(imports("f(crate::a::B, crate::c::d())"), ["a::B", "c::d"]);
        assert!(names("use std::time::Instant;", "Instant"));
        assert!(!names("Instantly", "Instant"));
        assert!(names("xml::x", "xml::") && !names("crate::xml::x", "xml::"));
        assert!(names("fs::File::open", "File::open") && !names("Route::Files", "File"));
        assert_eq!(supers("use super::super::x;"), 2);
    }

    #[test]
    fn expands_groups_into_paths() {
        let paths = expanded("super::{a, b::{self, c}, d as e};");
        let paths: Vec<String> = paths.iter().map(|path| path.join("::")).collect();
        assert_eq!(
            paths,
            ["super::a", "super::b::self", "super::b::c", "super::d"]
        );
    }

    #[test]
    fn finds_a_circle_through_three_files_and_none_through_an_index() {
        let files = [
            source("a/mod.rs", "mod b; mod c;\nuse crate::a::b::X;"),
            source("a/b.rs", "use super::{Error, c::Y};"),
            source("a/c.rs", "use\ncrate::d::Z;"),
            source("d.rs", "fn f() { crate::a::b::f() }"),
            source("e.rs", "use crate::d::Z;"),
        ];
        let modules: BTreeMap<Vec<&str>, usize> = files
            .iter()
            .enumerate()
            .map(|(index, file)| (file.module(), index))
            .collect();
        let edges: Vec<_> = files.iter().map(|file| imported(file, &modules)).collect();
        assert_eq!(circles(&edges), [[1, 2, 3]]);
    }
}
