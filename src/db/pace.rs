//! Splits bulk changes into short transactions, so that other writers wait little.
//!
//! The size of a batch follows the time that the last one took. On SQLite, the lock is then free
//! for at least as long as it was held: a waiting writer polls, and would miss a shorter gap. On
//! PostgreSQL, a batch locks only its own rows.

use std::thread;
use std::time::{Duration, Instant};

use super::{Db, Engine, Error, Tx};

/// The time that a batch should take.
const TARGET: Duration = Duration::from_millis(20);
/// Shortest pause after a batch on SQLite, and the pause on PostgreSQL.
const PAUSE: Duration = Duration::from_millis(10);
const POSTGRES_PAUSE: Duration = Duration::from_millis(2);
const FIRST: usize = 20;
const MOST: usize = 500;

/// The number of items in the next batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pace(usize);

impl Default for Pace {
    fn default() -> Self {
        Self(FIRST)
    }
}

impl Pace {
    /// Like [`Pace::each`], but returns the sum of the results.
    pub(crate) fn write<T>(
        &mut self,
        db: &Db,
        items: &[T],
        work: impl FnMut(&mut Tx<'_>, &[T]) -> Result<u64, Error>,
    ) -> Result<u64, Error> {
        Ok(self.each(db, items, work)?.into_iter().sum())
    }

    /// Calls `work` with parts of `items`, each in a write transaction of its own, and returns the
    /// results. `work` must check again that each item may be changed.
    pub(crate) fn each<T, R>(
        &mut self,
        db: &Db,
        items: &[T],
        mut work: impl FnMut(&mut Tx<'_>, &[T]) -> Result<R, Error>,
    ) -> Result<Vec<R>, Error> {
        let mut rest = items;
        let mut results = Vec::new();
        while !rest.is_empty() {
            let (part, more) = rest.split_at(self.0.min(rest.len()));
            // Waiting for the lock does not count.
            let (mut began, mut engine) = (Instant::now(), Engine::Sqlite);
            results.push(db.write(|tx| {
                (began, engine) = (Instant::now(), tx.engine());
                work(tx, part)
            })?);
            let took = began.elapsed();
            *self = self.after(part.len(), took);
            thread::sleep(match engine {
                Engine::Sqlite => took.max(PAUSE),
                Engine::Postgres => POSTGRES_PAUSE,
            });
            rest = more;
        }
        Ok(results)
    }

    /// Returns the pace after a batch of `items` that took `took`.
    fn after(self, items: usize, took: Duration) -> Self {
        if took > TARGET {
            Self((items / 2).max(1))
        } else if took < TARGET / 2 && items == self.0 {
            Self((self.0 * 2).min(MOST))
        } else {
            self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::params;
    use crate::db::tests::both;

    #[test]
    fn batches_shrink_when_they_are_slow_and_grow_when_they_are_fast() {
        let slow = Duration::from_millis(30);
        let fast = Duration::from_millis(1);
        assert_eq!(Pace(100).after(100, slow), Pace(50));
        assert_eq!(Pace(1).after(1, slow), Pace(1));
        assert_eq!(Pace(100).after(100, fast), Pace(200));
        assert_eq!(Pace(400).after(400, fast), Pace(500));
        // The last batch of a list says nothing about a full one.
        assert_eq!(Pace(100).after(3, fast), Pace(100));
        assert_eq!(Pace(100).after(100, TARGET), Pace(100));
    }

    #[test]
    fn every_item_is_in_one_batch() {
        both(|db| {
            let items: Vec<i64> = (1..=150).collect();
            let mut sizes = Vec::new();
            let sum = Pace::default().write(db, &items, |tx, part| {
                sizes.push(part.len());
                let mut sum = 0;
                for item in part {
                    tx.query("SELECT CAST($1 AS BIGINT)", &params![*item])?;
                    sum += u64::try_from(*item).unwrap_or(0);
                }
                Ok(sum)
            });
            assert_eq!(sum.unwrap(), 150 * 151 / 2);
            assert!(sizes.len() > 1, "{sizes:?}");
        });
    }
}
