//! Pure: splits the text of the configuration into sections, keys and values.
//!
//! Old section names become the current ones. Obsolete keys of launchpad-buildd are dropped with a
//! warning. Duplicates, which the ini format loses silently, are errors. Only this file names
//! `ini`.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use ini::configparser::ini::{Ini, IniDefault};

use super::{Error, Warning};

/// The sections of a file.
#[derive(Default)]
pub(super) struct Sections {
    /// Section by its name here → key in lower case → value.
    pub(super) keys: BTreeMap<String, BTreeMap<String, String>>,
    /// The names of sections as the file writes them.
    pub(super) written: BTreeSet<String>,
}

/// Other names of sections in launchpad-buildd, and those here.
const ALIASES: &[(&str, &str)] = &[
    ("builder", "slave"),
    ("binarypackagemanager", "debianmanager"),
];

/// Sections of launchpad-buildd for build types that do not exist here.
const OBSOLETE_SECTIONS: &[&str] = &[
    "snapmanager",
    "sourcepackagerecipemanager",
    "translationtemplatesmanager",
    "livefilesystemmanager",
];

/// Keys of launchpad-buildd that have no effect here.
const OBSOLETE_KEYS: &[(&str, &str)] = &[
    ("slave", "ntphost"),
    ("slave", "sharepath"),
    ("slave", "proxyport"),
    ("allmanagers", "preppath"),
    ("proxy", "snapstore"),
    ("proxy", "clamavdatabase"),
];

/// Splits `text` into sections. The only value it refuses is a missing one.
pub(super) fn read(text: &str, errors: &mut Vec<Error>, warnings: &mut Vec<Warning>) -> Sections {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    find_duplicates(text, errors);
    let parsed = match parse(text) {
        Ok(parsed) => parsed,
        Err(error) => {
            errors.push(error);
            return Sections::default();
        }
    };
    let mut sections = Sections::default();
    for (name, keys) in parsed {
        let place = format!("[{name}]");
        // The parser's name for the text before the first section.
        if name == "default" {
            let fix = "put [slave] or another section above them";
            errors.push(Error::new("text", "keys outside of any section", None, fix));
            continue;
        }
        if OBSOLETE_SECTIONS.contains(&name.as_str()) {
            warnings.push(Warning::new(
                &place,
                "belongs to an unsupported build type; ignored",
            ));
            continue;
        }
        if name == "binarypackagemanager" {
            warnings.push(Warning::new(&place, "an old name; read as [debianmanager]"));
        }
        sections.written.insert(name.clone());
        let current = current_name(&name);
        let section = sections.keys.entry(current.to_owned()).or_default();
        for (key, value) in keys {
            let place = format!("[{name}] {key}");
            let key = key.to_lowercase();
            if OBSOLETE_KEYS.contains(&(current, &key)) {
                warnings.push(Warning::new(&place, "has no effect here; ignored"));
                continue;
            }
            match value {
                None => {
                    let fix = "write key = value";
                    errors.push(Error::new(&place, "has no value", None, fix));
                }
                Some(value) => {
                    section.insert(key, value);
                }
            }
        }
    }
    sections
}

/// Section → key → value as the `ini` crate parses them, sorted to keep the order of messages
/// stable.
type Parsed = BTreeMap<String, BTreeMap<String, Option<String>>>;

fn parse(text: &str) -> Result<Parsed, Error> {
    let mut defaults = IniDefault::default();
    defaults.case_sensitive = true;
    defaults.multiline = true;
    defaults.enable_inline_comments = false;
    let parsed = Ini::new_from_defaults(defaults).read(text.to_owned());
    let sections = parsed.map_err(|message| {
        let (line, problem) = message.split_once(": ").unwrap_or(("text", &message));
        Error::new(line, problem, None, "write [section] and key = value lines")
    })?;
    Ok(sections
        .into_iter()
        .map(|(name, keys)| (name, keys.into_iter().collect()))
        .collect())
}

/// Returns the name of a section here.
fn current_name(name: &str) -> &str {
    let alias = ALIASES.iter().find(|(old, _)| *old == name);
    alias.map_or(name, |(_, current)| current)
}

/// Finds duplicates, of which the parser would keep only the last: keys given twice, even in
/// another case or under another name of the section, and `[slave]` beside `[builder]`.
fn find_duplicates(text: &str, errors: &mut Vec<Error>) {
    let mut section = String::new();
    let mut seen = HashSet::new();
    let mut sections = HashSet::new();
    let mut key_indent = None;
    for line in text.lines() {
        let trimmed = line.trim();
        if trimmed.is_empty() || trimmed.starts_with(['#', ';']) {
            continue;
        }
        let indent = line.len() - line.trim_start().len();
        if let Some(rest) = trimmed.strip_prefix('[') {
            let name = rest.rsplit_once(']').map_or(rest, |(name, _)| name).trim();
            current_name(name).clone_into(&mut section);
            sections.insert(name.to_owned());
            key_indent = None;
        } else if key_indent.is_none_or(|key_indent| indent <= key_indent) {
            key_indent = Some(indent);
            let key = trimmed
                .split(['=', ':'])
                .next()
                .unwrap_or(trimmed)
                .trim()
                .to_lowercase();
            if !seen.insert((section.clone(), key.clone())) {
                let place = format!("[{section}] {key}");
                errors.push(Error::new(&place, "given twice", None, "keep one of them"));
            }
        }
    }
    if sections.contains("slave") && sections.contains("builder") {
        let problem = "present beside [builder], which is the same section";
        let fix = "move all keys to one of them";
        errors.push(Error::new("[slave]", problem, None, fix));
    }
}
