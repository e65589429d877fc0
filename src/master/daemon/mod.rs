//! The master's processes: `master run` with its threads, and the single pass of `master scan`.

mod built_packages;
mod chores;
mod looks;
mod notifications;
pub(super) mod one_pass;
mod result_folders;
mod result_hosts;
mod retention;
pub(super) mod run;
mod schedule;
mod uploads;
mod workers;
