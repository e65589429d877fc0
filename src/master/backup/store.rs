//! The files of all backups, named by their SHA-256.
//!
//! A file that an earlier backup has is not read again. A blob that is on the same file system is
//! hard-linked, because nobody modifies it; everything else is copied. New files get their name
//! when their sum is right, and are on disk after [`Store::sync`].

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::Error;
use crate::sys::digest::{hashes_of, hex};
use crate::sys::fs::{Error as FileError, TempFile, make_private, sweep_temps, sync_file_system};

const MODE: u32 = 0o444;
const CHUNK_BYTES: usize = 256 << 10;

pub(super) struct Store {
    root: PathBuf,
    /// Files of earlier backups are read again, because one of them was interrupted.
    recheck: bool,
}

/// The outcome of adding a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Put {
    Linked,
    Copied,
    /// Its bytes have another sum.
    Damaged,
}

impl Store {
    /// Opens the folder to add files.
    pub(super) fn create(root: PathBuf, recheck: bool) -> Result<Self, Error> {
        make_private(&root)?;
        sweep_temps(&root)?;
        Ok(Self { root, recheck })
    }

    /// Opens the folder to read files.
    pub(super) fn open(root: PathBuf) -> Self {
        let recheck = true;
        Self { root, recheck }
    }

    pub(super) fn path(&self, sha256: &str) -> PathBuf {
        let folder = sha256.get(..2).unwrap_or_default();
        self.root.join(folder).join(sha256)
    }

    /// Opens a file; `None` if it is absent.
    pub(super) fn find(&self, sha256: &str) -> Result<Option<File>, Error> {
        let path = self.path(sha256);
        match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            opened => Ok(Some(opened.map_err(FileError::at("open", &path))?)),
        }
    }

    /// Returns whether the file is there with the right size, and, after a crash, the right sum.
    pub(super) fn has(&self, sha256: &str, size: u64) -> Result<bool, Error> {
        let path = self.path(sha256);
        match path.symlink_metadata() {
            Ok(found) if found.is_file() && found.len() == size => {}
            _ => return Ok(false),
        }
        if !self.recheck {
            return Ok(true);
        }
        let hashes = hashes_of(&path).map_err(FileError::at("read", &path))?;
        Ok(hashes.sha256 == sha256)
    }

    /// Adds a file. `blob` is its path if it may be hard-linked.
    pub(super) fn put(
        &self,
        mut file: File,
        from: &Path,
        sha256: &str,
        blob: Option<&Path>,
    ) -> Result<Put, Error> {
        let path = self.path(sha256);
        let folder = path.parent().unwrap_or(&self.root);
        fs::create_dir_all(folder).map_err(FileError::at("create", folder))?;
        if let Some(blob) = blob.filter(|blob| is_on_file_system_of(blob, folder)) {
            let found = read(&mut file, from, &mut |_| Ok(()))?;
            if found != sha256 {
                return Ok(Put::Damaged);
            }
            // A damaged file of an earlier backup is in the way.
            let _ = fs::remove_file(&path);
            if fs::hard_link(blob, &path).is_ok() {
                return Ok(Put::Linked);
            }
            // The file system may not allow the link: copy.
            file = File::open(from).map_err(FileError::at("open", from))?;
        }
        let mut temp = TempFile::create(&self.root)?;
        let found = read(&mut file, from, &mut |piece| Ok(temp.write_all(piece)?))?;
        if found != sha256 {
            return Ok(Put::Damaged);
        }
        temp.place(&path, MODE)?;
        Ok(Put::Copied)
    }

    /// Waits until all files are on disk.
    pub(super) fn sync(&self) -> Result<(), Error> {
        Ok(sync_file_system(&self.root)?)
    }
}

fn is_on_file_system_of(file: &Path, folder: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    match (file.metadata(), folder.metadata()) {
        (Ok(file), Ok(folder)) => file.dev() == folder.dev(),
        _ => false,
    }
}

/// Reads a file to its end and passes its pieces on; returns its SHA-256.
pub(super) fn read(
    file: &mut File,
    path: &Path,
    to: &mut dyn FnMut(&[u8]) -> Result<(), Error>,
) -> Result<String, Error> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hex(&hasher.finalize())),
            Ok(count) => {
                let piece = buffer.get(..count).unwrap_or_default();
                hasher.update(piece);
                to(piece)?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(FileError::at("read", path)(error).into()),
        }
    }
}
