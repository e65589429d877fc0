//! Locks a folder so that only one daemon uses it.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::path::Path;

use super::{file_lock, fs};

/// The lock file in the folder; it holds the pid of the daemon that has the lock.
pub(crate) const NAME: &str = ".daemon";

/// Why a folder could not be locked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Another process holds the lock.
    #[error("taken by process {pid}")]
    Taken { pid: String },
    #[error(transparent)]
    Disk(#[from] fs::Error),
}

/// Locks `folder` until the returned file is dropped or the process ends.
pub(crate) fn claim(folder: &Path) -> Result<File, Error> {
    let path = folder.join(NAME);
    let open = || {
        OpenOptions::new().append(true).create(true).open(&path)?;
        // Opened for reading only, so that the file system can still be remounted read-only.
        File::open(&path)
    };
    let mut file = open().map_err(fs::Error::at("open", &path))?;
    match file_lock::try_lock(&file) {
        Ok(true) => {
            // On a full disk the pid is missing, but the daemon must still start.
            let _ = std::fs::write(&path, std::process::id().to_string());
            Ok(file)
        }
        Ok(false) => Err(Error::Taken {
            pid: holder(&mut file).unwrap_or_else(|_| "unknown".to_owned()),
        }),
        Err(error) => Err(fs::Error::at("lock", &path)(error).into()),
    }
}

fn holder(file: &mut File) -> io::Result<String> {
    let mut pid = String::new();
    file.read_to_string(&mut pid)?;
    // The holder may not have written its pid yet.
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
    fn a_folder_has_one_daemon_at_a_time() {
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
