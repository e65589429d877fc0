//! Reads the binary packages in a folder of results, to record them as published.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::dpkg::control::Paragraph;
use crate::dpkg::deb::{self, Effort};
use crate::dpkg::packages::Package;
use crate::dpkg::relations::{MultiArch, Provided};

/// A binary package, as kept on disk while it is uploaded. Older versions kept only the first two
/// fields, as an array.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BuiltPackage {
    name: String,
    version: String,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    multi_arch: String,
    /// The field as written.
    #[serde(default)]
    provides: String,
}

impl BuiltPackage {
    /// Returns the binary packages in a folder.
    pub(crate) fn read_all(dir: &Path) -> io::Result<Vec<Self>> {
        let names: Vec<String> = fs::read_dir(dir)?
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .collect();
        let changes = names.iter().find(|name| name.ends_with(".changes"));
        let changes =
            changes.map_or(Ok(String::new()), |name| fs::read_to_string(dir.join(name)))?;
        let version = changes
            .lines()
            .find_map(|line| line.strip_prefix("Version: "))
            .unwrap_or_default();
        let mut effort = Effort::new();
        let mut read = |name: &String| {
            let named = Self::named(name, version)?;
            Some(Self::of_control(&dir.join(name), &mut effort).unwrap_or(named))
        };
        Ok(names.iter().filter_map(&mut read).collect())
    }

    /// Reads the control file of a package; `None` if it is damaged.
    fn of_control(path: &Path, effort: &mut Effort) -> Option<Self> {
        let text = deb::control(&mut File::open(path).ok()?, effort).ok()?;
        let paragraph = Paragraph::parse(&text).ok()?;
        let field = |name| paragraph.get(name).map(|field| field.lines.join(" "));
        Some(Self {
            name: field("Package")?,
            version: field("Version")?,
            architecture: field("Architecture").unwrap_or_default(),
            multi_arch: field("Multi-Arch").unwrap_or_default(),
            provides: field("Provides").unwrap_or_default(),
        })
    }

    /// Reads name and version from a file name, which has no epoch. If the rest of the version
    /// matches the .changes, its epoch is used. `None` for another file.
    fn named(file: &str, changes_version: &str) -> Option<Self> {
        let mut parts = file.strip_suffix(".deb")?.split('_');
        let (name, version) = (parts.next()?, parts.next()?);
        let without_epoch = changes_version
            .split_once(':')
            .map_or(changes_version, |(_, rest)| rest);
        let whole = if version == without_epoch {
            changes_version
        } else {
            version
        };
        Some(Self {
            name: name.to_owned(),
            version: whole.to_owned(),
            ..Self::default()
        })
    }

    pub(crate) fn package(&self) -> Package {
        Package {
            name: self.name.clone(),
            version: self.version.clone(),
            architecture: self.architecture.clone(),
            multi_arch: MultiArch::parse(&self.multi_arch),
            provides: Provided::parse_all(&self.provides),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn shown(built: &BuiltPackage) -> String {
        let package = built.package();
        let provides: Vec<String> = package
            .provides
            .iter()
            .map(|entry| format!("{}={}", entry.name, entry.version))
            .collect();
        let Package {
            name,
            version,
            architecture,
            ..
        } = &package;
        format!("{name} {version} {architecture} {}", provides.join(","))
    }

    #[test]
    fn package_names_and_versions_come_from_the_file_names() {
        let named =
            |file: &str, version: &str| BuiltPackage::named(file, version).map(|one| shown(&one));
        let is = |text: &str| Some(format!("{text}  "));
        assert_eq!(named("a_1.0-1_amd64.deb", "2:1.0-1"), is("a 2:1.0-1"));
        assert_eq!(named("b_3_all.deb", "2:1.0-1"), is("b 3"));
        assert_eq!(named("a_1.0-1_amd64.changes", "1.0-1"), None);
        assert_eq!(named("odd.deb", ""), None);
    }

    #[test]
    fn provides_come_from_the_control_file() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("tree/DEBIAN")).unwrap();
        let control = "Package: a\nVersion: 2:1.0-1\nArchitecture: amd64\nMulti-Arch: allowed\n\
            Provides: b (= 3),\n c\nMaintainer: X <x@example.org>\nDescription: x\n";
        fs::write(dir.path().join("tree/DEBIAN/control"), control).unwrap();
        let mut pack = Command::new("dpkg-deb");
        pack.args(["--root-owner-group", "--build", "tree", "a_1.0-1_amd64.deb"]);
        assert!(
            pack.current_dir(dir.path())
                .output()
                .unwrap()
                .status
                .success()
        );
        fs::write(dir.path().join("b_1_amd64.deb"), "damaged").unwrap();
        let mut built = BuiltPackage::read_all(dir.path()).unwrap();
        built.sort_by(|a, b| a.name.cmp(&b.name));
        let all: Vec<String> = built.iter().map(shown).collect();
        assert_eq!(all, ["a 2:1.0-1 amd64 b=3,c=", "b 1  "]);
        assert_eq!(built[0].package().multi_arch, MultiArch::Allowed);
        let kept = serde_json::to_string(&built).unwrap();
        assert_eq!(
            serde_json::from_str::<Vec<BuiltPackage>>(&kept).unwrap(),
            built
        );
    }

    #[test]
    fn records_of_older_versions_are_read() {
        let old: Vec<BuiltPackage> = serde_json::from_str(r#"[["a","1"]]"#).unwrap();
        assert_eq!(shown(&old[0]), "a 1  ");
    }
}
