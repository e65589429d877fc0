//! Pure: finds the build dependencies of a .dsc that the package lists of a build cannot satisfy.
//!
//! Only what a master can look up is a dep-wait: a name and a version that no package in the lists
//! has (docs/wire.md §3.7). Everything else that keeps apt from an installation would keep it from
//! the next one as well, so the package fails.

use super::package_lists::PackageLists;
use crate::dpkg::Error;
use crate::dpkg::control::Paragraph;
use crate::dpkg::relations::{Group, Relation, Relations, Spelling};
use crate::protocol::BuildProfile;

/// The names of the packages that sbuild makes of the build dependencies begin like this.
const DUMMY: &str = "sbuild-build-depends-";

/// The properties of a build that decide which dependencies apply.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target<'a> {
    pub(crate) arch: &'a str,
    /// Whether `Build-Depends-Indep` counts.
    pub(crate) arch_indep: bool,
    /// The active build profiles.
    pub(crate) profiles: &'a [BuildProfile],
}

/// A dependency that apt calls unmet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Named {
    /// The package that has it; empty if apt did not say.
    pub(crate) package: String,
    pub(crate) group: Group,
}

/// Why apt cannot install the build dependencies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The package lists do not satisfy these relations: a dep-wait. The form is that of a
    /// verdict's dependency line.
    Missing(String),
    /// The package lists satisfy all relations. The text says what they have.
    Refused(String),
}

/// The build dependencies that apply.
#[derive(Debug)]
pub(crate) struct BuildDeps(Vec<Group>);

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
            let relations = Relations::parse(&field.lines.join(" "), Spelling::Control);
            let relations = relations.map_err(|problem| Error::Field {
                field: name,
                line: field.line,
                problem,
            })?;
            let applying = |group: &Group| group.applying(target.arch, target.profiles);
            groups.extend(relations.0.iter().filter_map(applying));
        }
        Ok(Self(groups))
    }

    /// Decides why apt cannot install these dependencies; `named` is what it calls unmet.
    pub(crate) fn cause(&self, named: &[Named], lists: &PackageLists) -> Cause {
        let group = |named: &Named| named.group.clone();
        // sbuild adds dependencies of its own.
        let of_sbuild = named.iter().filter(|one| one.is_direct() && !self.has(one));
        let direct: Vec<Group> = self.0.iter().cloned().chain(of_sbuild.map(group)).collect();
        let others = named.iter().filter(|one| !one.is_direct()).map(group);
        let others: Vec<Group> = others.collect();
        let missing = |groups: &[Group]| {
            let missing = groups.iter().filter_map(|group| lists.missing(group));
            Relations(missing.collect())
        };
        let mut found = missing(&direct);
        if found.0.is_empty() {
            found = lists.broken_chains(&direct);
        }
        // A dependency of a dependency that the chains do not tell of.
        if found.0.is_empty() {
            found = missing(&others);
        }
        if !found.0.is_empty() {
            return Cause::Missing(found.for_master());
        }
        let unmet = direct.iter().filter(|group| !lists.satisfy(group));
        let refused = unmet.chain(named.iter().map(|one| &one.group));
        let present = refused.filter_map(|group| present(group, lists)).next();
        Cause::Refused(present.unwrap_or_else(|| "the package lists have all of them".to_owned()))
    }

    /// True if `named` is one of these dependencies, of which sbuild may leave out alternatives.
    fn has(&self, named: &Named) -> bool {
        let names = |relation: &Relation| {
            let known = self.0.iter().flat_map(|group| &group.0);
            known.into_iter().any(|own| own.name == relation.name)
        };
        named.group.0.iter().any(names)
    }
}

impl Named {
    /// True if it is a build dependency.
    fn is_direct(&self) -> bool {
        self.package.starts_with(DUMMY)
    }
}

/// Describes the package of a group that the lists have although apt does not install it.
fn present(group: &Group, lists: &PackageLists) -> Option<String> {
    group.0.iter().find_map(|relation| {
        let (name, version) = lists.newest(&relation.for_master())?;
        Some(match &relation.qualifier {
            Some(_) if !lists.has(relation) => {
                let wanted = relation.without_version();
                format!("the package lists have {name} {version}, but not as {wanted}")
            }
            _ => format!("the package lists have {name} {version}, which apt does not choose"),
        })
    })
}

#[cfg(test)]
mod tests;
