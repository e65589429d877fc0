//! Pure: decides on which architectures a source is built, and which of these builds makes its
//! architecture-independent packages (docs/farm.md §2.3).
//!
//! The rules are those of today's Launchpad: dpkg's wildcards, one build per source for
//! `Architecture: all`, and `Build-Indep-Architecture`. Packages-arch-specific is kept from 2008.
//! The caller knows which architectures of the series can build.

use std::collections::{BTreeMap, BTreeSet};

use crate::dpkg::arch;

/// A source, and the architectures on which it could be built.
#[derive(Debug)]
pub(crate) struct Choice<'a> {
    /// The `Architecture` field of the .dsc.
    pub(crate) hint: &'a str,
    /// The architectures that can build, in any order.
    pub(crate) tags: &'a [&'a str],
    /// The series' preferred architecture for architecture-independent packages.
    pub(crate) nominated: Option<&'a str>,
    /// The `Build-Indep-Architecture` field of the .dsc.
    pub(crate) indep_hint: Option<&'a str>,
    /// The tags that Packages-arch-specific allows; `None` allows all.
    pub(crate) allowed: Option<&'a BTreeSet<String>>,
}

/// A build to be added.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Chosen {
    pub(crate) tag: String,
    /// Whether the build makes the architecture-independent packages, alone or with others.
    pub(crate) arch_indep: bool,
}

/// A source whose `Architecture` field is empty.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the Architecture field is empty; submit the .dsc as dpkg-source wrote it")]
pub(crate) struct EmptyHint;

/// Returns the builds of a source, sorted by tag.
///
/// A hint with `all` gets one build for architecture-independent packages: on the nominated tag if
/// it is a candidate, else on the first candidate. Candidates are the tags that the rest of the
/// hint matches, or all tags if it matches none. `Build-Indep-Architecture` narrows them, and may
/// add a build on a tag outside the hint. If it matches no tag, no build makes these packages.
///
/// # Errors
/// The hint is empty.
pub(crate) fn choose(choice: &Choice<'_>) -> Result<Vec<Chosen>, EmptyHint> {
    let hint = words(choice.hint);
    if hint.is_empty() {
        return Err(EmptyHint);
    }
    let tags: BTreeSet<&str> = choice
        .tags
        .iter()
        .copied()
        .filter(allowed(choice))
        .collect();
    let wanted = matching(&tags, &hint);
    let mut builds: BTreeMap<&str, bool> = wanted.iter().map(|tag| (*tag, false)).collect();
    if hint.contains(&"all") {
        let candidates = match choice.indep_hint.map(words) {
            // `all` and `any` in this field narrow nothing.
            Some(narrow) if !narrow.is_empty() && !narrow.contains(&"all") => {
                let narrowed = matching(&tags, &narrow);
                let both: BTreeSet<&str> = narrowed.intersection(&wanted).copied().collect();
                if both.is_empty() { narrowed } else { both }
            }
            _ if wanted.is_empty() => tags,
            _ => wanted,
        };
        let nominated = choice.nominated.filter(|tag| candidates.contains(tag));
        if let Some(tag) = nominated.or_else(|| candidates.first().copied()) {
            builds.insert(tag, true);
        }
    }
    let chosen = |(tag, arch_indep): (&str, bool)| Chosen {
        tag: tag.to_owned(),
        arch_indep,
    };
    Ok(builds.into_iter().map(chosen).collect())
}

fn words(field: &str) -> Vec<&str> {
    field.split_whitespace().collect()
}

fn allowed(choice: &Choice<'_>) -> impl Fn(&&str) -> bool {
    |tag| choice.allowed.is_none_or(|allowed| allowed.contains(*tag))
}

fn matching<'a>(tags: &BTreeSet<&'a str>, patterns: &[&str]) -> BTreeSet<&'a str> {
    let matches = |tag: &&str| patterns.iter().any(|pattern| arch::matches(tag, pattern));
    tags.iter().copied().filter(matches).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAGS: [&str; 4] = ["i386", "amd64", "armhf", "hurd-i386"];

    /// Shows builds as `amd64+all i386`.
    fn shown(choice: &Choice<'_>) -> String {
        let builds = choose(choice).unwrap();
        let word = |build: &Chosen| match build.arch_indep {
            true => format!("{}+all", build.tag),
            false => build.tag.clone(),
        };
        builds.iter().map(word).collect::<Vec<_>>().join(" ")
    }

    fn of(hint: &str) -> Choice<'_> {
        Choice {
            hint,
            tags: &TAGS,
            nominated: Some("i386"),
            indep_hint: None,
            allowed: None,
        }
    }

    #[test]
    fn a_hint_selects_architectures_by_name_and_wildcard() {
        for (hint, expect) in [
            ("any", "amd64 armhf hurd-i386 i386"),
            ("any all", "amd64 armhf hurd-i386 i386+all"),
            ("all", "i386+all"),
            ("amd64 i386", "amd64 i386"),
            ("all amd64", "amd64+all"),
            ("i386\n amd64\tall", "amd64 i386+all"),
            ("linux-any", "amd64 armhf i386"),
            ("linux-any all", "amd64 armhf i386+all"),
            ("any-i386", "hurd-i386 i386"),
            ("linux-i386", "i386"),
            ("any-arm", "armhf"),
            ("hurd-any all", "hurd-i386+all"),
            ("sparc", ""),
            ("any-sparc sparc64", ""),
            // No architecture matches; the architecture-independent packages are built.
            ("sparc all", "i386+all"),
        ] {
            assert_eq!(shown(&of(hint)), expect, "{hint:?}");
        }
        for hint in ["", " \n "] {
            assert_eq!(choose(&of(hint)), Err(EmptyHint));
        }
    }

    #[test]
    fn without_a_usable_nominated_tag_the_first_candidate_is_chosen() {
        for nominated in [None, Some("sparc")] {
            for (hint, expect) in [
                ("all", "amd64+all"),
                ("i386 armhf all", "armhf+all i386"),
                ("any all", "amd64+all armhf hurd-i386 i386"),
            ] {
                let choice = Choice {
                    nominated,
                    ..of(hint)
                };
                assert_eq!(shown(&choice), expect, "{hint} {nominated:?}");
            }
        }
        let nowhere = Choice {
            tags: &[],
            ..of("any all")
        };
        assert_eq!(shown(&nowhere), "");
    }

    #[test]
    fn build_indep_architecture_narrows_the_choice() {
        for (hint, indep_hint, expect) in [
            ("any all", "amd64", "amd64+all armhf hurd-i386 i386"),
            ("any all", "linux-any", "amd64 armhf hurd-i386 i386+all"),
            ("any all", "any", "amd64 armhf hurd-i386 i386+all"),
            ("any all", "", "amd64 armhf hurd-i386 i386+all"),
            ("all", "amd64 armhf", "amd64+all"),
            ("all", "all", "i386+all"),
            // On a tag outside the hint.
            ("i386 all", "amd64", "amd64+all i386"),
            // On a tag that cannot build.
            ("i386 all", "sparc", "i386"),
            ("all", "sparc", ""),
            // No architecture-independent packages.
            ("i386 armhf", "amd64", "armhf i386"),
        ] {
            let choice = Choice {
                indep_hint: Some(indep_hint),
                ..of(hint)
            };
            assert_eq!(shown(&choice), expect, "{hint} {indep_hint}");
        }
    }

    #[test]
    fn restrictions_apply_to_all_builds_of_a_source() {
        let allowed = BTreeSet::from(["amd64".to_owned(), "sparc".to_owned()]);
        for (hint, expect) in [
            ("any", "amd64"),
            ("all", "amd64+all"),
            ("i386 all", "amd64+all"),
            ("i386", ""),
        ] {
            let choice = Choice {
                allowed: Some(&allowed),
                ..of(hint)
            };
            assert_eq!(shown(&choice), expect, "{hint}");
        }
    }
}
