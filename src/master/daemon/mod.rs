//! The master's processes: `master run` with its threads, and the single pass of `master scan`.

mod built_packages;
mod chores;
pub(super) mod one_pass;
pub(super) mod run;
mod uploads;
mod workers;
