//! Pure: on which architectures is a source built, and which of these builds makes its
//! architecture-independent packages?
//!
//! Today's rules (docs/farm.md §2.3): dpkg's wildcards, one build per source that is also for
//! `Architecture: all`, `Build-Indep-Architecture` respected, and of 2008 the restrictions of
//! Packages-arch-specific. Which architectures are legal at all is the caller's knowledge.

use std::collections::{BTreeMap, BTreeSet};

use crate::dpkg::arch;

/// What is known of a source and where it could be built.
#[derive(Debug)]
pub(crate) struct Choice<'a> {
    /// The `Architecture` field of the .dsc.
    pub(crate) hint: &'a str,
    /// The tags that can be built on, in any order.
    pub(crate) tags: &'a [&'a str],
    /// Where the series would have architecture-independent packages built.
    pub(crate) nominated: Option<&'a str>,
    /// The `Build-Indep-Architecture` field of the .dsc.
    pub(crate) indep_hint: Option<&'a str>,
    /// What Packages-arch-specific leaves of the tags; none: everything.
    pub(crate) allowed: Option<&'a BTreeSet<String>>,
}

/// One build to be made.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Chosen {
    pub(crate) tag: String,
    /// It makes the architecture-independent packages too, or only these.
    pub(crate) arch_indep: bool,
}

/// A source whose .dsc does not say what it is for.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the Architecture field is empty: take the .dsc as dpkg-source wrote it")]
pub(crate) struct EmptyHint;

/// Returns the builds of a source, by tag.
///
/// A hint with `all` has one build for these packages: the nominated tag if it is among the
/// candidates, else the first. Candidates are what the rest of the hint matches; if that is
/// nothing, every tag, so that the packages exist at all. `Build-Indep-Architecture` narrows them,
/// and may add a build on a tag the rest of the hint does not ask for; if it leaves none of the
/// tags, nobody here can make these packages.
///
/// A word `any` counts as `all` here: older dpkg wrote it alone for sources with packages of both
/// kinds, and to a source without packages of the one kind it does no harm. Other lists without
/// `all` have none.
///
/// # Errors
/// A hint without a word.
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
    if hint.contains(&"all") || hint.contains(&"any") {
        let candidates = match choice.indep_hint.map(words) {
            // The field's own `all` and `any` narrow nothing.
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
    fn hints() {
        for (hint, expect) in [
            ("any", "amd64 armhf hurd-i386 i386+all"),
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
            // Nobody here builds it; its other packages are not held back.
            ("sparc all", "i386+all"),
        ] {
            assert_eq!(shown(&of(hint)), expect, "{hint:?}");
        }
        for hint in ["", " \n "] {
            assert_eq!(choose(&of(hint)), Err(EmptyHint));
        }
    }

    #[test]
    fn where_the_nominated_tag_cannot_be_taken() {
        for nominated in [None, Some("sparc")] {
            for (hint, expect) in [
                ("all", "amd64+all"),
                ("i386 armhf all", "armhf+all i386"),
                ("any", "amd64+all armhf hurd-i386 i386"),
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
            // Where the rest is not built.
            ("i386 all", "amd64", "amd64+all i386"),
            // Where nothing is built.
            ("i386 all", "sparc", "i386"),
            ("all", "sparc", ""),
            // Nothing to narrow.
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
    fn restrictions_hold_for_all_of_it() {
        let allowed = BTreeSet::from(["amd64".to_owned(), "sparc".to_owned()]);
        for (hint, expect) in [
            ("any", "amd64+all"),
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
