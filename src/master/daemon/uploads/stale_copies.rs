//! Removes copies of results that another host uploads.
//!
//! A master that is killed between the rename to `incoming/` and the commit leaves its results
//! there. If a master of another host then collects the build, the attempt names that host.

use std::fs;
use std::time::Duration;

use super::super::result_hosts;
use crate::db::Tx;
use crate::master::farm::Farm;
use crate::master::policy::retention::Folder;
use crate::master::rows::uploads;
use crate::sys::fs::remove_tree;

/// Age at which a copy is removed.
const STALE_AFTER: Duration = Duration::from_secs(24 * 3600);

/// Removes each folder of `incoming/` that is older than a day and belongs to an attempt whose
/// results another host has, in a folder of its own.
pub(super) fn remove(farm: &Farm) {
    let hosts = match result_hosts::note(farm) {
        Ok(hosts) => hosts,
        Err(error) => return log::warn!("cannot note this host in the results: {error}"),
    };
    let Ok(entries) = fs::read_dir(farm.results_dir().join("incoming")) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let modified = entry.metadata().and_then(|data| data.modified());
        let age = modified.ok().and_then(|time| time.elapsed().ok());
        let owner = Folder::Incoming.owner(&name);
        let Some((build, cookie)) = owner.filter(|_| age.is_some_and(|age| age > STALE_AFTER))
        else {
            continue;
        };
        let place = |tx: &mut Tx<'_>| uploads::place(tx, build, cookie);
        let owner = match farm.db.read(place) {
            Ok(place) => place.and_then(|place| place.host),
            Err(error) => {
                log::warn!("cannot look for stale copies of results: {error}");
                return;
            }
        };
        let Some(owner) = owner.filter(|owner| !hosts.contains(owner)) else {
            continue;
        };
        match remove_tree(&entry.path()) {
            Ok(()) => log::info!("removed the copy of results {name}: {owner} has them"),
            Err(error) => log::warn!("{error}"),
        }
    }
}
