//! Reads a table in windows, and the conditions for what may be removed.

use super::Pass;
use super::references::{self, Reference};
use crate::db::{Error, Tx, params};

/// Rows that one read transaction looks at.
pub(super) const WINDOW: u32 = 2000;

/// Returns the last id of the next window of a table; `None` at its end.
pub(super) fn window(tx: &mut Tx<'_>, table: &str, after: i64) -> Result<Option<i64>, Error> {
    let sql = format!(
        "SELECT MAX(w.id) FROM (SELECT id FROM {table} WHERE id > $1 ORDER BY id LIMIT {WINDOW}) w"
    );
    tx.query_one(&sql, &params![after])?.get(0)
}

/// A window of contents, in the order of their SHA-256: equal ones are in the same window.
pub(super) struct HashWindow {
    /// `None` before the first window.
    pub(super) after: Option<String>,
    pub(super) last: String,
}

impl HashWindow {
    /// Returns the window that follows `after`; `None` at the end.
    pub(super) fn next(tx: &mut Tx<'_>, after: Option<&String>) -> Result<Option<Self>, Error> {
        let sql = format!(
            "SELECT MAX(w.sha256) FROM (SELECT c.sha256 FROM library_content c WHERE {} \
             ORDER BY c.sha256 LIMIT {WINDOW}) w",
            lower(after.is_some()),
        );
        let first = after.cloned().unwrap_or_default();
        let last: Option<String> = tx.query_one(&sql, &params![first])?.get(0)?;
        Ok(last.map(|last| Self {
            after: after.cloned(),
            last,
        }))
    }

    /// The condition that content `c` is in the window; `$1` and `$2` are its ends.
    pub(super) fn condition(&self) -> String {
        format!("{} AND c.sha256 <= $2", lower(self.after.is_some()))
    }

    /// The value of `$1`.
    pub(super) fn first(&self) -> &str {
        self.after.as_deref().unwrap_or_default()
    }
}

fn lower(has_previous: bool) -> &'static str {
    match has_previous {
        true => "c.sha256 > $1",
        false => "c.sha256 >= $1",
    }
}

/// The condition that an alias may be removed. `time` is the parameter for [`Pass::before`].
pub(super) fn removable_alias(alias: &str, references: &[Reference], time: &str) -> String {
    format!(
        "{alias}.created_at < {time} AND ({alias}.expires_at IS NULL OR {alias}.expires_at < {time}) \
         AND {}",
        references::none(alias, references)
    )
}

/// Returns the ids of the aliases in a window that may be removed.
pub(super) fn aliases(
    tx: &mut Tx<'_>,
    pass: &Pass<'_>,
    after: i64,
    last: i64,
) -> Result<Vec<i64>, Error> {
    let sql = format!(
        "SELECT a.id FROM library_alias a WHERE a.id > $1 AND a.id <= $2 AND {} ORDER BY a.id",
        removable_alias("a", &pass.aliases, "$3")
    );
    let rows = tx.query(&sql, &params![after, last, pass.before])?;
    rows.iter().map(|row| row.get(0)).collect()
}
