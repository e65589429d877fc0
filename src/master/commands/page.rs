//! The limit of a list, and the hint at what follows.

use std::fmt::Display;

use super::screen::stderr_line;

/// The limit of a list, from `--limit`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Page {
    /// `None` lists all.
    limit: Option<usize>,
}

impl Page {
    /// Takes the value of `--limit`, in which 0 means all.
    pub(super) fn new(limit: u32) -> Self {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        Self {
            limit: (limit > 0).then_some(limit),
        }
    }

    /// Returns the number of rows to read: one more than the limit, to know whether more follow.
    pub(super) fn to_read(self) -> Option<usize> {
        self.limit.map(|limit| limit.saturating_add(1))
    }

    /// Like [`Page::to_read`], for SQL.
    pub(super) fn rows(self) -> Option<i64> {
        self.to_read()
            .map(|limit| i64::try_from(limit).unwrap_or(i64::MAX))
    }

    /// Cuts the rows at the limit; returns whether more follow.
    pub(super) fn cut<T>(self, rows: &mut Vec<T>) -> bool {
        let limit = self.limit.unwrap_or(usize::MAX);
        let more = rows.len() > limit;
        rows.truncate(limit);
        more
    }

    /// Says on stderr how to list what follows; `last` is the last row's name.
    pub(super) fn hint(self, what: &str, last: impl Display) {
        stderr_line(format_args!(
            "more {what} follow; --after {last} lists them, --limit 0 lists all"
        ));
    }
}
