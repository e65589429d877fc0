//! Which daemon has a folder for itself?

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read as _};
use std::path::Path;

use super::fs;

/// The file in the folder that is locked; it holds the pid of who has it.
const NAME: &str = ".daemon";

/// Why a folder could not be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Another process has it.
    #[error("taken by process {pid}")]
    Taken { pid: String },
    #[error(transparent)]
    Disk(#[from] fs::Error),
}

/// Takes `folder` until what is returned is dropped, or the process ends, however it does.
pub(crate) fn claim(folder: &Path) -> Result<File, Error> {
    let path = folder.join(NAME);
    let open = || {
        OpenOptions::new().append(true).create(true).open(&path)?;
        // Open for reading, it keeps nobody from making the file system read-only.
        File::open(&path)
    };
    let mut file = open().map_err(fs::Error::at("open", &path))?;
    match file.try_lock() {
        Ok(()) => {
            // On a full disk it goes without: a daemon has to start there.
            let _ = std::fs::write(&path, std::process::id().to_string());
            Ok(file)
        }
        Err(TryLockError::WouldBlock) => Err(Error::Taken {
            pid: holder(&mut file).unwrap_or_else(|_| "unknown".to_owned()),
        }),
        Err(TryLockError::Error(error)) => Err(fs::Error::at("lock", &path)(error).into()),
    }
}

fn holder(file: &mut File) -> io::Result<String> {
    let mut pid = String::new();
    file.read_to_string(&mut pid)?;
    // It may just be about to say so.
    Ok(if pid.is_empty() {
        "unknown".to_owned()
    } else {
        pid
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_one_daemons_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let first = claim(dir.path()).unwrap();
        let error = claim(dir.path()).unwrap_err().to_string();
        assert_eq!(error, format!("taken by process {}", std::process::id()));
        drop(first);
        claim(dir.path()).unwrap();
        let absent = claim(&dir.path().join("absent")).unwrap_err().to_string();
        assert!(absent.starts_with("cannot open "), "{absent}");
    }
}
