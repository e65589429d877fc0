//! Pure: which build dependencies of a .dsc does an archive lack?
//!
//! Takes the direct build dependencies, with alternatives, versions, `[arch]` lists and `<profile>`
//! formulas (no profile is active), against all versions in the package lists, virtual packages
//! included (docs/wire.md §3.7). Only packages a .dsc names are remembered, however long the lists.
//! Asks no archive: the shim feeds the lists of the build's chroot.

use std::collections::HashMap;
use std::str::FromStr;

use debian_control::lossy::{Relation, Relations};
use debian_control::relations::VersionConstraint;
use debversion::Version;

use crate::dpkg::Error;
use crate::dpkg::control::Paragraph;
use crate::dpkg::relations::{allows, applies, render};

/// The build dependencies that count: a list of groups, of which each needs one alternative.
#[derive(Debug)]
pub(crate) struct BuildDeps(Vec<Vec<Relation>>);

impl BuildDeps {
    /// Reads the dependencies of `dsc`, possibly clear-signed, on the architecture `arch`; those
    /// of architecture-independent packages only if these are built.
    pub(crate) fn parse(dsc: &str, arch: &str, arch_indep: bool) -> Result<Self, Error> {
        let paragraph = Paragraph::parse(dsc)?;
        let indep = arch_indep.then_some("Build-Depends-Indep");
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
                group.retain(|relation| applies(relation, arch));
                if !group.is_empty() {
                    groups.push(group);
                }
            }
        }
        Ok(Self(groups))
    }

    /// Returns the groups that `available` does not satisfy, as a master reads them.
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

/// The packages of an archive, real and virtual, as far as a .dsc names them.
#[derive(Debug)]
pub(crate) struct Available {
    /// The versions of each name; those of a virtual package without one are `None`.
    found: HashMap<String, Vec<Option<Version>>>,
    package: String,
    version: String,
    provides: String,
}

impl Available {
    /// Starts with no packages, looking for those `deps` names.
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

    /// Takes the next line of a `Packages` list; one list may follow another.
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

/// Returns the version of `name (= version)`; any other operator says nothing.
fn provided_version(provided: &str) -> Option<Version> {
    match Relation::from_str(provided.trim()).ok()?.version? {
        (VersionConstraint::Equal, version) => Some(version),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACKAGES: &str = "Package: gcc\nVersion: 4:12.2.0-3\nProvides: c-compiler, gcc-api (= 12)\n\
        Description: x\n Package: no\n\nPackage: libbar-dev\nVersion: 1\n\n\
        Package: libbar-dev\nVersion: 1.5\n";

    fn unsatisfied(depends: &str) -> Option<String> {
        let deps =
            BuildDeps::parse(&format!("Build-Depends: {depends}\n"), "amd64", false).unwrap();
        let mut available = Available::new(&deps);
        PACKAGES.lines().for_each(|line| available.feed(line));
        deps.unsatisfied(available)
    }

    #[test]
    fn groups_against_the_lists() {
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
    fn indep_dependencies_count_only_when_built() {
        let dsc = "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\nBuild-Depends-Arch: a\n\
                   Build-Depends-Indep: b,\n c\n-----BEGIN PGP SIGNATURE-----\n";
        let check = |indep, expect: &str| {
            let deps = BuildDeps::parse(dsc, "amd64", indep).unwrap();
            let missing = deps.unsatisfied(Available::new(&deps));
            assert_eq!(missing.as_deref(), Some(expect));
        };
        check(false, "a");
        check(true, "a, b, c");
        let error = BuildDeps::parse("Build-Depends: a b\n", "amd64", false).unwrap_err();
        assert!(
            error.to_string().starts_with("Build-Depends, line 1: "),
            "{error}"
        );
    }
}
