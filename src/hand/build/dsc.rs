//! Pure: which files make up the source package that a .dsc describes?
//!
//! Takes sizes and SHA-1 sums from `Checksums-Sha1`. Does not verify the signature, as no build
//! does: whoever builds by hand trusts the file. Opens none of the files; `build` does.

use crate::build::Error;
use crate::build::deb822::{Field, Paragraph};
use crate::protocol::{FileName, Sha1Hex};

/// A source package.
#[derive(Debug)]
pub(super) struct Dsc {
    pub(super) source: String,
    /// Whether it has no packages but architecture-independent ones.
    pub(super) only_arch_all: bool,
    pub(super) files: Vec<SourceFile>,
}

/// A file of a source package, other than the .dsc.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SourceFile {
    pub(super) name: FileName,
    /// In bytes.
    pub(super) size: u64,
    pub(super) sha1: Sha1Hex,
}

impl Dsc {
    /// Reads the text of a .dsc.
    pub(super) fn parse(text: &str) -> Result<Self, Error> {
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
        Ok(Self {
            source: field("Source")?.lines.concat(),
            only_arch_all: field("Architecture")?.lines == ["all"],
            files,
        })
    }
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
             Source: hello\nArchitecture: {architecture}\nChecksums-Sha1:\n {file}\n\
             Files:\n x\n\n-----BEGIN PGP SIGNATURE-----\n"
        )
    }

    #[test]
    fn files_have_sizes_and_sums() {
        let line = format!("{SUM} 725946 hello_2.10.orig.tar.gz");
        let dsc = Dsc::parse(&text("any all", &line)).unwrap();
        assert_eq!((dsc.source.as_str(), dsc.only_arch_all), ("hello", false));
        let [file] = &dsc.files[..] else {
            panic!("{dsc:?}")
        };
        assert_eq!(file.name.as_str(), "hello_2.10.orig.tar.gz");
        assert_eq!((file.size, file.sha1.as_str()), (725_946, SUM));
        assert!(Dsc::parse(&text("all", &line)).unwrap().only_arch_all);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        for (line, expect) in [
            (
                format!("{SUM} 1"),
                "Checksums-Sha1, line 8: not sum, size, name",
            ),
            (
                format!("{SUM} many x"),
                "Checksums-Sha1, line 8: \"many\" is not a size",
            ),
            (
                format!("{SUM} 1 ../x"),
                "Checksums-Sha1, line 8: invalid file name \"../x\"",
            ),
        ] {
            let error = Dsc::parse(&text("any", &line)).unwrap_err().to_string();
            assert_eq!(error, expect);
        }
        let none = Dsc::parse("Source: x\n").unwrap_err().to_string();
        assert_eq!(none, "no Checksums-Sha1 field");
    }
}
