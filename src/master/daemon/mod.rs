//! The master's processes: `master run` with its threads, and `master scan`, one pass.

mod chores;
pub(super) mod one_pass;
pub(super) mod run;
mod uploads;
mod workers;
