//! Are the files of a source package there? Reads the .dsc and looks; opens no other file.
//!
//! Sums are checked later, on the copy that is built from.

use std::fs;
use std::path::{Path, PathBuf};

use crate::protocol::{FileName, Sha1Hex};

use super::Error;
use super::dsc::Dsc;

/// The longest .dsc that is read, in bytes.
const DSC_BYTES: u64 = 8 << 20;

/// A source package whose files are all there.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) path: PathBuf,
    pub(super) name: FileName,
    pub(super) dsc: Dsc,
}

impl Source {
    /// Reads the .dsc at `path` and looks for the files it names.
    pub(super) fn find(path: &Path) -> Result<Self, Error> {
        let size = fs::metadata(path).map_err(Error::at(path))?.len();
        if size > DSC_BYTES {
            return Err(Error::source(
                path,
                format!("larger than {DSC_BYTES} bytes"),
            ));
        }
        let text = fs::read(path).map_err(Error::at(path))?;
        let dsc = Dsc::parse(&String::from_utf8_lossy(&text))
            .map_err(|error| Error::source(path, error))?;
        for file in &dsc.files {
            let beside = path.with_file_name(file.name.as_str());
            let found = fs::metadata(&beside)
                .map_err(|error| Error::source(&beside, format!("the .dsc names it; {error}")))?;
            let (is, should) = (found.len(), file.size);
            if is != should {
                let wrong = format!("{is} bytes, but {should} by the .dsc");
                return Err(Error::source(&beside, wrong));
            }
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let name = FileName::parse(&name).map_err(|error| Error::source(path, error))?;
        let path = path.to_owned();
        Ok(Self { path, name, dsc })
    }

    /// All files, the .dsc first: path, name, and the sum the .dsc says.
    pub(super) fn files(&self) -> impl Iterator<Item = (PathBuf, &FileName, Option<&Sha1Hex>)> {
        let others = self.dsc.files.iter().map(|file| {
            let path = self.path.with_file_name(file.name.as_str());
            (path, &file.name, Some(&file.sha1))
        });
        std::iter::once((self.path.clone(), &self.name, None)).chain(others)
    }

    /// The name of the build's log, as sbuild has it: `SOURCE_VERSION_ARCH.build`.
    pub(super) fn log_name(&self, arch: &str) -> String {
        let name = self.name.as_str();
        let stem = name.strip_suffix(".dsc").unwrap_or(name);
        format!("{stem}_{arch}.build")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_missing_or_short_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let dsc = dir.path().join("x_1.dsc");
        let find = || Source::find(&dsc).map_err(|error| error.to_string());
        assert!(find().unwrap_err().contains("x_1.dsc: No such file"));

        let sum = "f7bebf6f9c62a2295e889f66e05ce9bfaed9ace3";
        let text = format!("Source: x\nArchitecture: any\nChecksums-Sha1:\n {sum} 3 x_1.tar.gz\n");
        fs::write(&dsc, text).unwrap();
        let error = find().unwrap_err();
        assert!(
            error.contains("x_1.tar.gz: the .dsc names it; No such file"),
            "{error}"
        );

        fs::write(dir.path().join("x_1.tar.gz"), "ab").unwrap();
        let error = find().unwrap_err();
        assert!(
            error.contains("x_1.tar.gz: 2 bytes, but 3 by the .dsc"),
            "{error}"
        );

        fs::write(dir.path().join("x_1.tar.gz"), "abc").unwrap();
        let source = find().unwrap();
        assert_eq!(source.files().count(), 2);
        assert_eq!(source.log_name("amd64"), "x_1_amd64.build");
    }
}
