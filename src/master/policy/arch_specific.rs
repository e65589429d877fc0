//! Pure: which architectures does Packages-arch-specific leave a source?
//!
//! The file Debian and Ubuntu kept beside their archives (docs/farm.md §2.3): one line for each
//! source (`%name: tags`) or binary package (`name: tags`) that is of use on some architectures
//! only. Wildcards in it count as dpkg reads them. Has no say about PPAs; the caller knows.

use std::collections::{BTreeMap, BTreeSet};

use crate::dpkg::arch;

/// The file, as lines.
#[derive(Debug, Default)]
pub(crate) struct ArchSpecific(Vec<Entry>);

#[derive(Debug)]
struct Entry {
    name: String,
    kind: Kind,
    /// The tags are those it is not for.
    excludes: bool,
    tags: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Source,
    Binary,
}

/// A line that names no package.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("Packages-arch-specific, line {line}: expected `name: architectures`")]
pub(crate) struct MalformedLine {
    /// From 1.
    line: usize,
}

/// For each source with an entry, the tags it may be built on.
pub(crate) type Restrictions = BTreeMap<String, BTreeSet<String>>;

impl ArchSpecific {
    /// Reads the file. What follows `#` is no part of it. A file that is missing is an empty one.
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

    /// Returns what the file says of a series with `tags`. `source_of` is the source of a binary
    /// package published on the nominated tag, if there is one; a package without is passed over.
    ///
    /// A later line for a source replaces an earlier one. An entry for a binary package always
    /// leaves the nominated tag: it may be the one that makes it for all architectures.
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
    fn each_sort_of_entry() {
        for (text, expect) in [
            ("", ""),
            ("# only words\n\n   # more\n", ""),
            ("%grub: i386 amd64", "grub=amd64,i386"),
            ("%grub: i386 sparc # not yet sparc64", "grub=i386"),
            ("%grub: !hppa", "grub=amd64,i386"),
            // One `!` makes the whole line an exclusion.
            ("%grub: hppa !i386", "grub=amd64"),
            ("%grub: sparc", "grub="),
            ("%grub:", "grub="),
            ("%grub: any-i386 linux-hppa", "grub=hppa,i386"),
            ("libgrub: amd64", "grub=amd64,i386"),
            ("libgrub: !i386 !hppa", "grub=amd64,i386"),
            ("nobodys: amd64", ""),
            ("%a: i386\n%b: hppa\n%a: amd64", "a=amd64 b=hppa"),
            ("%grub: hppa\ngrub-doc: amd64", "grub=amd64,i386"),
        ] {
            assert_eq!(shown(text), expect, "{text:?}");
        }
    }

    #[test]
    fn binaries_to_be_looked_up() {
        let file = ArchSpecific::parse("%a: i386\nb: i386\n c : !hppa\n").unwrap();
        let without = file.restrictions(&TAGS, None, |binary| Some(binary.to_owned()));
        assert_eq!(without["b"], BTreeSet::from(["i386".to_owned()]));
    }

    #[test]
    fn a_line_that_is_none_is_named() {
        for text in ["#\n%a i386\n", "%a: i386\n: amd64", "\n%: amd64"] {
            let error = ArchSpecific::parse(text).unwrap_err();
            assert_eq!(error, MalformedLine { line: 2 }, "{text:?}");
        }
    }
}
