//! Pure: package relations: when one is satisfied, when one applies, how one is written.

use std::str::FromStr as _;

use debian_control::lossy::Relation;
use debian_control::relations::{BuildProfile, VersionConstraint};
use debversion::Version;

use super::arch;

/// Tells whether a package of that version satisfies the version part of `relation`, if it has one.
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

/// Tells whether `relation` counts on `arch` with no build profile active.
pub(crate) fn applies(relation: &Relation, arch: &str) -> bool {
    let archs = relation.architectures.as_deref().unwrap_or_default();
    let listed = |arch_list: &[String]| match arch_list.first() {
        None => true,
        Some(first) if first.starts_with('!') => !arch_list
            .iter()
            .any(|entry| arch::matches(arch, entry.trim_start_matches('!'))),
        Some(_) => arch_list.iter().any(|entry| arch::matches(arch, entry)),
    };
    let holds = |formula: &Vec<BuildProfile>| {
        formula
            .iter()
            .all(|term| matches!(term, BuildProfile::Disabled(_)))
    };
    listed(archs) && (relation.profiles.is_empty() || relation.profiles.iter().any(holds))
}

/// Returns `relation`, a group of alternatives, without `:arch`, `[arch]` and `<profile>` parts;
/// unchanged if it is not a relation.
pub(crate) fn strip(relation: &str) -> String {
    let group: Result<Vec<_>, _> = relation
        .split('|')
        .map(|text| Relation::from_str(text.trim()))
        .collect();
    group.map_or_else(|_| relation.trim().to_owned(), |group| render(&group))
}

/// Writes a group of alternatives as a master reads it: names and versions only.
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
