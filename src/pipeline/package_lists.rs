//! Pure: the packages in the lists of a build's chroot, and which relations they satisfy.
//!
//! All versions count, also those that apt would not choose. [`PackageLists::broken_chains`] finds
//! dependencies of dependencies that are missing.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use debversion::Version;

use crate::dpkg::packages::{ALL, Package};
use crate::dpkg::relations::{
    Group, MultiArch, Operator, Provided, Qualifier, Relation, Relations, Spelling,
};

/// The most text that is kept, in bytes. Debian's main lists need about 20 MiB.
const MAX_BYTES: usize = 256 << 20;

/// A package of the lists, with its fields as written.
#[derive(Debug, Default)]
struct Listed {
    name: String,
    version: String,
    architecture: String,
    multi_arch: String,
    provides: String,
    pre_depends: String,
    depends: String,
}

impl Listed {
    /// The fields that are read, in the order of the struct.
    fn field(&mut self, name: &str) -> Option<&mut String> {
        Some(match name {
            "Package" => &mut self.name,
            "Version" => &mut self.version,
            "Architecture" => &mut self.architecture,
            "Multi-Arch" => &mut self.multi_arch,
            "Provides" => &mut self.provides,
            "Pre-Depends" => &mut self.pre_depends,
            "Depends" => &mut self.depends,
            _ => return None,
        })
    }

    fn package(&self) -> Package {
        Package {
            name: self.name.clone(),
            version: self.version.clone(),
            architecture: match self.architecture.as_str() {
                "" => ALL.to_owned(),
                named => named.to_owned(),
            },
            multi_arch: MultiArch::parse(&self.multi_arch),
            provides: Provided::parse_all(&self.provides),
        }
    }

    /// The groups that the package needs. Damaged ones are left out, in favour of the package.
    fn needs(&self) -> Vec<Group> {
        let fields = [&self.pre_depends, &self.depends];
        let groups = fields.into_iter().flat_map(|field| field.split(','));
        groups
            .filter_map(|group| Group::parse(group, Spelling::Control).ok())
            .collect()
    }
}

/// The package lists of a build.
#[derive(Debug)]
pub(crate) struct PackageLists {
    /// The architecture of the build.
    pub(crate) arch: String,
    packages: Vec<Listed>,
    /// The packages with a name, and those that provide it.
    by_name: HashMap<String, Vec<usize>>,
    bytes: usize,
    current: Listed,
}

impl PackageLists {
    pub(crate) fn new(arch: &str) -> Self {
        Self {
            arch: arch.to_owned(),
            packages: Vec::new(),
            by_name: HashMap::new(),
            bytes: 0,
            current: Listed::default(),
        }
    }

    /// Reads the next line of a `Packages` list. Lists may follow each other.
    pub(crate) fn feed(&mut self, line: &str) {
        let Some((name, value)) = line.split_once(':') else {
            return;
        };
        if name == "Package" {
            self.end_package();
        }
        let value = value.trim();
        if let Some(field) = self.current.field(name) {
            self.bytes += value.len();
            if self.bytes <= MAX_BYTES {
                field.push_str(value);
            }
        }
    }

    /// Ends the last list. False if the lists are too large to be kept whole.
    pub(crate) fn finish(&mut self) -> bool {
        self.end_package();
        self.bytes <= MAX_BYTES
    }

    fn end_package(&mut self) {
        let package = std::mem::take(&mut self.current);
        if package.name.is_empty() {
            return;
        }
        let index = self.packages.len();
        let provided = package.provides.split(',').filter_map(|entry| {
            let name = entry.trim().split([' ', '(', ':']).next()?;
            (!name.is_empty()).then_some(name)
        });
        let names: BTreeSet<&str> = provided.chain([package.name.as_str()]).collect();
        for name in names {
            match self.by_name.get_mut(name) {
                Some(indices) => indices.push(index),
                None => {
                    self.by_name.insert(name.to_owned(), vec![index]);
                }
            }
        }
        self.packages.push(package);
    }

    /// True if a package of the lists satisfies `relation`.
    pub(crate) fn has(&self, relation: &Relation) -> bool {
        self.satisfying(relation).next().is_some()
    }

    /// True if a package of the lists satisfies an alternative of `group`.
    pub(crate) fn satisfy(&self, group: &Group) -> bool {
        group.0.iter().any(|relation| self.has(relation))
    }

    /// Returns the packages that satisfy `relation`.
    fn satisfying<'a>(&'a self, relation: &'a Relation) -> impl Iterator<Item = usize> + 'a {
        let indices = self.by_name.get(&relation.name);
        let indices = indices.map_or(&[][..], Vec::as_slice).iter().copied();
        indices.filter(|index| {
            let package = self.packages[*index].package();
            let mut offers = package.offers(&relation.name);
            offers.any(|offer| relation.is_satisfied_by(&offer, &self.arch))
        })
    }

    /// Returns name and version of the newest package that satisfies `relation`.
    pub(crate) fn newest(&self, relation: &Relation) -> Option<(&str, &str)> {
        let all: Vec<usize> = self.satisfying(relation).collect();
        let package = &self.packages[self.newest_of(&all)?];
        Some((&package.name, &package.version))
    }

    fn newest_of(&self, indices: &[usize]) -> Option<usize> {
        let version = |index: &&usize| self.packages[**index].version.parse::<Version>().ok();
        indices.iter().max_by_key(version).copied()
    }

    /// Returns the alternatives of `group` to wait for. `None` if the lists have one of them, or if
    /// no master could tell when they appear.
    pub(crate) fn missing(&self, group: &Group) -> Option<Group> {
        // Architecture qualifiers are left out: `pkg:any` would wait for a package that is there.
        let has = |relation: &Relation| self.has(relation) || self.has(&relation.for_master());
        if group.0.iter().any(has) {
            return None;
        }
        let of_this_arch = |relation: &&Relation| match &relation.qualifier {
            Some(Qualifier::Arch(wanted)) => *wanted == self.arch,
            _ => true,
        };
        let alternatives = group.0.iter().filter(of_this_arch);
        let alternatives: Vec<Relation> = alternatives.map(Relation::for_master).collect();
        (!alternatives.is_empty()).then_some(Group(alternatives))
    }

    /// Returns what keeps `groups`, which the lists satisfy, from being installed: dependencies of
    /// their packages that the lists do not satisfy. Conflicts do not count.
    ///
    /// Each is a group of the missing relation and of a newer version of every package on the way
    /// to it, which may need it no longer.
    pub(crate) fn broken_chains(&self, groups: &[Group]) -> Relations {
        let first: Vec<Need> = groups
            .iter()
            .map(|group| self.need(group.clone()))
            .collect();
        let needs = self.all_needs(&first);
        let broken = broken(&needs);
        let chains = first.iter().filter(|need| need.is_broken(&broken));
        Relations(
            chains
                .filter_map(|need| self.chain(need, &needs, &broken))
                .collect(),
        )
    }

    fn need(&self, group: Group) -> Need {
        let by = group
            .0
            .iter()
            .flat_map(|relation| self.satisfying(relation));
        Need {
            by: by.collect(),
            group,
        }
    }

    /// Returns the dependencies of every package that `first` can lead to.
    fn all_needs(&self, first: &[Need]) -> Needs {
        let mut needs = Needs::new();
        let mut waiting: Vec<usize> = first.iter().flat_map(|need| need.by.clone()).collect();
        while let Some(index) = waiting.pop() {
            if needs.contains_key(&index) {
                continue;
            }
            let groups = self.packages[index].needs().into_iter();
            let own: Vec<Need> = groups.map(|group| self.need(group)).collect();
            waiting.extend(own.iter().flat_map(|need| &need.by));
            needs.insert(index, own);
        }
        needs
    }

    /// Follows the newest package of each broken group to a relation that the lists do not satisfy.
    fn chain(&self, need: &Need, needs: &Needs, broken: &Broken) -> Option<Group> {
        let mut passed = Vec::new();
        let mut need = need;
        while let Some(index) = self.newest_of(&need.by) {
            passed.push(index);
            // Earlier rounds lead to the relation that broke the first package, never in a circle.
            let round = broken.get(&index)?;
            let earlier = |index: &usize| broken.get(index).is_some_and(|one| one < round);
            need = needs
                .get(&index)?
                .iter()
                .find(|need| need.by.iter().all(earlier))?;
        }
        let mut group = self.missing(&need.group)?;
        group
            .0
            .extend(passed.iter().rev().filter_map(|index| self.newer(*index)));
        Some(group)
    }

    /// Returns the relation on a newer version of a package; `None` if the lists have one, so that
    /// waiting for it would end at once.
    fn newer(&self, index: usize) -> Option<Relation> {
        let package = &self.packages[index];
        let version = package.version.parse().ok()?;
        let newer = Relation::versioned(&package.name, Operator::Later, version);
        (!self.has(&newer)).then_some(newer)
    }
}

/// A group of relations, and the packages that satisfy it.
#[derive(Debug)]
struct Need {
    group: Group,
    by: Vec<usize>,
}

impl Need {
    fn is_broken(&self, broken: &Broken) -> bool {
        self.by.iter().all(|index| broken.contains_key(index))
    }
}

/// The dependencies of packages.
type Needs = BTreeMap<usize, Vec<Need>>;
/// Packages that cannot be installed whatever else is, each with the round that found it.
type Broken = BTreeMap<usize, usize>;

fn broken(needs: &Needs) -> Broken {
    let mut broken = Broken::new();
    for round in 0.. {
        let more: Vec<usize> = needs
            .iter()
            .filter(|(index, _)| !broken.contains_key(*index))
            .filter(|(_, needs)| needs.iter().any(|need| need.is_broken(&broken)))
            .map(|(index, _)| *index)
            .collect();
        if more.is_empty() {
            break;
        }
        broken.extend(more.into_iter().map(|index| (index, round)));
    }
    broken
}

#[cfg(test)]
mod tests;
