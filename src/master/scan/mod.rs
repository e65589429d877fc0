//! One look at one builder: calls its slave, decides on a step, and does it.
//!
//! All files use `look`. Only `steps` calls the other steps. Among these, only `failure` and
//! `return_job` are called by others.

pub(super) mod dispatch;
pub(super) mod download_results;
pub(super) mod failure;
pub(super) mod finish;
pub(super) mod look;
pub(super) mod reset;
mod return_job;
pub(super) mod slave;
pub(super) mod steps;
