//! The build master: the queue, the builders and their builds.
//!
//! The layers, lowest first: `model`, `policy` (pure decisions), `rows` (SQL), `farm` and `queue`,
//! `submit`, `scan` (one look at one builder) and `backup`, `daemon` (the processes), `commands`. A
//! file imports only from the layers below its own; `tests/architecture` checks that.

mod backup;
pub(crate) mod commands;
mod daemon;
mod farm;
mod model;
mod policy;
mod queue;
mod rows;
mod scan;
mod submit;
