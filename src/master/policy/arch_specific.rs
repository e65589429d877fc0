//! Pure: reads Packages-arch-specific, which restricts sources to architectures.
//!
//! Debian and Ubuntu kept this file beside their archives (docs/farm.md §2.3). Each line restricts
//! a source (`%name: tags`) or a binary package (`name: tags`). Wildcards are dpkg's. The file does
//! not apply to PPAs; the caller checks that.

use std::collections::{BTreeMap, BTreeSet};

use crate::dpkg::arch;

/// The parsed file.
#[derive(Debug, Default)]
pub(crate) struct ArchSpecific(Vec<Entry>);

#[derive(Debug)]
struct Entry {
    name: String,
    kind: Kind,
    /// Whether the tags are the ones excluded.
    excludes: bool,
    tags: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Source,
    Binary,
}

/// A line without a package name or a colon.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("Packages-arch-specific, line {line}: expected `name: architectures`")]
pub(crate) struct MalformedLine {
    /// Counted from 1.
    line: usize,
}

/// The allowed tags of each source with an entry.
pub(crate) type Restrictions = BTreeMap<String, BTreeSet<String>>;

impl ArchSpecific {
    /// Parses the text of the file. `#` begins a comment.
    ///
    /// # Errors
    /// The first line without a name and a colon.
    pub(crate) fn parse(text: &str) -> Result<Self, MalformedLine> {
        let mut entries = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default().trim();
            if line.is_empty() {
                continue;
            }
            let malformed = MalformedLine { line: index + 1 };
            let Some((name, tags)) = line.split_once(':') else {
                return Err(malformed);
            };
            let (kind, name) = match name.trim().strip_prefix('%') {
                Some(source) => (Kind::Source, source.trim()),
                None => (Kind::Binary, name.trim()),
            };
            if name.is_empty() {
                return Err(malformed);
            }
            let without_mark = |tag: &str| tag.replace('!', "");
            entries.push(Entry {
                name: name.to_owned(),
                kind,
                excludes: tags.contains('!'),
                tags: tags.split_whitespace().map(without_mark).collect(),
            });
        }
        Ok(Self(entries))
    }

    /// Returns the restrictions for a series with `tags`. `source_of` returns the source of a
    /// binary package that is published on the nominated tag; other binary packages are ignored.
    ///
    /// A later line for a source replaces an earlier one. An entry for a binary package always
    /// allows the nominated tag, where architecture-independent packages are built.
    pub(crate) fn restrictions(
        &self,
        tags: &[&str],
        nominated: Option<&str>,
        source_of: impl Fn(&str) -> Option<String>,
    ) -> Restrictions {
        let mut restrictions = Restrictions::new();
        for entry in &self.0 {
            let mut allowed = entry.allowed(tags);
            let source = match entry.kind {
                Kind::Source => Some(entry.name.clone()),
                Kind::Binary => {
                    allowed.extend(nominated.map(str::to_owned));
                    source_of(&entry.name)
                }
            };
            restrictions.extend(source.map(|source| (source, allowed)));
        }
        restrictions
    }
}

impl Entry {
    fn allowed(&self, tags: &[&str]) -> BTreeSet<String> {
        let listed = |tag: &str| self.tags.iter().any(|one| arch::matches(tag, one));
        let left = tags.iter().filter(|tag| listed(tag) != self.excludes);
        left.map(ToString::to_string).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAGS: [&str; 3] = ["amd64", "hppa", "i386"];

    /// Shows the restrictions as `name=amd64,i386`.
    fn shown(text: &str) -> String {
        let file = ArchSpecific::parse(text).unwrap();
        let source_of = |binary: &str| {
            let known = [("libgrub", "grub"), ("grub-doc", "grub")];
            let found = known.into_iter().find(|(name, _)| *name == binary);
            found.map(|(_, source)| source.to_owned())
        };
        let restrictions = file.restrictions(&TAGS, Some("i386"), source_of);
        let word = |(source, tags): (&String, &BTreeSet<String>)| {
            let tags: Vec<&str> = tags.iter().map(String::as_str).collect();
            format!("{source}={}", tags.join(","))
        };
        restrictions.iter().map(word).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn entries_list_or_exclude_architectures() {
        for (text, expect) in [
            ("", ""),
            ("# only words\n\n   # more\n", ""),
            ("%grub: i386 amd64", "grub=amd64,i386"),
            ("%grub: i386 sparc # not yet sparc64", "grub=i386"),
            ("%grub: !hppa", "grub=amd64,i386"),
            // A single `!` makes the whole line an exclusion.
            ("%grub: hppa !i386", "grub=amd64"),
            ("%grub: sparc", "grub="),
            ("%grub:", "grub="),
            ("%grub: any-i386 linux-hppa", "grub=hppa,i386"),
            ("libgrub: amd64", "grub=amd64,i386"),
            ("libgrub: !i386 !hppa", "grub=amd64,i386"),
            ("unknown: amd64", ""),
            ("%a: i386\n%b: hppa\n%a: amd64", "a=amd64 b=hppa"),
            ("%grub: hppa\ngrub-doc: amd64", "grub=amd64,i386"),
        ] {
            assert_eq!(shown(text), expect, "{text:?}");
        }
    }

    #[test]
    fn without_a_nominated_tag_a_binary_entry_adds_none() {
        let file = ArchSpecific::parse("%a: i386\nb: i386\n c : !hppa\n").unwrap();
        let without = file.restrictions(&TAGS, None, |binary| Some(binary.to_owned()));
        assert_eq!(without["b"], BTreeSet::from(["i386".to_owned()]));
    }

    #[test]
    fn the_error_names_the_malformed_line() {
        for text in ["#\n%a i386\n", "%a: i386\n: amd64", "\n%: amd64"] {
            let error = ArchSpecific::parse(text).unwrap_err();
            assert_eq!(error, MalformedLine { line: 2 }, "{text:?}");
        }
    }
}
