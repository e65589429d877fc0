//! What does a command work on? The configuration and the database.
//!
//! A command run by root leaves nothing that the farm's own user could not write: a database that
//! it makes belongs to that user.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::{OpenOptionsExt as _, fchown};
use std::path::Path;
use std::time::Duration;

use crate::config::{Farm, Warning};
use crate::config_file;
use crate::db::Db;
use crate::master::policy::score::Rules;
use crate::sys::user;

use super::Error;

/// The farm as a command finds it.
pub(super) struct Site {
    pub(super) farm: Farm,
    pub(super) db: Db,
}

impl Site {
    /// Reads the configuration and opens the database that it names.
    pub(super) fn open(config: Option<&Path>) -> Result<Self, Error> {
        Self::open_for(config, |_| Duration::ZERO)
    }

    /// The same for who stays: a database that is lost is waited for, and what of the configuration
    /// has no effect is told.
    pub(super) fn open_and_wait(config: Option<&Path>) -> Result<Self, Error> {
        Self::open_for(config, |(farm, warnings)| {
            warnings.iter().for_each(|warning| log::warn!("{warning}"));
            farm.database.patience
        })
    }

    fn open_for(
        config: Option<&Path>,
        timeout: impl Fn(&(Farm, Vec<Warning>)) -> Duration,
    ) -> Result<Self, Error> {
        let loaded = config_file::load_farm(config)?;
        let timeout = timeout(&loaded);
        let (farm, _) = loaded;
        let url = farm.database.url.expose();
        create_database(url, &farm.user);
        let db = Db::open_with_retry(url, timeout)
            .map_err(|error| Error::NoDatabase(error.to_string()))?;
        Ok(Self { farm, db })
    }

    /// Returns by which rules jobs are scored here.
    pub(super) fn rules(&self) -> Rules {
        self.farm.master.scoring.into()
    }
}

/// Makes a database file that is not there yet the property of the farm's user. What goes wrong
/// here, opening it says better.
fn create_database(url: &str, user: &str) {
    let path = url.strip_prefix("sqlite:").unwrap_or(url);
    let path = Path::new(path.strip_prefix("//").unwrap_or(path));
    if !user::am_root() || url.starts_with("postgres") || path.exists() {
        return;
    }
    let Some(user) = user::lookup(user) else {
        return;
    };
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o640)
        .open(path);
    let result = file.and_then(|file| {
        let (uid, gid) = (user.uid.as_raw(), user.gid.as_raw());
        fchown(&file, Some(uid), Some(gid))
    });
    if let Err(error) = result
        && error.kind() == io::ErrorKind::PermissionDenied
    {
        log::warn!("{}: {error}", path.display());
    }
}
