//! Reads a Packages file for `master published`.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _};
use std::path::Path;

use super::Error;
use crate::dpkg::control::Paragraph;
use crate::dpkg::decompress::decompress;
use crate::dpkg::packages::{ALL, Package};
use crate::master::rows::published::{Binary, Key};

/// The packages of a Packages file for one architecture.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct PackagesFile {
    pub(super) binaries: BTreeMap<Key, Binary>,
    /// The number of packages of other architectures.
    pub(super) skipped: usize,
}

/// Reads a file; `-` is standard input. A package without a component gets `component`, or that of
/// its section.
pub(super) fn read(
    path: &Path,
    arch: &str,
    component: Option<&str>,
) -> Result<PackagesFile, Error> {
    let mut bytes = Vec::new();
    if path == Path::new("-") {
        let read = io::stdin().lock().read_to_end(&mut bytes);
        read.map_err(Error::at(path))?;
    } else {
        bytes = fs::read(path).map_err(Error::at(path))?;
    }
    let bytes = decompress(bytes).map_err(Error::at(path))?;
    parse(&String::from_utf8_lossy(&bytes), arch, component)
        .map_err(|error| Error::Refused(format!("{}: {error}", path.display())))
}

fn parse(text: &str, arch: &str, component: Option<&str>) -> Result<PackagesFile, String> {
    let mut file = PackagesFile::default();
    for (number, one) in text.split("\n\n").enumerate() {
        if one.trim().is_empty() {
            continue;
        }
        let in_paragraph = |problem: String| format!("paragraph {}: {problem}", number + 1);
        let paragraph = Paragraph::parse(one).map_err(|error| in_paragraph(error.to_string()))?;
        let package = Package::read(&paragraph).ok_or_else(|| {
            let problem = "no Package and Version: is this a Packages file?";
            in_paragraph(problem.to_owned())
        })?;
        if package.architecture != arch && package.architecture != ALL {
            file.skipped += 1;
            continue;
        }
        let field = |name| paragraph.get(name).map(|field| field.lines.concat());
        let section = field("Section").unwrap_or_default();
        let source = field("Source").and_then(|source| source.split(' ').next().map(str::to_owned));
        let binary = Binary {
            component: component
                .unwrap_or_else(|| component_of(&section))
                .to_owned(),
            source: source.unwrap_or_else(|| package.name.clone()),
            package,
        };
        file.binaries.insert(binary.key(), binary);
    }
    Ok(file)
}

/// Returns the component in a section: `contrib` for `contrib/utils`, `main` for `utils`.
pub(super) fn component_of(section: &str) -> &str {
    match section.split_once('/') {
        Some((component, _)) => component,
        None => "main",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packages_file_is_parsed_for_one_architecture() {
        let text = "Package: libfoo\nVersion: 1-1\nArchitecture: i386\nSource: foo (1)\n\
                    Section: contrib/libs\nProvides: libfoo-abi (= 1)\n\nPackage: foo-doc\n\
                    Architecture: all\nVersion: 2\nDescription: x\n y\n\nPackage: libfoo\n\
                    Version: 1-1\nArchitecture: i386\nMulti-Arch: same\nProvides: a, b (= 2)\n\n\
                    Package: other\nVersion: 1\nArchitecture: hppa\n\n";
        let file = parse(text, "i386", None).unwrap();
        let shown = |one: &Binary| {
            let Package {
                name,
                version,
                multi_arch,
                provides,
                ..
            } = &one.package;
            let provides: Vec<_> = provides.iter().map(|entry| &entry.name[..]).collect();
            let (component, source) = (&one.component, &one.source);
            let multi_arch = multi_arch.as_str();
            format!(
                "{name}={version}/{component} {source} {multi_arch} {}",
                provides.join(" ")
            )
        };
        let all: Vec<String> = file.binaries.values().map(shown).collect();
        assert_eq!(
            all,
            [
                "foo-doc=2/main foo-doc no ",
                "libfoo=1-1/main libfoo same a b"
            ]
        );
        assert_eq!(file.skipped, 1);
        let file = parse(text, "i386", Some("universe")).unwrap();
        assert!(
            file.binaries
                .values()
                .all(|one| one.component == "universe")
        );
        let wrong = parse("junk: x", "i386", None).unwrap_err();
        assert!(wrong.contains("paragraph 1: no Package"), "{wrong}");
        assert_eq!(parse("", "i386", None).unwrap(), PackagesFile::default());
    }
}
