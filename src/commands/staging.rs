//! Runs this program as the slave's user on copies of root's files.
//!
//! Root copies the inputs to a new folder of that user, runs the program again as the user, and
//! copies the outputs back. Neither user opens the other's files.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, chown, fchown};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::thread;

use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, mkdtemp};
use signal_hook::consts::{SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::sys::locked_folder::LockedFolder;
use crate::sys::user::become_user;
use crate::sys::{self, exe, wait};

use super::leftovers::{STAGING, sweep_staging};
use super::output::Output;
use super::site::{Error, at};

/// A folder that belongs to the slave's user; removed when dropped.
#[derive(Debug)]
pub(super) struct Staging {
    dir: PathBuf,
    user: User,
    _lock: Option<LockedFolder>,
}

impl Staging {
    /// Creates the folder below `home`, and removes those of interrupted commands.
    pub(super) fn make(home: &Path, user: User) -> Result<Self, Error> {
        sweep_staging(home);
        let template = home.join(format!("{STAGING}XXXXXX"));
        let dir = mkdtemp(&template).map_err(|errno| at(home)(errno.into()))?;
        let lock = LockedFolder::hold(&dir).map_err(at(&dir))?;
        let staging = Self {
            dir,
            user,
            _lock: lock,
        };
        let (uid, gid) = (staging.user.uid.as_raw(), staging.user.gid.as_raw());
        chown(&staging.dir, Some(uid), Some(gid)).map_err(at(&staging.dir))?;
        Ok(staging)
    }

    /// Returns the path of the file `name` in the folder.
    pub(super) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.join(name)
    }

    /// Copies the file `from` into the folder, as `name`.
    pub(super) fn copy_in(&self, from: &Path, name: &OsStr) -> Result<PathBuf, Error> {
        let to = self.dir.join(name);
        let copy = || {
            let mut source = File::open(from)?;
            let mut copy = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&to)?;
            io::copy(&mut source, &mut copy)?;
            let (uid, gid) = (self.user.uid.as_raw(), self.user.gid.as_raw());
            fchown(&copy, Some(uid), Some(gid))
        };
        copy().map_err(at(from))?;
        Ok(to)
    }

    /// Returns the command that runs this program's `subcommand` as the user, in the folder.
    pub(super) fn command(&self, subcommand: &[&str]) -> Command {
        let mut command = exe::this_program(subcommand);
        become_user(&mut command, &self.user);
        command
            .current_dir(&self.dir)
            .env_remove("TMPDIR")
            .env_remove("XDG_CACHE_HOME");
        command
    }

    /// Runs the command to its end. The terminal sends it SIGINT and SIGQUIT itself; SIGTERM is
    /// forwarded.
    pub(super) fn run(&self, mut command: Command) -> Result<ExitCode, Error> {
        let failed = || at(Path::new("buildd-slave"));
        let mut signals = Signals::new([SIGINT, SIGQUIT, SIGTERM]).map_err(failed())?;
        let mut child = command.spawn().map_err(failed())?;
        let pid = Pid::from_raw(child.id().try_into().expect("a pid is positive"));
        thread::spawn(move || {
            for signal in &mut signals {
                if signal == SIGTERM {
                    // Fails if the process has just ended.
                    let _ = kill(pid, Signal::SIGTERM);
                }
            }
        });
        let status = child.wait().map_err(failed())?;
        Ok(ExitCode::from(wait::exit_code(status)))
    }

    /// Copies the file `name` of the folder to `to`. Refuses symlinks and special files, which the
    /// user could have put there.
    pub(super) fn copy_out(&self, name: &Path, to: &Path) -> Result<(), Error> {
        let path = self.dir.join(name);
        let open = || {
            let file = OpenOptions::new()
                .read(true)
                .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
                .open(&path)?;
            if file.metadata()?.is_file() {
                return Ok(file);
            }
            Err(io::Error::other("not a regular file"))
        };
        let mut file = open().map_err(at(&path))?;
        let mut output = Output::create(to)?;
        output.append(&mut file, &mut |_| {})?;
        output.finish()
    }

    /// Lists the files in the subfolder `folder`; an absent one has none.
    pub(super) fn names(&self, folder: &str) -> Result<Vec<OsString>, Error> {
        let path = self.dir.join(folder);
        match fs::read_dir(&path) {
            Ok(entries) => entries
                .map(|entry| Ok(entry?.file_name()))
                .collect::<io::Result<_>>()
                .map_err(at(&path)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(at(&path)(error)),
        }
    }

    /// Returns the inode of a file in the folder. It changes if the file is replaced.
    pub(super) fn inode(&self, name: &Path) -> Result<u64, Error> {
        let path = self.dir.join(name);
        let found = fs::symlink_metadata(&path).map_err(at(&path))?;
        Ok(found.ino())
    }
}

/// Locks the folder in which root runs this process, which may outlive root's.
pub(super) fn hold_current() -> Result<Option<LockedFolder>, Error> {
    let dir = Path::new(".");
    LockedFolder::hold(dir).map_err(at(dir))
}

impl Drop for Staging {
    fn drop(&mut self) {
        // On failure, files of the user are left in the user's home, which is harmless.
        let _ = sys::fs::remove_tree(&self.dir);
    }
}
