//! Reads and writes the farm's tables, with SQL for SQLite and PostgreSQL alike.
//!
//! Every function takes its transaction, so the caller decides which writes commit together. The
//! caller passes all times, in milliseconds since 1970. Nothing here decides what should happen.
//!
//! Writes about a builder or its job are fenced by the lease ([`leases::Fence`],
//! docs/farm.md §6.4). A fenced write changes nothing once another process has taken the builder
//! over.

pub(super) mod archives;
pub(super) mod attempts;
pub(super) mod backup;
pub(super) mod builders;
pub(super) mod builds;
mod bulk;
pub(super) mod candidate;
pub(super) mod depwaits;
pub(super) mod entries;
pub(super) mod events;
pub(super) mod files;
pub(super) mod leases;
pub(super) mod lists;
mod numbers;
pub(super) mod outbox;
pub(super) mod published;
pub(super) mod queue;
pub(super) mod registry;
pub(super) mod retention;
pub(super) mod scores;
pub(super) mod series;
pub(super) mod sources;
#[cfg(test)]
pub(super) mod tests;
pub(super) mod unbuildable;
pub(super) mod uploads;

use crate::db::{Column, Error, Row, Value};
use crate::master::model::{
    ArchivePurpose, AttemptVerdict, BuildName, BuildState, CleanStatus, JobStatus, Pocket,
    PublishingStatus, ResetProtocol, SeriesStatus, SourceFileType, Urgency,
};

/// Stores and reads enumerations as their numbers.
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
    ArchivePurpose AttemptVerdict BuildState CleanStatus JobStatus Pocket PublishingStatus ResetProtocol
    SeriesStatus SourceFileType Urgency
}

/// The columns of a [`BuildName`]; the query needs a build `b` and [`NAME_JOINS`].
pub(super) const NAME_COLUMNS: &str = "s.name, s.version, d.name, r.name, t.arch_tag, b.pocket";
/// Joins the tables that hold the name of build `b`.
pub(super) const NAME_JOINS: &str = "
    JOIN source s ON s.id = b.source_id
    JOIN arch_series t ON t.id = b.arch_series_id
    JOIN series r ON r.id = t.series_id
    JOIN distribution d ON d.id = r.distribution_id";

/// Reads [`NAME_COLUMNS`], which start at column `at`.
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
