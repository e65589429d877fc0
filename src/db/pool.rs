//! Who may use a connection when, and what happens to work that a busy or lost database stopped?
//!
//! SQLite has one connection that writes and a few that read; PostgreSQL has a few for both. Work
//! is run again, from its start, when the database was busy, or within the retry_for given when it
//! was lost; a commit whose fate is unknown is never repeated.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::Error;
use super::migrate::migrate;
use super::postgres;
use super::sqlite;
use super::tx::{Connection, Tx};
use super::url::Location;

/// Connections of a process to PostgreSQL, and readers of SQLite.
const CONNECTIONS: usize = 8;
/// How often busy rows are tried for.
const BUSY_TRIES: u32 = 20;
/// How long others may hold up an opening, and the time between two tries.
const OPEN_TIMEOUT: Duration = Duration::from_secs(30);
const OPEN_PAUSE: Duration = Duration::from_millis(20);
/// Between two tries at a lost database.
const LOST_RETRY_PAUSE: Duration = Duration::from_millis(500);

/// A database; clones share its connections.
#[derive(Clone)]
pub(crate) struct Db(Arc<Shared>);

struct Shared {
    location: Location,
    writers: Pool,
    readers: Option<Pool>,
    retry_for: Duration,
}

impl Db {
    /// Opens the database that `url` names, and makes or upgrades its schema. Fails at once when
    /// it cannot be reached now.
    pub(crate) fn open(url: &str) -> Result<Self, Error> {
        Self::open_with_retry(url, Duration::ZERO)
    }

    /// The same; later, when the database is lost, work waits for it as long as `retry_for`.
    pub(crate) fn open_with_retry(url: &str, retry_for: Duration) -> Result<Self, Error> {
        let location = Location::parse(url)?;
        let (writers, readers, at) = match &location {
            Location::Sqlite(path) => (1, Some(Pool::new(CONNECTIONS)), path.display().to_string()),
            Location::Postgres(_) => (CONNECTIONS, None, "PostgreSQL".to_owned()),
        };
        let db = Self(Arc::new(Shared {
            location,
            writers: Pool::new(writers),
            readers,
            retry_for,
        }));
        let began = Instant::now();
        loop {
            // Not `write`: who cannot connect is to know at once.
            match db.attempt(&db.0.writers, &mut |tx| migrate(tx, &at), true) {
                // Others start now as well. SQLite itself does not wait for one that changes the
                // mode of the journal.
                Err(Error::Busy(_)) if began.elapsed() < OPEN_TIMEOUT => thread::sleep(OPEN_PAUSE),
                other => return other.map(|()| db),
            }
        }
    }

    /// Reads in one snapshot; `work` may be run more than once.
    pub(crate) fn read<T>(
        &self,
        mut work: impl FnMut(&mut Tx<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let pool = self.0.readers.as_ref().unwrap_or(&self.0.writers);
        self.retry(|| self.attempt(pool, &mut work, false))
    }

    /// Does `work` in one transaction: all of it or, when it fails, nothing. It may be run more
    /// than once, so that nothing but rows is to be touched in it.
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
                    log::debug!("database busy, try {busy}: {problem}");
                    thread::sleep(Duration::from_millis(u64::from(busy)));
                }
                Err(Error::Lost { at, problem }) => {
                    let now = Instant::now();
                    let since = *lost_since.get_or_insert_with(|| {
                        if !self.0.retry_for.is_zero() {
                            log::warn!("database {at}: {problem}; trying on");
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

    /// Runs `work` once. A connection that broke is thrown away, and with it those that idle.
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

    fn connect(&self) -> Result<Connection, Error> {
        match &self.0.location {
            Location::Sqlite(path) => sqlite::Connection::open(path).map(Connection::Sqlite),
            Location::Postgres(url) => postgres::Connection::open(url)
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
            "a statement failed and was passed over: nothing is written".to_owned(),
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

/// Ends a transaction that failed. A connection that cannot even do that is lost.
fn roll_back(tx: &mut Tx<'_>) -> Result<(), Error> {
    if let Connection::Sqlite(connection) = tx.connection
        && !connection.in_transaction()
    {
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

/// Connections at rest, and how many more may be had.
struct Pool {
    state: Mutex<State>,
    freed: Condvar,
}

struct State {
    idle: Vec<Connection>,
    /// Slots not taken.
    free: usize,
}

/// The right to one connection, with one if it was at rest.
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
        // Not one that a panic left in the middle of a transaction: it is gone with its thread.
        state.idle.extend(self.connection.take());
        self.pool.freed.notify_one();
    }
}
