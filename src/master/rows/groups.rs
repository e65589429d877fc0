//! Which architectures does the farm know, and which of them could be built for?

use crate::db::{Error, Row, Tx, params};

/// An architecture of a series.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ArchSeries {
    pub(crate) distribution: String,
    pub(crate) series: String,
    pub(crate) tag: String,
    pub(crate) processor: i64,
    /// Of the processor; builders are grouped by it.
    pub(crate) family: String,
    pub(crate) has_chroot: bool,
}

/// Returns all architectures, by distribution, series and tag.
pub(crate) fn arch_series(tx: &mut Tx<'_>) -> Result<Vec<ArchSeries>, Error> {
    let sql = "
        SELECT d.name, r.name, t.arch_tag, p.id, p.family,
            EXISTS (SELECT 1 FROM chroot c
                    WHERE c.arch_series_id = t.id AND c.alias_id IS NOT NULL)
        FROM arch_series t
        JOIN series r ON r.id = t.series_id
        JOIN distribution d ON d.id = r.distribution_id
        JOIN processor p ON p.id = t.processor_id
        ORDER BY d.name, r.name, t.arch_tag";
    let read = |row: &Row| {
        Ok(ArchSeries {
            distribution: row.get(0)?,
            series: row.get(1)?,
            tag: row.get(2)?,
            processor: row.get(3)?,
            family: row.get(4)?,
            has_chroot: row.get(5)?,
        })
    };
    tx.query(sql, &params![])?.iter().map(read).collect()
}
