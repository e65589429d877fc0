//! Chooses the user and the folders of `build` and `chroot`.
//!
//! The slave's user works in the slave's home. Root becomes that user (see `staging`). Any other
//! user works below `~/.cache`, unless the configuration sets a home. The unpacked chroots are
//! shared with the daemon, the file cache is not.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::unistd::{Uid, User};

use crate::config::Config;
use crate::config_file;
use crate::privileges;
use crate::sys::{self, user};

use super::leftovers;

/// An error in choosing user and folders, or in using a file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Config(#[from] config_file::Error),
    #[error(transparent)]
    Privileges(#[from] privileges::Error),
    #[error("neither $HOME nor $XDG_CACHE_HOME is set; set one of them, or [slave] home")]
    NoHome,
    #[error(transparent)]
    Disk(#[from] sys::fs::Error),
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// Adds the path to an I/O error.
pub(super) fn at(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { path, source }
}

/// The configuration and the user of a command.
#[derive(Debug)]
pub(super) struct Site {
    pub(super) config: Config,
    /// The slave's user, if this process is root and must run the work as that user.
    pub(super) run_as: Option<User>,
}

impl Site {
    /// Reads the configuration (`given` is `--config`) and looks up the current user.
    pub(super) fn find(given: Option<&Path>) -> Result<Self, Error> {
        let read = |defaults: &_| config_file::load(given, defaults).map(|read| read.0);
        let mut defaults = config_file::host_defaults();
        let config = read(&defaults)?;
        let name = &config.slave.user;
        let run_as = if user::am_root() {
            let builder = privileges::builder(name)?;
            defaults.home.clone_from(&builder.dir);
            Some(builder)
        } else if user::lookup(name).is_some_and(|builder| builder.uid == Uid::effective()) {
            return Ok(Self {
                config,
                run_as: None,
            });
        } else {
            defaults.home = cache_folder()?;
            None
        };
        let config = read(&defaults)?;
        Ok(Self { config, run_as })
    }

    /// Returns the folder for the file caches and journal entries of these commands. The daemon
    /// does not use it.
    pub(super) fn work_folder(&self) -> PathBuf {
        self.config.slave.home.join("by-hand")
    }

    /// Returns the path of the chroot tarball that `build` creates for a suite if none is given.
    pub(super) fn default_chroot(&self, suite: &str) -> PathBuf {
        let arch = &self.config.slave.architecturetag;
        self.tarballs().join(format!("{suite}-{arch}.tar"))
    }

    fn tarballs(&self) -> PathBuf {
        self.config.slave.home.join("tarballs")
    }

    /// Creates the folders that do not exist, and removes what interrupted commands have left.
    pub(super) fn make_folders(&self) -> Result<(), Error> {
        let slave = &self.config.slave;
        fs::create_dir_all(&slave.home).map_err(at(&slave.home))?;
        for dir in [
            &slave.chroots,
            &slave.sessions,
            &self.tarballs(),
            &self.work_folder(),
        ] {
            sys::fs::make_private(dir)?;
        }
        leftovers::sweep(&slave.home, &self.work_folder(), &slave.sessions);
        Ok(())
    }
}

/// Returns the folder for chroots and sessions of a user other than the slave's.
fn cache_folder() -> Result<PathBuf, Error> {
    let folder = |name: &str| {
        let path = PathBuf::from(std::env::var_os(name)?);
        path.is_absolute().then_some(path)
    };
    let cache = folder("XDG_CACHE_HOME").or_else(|| Some(folder("HOME")?.join(".cache")));
    Ok(cache.ok_or(Error::NoHome)?.join("buildd-slave"))
}
