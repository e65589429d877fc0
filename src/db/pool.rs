//! Pools connections, and retries transactions when the database is busy or lost.
//!
//! SQLite has one connection for writing and several for reading; PostgreSQL has several for both.
//! A failed transaction runs again from its start: a few times if the database was busy, for a
//! limited time if it was lost. A commit with unknown outcome is never repeated.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::Error;
use super::connection::Connection;
use super::migrate::{check, is_current, migrate};
use super::new_file;
use super::postgres;
use super::sqlite;
use super::tx::Tx;
use super::url::Location;

/// The number of connections of a process to PostgreSQL, or of its readers of SQLite.
const CONNECTIONS: usize = 8;
/// How often a transaction is retried when the database is busy.
const BUSY_TRIES: u32 = 20;
/// How long opening is retried while the database is busy, and the pause between two attempts.
const OPEN_TIMEOUT: Duration = Duration::from_secs(30);
const OPEN_PAUSE: Duration = Duration::from_millis(20);
/// The pause between two attempts to reach a lost database.
const LOST_RETRY_PAUSE: Duration = Duration::from_millis(500);

/// A database; clones share its connections.
#[derive(Clone)]
pub(crate) struct Db(pub(super) Arc<Shared>);

pub(super) struct Shared {
    pub(super) location: Location,
    writers: Pool,
    readers: Option<Pool>,
    retry_for: Duration,
}

impl Db {
    /// Opens the database at `url`, and creates or upgrades its schema. Fails at once, now and
    /// later, if the database cannot be reached.
    pub(crate) fn open(url: &str) -> Result<Self, Error> {
        Self::open_with_retry(url, Duration::ZERO)
    }

    /// Like [`Db::open`], but transactions on a database lost later are retried for `retry_for`.
    pub(crate) fn open_with_retry(url: &str, retry_for: Duration) -> Result<Self, Error> {
        let db = Self::at(url, retry_for)?;
        let readers = db.0.readers.as_ref().unwrap_or(&db.0.writers);
        match db.attempt(readers, &mut |tx| Ok(is_current(tx)), false) {
            // No write lock: a command that only reads does not wait for writers.
            Ok(true) => return Ok(db),
            Err(error @ Error::Lost { .. }) => return Err(error),
            Ok(false) | Err(_) => {}
        }
        let (began, at) = (Instant::now(), db.place());
        loop {
            // Not `write`, which retries: opening must fail at once if the database is unreachable.
            match db.attempt(&db.0.writers, &mut |tx| migrate(tx, &at), true) {
                // Other processes may be starting too. SQLite's busy timeout does not cover the
                // switch to WAL.
                Err(Error::Busy(_)) if began.elapsed() < OPEN_TIMEOUT => thread::sleep(OPEN_PAUSE),
                other => return other.map(|()| db),
            }
        }
    }

    /// The name of the database in messages.
    fn place(&self) -> String {
        match &self.0.location {
            Location::Sqlite(path) => path.display().to_string(),
            Location::Postgres(_) => "PostgreSQL".to_owned(),
        }
    }

    /// Fails with [`Error::Newer`] if a newer program has upgraded the schema since it was opened.
    pub(crate) fn check_schema(&self, tx: &mut Tx<'_>) -> Result<(), Error> {
        check(tx, &self.place())
    }

    /// Returns the database at `url` without a connection.
    pub(super) fn at(url: &str, retry_for: Duration) -> Result<Self, Error> {
        let location = Location::parse(url)?;
        let (writers, readers) = match &location {
            Location::Sqlite(_) => (1, Some(Pool::new(CONNECTIONS))),
            Location::Postgres(_) => (CONNECTIONS, None),
        };
        Ok(Self(Arc::new(Shared {
            location,
            writers: Pool::new(writers),
            readers,
            retry_for,
        })))
    }

    /// Creates the file of an SQLite database for its owner, the ids of a user and a group. Does
    /// nothing if it exists, or for PostgreSQL.
    ///
    /// # Errors
    /// The file cannot be created. Opening the database reports that better, except if a
    /// permission is missing.
    pub(crate) fn create_file(url: &str, owner: (u32, u32)) -> std::io::Result<()> {
        match Location::parse(url) {
            Ok(Location::Sqlite(path)) if !path.exists() => new_file::create(&path, Some(owner)),
            _ => Ok(()),
        }
    }

    /// Runs `work` in one read-only snapshot, more than once if it has to be retried.
    pub(crate) fn read<T>(
        &self,
        mut work: impl FnMut(&mut Tx<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let pool = self.0.readers.as_ref().unwrap_or(&self.0.writers);
        self.retry(|| self.attempt(pool, &mut work, false))
    }

    /// Runs `work` in one transaction, which is rolled back if `work` fails. It may run more than
    /// once, so it must have no side effects outside the database.
    pub(crate) fn write<T>(
        &self,
        mut work: impl FnMut(&mut Tx<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.retry(|| self.attempt(&self.0.writers, &mut work, true))
    }

    fn retry<T>(&self, mut attempt: impl FnMut() -> Result<T, Error>) -> Result<T, Error> {
        let mut busy = 0;
        let mut lost_since = None;
        loop {
            match attempt() {
                Err(Error::Busy(problem)) if busy < BUSY_TRIES => {
                    busy += 1;
                    log::debug!("database busy, retry {busy} of {BUSY_TRIES}: {problem}");
                    thread::sleep(Duration::from_millis(u64::from(busy)));
                }
                Err(Error::Lost { at, problem }) => {
                    let now = Instant::now();
                    let since = *lost_since.get_or_insert_with(|| {
                        if !self.0.retry_for.is_zero() {
                            log::warn!(
                                "database {at}: {problem}; retrying for {} s",
                                self.0.retry_for.as_secs()
                            );
                        }
                        now
                    });
                    if now - since >= self.0.retry_for {
                        return Err(Error::Lost { at, problem });
                    }
                    thread::sleep(LOST_RETRY_PAUSE);
                }
                other => return other,
            }
        }
    }

    /// Runs `work` once. If the connection breaks, closes it and all idle ones.
    fn attempt<T>(
        &self,
        pool: &Pool,
        work: &mut dyn FnMut(&mut Tx<'_>) -> Result<T, Error>,
        write: bool,
    ) -> Result<T, Error> {
        let mut slot = pool.take();
        let connection = match slot.connection.take() {
            Some(connection) => connection,
            None => self.connect()?,
        };
        let mut connection = connection;
        let result = transact(&mut connection, work, write);
        match &result {
            Err(Error::Lost { .. } | Error::CommitUnknown(_)) => pool.clear(),
            _ => slot.connection = Some(connection),
        }
        result
    }

    pub(super) fn connect(&self) -> Result<Connection, Error> {
        match &self.0.location {
            Location::Sqlite(path) => sqlite::Connection::open(path).map(Connection::Sqlite),
            Location::Postgres(server) => postgres::Connection::open(server)
                .map(Box::new)
                .map(Connection::Postgres),
        }
    }
}

fn transact<T>(
    connection: &mut Connection,
    work: &mut dyn FnMut(&mut Tx<'_>) -> Result<T, Error>,
    write: bool,
) -> Result<T, Error> {
    let begin = match connection {
        Connection::Sqlite(_) if write => "BEGIN IMMEDIATE",
        Connection::Sqlite(_) => "BEGIN",
        Connection::Postgres(_) if write => "BEGIN",
        Connection::Postgres(_) => "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
    };
    let mut tx = Tx {
        connection,
        failed: false,
    };
    tx.batch(begin)?;
    let result = work(&mut tx);
    if result.is_ok() && tx.failed {
        roll_back(&mut tx)?;
        return Err(Error::Refused(
            "a statement failed and its error was ignored: the transaction is rolled back"
                .to_owned(),
        ));
    }
    if result.is_ok() {
        match tx.batch("COMMIT") {
            Ok(()) => return result,
            Err(Error::Lost { problem, .. }) if write => {
                return Err(Error::CommitUnknown(problem));
            }
            Err(error) => {
                roll_back(&mut tx)?;
                return Err(error);
            }
        }
    }
    roll_back(&mut tx)?;
    result
}

/// Rolls back a failed transaction. If that fails too, the connection is lost.
fn roll_back(tx: &mut Tx<'_>) -> Result<(), Error> {
    if matches!(tx.connection, Connection::Sqlite(sqlite) if !sqlite.in_transaction()) {
        return Ok(());
    }
    match tx.batch("ROLLBACK") {
        Err(Error::Query { problem, .. }) => Err(Error::Lost {
            at: "connection".to_owned(),
            problem,
        }),
        other => other,
    }
}

/// Idle connections, and a limit on connections in use.
struct Pool {
    state: Mutex<State>,
    freed: Condvar,
}

struct State {
    idle: Vec<Connection>,
    /// Number of free slots.
    free: usize,
}

/// The right to one connection, and an idle connection if there was one.
struct Slot<'a> {
    pool: &'a Pool,
    connection: Option<Connection>,
}

impl Pool {
    fn new(size: usize) -> Self {
        Self {
            state: Mutex::new(State {
                idle: Vec::new(),
                free: size,
            }),
            freed: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a slot.
    fn take(&self) -> Slot<'_> {
        let wait = self.freed.wait_while(self.lock(), |state| state.free == 0);
        let mut state = wait.unwrap_or_else(PoisonError::into_inner);
        state.free -= 1;
        Slot {
            pool: self,
            connection: state.idle.pop(),
        }
    }

    fn clear(&self) {
        let idle = std::mem::take(&mut self.lock().idle);
        drop(idle);
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        let mut state = self.pool.lock();
        state.free += 1;
        // After a panic `connection` is empty, so no open transaction returns to the pool.
        state.idle.extend(self.connection.take());
        self.pool.freed.notify_one();
    }
}
