//! Pure: converts the values of keys to their types and collects all errors.
//!
//! The reader removes each key it reads from the sections. Keys that remain are unknown.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::raw::Sections;
use super::{Error, is_name, units};

/// The sections still to be read, and the errors so far.
pub(super) struct Reader<'a> {
    sections: Sections,
    /// Every key read so far, by section.
    pub(super) known: BTreeMap<&'static str, Vec<&'static str>>,
    pub(super) errors: &'a mut Vec<Error>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(sections: Sections, errors: &'a mut Vec<Error>) -> Self {
        Self {
            sections,
            known: BTreeMap::new(),
            errors,
        }
    }

    /// Returns whether the file has a section that it calls `name`.
    pub(super) fn is_called(&self, name: &str) -> bool {
        self.sections.written.contains(name)
    }

    /// Takes the text of a key unchecked, so that no message repeats it; `None` if absent or empty.
    pub(super) fn secret(&mut self, section: &'static str, key: &'static str) -> Option<String> {
        self.known.entry(section).or_default().push(key);
        let value = self.sections.keys.get_mut(section)?.remove(key)?;
        Some(value).filter(|value| !value.is_empty())
    }

    /// Takes the text of a key, which may have several lines; `None` if absent or empty.
    pub(super) fn text(&mut self, section: &'static str, key: &'static str) -> Option<String> {
        let value = self.secret(section, key)?;
        if value.contains("%(") {
            let problem = "%(name)s is not replaced here";
            self.error(section, key, problem, Some(&value), "write the value out");
            return None;
        }
        Some(value)
    }

    /// Takes a value of one line and converts it; `expected` is for the error message.
    pub(super) fn value<T>(
        &mut self,
        section: &'static str,
        key: &'static str,
        expected: &str,
        convert: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let text = self.text(section, key)?;
        if text.contains('\n') {
            let fix = "start every key at the left margin: an indented line continues the last";
            self.error(section, key, "more than one line", Some(&text), fix);
            return None;
        }
        let value = convert(&text);
        if value.is_none() {
            self.error(
                section,
                key,
                "not understood",
                Some(&text),
                &format!("write {expected}"),
            );
        }
        value
    }

    /// Takes items separated by spaces, commas or newlines.
    pub(super) fn list<T>(
        &mut self,
        section: &'static str,
        key: &'static str,
        expected: &str,
        convert: impl Fn(&str) -> Option<T>,
    ) -> Option<Vec<T>> {
        let text = self.text(section, key)?;
        let items = text
            .split(|c: char| c == ',' || c.is_whitespace())
            .filter(|item| !item.is_empty());
        let mut values = Vec::new();
        for item in items {
            match convert(item) {
                Some(value) => values.push(value),
                None => {
                    let fix = format!("write {expected}, separated by spaces");
                    self.error(section, key, "not understood", Some(item), &fix);
                }
            }
        }
        Some(values)
    }

    /// Takes words separated by spaces.
    pub(super) fn words(&mut self, section: &'static str, key: &'static str) -> Vec<String> {
        let text = self.text(section, key).unwrap_or_default();
        text.split_whitespace().map(str::to_owned).collect()
    }

    /// Takes one of `choices`; the error message lists them and ends with `remark`.
    pub(super) fn choice<T: Copy>(
        &mut self,
        section: &'static str,
        key: &'static str,
        choices: &[(&str, T)],
        remark: &str,
    ) -> Option<T> {
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        let expected = names.join(" or ") + remark;
        self.value(section, key, &expected, |text| {
            choices
                .iter()
                .find(|(name, _)| *name == text)
                .map(|(_, value)| *value)
        })
    }

    /// Takes a word of ASCII letters, digits and characters of `also`; begins with a letter or
    /// digit.
    pub(super) fn name(
        &mut self,
        section: &'static str,
        key: &'static str,
        expected: &str,
        also: &str,
    ) -> Option<String> {
        self.value(section, key, expected, |text| {
            is_name(text, also).then(|| text.to_owned())
        })
    }

    /// Takes a port number.
    pub(super) fn port(&mut self, section: &'static str, key: &'static str) -> Option<u16> {
        self.value(section, key, "a port number, 0 to 65535", port)
    }

    /// Takes a port number or `none`.
    pub(super) fn port_or_none(
        &mut self,
        section: &'static str,
        key: &'static str,
        default: u16,
    ) -> Option<u16> {
        let expected = "a port number, 0 to 65535, or none";
        let given = self.value(section, key, expected, |text| match text {
            "none" => Some(None),
            number => port(number).map(Some),
        });
        given.unwrap_or(Some(default))
    }

    /// Takes an absolute path.
    pub(super) fn path(&mut self, section: &'static str, key: &'static str) -> Option<PathBuf> {
        self.value(section, key, "an absolute path", |text| {
            Some(PathBuf::from(text)).filter(|path| path.is_absolute())
        })
    }

    /// Takes an integer of at least `least`.
    pub(super) fn count(
        &mut self,
        section: &'static str,
        key: &'static str,
        least: u32,
        default: u32,
    ) -> u32 {
        let expected = format!("a whole number, at least {least}");
        let count = self.value(section, key, &expected, |text| {
            units::digits(text)?
                .try_into()
                .ok()
                .filter(|number| *number >= least)
        });
        count.unwrap_or(default)
    }

    /// Takes a number of bytes above zero.
    pub(super) fn bytes(&mut self, section: &'static str, key: &'static str, default: u64) -> u64 {
        self.some_bytes(section, key).unwrap_or(default)
    }

    /// Takes a number of bytes above zero; `None` if absent.
    pub(super) fn some_bytes(&mut self, section: &'static str, key: &'static str) -> Option<u64> {
        let expected = "a number of bytes such as 512, 64 KiB, 200 MiB or 2 GiB";
        self.value(section, key, expected, |text| {
            units::bytes(text).filter(|bytes| *bytes > 0)
        })
    }

    /// Takes a duration above zero.
    pub(super) fn duration(
        &mut self,
        section: &'static str,
        key: &'static str,
        default_secs: u64,
    ) -> Duration {
        let expected = "a length of time such as 30 s, 150 m or 24 h";
        let time = self.value(section, key, expected, |text| {
            units::duration(text).filter(|time| !time.is_zero())
        });
        time.unwrap_or_else(|| Duration::from_secs(default_secs))
    }

    /// Adds an error about a key.
    pub(super) fn error(
        &mut self,
        section: &str,
        key: &str,
        problem: &str,
        given: Option<&str>,
        fix: &str,
    ) {
        self.errors.push(Error::new(
            &format!("[{section}] {key}"),
            problem,
            given,
            fix,
        ));
    }

    /// Adds an error for every unknown section and key.
    pub(super) fn finish(self) {
        for (section, keys) in self.sections.keys {
            let Some(known) = self.known.get(section.as_str()) else {
                let names = self.known.keys().copied();
                let fix = suggest(&section, names, "a section");
                self.errors.push(Error::new(
                    &format!("[{section}]"),
                    "unknown section",
                    None,
                    &fix,
                ));
                continue;
            };
            for key in keys.into_keys() {
                let fix = suggest(&key, known.iter().copied(), "a key");
                let place = format!("[{section}] {key}");
                self.errors
                    .push(Error::new(&place, "unknown key", None, &fix));
            }
        }
    }
}

fn port(text: &str) -> Option<u16> {
    units::digits(text)?.try_into().ok()
}

/// Returns the fix for an unknown name: the most similar known one, if it is similar enough.
fn suggest<'a>(name: &str, known: impl Iterator<Item = &'a str>, what: &str) -> String {
    match known.map(|known| (distance(name, known), known)).min() {
        Some((near, known)) if near <= 2 => format!("did you mean {known}?"),
        _ => format!("remove it, or see buildd-slave.conf for {what} that exists"),
    }
}

/// Returns the Levenshtein distance of two words.
fn distance(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.chars().count()).collect();
    for (line, left) in from.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = line + 1;
        for (column, right) in to.chars().enumerate() {
            let replaced = diagonal + usize::from(left != right);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[to.chars().count()]
}
