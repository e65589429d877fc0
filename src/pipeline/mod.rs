//! One build: from a checked request to a verdict, a log and results in the cache.
//!
//! `shim` is the process of one build, `journal` its files on disk. `stage` decides which stage
//! comes next, `stages` carries it out, `running` and `command` run its programs under timeouts.
//! `logscan` reads the log as it is written, `verdict` classifies the exit of sbuild, `depwait`
//! finds missing build dependencies. `verify_results` and `keep_results` bring the results into the
//! cache.

mod apt;
mod apt_auth;
pub(crate) mod autopsy;
mod blame;
mod build_session;
pub(crate) mod buildlog;
mod check_source;
mod command;
mod depwait;
mod disk;
pub(crate) mod journal;
mod keep_results;
pub(crate) mod leftovers;
mod logscan;
pub(crate) mod network;
mod package_lists;
mod platform;
mod running;
mod sbuild;
mod scrub;
pub(crate) mod shim;
pub(crate) mod spec;
mod stage;
mod stages;
mod usage;
mod verdict;
mod verify_results;

pub(crate) use apt::{UPDATE, UPGRADE, apt_proxy};
pub(crate) use stage::Stage;
