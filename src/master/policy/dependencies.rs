//! Pure: decides which dependencies of a dep-wait are still unmet.
//!
//! Compares the dependency line that a slave reported with the published binaries of the archive
//! (docs/farm.md §2.15). One alternative of a group is enough, and so is one of several versions of
//! a package. The caller looks up the binaries.

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

/// A line that cannot be parsed, or names no package. Only an operator can retry the build.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("dependencies {line:?}: {reason}; retry the build with `master retry`")]
pub(crate) struct Unparsable {
    line: String,
    reason: String,
}

/// Returns the groups of `line` that are still unmet, as a dependency line; `""` if all are met.
///
/// `known` returns the published binaries of a name, in any order; other names are ignored. `ogre`
/// is the components that the build may use; `None` allows all. Qualifiers, `[arch]` lists and
/// build profiles are ignored: a slave reports only dependencies that apply to the build.
///
/// # Errors
/// The line cannot be parsed, or is empty: the wait would never end.
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
        return Err(unparsable("no package is named".to_owned()));
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

/// Rewrites a line for its parser: `<` and `>` become `<<` and `>>`, as in the 2008 master. dpkg
/// reads them as `<=` and `>=`. Blanks next to the parentheses are removed.
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
        // Includes binaries of other names, which `unmet` must ignore.
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
    fn met_groups_are_removed_from_a_line() {
        for (line, expect) in [
            ("libfoo-dev", ""),
            ("libfoo-dev (>= 2)", ""),
            ("libfoo-dev (>= 2), debhelper (>= 14)", "debhelper (>= 14)"),
            ("nope, libfoo-dev,nada (= 1)", "nope, nada (= 1)"),
            // Any published version is enough, not only the newest.
            ("libfoo-dev (= 1.2-1), libfoo-dev (<< 2)", ""),
            ("libfoo-dev (<< 1.2-1)", "libfoo-dev (<< 1.2-1)"),
            // `<` and `>` are strict, like `<<` and `>>`.
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
    fn binaries_of_components_that_the_build_may_not_use_are_ignored() {
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
    fn the_unmet_groups_parse_as_a_line() {
        let left = unmet("nope (> 1) | nada, no-more, debhelper", &known, None).unwrap();
        assert_eq!(unmet(&left, &known, None), Ok(left.clone()));
    }

    #[test]
    fn unparsable_and_empty_lines_are_errors() {
        for line in [
            "", "  ", ",", "a b", "a (>= )", "a (~ 1)", "(>= 1)", "a (>= 1",
        ] {
            let error = unmet(line, &known, None).unwrap_err().to_string();
            let start = format!("dependencies {line:?}: ");
            assert!(error.starts_with(&start), "{error}");
        }
    }
}
