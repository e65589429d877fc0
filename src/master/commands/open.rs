//! Opens the configuration and the database for a command.
//!
//! If root creates a SQLite database, the file belongs to the farm's user, so that the master can
//! write it.

use std::io;
use std::path::Path;
use std::time::Duration;

use crate::config::{Farm, Warning};
use crate::config_file;
use crate::db::Db;
use crate::master::policy::score::Rules;
use crate::sys::user;

use super::Error;

/// The configuration and the database of a command.
pub(super) struct Site {
    pub(super) farm: Farm,
    pub(super) db: Db,
}

impl Site {
    /// Reads the configuration and opens the database that it names.
    pub(super) fn open(config: Option<&Path>) -> Result<Self, Error> {
        Self::open_for(config, |_| Duration::ZERO)
    }

    /// Like `open`, for long-running commands: waits for a lost database, and logs configuration
    /// keys without effect.
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

    /// Returns the configured scoring rules.
    pub(super) fn rules(&self) -> Rules {
        self.farm.master.scoring.into()
    }
}

/// Creates a missing SQLite file for the farm's user, if run by root. Errors other than missing
/// permission are left to opening the database, which reports them better.
fn create_database(url: &str, user: &str) {
    let Some(user) = user::lookup(user).filter(|_| user::am_root()) else {
        return;
    };
    match Db::create_file(url, (user.uid.as_raw(), user.gid.as_raw())) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            log::warn!("cannot create the database for {}: {error}", user.name);
        }
        _ => {}
    }
}
