//! The hosts whose masters use this folder of results.
//!
//! A master notes its host in `uploading/.hosts/`. Results of a host that is noted there are no
//! copies: several hosts may share the folder (docs/farm.md §2.11).

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;

use crate::master::farm::Farm;
use crate::master::policy::retention::HOSTS;

/// Notes the host of this process, and returns all hosts that use the folder.
pub(super) fn note(farm: &Farm) -> io::Result<BTreeSet<String>> {
    let noted = farm.results_dir().join(HOSTS);
    fs::create_dir_all(&noted)?;
    File::create(noted.join(&farm.host))?;
    fs::read_dir(&noted)?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect()
}
