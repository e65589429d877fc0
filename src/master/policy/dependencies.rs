//! Pure: is what a build waits for there by now?
//!
//! Holds the dependency line a slave reported against the published binaries of the archive
//! (docs/farm.md §2.15), by today's rules: one alternative of a group is enough, and so is one of
//! several versions of a package. Looks nothing up; the caller knows what is published.

use std::str::FromStr;

use debian_control::lossy::{Relation, Relations};

use crate::dpkg::relations::{allows, render};

/// A published binary package.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) component: String,
}

/// A line that says nothing about what is missing: only a person can send the build on.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("dependencies {line:?}: {reason}; retry the build by hand")]
pub(crate) struct Unparsable {
    line: String,
    reason: String,
}

/// Returns the groups of `line` that are still unmet, as a line of the same kind; `""` if none is.
///
/// `known` returns the published binaries of a name, in any order; what has another name is passed
/// over. `ogre` is the components the build may use; none: all. Qualifiers, `[arch]` lists and
/// build profiles count for nothing: a slave reports what applies to the build.
///
/// # Errors
/// What is no dependency line, and an empty one: nobody would know when to stop waiting.
pub(crate) fn unmet(
    line: &str,
    known: &dyn Fn(&str) -> Vec<Known>,
    ogre: Option<&[&str]>,
) -> Result<String, Unparsable> {
    let unparsable = |reason: String| Unparsable {
        line: line.to_owned(),
        reason,
    };
    let relations = Relations::from_str(&respelled(line)).map_err(unparsable)?;
    if relations.0.iter().all(Vec::is_empty) {
        return Err(unparsable("nothing is named".to_owned()));
    }
    let met = |relation: &Relation| {
        let mut candidates = known(&relation.name).into_iter();
        candidates.any(|candidate| is_met_by(relation, &candidate, ogre))
    };
    let unmet = relations.0.iter().filter(|group| !group.iter().any(met));
    Ok(unmet
        .map(|group| render(group))
        .collect::<Vec<_>>()
        .join(", "))
}

/// Spells a line as its parser takes it: `<` and `>` as `<<` and `>>`, which masters have always
/// taken them for, where dpkg takes them for `<=` and `>=`; and no blanks inside of `( … )`.
fn respelled(line: &str) -> String {
    let mut parts = line.split('(');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (inside, after) = part.split_at(part.find(')').unwrap_or(part.len()));
        let inside = inside.trim();
        text.push('(');
        for angle in ['<', '>'] {
            let rest = inside.strip_prefix(angle);
            if rest.is_some_and(|rest| !rest.starts_with([angle, '='])) {
                text.push(angle);
            }
        }
        text.push_str(inside);
        text.push_str(after);
    }
    text
}

fn is_met_by(relation: &Relation, known: &Known, ogre: Option<&[&str]>) -> bool {
    let usable = ogre.is_none_or(|ogre| ogre.contains(&known.component.as_str()));
    if known.name != relation.name || !usable {
        return false;
    }
    if relation.version.is_none() {
        return true;
    }
    known
        .version
        .parse()
        .is_ok_and(|version| allows(relation, &version))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(name: &str) -> Vec<Known> {
        let published = [
            ("libfoo-dev", "1.2-1", "main"),
            ("libfoo-dev", "2.0-1", "universe"),
            ("debhelper", "13.11", "main"),
            ("odd", "not a version", "main"),
            ("epoch", "1:0.5", "main"),
        ];
        // The neighbours of a name come along.
        let near = published
            .into_iter()
            .filter(|(one, ..)| one.len() >= name.len());
        let known = near.map(|(name, version, component)| Known {
            name: name.into(),
            version: version.into(),
            component: component.into(),
        });
        known.collect()
    }

    #[test]
    fn lines_against_what_is_published() {
        for (line, expect) in [
            ("libfoo-dev", ""),
            ("libfoo-dev (>= 2)", ""),
            ("libfoo-dev (>= 2), debhelper (>= 14)", "debhelper (>= 14)"),
            ("nope, libfoo-dev,nada (= 1)", "nope, nada (= 1)"),
            // Any version will do, not only the newest.
            ("libfoo-dev (= 1.2-1), libfoo-dev (<< 2)", ""),
            ("libfoo-dev (<< 1.2-1)", "libfoo-dev (<< 1.2-1)"),
            // As `<<` and `>>`, strictly.
            ("libfoo-dev (< 1.2-1)", "libfoo-dev (<< 1.2-1)"),
            ("libfoo-dev(> 2.0-1)", "libfoo-dev (>> 2.0-1)"),
            ("libfoo-dev (>1.2-1), libfoo-dev ( < 2.0-1 )", ""),
            ("libfoo-dev (<= 1.2-1), libfoo-dev (>= 2.0-1)", ""),
            ("epoch (>= 2)", ""),
            ("nope | libfoo-dev", ""),
            ("nope (>= 1) | nada, debhelper", "nope (>= 1) | nada"),
            ("odd, odd (>= 1)", "odd (>= 1)"),
            (
                "nope:any (>= 1) [amd64] <!nocheck>, debhelper:native",
                "nope (>= 1)",
            ),
        ] {
            assert_eq!(unmet(line, &known, None).as_deref(), Ok(expect), "{line}");
        }
    }

    #[test]
    fn only_components_the_build_may_use() {
        let check = |ogre: &[&str], line: &str, expect: &str| {
            let unmet = unmet(line, &known, Some(ogre));
            assert_eq!(unmet.as_deref(), Ok(expect), "{line} {ogre:?}");
        };
        let line = "libfoo-dev (>= 2)";
        check(&["main"], line, line);
        check(&["main", "universe"], line, "");
        check(&["main"], "libfoo-dev", "");
        check(
            &["universe"],
            "debhelper | libfoo-dev (<< 2)",
            "debhelper | libfoo-dev (<< 2)",
        );
    }

    #[test]
    fn what_is_left_is_a_line_again() {
        let left = unmet("nope (> 1) | nada, no-more, debhelper", &known, None).unwrap();
        assert_eq!(unmet(&left, &known, None), Ok(left.clone()));
    }

    #[test]
    fn lines_that_say_nothing() {
        for line in [
            "", "  ", ",", "a b", "a (>= )", "a (~ 1)", "(>= 1)", "a (>= 1",
        ] {
            let error = unmet(line, &known, None).unwrap_err().to_string();
            let start = format!("dependencies {line:?}: ");
            assert!(error.starts_with(&start), "{error}");
        }
    }
}
