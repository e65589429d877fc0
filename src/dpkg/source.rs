//! Finds the files of a source package beside its .dsc.
//!
//! Only the .dsc is read. The other files must exist with their listed sizes. Hashes are checked
//! later, when a file is copied or sent.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use crate::protocol::FileName;

use super::Error;
use super::dsc::{self, Dsc, SourceFile};

/// A source package whose files all exist.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) path: PathBuf,
    /// The name of the .dsc that sbuild expects; its name on disk may differ.
    pub(crate) name: FileName,
    pub(crate) dsc: Dsc,
}

impl Source {
    /// Reads the .dsc at `path` and checks that the files it lists exist with their sizes.
    pub(crate) fn find(path: &Path) -> Result<Self, Error> {
        let dsc = read_dsc(path).map_err(wrong(path))?;
        for file in &dsc.files {
            let beside = path.with_file_name(file.name.as_str());
            let found = fs::metadata(&beside)
                .map_err(|error| wrong(&beside)(format!("the .dsc names it; {error}")))?;
            let (actual, expected) = (found.len(), file.size);
            if actual != expected {
                return Err(wrong(&beside)(format!(
                    "{actual} bytes, but {expected} by the .dsc"
                )));
            }
        }
        let name = dsc.file_name().map_err(wrong(path))?;
        let path = path.to_owned();
        Ok(Self { path, name, dsc })
    }

    /// All files, the .dsc first: path, name, and how the .dsc lists it.
    pub(crate) fn files(&self) -> impl Iterator<Item = (PathBuf, &FileName, Option<&SourceFile>)> {
        let others = self.dsc.files.iter().map(|file| {
            let path = self.path.with_file_name(file.name.as_str());
            (path, &file.name, Some(file))
        });
        std::iter::once((self.path.clone(), &self.name, None)).chain(others)
    }

    /// The name sbuild gives a build log: `SOURCE_VERSION_ARCH.build`.
    pub(crate) fn log_name(&self, arch: &str) -> String {
        let name = self.name.as_str();
        let stem = name.strip_suffix(".dsc").unwrap_or(name);
        format!("{stem}_{arch}.build")
    }
}

/// Reads and parses a .dsc, not more of it than the limit.
pub(crate) fn read_dsc(path: &Path) -> Result<Dsc, String> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(dsc::MAX_BYTES + 1).read_to_end(&mut bytes))
        .map_err(|error| error.to_string())?;
    Dsc::parse(&bytes).map_err(|error| error.to_string())
}

/// Adds the path to an error.
fn wrong<Problem: ToString>(path: &Path) -> impl FnOnce(Problem) -> Error {
    let path = path.to_owned();
    move |problem| Error::Source {
        path,
        problem: problem.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_names_a_missing_or_short_file() {
        let dir = tempfile::tempdir().unwrap();
        let dsc = dir.path().join("x_1.dsc");
        let find = || Source::find(&dsc).map_err(|error| error.to_string());
        assert!(find().unwrap_err().contains("x_1.dsc: No such file"));

        let md5 = "900150983cd24fb0d6963f7d28e17f72";
        let text = format!("Source: x\nVersion: 3:1\nFiles:\n {md5} 3 x_1.tar.gz\n");
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

        let other = dir.path().join("other.dsc");
        fs::rename(&dsc, &other).unwrap();
        let source = Source::find(&other).unwrap();
        let names: Vec<&str> = source.files().map(|(_, name, _)| name.as_str()).collect();
        assert_eq!(names, ["x_1.dsc", "x_1.tar.gz"]);
        assert_eq!(source.log_name("amd64"), "x_1_amd64.build");
    }
}
