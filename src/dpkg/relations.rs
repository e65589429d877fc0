//! Pure: evaluates and formats package relations.

use std::str::FromStr as _;

use debian_control::lossy::Relation;
use debian_control::relations::{BuildProfile, VersionConstraint};
use debversion::Version;

use super::arch;
use crate::protocol::BuildProfile as ActiveProfile;

/// True if `version` satisfies the version constraint of `relation`, or if there is none.
pub(crate) fn allows(relation: &Relation, version: &Version) -> bool {
    let Some((constraint, wanted)) = &relation.version else {
        return true;
    };
    match constraint {
        VersionConstraint::LessThan => version < wanted,
        VersionConstraint::LessThanEqual => version <= wanted,
        VersionConstraint::Equal => version == wanted,
        VersionConstraint::GreaterThanEqual => version >= wanted,
        VersionConstraint::GreaterThan => version > wanted,
    }
}

/// True if `relation` applies on `arch` with these active build profiles.
pub(crate) fn applies(relation: &Relation, arch: &str, profiles: &[ActiveProfile]) -> bool {
    let archs = relation.architectures.as_deref().unwrap_or_default();
    let matches_arch = |arch_list: &[String]| match arch_list.first() {
        None => true,
        Some(first) if first.starts_with('!') => !arch_list
            .iter()
            .any(|entry| arch::matches(arch, entry.trim_start_matches('!'))),
        Some(_) => arch_list.iter().any(|entry| arch::matches(arch, entry)),
    };
    let is_active = |name: &str| profiles.iter().any(|profile| profile.as_str() == name);
    let holds = |formula: &Vec<BuildProfile>| {
        formula.iter().all(|term| match term {
            BuildProfile::Enabled(name) => is_active(name),
            BuildProfile::Disabled(name) => !is_active(name),
        })
    };
    matches_arch(archs) && (relation.profiles.is_empty() || relation.profiles.iter().any(holds))
}

/// Removes `:arch`, `[arch]` and `<profile>` from `relation`, a group of alternatives. A text that
/// is no relation is only trimmed.
pub(crate) fn strip(relation: &str) -> String {
    let group: Result<Vec<_>, _> = relation
        .split('|')
        .map(|text| Relation::from_str(text.trim()))
        .collect();
    group.map_or_else(|_| relation.trim().to_owned(), |group| render(&group))
}

/// Formats a group of alternatives for a master: names and versions only.
pub(crate) fn render(group: &[Relation]) -> String {
    let one = |relation: &Relation| match &relation.version {
        Some((constraint, version)) => format!("{} ({constraint} {version})", relation.name),
        None => relation.name.clone(),
    };
    group.iter().map(one).collect::<Vec<_>>().join(" | ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn qualifiers_are_stripped() {
        assert_eq!(
            strip("a:any (>= 1~rc1) [amd64] <!nocheck>|b "),
            "a (>= 1~rc1) | b"
        );
        assert_eq!(strip(" not a relation "), "not a relation");
    }
}
