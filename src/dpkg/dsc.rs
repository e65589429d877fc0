//! Pure: what source package does a .dsc describe, and which files make it up?
//!
//! Takes sizes and SHA-1 sums from `Checksums-Sha1`. Does not verify the signature, as no build
//! does: whoever hands the file in trusts it. Opens none of the files; `source` does.

use super::Error;
use super::control::{Field, Paragraph};
use crate::protocol::{FileName, Sha1Hex};

/// A source package.
#[derive(Debug)]
pub(crate) struct Dsc {
    pub(crate) source: String,
    pub(crate) version: String,
    /// What it can be built for: the words of `Architecture`, one blank between them.
    pub(crate) architecture: String,
    /// Where its architecture-independent packages want to be built.
    pub(crate) indep_architecture: Option<String>,
    /// Its binary packages.
    pub(crate) binaries: Vec<String>,
    /// That of its first binary package, `contrib/utils`, if it says so.
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
    /// Reads the text of a .dsc.
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        let paragraph = Paragraph::parse(text)?;
        let field = |name| paragraph.get(name).ok_or(Error::NoField(name));
        let sums = field("Checksums-Sha1")?;
        let files = sums
            .lines
            .iter()
            .enumerate()
            .filter(|(_, line)| !line.is_empty())
            .map(|(offset, line)| source_file(sums, offset, line))
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

    /// Tells whether it has no packages but architecture-independent ones.
    pub(crate) fn is_only_arch_all(&self) -> bool {
        self.architecture == "all"
    }
}

/// The words of a list, whether commas or blanks part them.
fn words(text: &str) -> Vec<&str> {
    let is_between = |c: char| c == ',' || c.is_ascii_whitespace();
    text.split(is_between)
        .filter(|word| !word.is_empty())
        .collect()
}

fn source_file(sums: &Field<'_>, offset: usize, line: &str) -> Result<SourceFile, Error> {
    let wrong = |problem: String| Error::Field {
        field: "Checksums-Sha1",
        line: sums.line + offset,
        problem,
    };
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    let &[sum, size, name] = &words[..] else {
        return Err(wrong("not sum, size, name".to_owned()));
    };
    Ok(SourceFile {
        name: FileName::parse(name).map_err(|error| wrong(error.to_string()))?,
        size: size
            .parse()
            .map_err(|_| wrong(format!("{size:?} is not a size")))?,
        sha1: Sha1Hex::parse(sum).map_err(|error| wrong(error.to_string()))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUM: &str = "f7bebf6f9c62a2295e889f66e05ce9bfaed9ace3";

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
    fn files_have_sizes_and_sums() {
        let line = format!("{SUM} 725946 hello_2.10.orig.tar.gz");
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
        assert_eq!((file.size, file.sha1.as_str()), (725_946, SUM));
        assert!(Dsc::parse(&text("all", &line)).unwrap().is_only_arch_all());
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        for (line, expect) in [
            (
                format!("{SUM} 1"),
                "Checksums-Sha1, line 14: not sum, size, name",
            ),
            (
                format!("{SUM} many x"),
                "Checksums-Sha1, line 14: \"many\" is not a size",
            ),
            (
                format!("{SUM} 1 ../x"),
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
