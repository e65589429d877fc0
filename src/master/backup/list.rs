//! Lists of any length: files with one JSON object per line, written and read as a stream.

use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, BufWriter, Write as _};
use std::marker::PhantomData;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Error;
use crate::sys::fs::Error as FileError;

/// A list that is being written.
pub(super) struct Writer {
    file: BufWriter<File>,
    path: PathBuf,
    pub(super) count: u64,
}

impl Writer {
    /// Creates the file with mode 0600, or empties it.
    pub(super) fn create(path: &Path) -> Result<Self, Error> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let file = options.open(path).map_err(FileError::at("create", path))?;
        Ok(Self {
            file: BufWriter::new(file),
            path: path.to_owned(),
            count: 0,
        })
    }

    pub(super) fn add(&mut self, item: &impl Serialize) -> Result<(), Error> {
        self.count += 1;
        serde_json::to_writer(&mut self.file, item)
            .map_err(std::io::Error::from)
            .and_then(|()| self.file.write_all(b"\n"))
            .map_err(|error| FileError::at("write", &self.path)(error).into())
    }

    pub(super) fn finish(mut self) -> Result<(), Error> {
        Ok(self
            .file
            .flush()
            .map_err(FileError::at("write", &self.path))?)
    }
}

/// The items of a list.
pub(super) struct Reader<T> {
    file: BufReader<File>,
    path: PathBuf,
    line: u64,
    of: PhantomData<T>,
}

impl<T: DeserializeOwned> Reader<T> {
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let file = File::open(path).map_err(FileError::at("open", path))?;
        Ok(Self {
            file: BufReader::new(file),
            path: path.to_owned(),
            line: 0,
            of: PhantomData,
        })
    }

    fn read(&mut self) -> Result<Option<T>, Error> {
        let mut line = Vec::new();
        let count = self.file.read_until(b'\n', &mut line);
        if count.map_err(FileError::at("read", &self.path))? == 0 {
            return Ok(None);
        }
        self.line += 1;
        serde_json::from_slice(&line).map(Some).map_err(|error| {
            let (path, line) = (self.path.display(), self.line);
            Error::Refused(format!("damaged: {path}, line {line}: {error}"))
        })
    }
}

impl<T: DeserializeOwned> Iterator for Reader<T> {
    type Item = Result<T, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}
