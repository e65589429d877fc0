//! Tests of the rows, each on SQLite and PostgreSQL.

mod archives;
mod attempts;
mod builders;
mod builds;
mod candidate;
mod claims;
mod events;
pub(crate) mod farm;
mod fence;
mod leases;
mod lists;
mod outbox;
mod queue;
mod races;
mod registry;
mod series;
mod uploads;
