//! Pure: what sections, keys and values does the text have? Folds the old names of sections into
//! today's, sets keys of the reference that mean nothing here aside with a warning, and refuses
//! what the ini format would silently lose. Knows no value. The only file naming `ini`.

use std::collections::{BTreeMap, HashSet};

use ini::configparser::ini::{Ini, IniDefault};

use super::{Error, Warning};

/// Section → key in lower case → value.
pub(super) type Sections = BTreeMap<String, BTreeMap<String, String>>;

/// Names a section has had, and the one it is read as.
const ALIASES: &[(&str, &str)] = &[
    ("builder", "slave"),
    ("binarypackagemanager", "debianmanager"),
];

/// Sections of the reference for build types that are not built here.
const OBSOLETE_SECTIONS: &[&str] = &[
    "snapmanager",
    "sourcepackagerecipemanager",
    "translationtemplatesmanager",
    "livefilesystemmanager",
];

/// Keys of the reference that have no meaning here.
const OBSOLETE_KEYS: &[(&str, &str)] = &[
    ("slave", "ntphost"),
    ("slave", "sharepath"),
    ("slave", "proxyport"),
    ("allmanagers", "preppath"),
    ("proxy", "snapstore"),
    ("proxy", "clamavdatabase"),
];

/// Splits `text` up. Of problems with a value, only its absence is noted.
pub(super) fn read(text: &str, errors: &mut Vec<Error>, warnings: &mut Vec<Warning>) -> Sections {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    find_duplicates(text, errors);
    let mut defaults = IniDefault::default();
    defaults.case_sensitive = true;
    defaults.multiline = true;
    defaults.enable_inline_comments = false;
    let parsed = match Ini::new_from_defaults(defaults).read(text.to_owned()) {
        Ok(parsed) => parsed,
        Err(problem) => {
            let (line, wrong) = problem.split_once(": ").unwrap_or(("text", &problem));
            errors.push(Error::new(
                line,
                wrong,
                None,
                "write [section] and key = value lines",
            ));
            return Sections::new();
        }
    };
    let mut sections = Sections::new();
    // In order of name, so that messages come in the same order each time.
    for (name, keys) in parsed.into_iter().collect::<BTreeMap<_, _>>() {
        let place = format!("[{name}]");
        // The parser's name for what comes before the first section.
        if name == "default" {
            let mend = "put [slave] or another section above them";
            errors.push(Error::new(
                "text",
                "keys outside of any section",
                None,
                mend,
            ));
            continue;
        }
        if OBSOLETE_SECTIONS.contains(&name.as_str()) {
            warnings.push(Warning::new(
                &place,
                "belongs to a build type not built here; ignored",
            ));
            continue;
        }
        let current = ALIASES
            .iter()
            .find(|(old, _)| *old == name)
            .map(|(_, current)| *current);
        if name == "binarypackagemanager" {
            warnings.push(Warning::new(&place, "an old name; read as [debianmanager]"));
        }
        let section = sections
            .entry(current.unwrap_or(&name).to_owned())
            .or_default();
        for (key, value) in keys.into_iter().collect::<BTreeMap<_, _>>() {
            let place = format!("[{name}] {key}");
            let key = key.to_lowercase();
            if OBSOLETE_KEYS.contains(&(current.unwrap_or(&name), &key)) {
                warnings.push(Warning::new(&place, "has no meaning here; ignored"));
                continue;
            }
            match value {
                None => errors.push(Error::new(
                    &place,
                    "has no value",
                    None,
                    "write key = value",
                )),
                Some(value) => {
                    section.insert(key, value);
                }
            }
        }
    }
    sections
}

/// Finds what the parser would let the last of win: keys given twice, also in two spellings or
/// under two names of the section; and `[slave]` beside `[builder]`.
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
            let current = ALIASES.iter().find(|(old, _)| *old == name);
            section = current.map_or(name, |(_, current)| current).to_owned();
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
        let wrong = "present beside [builder], which is the same section";
        errors.push(Error::new(
            "[slave]",
            wrong,
            None,
            "move all keys to one of them",
        ));
    }
}
