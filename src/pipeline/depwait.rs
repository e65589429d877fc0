//! Pure: finds the build dependencies of a .dsc that an archive cannot satisfy.
//!
//! Direct build dependencies count, with alternatives, versions, `[arch]` lists and `<profile>`
//! formulas. They are matched against all versions in the package lists,
//! virtual packages included (docs/wire.md §3.7). Only packages that the .dsc names are kept in
//! memory. The shim feeds the package lists of the build's chroot.

use std::collections::HashMap;
use std::str::FromStr;

use debian_control::lossy::{Relation, Relations};
use debian_control::relations::VersionConstraint;
use debversion::Version;

use crate::dpkg::Error;
use crate::dpkg::control::Paragraph;
use crate::dpkg::relations::{allows, applies, render};
use crate::protocol::BuildProfile;

/// The properties of a build that decide which dependencies apply.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target<'a> {
    pub(crate) arch: &'a str,
    /// Whether `Build-Depends-Indep` counts.
    pub(crate) arch_indep: bool,
    /// The active build profiles.
    pub(crate) profiles: &'a [BuildProfile],
}

/// The build dependencies that apply: a list of groups, each satisfied by one alternative.
#[derive(Debug)]
pub(crate) struct BuildDeps(Vec<Vec<Relation>>);

impl BuildDeps {
    /// Parses the dependencies in the text of a .dsc that apply to `target`.
    pub(crate) fn parse(dsc: &str, target: Target<'_>) -> Result<Self, Error> {
        let paragraph = Paragraph::parse(dsc)?;
        let indep = target.arch_indep.then_some("Build-Depends-Indep");
        let mut groups = Vec::new();
        for name in ["Build-Depends", "Build-Depends-Arch"]
            .into_iter()
            .chain(indep)
        {
            let Some(field) = paragraph.get(name) else {
                continue;
            };
            let relations = Relations::from_str(&field.lines.join(" "));
            let relations = relations.map_err(|problem| Error::Field {
                field: name,
                line: field.line,
                problem,
            })?;
            for mut group in relations.0 {
                group.retain(|relation| applies(relation, target.arch, target.profiles));
                if !group.is_empty() {
                    groups.push(group);
                }
            }
        }
        Ok(Self(groups))
    }

    /// Returns the groups that `available` does not satisfy, in the form a master reads.
    pub(crate) fn unsatisfied(&self, mut available: Available) -> Option<String> {
        available.end_package();
        let satisfied =
            |group: &[Relation]| group.iter().any(|relation| available.satisfies(relation));
        let missing: Vec<String> = self
            .0
            .iter()
            .filter(|group| !satisfied(group))
            .map(|group| render(group))
            .collect();
        (!missing.is_empty()).then(|| missing.join(", "))
    }
}

/// The real and virtual packages of an archive that a .dsc names.
#[derive(Debug)]
pub(crate) struct Available {
    /// The versions of each name; `None` for a virtual package without a version.
    found: HashMap<String, Vec<Option<Version>>>,
    package: String,
    version: String,
    provides: String,
}

impl Available {
    /// Starts without packages; only those that `deps` names are kept later.
    pub(crate) fn new(deps: &BuildDeps) -> Self {
        let names = deps
            .0
            .iter()
            .flatten()
            .map(|relation| (relation.name.clone(), Vec::new()));
        Self {
            found: names.collect(),
            package: String::new(),
            version: String::new(),
            provides: String::new(),
        }
    }

    /// Reads the next line of a `Packages` list. Lists may follow each other.
    pub(crate) fn feed(&mut self, line: &str) {
        if let Some(name) = line.strip_prefix("Package:") {
            self.end_package();
            self.package.push_str(name.trim());
        } else if let Some(version) = line.strip_prefix("Version:") {
            self.version.push_str(version.trim());
        } else if let Some(provides) = line.strip_prefix("Provides:") {
            self.provides.push_str(provides.trim());
        }
    }

    fn end_package(&mut self) {
        if let Some(versions) = self.found.get_mut(self.package.as_str()) {
            versions.push(self.version.parse().ok());
        }
        for provided in self.provides.split(',') {
            let name = provided
                .trim()
                .split([' ', '(', ':'])
                .next()
                .unwrap_or_default();
            if let Some(versions) = self.found.get_mut(name) {
                versions.push(provided_version(provided));
            }
        }
        self.package.clear();
        self.version.clear();
        self.provides.clear();
    }

    fn satisfies(&self, relation: &Relation) -> bool {
        let versions = self
            .found
            .get(&relation.name)
            .map_or(&[][..], Vec::as_slice);
        match relation.version {
            None => !versions.is_empty(),
            Some(_) => versions
                .iter()
                .flatten()
                .any(|version| allows(relation, version)),
        }
    }
}

/// Parses the version of `name (= version)`; `None` for any other operator.
fn provided_version(provided: &str) -> Option<Version> {
    match Relation::from_str(provided.trim()).ok()?.version? {
        (VersionConstraint::Equal, version) => Some(version),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACKAGES: &str = "Package: gcc\nVersion: 4:12.2.0-3\n\
        Provides: c-compiler, gcc-api (= 12)\nDescription: x\n Package: no\n\n\
        Package: libbar-dev\nVersion: 1\n\n\
        Package: libbar-dev\nVersion: 1.5\n";

    const AMD64: Target<'static> = Target {
        arch: "amd64",
        arch_indep: false,
        profiles: &[],
    };

    fn unsatisfied(depends: &str) -> Option<String> {
        unsatisfied_with(depends, &[])
    }

    fn unsatisfied_with(depends: &str, profiles: &[&str]) -> Option<String> {
        let profiles: Vec<_> = profiles
            .iter()
            .map(|name| BuildProfile::parse(name).unwrap())
            .collect();
        let target = Target {
            profiles: &profiles,
            ..AMD64
        };
        let deps = BuildDeps::parse(&format!("Build-Depends: {depends}\n"), target).unwrap();
        let mut available = Available::new(&deps);
        PACKAGES.lines().for_each(|line| available.feed(line));
        deps.unsatisfied(available)
    }

    #[test]
    fn unsatisfied_groups_are_returned() {
        let check = |depends: &str, expect: Option<&str>| {
            assert_eq!(unsatisfied(depends).as_deref(), expect, "{depends}");
        };
        check("gcc:native (>= 4:12), libbar-dev (>> 1.4~)", None);
        check("gcc,\n libbar-dev (>= 2)", Some("libbar-dev (>= 2)"));
        check(
            "nope:any (>= 1) [linux-any] <!nocheck> | nix [!i386], gcc",
            Some("nope (>= 1) | nix"),
        );
        check("nope | libbar-dev (= 1)", None);
        check("nope [i386], nope <cross>, nope [!amd64]", None);
        check("nope <!nocheck> <stage1>", Some("nope"));
        check("c-compiler", None);
        check("c-compiler (>= 1)", Some("c-compiler (>= 1)"));
        check("gcc-api (>= 12), gcc-api (>> 12)", Some("gcc-api (>> 12)"));
        check("no, libbar-dev (<< 1)", Some("no, libbar-dev (<< 1)"));
        check("", None);
    }

    #[test]
    fn dependencies_follow_the_active_profiles() {
        let check = |depends: &str, profiles: &[&str], expect: Option<&str>| {
            let missing = unsatisfied_with(depends, profiles);
            assert_eq!(missing.as_deref(), expect, "{depends} {profiles:?}");
        };
        check("nope <!nodoc>", &[], Some("nope"));
        check("nope <!nodoc>", &["nodoc"], None);
        check("nope <cross>", &["cross"], Some("nope"));
        check("nope <!nocheck !nodoc>", &["nodoc"], None);
        check("nope <!nocheck> <!nodoc>", &["nodoc"], Some("nope"));
        check("nope <!nocheck> <!nodoc>", &["nodoc", "nocheck"], None);
        check("nope <stage1 !nodoc>", &["stage1", "nodoc"], None);
    }

    #[test]
    fn indep_dependencies_count_only_when_built() {
        let dsc = "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\nBuild-Depends-Arch: a\n\
                   Build-Depends-Indep: b,\n c\n-----BEGIN PGP SIGNATURE-----\n\
                   -----END PGP SIGNATURE-----\n";
        let check = |indep, expect: &str| {
            let target = Target {
                arch_indep: indep,
                ..AMD64
            };
            let deps = BuildDeps::parse(dsc, target).unwrap();
            let missing = deps.unsatisfied(Available::new(&deps));
            assert_eq!(missing.as_deref(), Some(expect));
        };
        check(false, "a");
        check(true, "a, b, c");
        let error = BuildDeps::parse("Build-Depends: a b\n", AMD64).unwrap_err();
        assert!(
            error.to_string().starts_with("Build-Depends, line 1: "),
            "{error}"
        );
    }
}
