//! Pure: parses a .dsc, the description of a source package.
//!
//! Sizes and SHA-1 hashes come from `Checksums-Sha1`. The signature is not verified: the submitter
//! is responsible for the file. `source` looks for the files on disk.

use super::Error;
use super::control::{Field, Paragraph};
use crate::protocol::{FileName, Sha1Hex};

/// A source package.
#[derive(Debug)]
pub(crate) struct Dsc {
    pub(crate) source: String,
    pub(crate) version: String,
    /// The architectures of `Architecture`, separated by one blank.
    pub(crate) architecture: String,
    /// `Build-Indep-Architecture`: where to build the architecture-independent packages.
    pub(crate) indep_architecture: Option<String>,
    /// The names of its binary packages.
    pub(crate) binaries: Vec<String>,
    /// The section of its first binary package, such as `contrib/utils`.
    pub(crate) section: Option<String>,
    pub(crate) maintainer: Option<String>,
    pub(crate) files: Vec<SourceFile>,
}

/// A file of a source package, other than the .dsc.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct SourceFile {
    pub(crate) name: FileName,
    /// In bytes.
    pub(crate) size: u64,
    pub(crate) sha1: Sha1Hex,
}

impl Dsc {
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        let paragraph = Paragraph::parse(text)?;
        let field = |name| paragraph.get(name).ok_or(Error::NoField(name));
        let checksums = field("Checksums-Sha1")?;
        let files = checksums
            .lines
            .iter()
            .enumerate()
            .filter(|(_, line)| !line.is_empty())
            .map(|(offset, line)| source_file(checksums, offset, line))
            .collect::<Result<_, _>>()?;
        let list = |name| paragraph.get(name).map(|field| field.lines.join(" "));
        let packages = paragraph.get("Package-List");
        let section = packages.and_then(|field| {
            let first = field.lines.iter().find(|line| !line.is_empty())?;
            first.split_ascii_whitespace().nth(2).map(str::to_owned)
        });
        Ok(Self {
            source: field("Source")?.lines.concat(),
            version: field("Version")?.lines.concat(),
            architecture: words(&field("Architecture")?.lines.join(" ")).join(" "),
            indep_architecture: list("Build-Indep-Architecture"),
            binaries: words(&list("Binary").unwrap_or_default())
                .into_iter()
                .map(str::to_owned)
                .collect(),
            section,
            maintainer: list("Maintainer"),
            files,
        })
    }

    /// True if all its binary packages are architecture-independent.
    pub(crate) fn is_only_arch_all(&self) -> bool {
        self.architecture == "all"
    }
}

/// Splits a list at commas and blanks.
fn words(text: &str) -> Vec<&str> {
    let is_separator = |c: char| c == ',' || c.is_ascii_whitespace();
    text.split(is_separator)
        .filter(|word| !word.is_empty())
        .collect()
}

fn source_file(checksums: &Field<'_>, offset: usize, line: &str) -> Result<SourceFile, Error> {
    let wrong = |problem: String| Error::Field {
        field: "Checksums-Sha1",
        line: checksums.line + offset,
        problem,
    };
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    let &[sha1, size, name] = &words[..] else {
        return Err(wrong("expected checksum, size and name".to_owned()));
    };
    Ok(SourceFile {
        name: FileName::parse(name).map_err(|error| wrong(error.to_string()))?,
        size: size
            .parse()
            .map_err(|_| wrong(format!("{size:?} is not a size")))?,
        sha1: Sha1Hex::parse(sha1).map_err(|error| wrong(error.to_string()))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHA1: &str = "f7bebf6f9c62a2295e889f66e05ce9bfaed9ace3";

    fn text(architecture: &str, file: &str) -> String {
        format!(
            "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\nFormat: 3.0 (quilt)\n\
             Source: hello\nBinary: hello, hello-doc\nArchitecture: {architecture}\n\
             Version: 2.10-3\nMaintainer: A <a@b.c>\nPackage-List:\n \
             hello deb contrib/devel optional arch=any\n hello-doc deb doc optional arch=all\n\
             Checksums-Sha1:\n {file}\nFiles:\n x\n\n-----BEGIN PGP SIGNATURE-----\n"
        )
    }

    #[test]
    fn files_have_sizes_and_hashes() {
        let line = format!("{SHA1} 725946 hello_2.10.orig.tar.gz");
        let dsc = Dsc::parse(&text("any all", &line)).unwrap();
        assert_eq!(
            (dsc.source.as_str(), dsc.version.as_str()),
            ("hello", "2.10-3")
        );
        assert_eq!(dsc.architecture, "any all");
        assert!(!dsc.is_only_arch_all());
        assert_eq!(dsc.binaries, ["hello", "hello-doc"]);
        assert_eq!(dsc.section.as_deref(), Some("contrib/devel"));
        assert_eq!(dsc.maintainer.as_deref(), Some("A <a@b.c>"));
        let [file] = &dsc.files[..] else {
            panic!("{dsc:?}")
        };
        assert_eq!(file.name.as_str(), "hello_2.10.orig.tar.gz");
        assert_eq!((file.size, file.sha1.as_str()), (725_946, SHA1));
        assert!(Dsc::parse(&text("all", &line)).unwrap().is_only_arch_all());
    }

    #[test]
    fn errors_name_field_and_line() {
        for (line, expect) in [
            (
                format!("{SHA1} 1"),
                "Checksums-Sha1, line 14: expected checksum, size and name",
            ),
            (
                format!("{SHA1} many x"),
                "Checksums-Sha1, line 14: \"many\" is not a size",
            ),
            (
                format!("{SHA1} 1 ../x"),
                "Checksums-Sha1, line 14: invalid file name \"../x\"",
            ),
        ] {
            let error = Dsc::parse(&text("any", &line)).unwrap_err().to_string();
            assert_eq!(error, expect);
        }
        let none = Dsc::parse("Source: x\n").unwrap_err().to_string();
        assert_eq!(none, "no Checksums-Sha1 field");
    }
}
