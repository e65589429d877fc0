//! The farm's rows: what is read of them and written to them, in SQL for both engines?
//!
//! One file per subject. Every function takes the transaction it runs in, so that its caller
//! decides what belongs together; times are handed in. Nothing here decides what should happen.
//! What is written about a builder or its job is fenced by the lease ([`leases::Fence`],
//! docs/farm.md §6.4): it does nothing and answers false when another process has taken over.

pub(super) mod archives;
pub(super) mod builders;
pub(super) mod builds;
mod bulk;
pub(super) mod candidate;
pub(super) mod depwaits;
pub(super) mod events;
pub(super) mod files;
pub(super) mod leases;
pub(super) mod lists;
mod numbers;
pub(super) mod outbox;
pub(super) mod queue;
pub(super) mod registry;
pub(super) mod scores;
pub(super) mod series;
pub(super) mod sources;
#[cfg(test)]
pub(super) mod tests;
pub(super) mod uploads;

use crate::db::{Column, Error, Row, Value};
use crate::master::model::{
    ArchivePurpose, BuildName, BuildState, CleanStatus, JobStatus, Pocket, PublishingStatus,
    ResetProtocol, SeriesStatus, SourceFileType, Urgency,
};

/// Enumerations go in and out by their numbers.
macro_rules! columns {
    ($($name:ident)*) => { $(
        impl Column for $name {
            const EXPECTED: &'static str = concat!("the number of a ", stringify!($name));
            fn of(value: &Value) -> Option<Self> {
                i64::of(value).and_then(Self::from_number)
            }
        }

        impl From<$name> for Value {
            fn from(value: $name) -> Self {
                Self::Int(value.number())
            }
        }
    )* };
}

columns! {
    ArchivePurpose BuildState CleanStatus JobStatus Pocket PublishingStatus ResetProtocol
    SeriesStatus SourceFileType Urgency
}

/// What a [`BuildName`] is read from, where a query has `b` for a build and [`NAME_JOINS`].
pub(super) const NAME_COLUMNS: &str = "s.name, s.version, d.name, r.name, t.arch_tag, b.pocket";
/// The tables a build's name is in.
pub(super) const NAME_JOINS: &str = "
    JOIN source s ON s.id = b.source_id
    JOIN arch_series t ON t.id = b.arch_series_id
    JOIN series r ON r.id = t.series_id
    JOIN distribution d ON d.id = r.distribution_id";

/// Reads [`NAME_COLUMNS`], of which the first is at `at`.
pub(super) fn build_name(row: &Row, at: usize) -> Result<BuildName, Error> {
    Ok(BuildName {
        source: row.get(at)?,
        version: row.get(at + 1)?,
        distribution: row.get(at + 2)?,
        series: row.get(at + 3)?,
        arch_tag: row.get(at + 4)?,
        pocket: row.get(at + 5)?,
    })
}
