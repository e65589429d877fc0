//! Pure: decides which dependencies of a dep-wait are still unmet, as apt would.
//!
//! Compares the dependency line that a slave reported with the published binaries of the archives
//! that the build uses (docs/farm.md §2.15). Of each package, only the newest version counts: apt
//! installs no other. The caller looks up the binaries.

use std::collections::HashMap;

use debversion::Version;

use crate::dpkg::packages::{ALL, Package};
use crate::dpkg::relations::{Group, Relation, Relations, Spelling};

/// A published binary package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    /// Its `provides` may leave out names that nobody asked for. The architecture may be empty.
    pub(crate) package: Package,
    pub(crate) component: String,
    /// The archive, as `primary` or `OWNER/NAME`.
    pub(crate) archive: String,
}

/// The binaries that a build may use.
#[derive(Clone, Copy)]
pub(crate) struct Usable<'a> {
    /// Returns the published binaries that have or provide a name, and all other versions of
    /// them, in any order.
    pub(crate) known: &'a dyn Fn(&str) -> Vec<Known>,
    /// The components that the build may use; `None` allows all.
    pub(crate) components: Option<&'a [&'a str]>,
    /// The architecture of the build.
    pub(crate) arch: &'a str,
}

/// The state of a dependency line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Checked {
    /// The groups that are still unmet, in the form of a dependency line; empty if all are met.
    pub(crate) unmet: String,
    /// The groups that are met, each with the binary that meets it.
    pub(crate) met: Vec<String>,
}

/// A line that cannot be parsed, or names no package. Only an operator can retry the build.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("dependencies {line:?}: {reason}; retry the build with `master retry`")]
pub(crate) struct Unparsable {
    line: String,
    reason: String,
}

/// Parses a dependency line. Slaves of any age may have written it, so `<` is `<<`, as in apt.
fn parse(line: &str) -> Result<Relations, Unparsable> {
    let unparsable = |reason: String| Unparsable {
        line: line.to_owned(),
        reason,
    };
    let relations = Relations::parse(line, Spelling::Message).map_err(unparsable)?;
    if relations.0.is_empty() {
        return Err(unparsable("no package is named".to_owned()));
    }
    Ok(relations)
}

/// Returns the names that a dependency line asks for; none if it cannot be parsed.
pub(crate) fn names(line: &str) -> Vec<String> {
    let groups = parse(line).unwrap_or_default().0.into_iter();
    let relations = groups.flat_map(|group| group.0);
    relations.map(|relation| relation.name).collect()
}

/// Compares a dependency line with the binaries that a build may use. `[arch]` lists and build
/// profiles are ignored: a slave reports only dependencies that apply to the build.
///
/// # Errors
/// The line cannot be parsed, or is empty: the wait would never end.
pub(crate) fn check(line: &str, usable: Usable<'_>) -> Result<Checked, Unparsable> {
    let mut unmet = Relations::default();
    let mut met = Vec::new();
    for group in parse(line)?.0 {
        let found = group.0.iter().find_map(|relation| usable.meeting(relation));
        match found {
            Some(binary) => met.push(described(&group, &binary)),
            None => unmet.0.push(group),
        }
    }
    Ok(Checked {
        unmet: unmet.for_master(),
        met,
    })
}

/// Returns a group with the binary that meets it.
fn described(group: &Group, binary: &Known) -> String {
    let Package { name, version, .. } = &binary.package;
    let archive = &binary.archive;
    format!("{} by {name} {version} in {archive}", group.for_master())
}

impl Usable<'_> {
    /// Returns a binary that satisfies `relation`.
    fn meeting(&self, relation: &Relation) -> Option<Known> {
        let satisfies = |known: &Known| {
            let mut offers = known.package.offers(&relation.name);
            offers.any(|offer| relation.is_satisfied_by(&offer, self.arch))
        };
        let mut candidates = self.candidates(&relation.name);
        // The package itself comes before those that provide it.
        candidates.sort_by_key(|known| known.package.name != relation.name);
        candidates.into_iter().find(satisfies)
    }

    /// Returns the newest usable version of every package that has or provides `name`.
    fn candidates(&self, name: &str) -> Vec<Known> {
        let usable = |known: &Known| {
            let component = known.component.as_str();
            self.components
                .is_none_or(|usable| usable.contains(&component))
        };
        let mut newest: HashMap<String, (Option<Version>, Known)> = HashMap::new();
        for mut known in (self.known)(name).into_iter().filter(usable) {
            if known.package.architecture.is_empty() {
                ALL.clone_into(&mut known.package.architecture);
            }
            // A version that is none is older than all others.
            let version = known.package.version.parse().ok();
            let package = known.package.name.clone();
            if newest.get(&package).is_none_or(|(than, _)| *than < version) {
                newest.insert(package, (version, known));
            }
        }
        newest.into_values().map(|(_, known)| known).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dpkg::relations::{MultiArch, Provided};

    /// Published binaries: name, version, component, archive, Multi-Arch, Provides.
    const PUBLISHED: [(&str, &str, &str, &str, &str, &str); 11] = [
        ("libfoo-dev", "1.2-1", "main", "primary", "same", ""),
        ("libfoo-dev", "2.0-1", "universe", "primary", "same", ""),
        ("libfoo-dev", "1.9-1", "main", "bob/ppa", "same", ""),
        (
            "debhelper",
            "13.11",
            "main",
            "primary",
            "foreign",
            "debhelper-compat (= 12), debhelper-compat (= 13), dh",
        ),
        (
            "debhelper",
            "9",
            "main",
            "primary",
            "no",
            "debhelper-compat (= 9), dh-old",
        ),
        (
            "perl",
            "5.36",
            "main",
            "primary",
            "allowed",
            "perl5, libtest-simple-perl (= 1.3)",
        ),
        ("odd", "not a version", "main", "primary", "no", ""),
        ("epoch", "1:0.5", "main", "primary", "no", ""),
        ("epoch", "9", "main", "primary", "no", ""),
        (
            "python3",
            "3.11",
            "main",
            "primary",
            "allowed",
            "python3:any (= 3.11), py (>= 2)",
        ),
        (
            "exim4",
            "4",
            "universe",
            "primary",
            "no",
            "mail-transport-agent",
        ),
    ];

    fn known(name: &str) -> Vec<Known> {
        let read =
            PUBLISHED
                .into_iter()
                .map(
                    |(name, version, component, archive, multi, provides)| Known {
                        package: Package {
                            name: name.into(),
                            version: version.into(),
                            architecture: "i386".into(),
                            multi_arch: MultiArch::parse(multi),
                            provides: Provided::parse_all(provides),
                        },
                        component: component.into(),
                        archive: archive.into(),
                    },
                );
        let all: Vec<Known> = read.collect();
        let has = |known: &Known| known.package.offers(name).next().is_some();
        let packages: Vec<String> = all
            .iter()
            .filter(|known| has(known))
            .map(|known| known.package.name.clone())
            .collect();
        all.into_iter()
            .filter(|known| packages.contains(&known.package.name))
            .collect()
    }

    fn checked(line: &str, components: Option<&[&str]>) -> Result<Checked, Unparsable> {
        check(
            line,
            Usable {
                known: &known,
                components,
                arch: "i386",
            },
        )
    }

    fn unmet(line: &str) -> String {
        checked(line, None).unwrap().unmet
    }

    #[test]
    fn the_unmet_groups_of_a_line_are_found() {
        for (line, expect) in [
            ("libfoo-dev", ""),
            ("libfoo-dev (>= 2)", ""),
            ("libfoo-dev (>= 2), debhelper (>= 14)", "debhelper (>= 14)"),
            ("nope, libfoo-dev,nada (= 1)", "nope, nada (= 1)"),
            // Only the newest version counts, of all archives.
            ("libfoo-dev (= 1.9-1)", "libfoo-dev (= 1.9-1)"),
            ("libfoo-dev (<< 2)", "libfoo-dev (<< 2)"),
            ("libfoo-dev (<< 2.1)", ""),
            // `<` and `>` are strict, like `<<` and `>>`.
            ("libfoo-dev (< 2.0-1)", "libfoo-dev (<< 2.0-1)"),
            ("libfoo-dev(> 2.0-1)", "libfoo-dev (>> 2.0-1)"),
            ("libfoo-dev (>1.2-1), libfoo-dev ( < 2.1 )", ""),
            ("libfoo-dev (<= 2.0-1), libfoo-dev (>= 2.0-1)", ""),
            ("epoch (>= 2), epoch (<< 1:1)", ""),
            ("nope | libfoo-dev", ""),
            ("nope (>= 1) | nada, debhelper", "nope (>= 1) | nada"),
            ("odd, odd (>= 1)", "odd (>= 1)"),
            (
                "nope:any (>= 1) [amd64] <!nocheck>, debhelper:native",
                "nope (>= 1)",
            ),
            ("nope, nope,nope ( >> 1)", "nope, nope (>> 1)"),
        ] {
            assert_eq!(unmet(line), expect, "{line}");
        }
    }

    #[test]
    fn provided_names_count_as_in_apt() {
        for (line, expect) in [
            ("dh, perl5, mail-transport-agent", ""),
            ("debhelper-compat (= 13), debhelper-compat (= 12)", ""),
            // The version that provided it is gone.
            (
                "debhelper-compat (= 9), dh-old",
                "debhelper-compat (= 9), dh-old",
            ),
            ("libtest-simple-perl (>= 1.2)", ""),
            (
                "libtest-simple-perl (>> 1.3)",
                "libtest-simple-perl (>> 1.3)",
            ),
            // Without a version, it satisfies no relation with one.
            ("dh (>= 1)", "dh (>= 1)"),
            ("py", "py"),
        ] {
            assert_eq!(unmet(line), expect, "{line}");
        }
    }

    #[test]
    fn an_architecture_qualifier_must_be_met() {
        for (line, met) in [
            ("perl:any, python3:any", true),
            ("debhelper:any", false),
            ("libfoo-dev:native, libfoo-dev:i386", true),
            ("libfoo-dev:armhf", false),
        ] {
            assert_eq!(unmet(line).is_empty(), met, "{line}");
        }
    }

    #[test]
    fn components_that_the_build_may_not_use_are_ignored() {
        let check = |components: &[&str], line: &str, expect: &str| {
            let checked = checked(line, Some(components)).unwrap();
            assert_eq!(checked.unmet, expect, "{line} {components:?}");
        };
        let line = "libfoo-dev (>= 2)";
        check(&["main"], line, line);
        check(&["main", "universe"], line, "");
        // The newest version is that of the usable components.
        check(&["main"], "libfoo-dev (= 1.9-1)", "");
        check(&["main"], "mail-transport-agent", "mail-transport-agent");
        let line = "debhelper | libfoo-dev (<< 2)";
        check(&["universe"], line, line);
    }

    #[test]
    fn the_binaries_that_meet_a_line_are_named() {
        let checked = checked("nope | libfoo-dev:i386, dh, nada", None).unwrap();
        let met = [
            "nope | libfoo-dev by libfoo-dev 2.0-1 in primary",
            "dh by debhelper 13.11 in primary",
        ];
        assert_eq!(checked.met, met);
        assert_eq!(checked.unmet, "nada");
        assert_eq!(names("nope | a:any, b (> 1)"), ["nope", "a", "b"]);
        assert_eq!(names("(("), [""; 0]);
    }

    #[test]
    fn the_unmet_groups_parse_as_a_line() {
        let left = unmet("nope (> 1) | nada, no-more, debhelper");
        assert_eq!(unmet(&left), left);
    }

    #[test]
    fn unparsable_and_empty_lines_are_errors() {
        for line in [
            "", "  ", ",", "a b", "a (>= )", "a (~ 1)", "(>= 1)", "a (>= 1",
        ] {
            let error = checked(line, None).unwrap_err().to_string();
            let start = format!("dependencies {line:?}: ");
            assert!(error.starts_with(&start), "{error}");
        }
    }
}
