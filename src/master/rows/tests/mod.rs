//! One suite, both engines: what each function of the rows reads, writes and refuses.

mod archives;
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
