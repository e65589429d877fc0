//! Tests transactions on a PostgreSQL server that becomes unreachable and returns.
//!
//! A relay between client and server breaks connections at a chosen moment.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use super::{add, server};
use crate::db::{Db, Error};

/// Longer than any test takes; no test waits for this time to pass.
const RETRY_FOR: Duration = Duration::from_secs(120);

/// How the relay treats connections and messages.
#[derive(Clone, Copy)]
enum Fault {
    Relay,
    /// Refuses this number of connections, then relays again, like a server that restarts.
    Refuse(u32),
    /// Forwards a COMMIT, then breaks the connection instead of forwarding the answer.
    SwallowCommit,
    /// The COMMIT has been forwarded; the next answer breaks the connection.
    SwallowAnswer,
}

#[derive(Default)]
struct State {
    fault: Option<Fault>,
    open: Vec<UnixStream>,
    refused: u32,
}

struct Relay {
    state: Arc<Mutex<State>>,
    folder: tempfile::TempDir,
    database: String,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Relay {
    /// Starts a relay to a new database; `None` if PostgreSQL is not installed.
    fn new() -> Option<Self> {
        let url = server::database()?;
        let (server, database) = url.split_once('@').unwrap().1.split_once('/').unwrap();
        let socket = ".s.PGSQL.5432";
        let server = PathBuf::from(server.replace("%2F", "/")).join(socket);
        let folder = tempfile::tempdir_in("/tmp").unwrap();
        let listener = UnixListener::bind(folder.path().join(socket)).unwrap();
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for client in listener.incoming() {
                accept(&shared, &server, client.unwrap());
            }
        });
        let database = database.to_owned();
        Some(Self {
            state,
            folder,
            database,
        })
    }

    fn url(&self) -> String {
        let folder = self.folder.path().display().to_string();
        format!(
            "postgresql://postgres@{}/{}",
            folder.replace('/', "%2F"),
            self.database
        )
    }

    fn set(&self, fault: Fault) {
        lock(&self.state).fault = Some(fault);
    }

    /// Breaks all connections and refuses the next few.
    fn restart(&self, refuse: u32) {
        let mut state = lock(&self.state);
        state.fault = Some(Fault::Refuse(refuse));
        for stream in state.open.drain(..) {
            // The connection may be broken already.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn accept(state: &Arc<Mutex<State>>, server: &Path, client: UnixStream) {
    let mut now = lock(state);
    if let Some(Fault::Refuse(left @ 1..)) = now.fault {
        now.fault = Some(Fault::Refuse(left - 1));
        now.refused += 1;
        return;
    }
    let server = UnixStream::connect(server).unwrap();
    now.open
        .extend([client.try_clone().unwrap(), server.try_clone().unwrap()]);
    drop(now);
    let (to_server, to_client) = (server.try_clone().unwrap(), client.try_clone().unwrap());
    for (from, to, from_client) in [(client, to_server, true), (server, to_client, false)] {
        let state = Arc::clone(state);
        thread::spawn(move || relay(&state, from, to, from_client));
    }
}

fn relay(state: &Mutex<State>, mut from: UnixStream, mut to: UnixStream, from_client: bool) {
    let mut buffer = vec![0; 65536];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        let bytes = &buffer[..count];
        let mut now = lock(state);
        let commits = bytes.windows(6).any(|word| word == b"COMMIT");
        match now.fault {
            Some(Fault::SwallowCommit) if from_client && commits => {
                now.fault = Some(Fault::SwallowAnswer);
            }
            Some(Fault::SwallowAnswer) if !from_client => {
                now.fault = Some(Fault::Relay);
                break;
            }
            _ => {}
        }
        drop(now);
        if to.write_all(bytes).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

fn count(db: &Db) -> i64 {
    let row = db.read(|tx| tx.query_one("SELECT count(*) FROM processor", &[]));
    row.unwrap().get(0).unwrap()
}

#[test]
fn a_transaction_is_retried_when_the_server_restarts() {
    let Some(relay) = Relay::new() else { return };
    let db = Db::open_with_retry(&relay.url(), RETRY_FOR).unwrap();
    let mut runs = 0;
    db.write(|tx| {
        runs += 1;
        add(tx, "386")?;
        if runs == 1 {
            relay.restart(2);
        }
        add(tx, "amd64")
    })
    .unwrap();
    assert_eq!((runs, count(&db)), (2, 2));
    assert_eq!(lock(&relay.state).refused, 2);
    // Idle connections break as well.
    relay.restart(0);
    assert_eq!(count(&db), 2);
}

#[test]
fn a_transaction_is_retried_when_the_server_ends_the_session() {
    let Some(url) = server::database() else {
        return;
    };
    let db = Db::open_with_retry(&url, RETRY_FOR).unwrap();
    let mut runs = 0;
    db.write(|tx| {
        runs += 1;
        add(tx, "386")?;
        if runs == 1 {
            let all_others = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                WHERE datname = current_database() AND pid <> pg_backend_pid()";
            Db::open(&url)?.read(|tx| tx.query(all_others, &[]))?;
        }
        add(tx, "amd64")
    })
    .unwrap();
    assert_eq!((runs, count(&db)), (2, 2));
}

#[test]
fn without_retry_a_lost_database_fails_at_once() {
    let Some(relay) = Relay::new() else { return };
    let db = Db::open(&relay.url()).unwrap();
    relay.restart(1);
    let lost = db.write(|tx| add(tx, "386")).unwrap_err();
    assert!(matches!(lost, Error::Lost { .. }), "{lost}");
    assert!(matches!(Db::open(&relay.url()), Err(Error::Lost { .. })));
    assert_eq!(count(&db), 0);
}

#[test]
fn a_commit_without_an_answer_is_not_repeated() {
    let Some(relay) = Relay::new() else { return };
    let db = Db::open_with_retry(&relay.url(), RETRY_FOR).unwrap();
    relay.set(Fault::SwallowCommit);
    let mut runs = 0;
    let unknown = db.write(|tx| {
        runs += 1;
        add(tx, "386")
    });
    assert!(
        matches!(unknown, Err(Error::CommitUnknown(_))),
        "{unknown:?}"
    );
    assert_eq!((runs, count(&db)), (1, 1));
    // A read-only transaction is retried.
    relay.set(Fault::SwallowCommit);
    assert_eq!(count(&db), 1);
}
