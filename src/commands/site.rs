//! Where does a command for the hand keep its things, and as whom does it work?
//!
//! The slave's user works in the slave's home; root becomes that user (`staging`); anybody else
//! works in a cache folder of their own, unless the configuration names a home. Shares the
//! unpacked chroots with the daemon, never its file cache. Called by `build` and `chroot`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::unistd::{Uid, User};

use crate::config::Config;
use crate::config_file;
use crate::privileges;
use crate::sys::{self, user};

/// Why it is not clear where or as whom to work.
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

/// Puts the path of an I/O error in front of it.
pub(super) fn at(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { path, source }
}

/// What a command for the hand works with.
#[derive(Debug)]
pub(super) struct Site {
    pub(super) config: Config,
    /// The slave's user, if this process is root and must run the work as that user.
    pub(super) run_as: Option<User>,
}

impl Site {
    /// Reads the configuration (`given` is `--config`) and looks at who asks.
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

    /// Returns the folder for the file caches and journal entries of these commands. The daemon does
    /// not use it.
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

    /// Makes the folders that are not there yet.
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
        Ok(())
    }
}

/// Where a user who is not the slave's keeps chroots and sessions.
fn cache_folder() -> Result<PathBuf, Error> {
    let folder = |name: &str| {
        let path = PathBuf::from(std::env::var_os(name)?);
        path.is_absolute().then_some(path)
    };
    let cache = folder("XDG_CACHE_HOME").or_else(|| Some(folder("HOME")?.join(".cache")));
    Ok(cache.ok_or(Error::NoHome)?.join("buildd-slave"))
}
