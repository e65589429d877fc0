//! One build: from a checked request to a verdict, a log and files in the cache.
//!
//! `rundir` is what a build has on disk, `shim` the process that does it: it asks `plan` for the
//! next stage and has `stages` do it, each command under the timeouts of `exec`. `logscan` reads the
//! log as it goes by, `verdict` decides what the end of sbuild means, `depwait` what the archive
//! lacks (`wildcard`: for which architecture); `changes`, `collect` and `gather` bring in the
//! results. `dsc` and `source` are what is built from, for those who are given a .dsc.

mod apt;
pub(crate) mod autopsy;
pub(crate) mod buildlog;
mod command;
mod depwait;
mod disk;
pub(crate) mod journal;
mod keep_results;
pub(crate) mod leftovers;
mod logscan;
mod running;
mod sbuild;
mod scrub;
pub(crate) mod shim;
pub(crate) mod spec;
mod stage;
mod stages;
mod verdict;
mod verify_results;

pub(crate) use apt::{UPDATE, UPGRADE};
pub(crate) use stage::Stage;
