//! Writes a command's output file atomically.
//!
//! A new file gets its mode from the umask. A replaced file keeps its mode and owner.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::{Path, PathBuf};

use nix::sys::stat::{Mode, umask};

use crate::sys;
use crate::sys::fs::TempFile;

use super::site::{Error, at};

const CHUNK_BYTES: usize = 256 << 10;
/// The start of the names of unfinished files. Other programs do not use it.
const PREFIX: &str = ".buildd-slave-";

/// A temporary file that `finish` renames to its destination; removed if dropped before.
pub(super) struct Output {
    temp: TempFile,
    to: PathBuf,
}

impl Output {
    /// Creates the temporary file beside `to`, and removes those of interrupted commands there.
    pub(super) fn create(to: &Path) -> Result<Self, Error> {
        let parent = to.parent().filter(|dir| !dir.as_os_str().is_empty());
        let parent = parent.unwrap_or_else(|| Path::new("."));
        if let Err(error) = sys::fs::sweep_named(parent, PREFIX) {
            log::warn!("{error}");
        }
        let temp = TempFile::create_named(parent, PREFIX)?;
        let to = to.to_owned();
        Ok(Self { temp, to })
    }

    /// Appends all of `source`, and passes each chunk to `observe` as well.
    pub(super) fn append(
        &mut self,
        source: &mut dyn Read,
        observe: &mut dyn FnMut(&[u8]),
    ) -> Result<(), Error> {
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            match source.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => {
                    let chunk = buffer.get(..count).unwrap_or_default();
                    observe(chunk);
                    self.temp.write_all(chunk)?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(at(&self.to)(error)),
            }
        }
    }

    /// Renames the file to its destination.
    pub(super) fn finish(self) -> Result<(), Error> {
        let old = fs::metadata(&self.to).ok();
        let mode = old.as_ref().map_or_else(new_mode, |old| old.mode() & 0o777);
        self.temp.persist(&self.to, mode)?;
        if let Some(old) = old {
            // Fails unless this is root or the owner; then the file keeps this user.
            let _ = chown(&self.to, Some(old.uid()), Some(old.gid()));
        }
        Ok(())
    }
}

/// Returns the mode of a new file under the umask.
fn new_mode() -> u32 {
    let mask = umask(Mode::empty());
    umask(mask);
    0o666 & !mask.bits()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_replaced_file_keeps_its_mode_and_an_unfinished_one_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("x");
        fs::write(&to, "old").unwrap();
        fs::set_permissions(&to, fs::Permissions::from_mode(0o640)).unwrap();

        let mut unfinished = Output::create(&to).unwrap();
        unfinished.append(&mut &b"ne"[..], &mut |_| {}).unwrap();
        drop(unfinished);
        assert_eq!(fs::read(&to).unwrap(), b"old");
        assert_eq!(dir.path().read_dir().unwrap().count(), 1);

        let (mut output, mut seen) = (Output::create(&to).unwrap(), Vec::new());
        output
            .append(&mut &b"new"[..], &mut |piece| seen.extend_from_slice(piece))
            .unwrap();
        output.finish().unwrap();
        assert_eq!(
            (fs::read(&to).unwrap(), seen),
            (b"new".to_vec(), b"new".to_vec())
        );
        assert_eq!(fs::metadata(&to).unwrap().mode() & 0o777, 0o640);
    }
}
