//! The database in a backup: dumped from one snapshot, with the lists of what it refers to.
//!
//! The dump has no passwords: they are in `keys/`. PostgreSQL's dump lacks the rows of the tables
//! with passwords, which are JSON files beside it, and the rows of running processes.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::configuration::write_private;
use super::list::Writer;
use super::manifest::{BLOBS, Engine, KEYS};
use super::progress::Progress;
use super::{Error, results};
use crate::db::{self, Content, Db, Tx, compact_sqlite, load_sqlite, params};
use crate::librarian;
use crate::master::rows::backup::{self as rows, Key, TABLES_WITH_KEYS};
use crate::sys::clock::now_ms;
use crate::sys::fs::Error as FileError;

const SQLITE: &str = "database.sqlite";
const POSTGRESQL: &str = "database.pgdump";
/// The list of the folders of results to copy; it is no part of the complete backup.
pub(super) const LEAVES: &str = "leaves.jsonl";
/// Files of PostgreSQL's programs while they run.
const PASSFILE: &str = ".pgpass";
const MESSAGES: &str = ".messages";
const MESSAGE_BYTES: usize = 2000;
/// Tables whose rows belong to running processes.
const PROCESS_TABLES: [&str; 3] = ["schema_version", "singleton", "master_process"];

/// The facts about a dumped database.
pub(super) struct Facts {
    pub(super) engine: Engine,
    pub(super) schema: i64,
    pub(super) counts: Vec<(&'static str, i64)>,
    pub(super) keys: Vec<Key>,
    pub(super) blobs: u64,
    pub(super) blob_bytes: u64,
    /// The time of the snapshot, in milliseconds since 1970.
    pub(super) time: i64,
    /// Builds whose results wait for the uploader, and the folders.
    pub(super) waiting: Vec<(i64, String)>,
}

/// The results that belong to the database.
pub(super) struct Results<'a> {
    pub(super) folder: &'a Path,
    pub(super) hosts: &'a [String],
}

/// Dumps the database into a new backup, while others write, and lists what the dump refers to.
pub(super) fn dump(
    db: &Db,
    backup: &Path,
    results: &Results<'_>,
    progress: &mut Progress,
) -> Result<Facts, Error> {
    match db.engine() {
        db::Engine::Sqlite => dump_sqlite(db, backup, results, progress),
        db::Engine::Postgres => dump_postgres(db, backup, results, progress),
    }
}

fn dump_sqlite(
    db: &Db,
    backup: &Path,
    results: &Results<'_>,
    progress: &mut Progress,
) -> Result<Facts, Error> {
    let path = backup.join(SQLITE);
    db.copy_sqlite(&path, &mut |done, all| {
        progress.show("database, pages", done, Some(all));
    })?;
    let copy = Db::unopened(&format!("sqlite:{}", path.display()))?;
    let facts = copy.read(|tx| Ok(look(tx, backup, results, Engine::Sqlite)))??;
    copy.write(|tx| {
        tx.execute(rows::CLEAR_SECRETS, &[])?;
        for sql in rows::CLEAR_PROCESSES {
            tx.execute(sql, &[])?;
        }
        rows::clear_urls(tx, &facts.keys)
    })?;
    drop(copy);
    compact_sqlite(&path)?;
    Ok(facts)
}

fn dump_postgres(
    db: &Db,
    backup: &Path,
    results: &Results<'_>,
    progress: &mut Progress,
) -> Result<Facts, Error> {
    check_version(db, "pg_dump")?;
    let dumped = db.read(|tx| {
        let snapshot = tx.export_snapshot()?;
        let facts = look(tx, backup, results, Engine::Postgresql).and_then(|facts| {
            for table in TABLES_WITH_KEYS {
                write_table(tx, backup, table)?;
            }
            run_pg_dump(db, backup, &snapshot, progress)?;
            Ok(facts)
        });
        Ok(facts)
    });
    dumped?
}

/// Reads the facts, and writes the lists.
fn look(
    tx: &mut Tx<'_>,
    backup: &Path,
    results: &Results<'_>,
    engine: Engine,
) -> Result<Facts, Error> {
    let mut blobs = Writer::create(&backup.join(BLOBS))?;
    let (mut after, mut bytes) = (String::new(), 0);
    loop {
        let found = librarian::blobs_after(tx, &after)?;
        let Some(last) = found.last() else { break };
        after.clone_from(&last.sha256);
        for blob in &found {
            bytes += blob.size;
            blobs.add(blob)?;
        }
    }
    let count = blobs.count;
    blobs.finish()?;
    let mut leaves = Writer::create(&backup.join(LEAVES))?;
    results::list(tx, results.folder, results.hosts, &mut leaves)?;
    leaves.finish()?;
    Ok(Facts {
        engine,
        schema: rows::schema(tx)?,
        counts: rows::counts(tx)?,
        keys: rows::keys(tx)?,
        blobs: count,
        blob_bytes: bytes,
        time: now_ms(),
        waiting: rows::waiting_results(tx, results.hosts)?,
    })
}

/// Writes the rows of a table with passwords, without these.
fn write_table(tx: &mut Tx<'_>, backup: &Path, table: &str) -> Result<(), Error> {
    let sql = format!("SELECT CAST(COALESCE(json_agg(t), '[]') AS TEXT) FROM {table} t");
    let text: String = tx.query_one(&sql, &[])?.get(0)?;
    let damaged = |error| Error::Refused(format!("{table}: {error}"));
    let mut rows: Vec<Value> = serde_json::from_str(&text).map_err(damaged)?;
    for row in rows.iter_mut().filter_map(Value::as_object_mut) {
        row.entry("buildd_secret")
            .and_modify(|secret| *secret = Value::Null);
        row.entry("lease_owner")
            .and_modify(|owner| *owner = Value::Null);
        row.entry("lease_until")
            .and_modify(|until| *until = 0.into());
        row.entry("url").and_modify(|url| {
            *url = rows::without_password(url.as_str().unwrap_or_default()).into();
        });
    }
    let text = Value::from(rows).to_string();
    write_private(backup, &format!("{table}.json"), text.as_bytes())
}

fn run_pg_dump(
    db: &Db,
    backup: &Path,
    snapshot: &str,
    progress: &mut Progress,
) -> Result<(), Error> {
    let passfile = backup.join(PASSFILE);
    let mut command = db.program("pg_dump", &passfile)?;
    command.args(["--format=custom", "--no-owner", "--no-privileges"]);
    command.arg(format!("--snapshot={snapshot}"));
    for table in TABLES_WITH_KEYS.iter().chain(&PROCESS_TABLES) {
        command.arg(format!("--exclude-table-data={table}"));
    }
    let path = backup.join(POSTGRESQL);
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut to = options
        .open(&path)
        .map_err(FileError::at("create", &path))?;
    let mut bytes = 0_u64;
    // By a pipe: if this process is killed, the program ends at its next write.
    run(command, backup, |piece| {
        bytes += piece.len() as u64;
        progress.show("database, MiB", bytes >> 20, None);
        Ok(to.write_all(piece).map_err(FileError::at("write", &path))?)
    })?;
    remove(&passfile)
}

/// Runs a program of PostgreSQL to its end, and passes its output on in pieces.
fn run(
    mut command: Command,
    backup: &Path,
    mut output: impl FnMut(&[u8]) -> Result<(), Error>,
) -> Result<(), Error> {
    let name = command.get_program().to_string_lossy().into_owned();
    let messages = backup.join(MESSAGES);
    let stderr = File::create(&messages).map_err(FileError::at("create", &messages))?;
    let started = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(stderr)
        .spawn();
    let mut child = started.map_err(|error| absent(&name, &error))?;
    let mut buffer = vec![0; 256 << 10];
    let copied = child.stdout.take().map_or(Ok(()), |mut stdout| {
        loop {
            match stdout.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => output(buffer.get(..count).unwrap_or_default())?,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::Refused(format!("{name}: {error}"))),
            }
        }
    });
    // The pipe is closed: after an error here, the program ends at its next write.
    let status = child
        .wait()
        .map_err(|error| Error::Refused(format!("{name}: {error}")))?;
    copied?;
    if !status.success() {
        let text = fs::read(&messages).unwrap_or_default();
        let from = text.len().saturating_sub(MESSAGE_BYTES);
        let text = String::from_utf8_lossy(text.get(from..).unwrap_or_default()).into_owned();
        return Err(Error::Refused(format!("{name}: {status}: {}", text.trim())));
    }
    remove(&messages)
}

fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(FileError::at("remove", path)(error).into())
        }
        _ => Ok(()),
    }
}

fn absent(program: &str, error: &std::io::Error) -> Error {
    Error::Refused(format!(
        "cannot run {program}: {error}; install the package postgresql-client, of the server's \
         version or newer"
    ))
}

/// Refuses a program that is older than the server: it could not read the database.
fn check_version(db: &Db, program: &str) -> Result<(), Error> {
    let output = Command::new(program).arg("--version").output();
    let output = output.map_err(|error| absent(program, &error))?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let Some(own) = major(&text) else {
        return Err(Error::Refused(format!(
            "`{program} --version` prints no version: {text:?}"
        )));
    };
    let sql = "SELECT CAST(current_setting('server_version_num') AS INTEGER) / 10000";
    let server: i64 = db.read(|tx| tx.query_one(sql, &[])?.get(0))?;
    if own < server {
        return Err(Error::Refused(format!(
            "{program} is of version {own}, older than the server's {server}: install the package \
             postgresql-client-{server}, or put /usr/lib/postgresql/{server}/bin first in PATH"
        )));
    }
    Ok(())
}

/// Returns the version of `pg_dump (PostgreSQL) 15.18 (Debian …)`.
fn major(text: &str) -> Option<i64> {
    let (_, rest) = text.split_once(") ")?;
    let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

// ---- restore ----

/// The backup to restore, and the text to write with it.
pub(super) struct Load<'a> {
    pub(super) backup: &'a Path,
    pub(super) schema: i64,
    /// The text by which a restored database is recognized.
    pub(super) note: &'a str,
    /// The folder for temporary files.
    pub(super) scratch: &'a Path,
}

/// Writes the database of a backup into the empty database `db`, which has this URL.
pub(super) fn load(db: &Db, url: &str, what: &Load<'_>) -> Result<(), Error> {
    let keys = read_keys(what.backup)?;
    match db.engine() {
        db::Engine::Sqlite => load_to_sqlite(url, what, &keys),
        db::Engine::Postgres => load_to_postgres(db, what, &keys),
    }
}

/// The target changes in one transaction, so it is empty or complete at any time.
fn load_to_sqlite(url: &str, what: &Load<'_>, keys: &[Key]) -> Result<(), Error> {
    let from = what.backup.join(SQLITE);
    let copy = what.scratch.join(SQLITE);
    fs::copy(&from, &copy).map_err(FileError::at("copy", &from))?;
    let db = Db::unopened(&format!("sqlite:{}", copy.display()))?;
    db.write(|tx| finish(tx, what, keys))?;
    drop(db);
    compact_sqlite(&copy)?;
    Ok(load_sqlite(&copy, url)?)
}

/// The version of the schema comes last: without it, no program takes the database for complete.
fn load_to_postgres(db: &Db, what: &Load<'_>, keys: &[Key]) -> Result<(), Error> {
    check_version(db, "pg_restore")?;
    if db.content()? != Content::Nothing {
        db.drop_tables()?;
    }
    let restore = |section: &str| {
        let passfile = what.scratch.join(PASSFILE);
        let mut command = db.program("pg_restore", &passfile)?;
        let envs: Vec<_> = command.get_envs().collect();
        let value = |name: &str| {
            envs.iter()
                .find(|(key, _)| *key == name)
                .and_then(|env| env.1)
        };
        let database = value("PGDATABASE").or_else(|| value("PGUSER"));
        let database = database.unwrap_or_default().to_owned();
        command.args(["--no-owner", "--no-privileges", "--exit-on-error"]);
        command
            .args(["--section", section, "--dbname"])
            .arg(database);
        command.arg(what.backup.join(POSTGRESQL));
        run(command, what.scratch, |_| Ok(()))?;
        remove(&passfile)
    };
    restore("pre-data")?;
    restore("data")?;
    for table in TABLES_WITH_KEYS {
        let path = what.backup.join(format!("{table}.json"));
        let rows = fs::read_to_string(&path).map_err(FileError::at("read", &path))?;
        let sql = format!(
            "INSERT INTO {table} SELECT * FROM json_populate_recordset(
                 CAST(NULL AS {table}), CAST(CAST($1 AS TEXT) AS JSON))"
        );
        db.write(|tx| tx.execute(&sql, &params![&rows]))?;
    }
    restore("post-data")?;
    let version = "INSERT INTO schema_version (version) VALUES ($1)";
    db.write(|tx| {
        finish(tx, what, keys)?;
        tx.execute(version, &params![what.schema]).map(drop)
    })?;
    Ok(())
}

fn finish(tx: &mut Tx<'_>, what: &Load<'_>, keys: &[Key]) -> Result<(), db::Error> {
    rows::set_keys(tx, keys)?;
    let now = tx.now()?;
    rows::note_restored(tx, what.note, now)
}

fn read_keys(backup: &Path) -> Result<Vec<Key>, Error> {
    let path = backup.join(KEYS);
    if !path.exists() {
        return Ok(Vec::new());
    }
    let text = fs::read(&path).map_err(FileError::at("read", &path))?;
    serde_json::from_slice(&text)
        .map_err(|error| Error::Refused(format!("damaged: {}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_programs_are_read() {
        let text = "pg_dump (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)";
        assert_eq!(major(text), Some(15));
        assert_eq!(major("pg_dump (PostgreSQL) 18beta1"), Some(18));
        assert_eq!(major("pg_dump"), None);
    }
}
