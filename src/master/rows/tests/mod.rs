//! Tests of the rows, each on SQLite and PostgreSQL.

mod attempts;
mod builders;
mod builds;
mod candidate;
mod claims;
mod depwaits;
mod events;
pub(crate) mod farm;
mod fence;
mod leases;
mod lists;
mod outbox;
mod published;
mod queue;
mod races;
mod registry;
mod retention;
mod series;
mod unbuildable;
mod uploads;
