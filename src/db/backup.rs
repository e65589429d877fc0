//! Copies a whole database out and in, by the means of each engine.
//!
//! SQLite copies itself. PostgreSQL has the programs `pg_dump` and `pg_restore`, which connect to
//! the server of `[database] url`, with its `sslmode` and `sslrootcert`.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::Command;

use super::connection::Connection;
use super::pool::Db;
use super::postgres::ForPrograms;
use super::tx::Tx;
use super::url::Location;
use super::{Engine, Error, migrate, new_file, postgres, sqlite};

/// Tables whose rows are those of running processes.
const PROCESS_TABLES: [&str; 3] = ["schema_version", "singleton", "master_process"];

/// The content of a database, before something is restored into it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// No table.
    Nothing,
    /// The tables of this program, without a row of the farm.
    Tables,
    /// A restore was interrupted: tables, but no version of the schema.
    Unfinished,
    /// A row, in this table.
    Rows(String),
    /// A table that is not one of this program.
    Foreign(String),
}

impl Db {
    pub(crate) fn engine(&self) -> Engine {
        match self.0.location {
            Location::Sqlite(_) => Engine::Sqlite,
            Location::Postgres(_) => Engine::Postgres,
        }
    }

    /// Returns a database without creating or upgrading its schema.
    pub(crate) fn unopened(url: &str) -> Result<Self, Error> {
        Self::at(url, std::time::Duration::ZERO)
    }

    /// Returns the version of the schema that this program makes.
    pub(crate) fn known_schema() -> i64 {
        migrate::known_version()
    }

    /// Copies an SQLite database to the new file `to` with mode 0600, while others write.
    /// `progress` gets the pages copied and the pages in all.
    pub(crate) fn copy_sqlite(
        &self,
        to: &Path,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<(), Error> {
        let Location::Sqlite(path) = &self.0.location else {
            return Err(Error::Refused("not an SQLite database".to_owned()));
        };
        create(to)?;
        sqlite::Connection::open(path)?.copy_to(to, progress)
    }

    /// Returns the folder of the file of an SQLite database.
    pub(crate) fn sqlite_folder(&self) -> Option<&Path> {
        match &self.0.location {
            Location::Sqlite(path) => path.parent(),
            Location::Postgres(_) => None,
        }
    }

    /// Returns what the database has. An absent SQLite file stays absent.
    pub(crate) fn content(&self) -> Result<Content, Error> {
        if matches!(&self.0.location, Location::Sqlite(path) if !path.exists()) {
            return Ok(Content::Nothing);
        }
        let mut connection = self.connect()?;
        let tables = tables(&mut connection)?;
        if tables.is_empty() {
            return Ok(Content::Nothing);
        }
        let own = migrate::tables();
        if let Some(foreign) = tables.iter().find(|name| !own.contains(&name.as_str())) {
            return Ok(Content::Foreign(foreign.clone()));
        }
        let version = "schema_version".to_owned();
        if !tables.contains(&version) || is_empty(&mut connection, &version)? {
            return Ok(Content::Unfinished);
        }
        for table in tables {
            if !PROCESS_TABLES.contains(&table.as_str()) && !is_empty(&mut connection, &table)? {
                return Ok(Content::Rows(table));
            }
        }
        Ok(Content::Tables)
    }

    /// Drops the tables of this program from a PostgreSQL database that has no rows of a farm.
    pub(crate) fn drop_tables(&self) -> Result<(), Error> {
        let mut connection = self.connect()?;
        let names = migrate::tables().join(", ");
        connection.batch(&format!("DROP TABLE IF EXISTS {names} CASCADE"))
    }

    /// Returns a program of PostgreSQL that connects to this database. If it needs a password, a
    /// new file `passfile` with mode 0600 has it; the caller removes the file.
    pub(crate) fn program(&self, name: &str, passfile: &Path) -> Result<Command, Error> {
        let Location::Postgres(server) = &self.0.location else {
            return Err(Error::Refused("not a PostgreSQL database".to_owned()));
        };
        let ForPrograms {
            variables,
            password,
        } = postgres::for_programs(server)?;
        let mut command = Command::new(name);
        // The program must reach the same server as this one, whatever the environment says.
        for (name, _) in std::env::vars_os() {
            if name.as_encoded_bytes().starts_with(b"PG") {
                command.env_remove(name);
            }
        }
        command.envs(variables).arg("--no-password");
        command.env("PGPASSFILE", passfile);
        if let Some(password) = password {
            write_passfile(passfile, &password).map_err(|error| Error::Lost {
                at: passfile.display().to_string(),
                problem: error.to_string(),
            })?;
        }
        Ok(command)
    }
}

impl Tx<'_> {
    /// Returns the name of this transaction's snapshot, for a program that reads the same rows. The
    /// transaction may then wait for the program as long as it takes.
    pub(crate) fn export_snapshot(&mut self) -> Result<String, Error> {
        self.batch("SET LOCAL idle_in_transaction_session_timeout = 0")?;
        let sql = "SELECT CAST(pg_export_snapshot() AS TEXT)";
        let rows = self.connection.query(sql, &[])?;
        let row = rows.first().ok_or_else(|| Error::NoRow(sql.to_owned()))?;
        row.get(0)
    }
}

/// Replaces the content of the SQLite database at `url` by that of the file `from`, in one
/// transaction.
pub(crate) fn load_sqlite(from: &Path, url: &str) -> Result<(), Error> {
    match Location::parse(url)? {
        Location::Sqlite(path) => sqlite::load(from, &path),
        Location::Postgres(_) => Err(Error::Refused("not an SQLite database".to_owned())),
    }
}

/// Leaves a copy of an SQLite database, which no other process uses, in one file, without a trace
/// of deleted values.
pub(crate) fn compact_sqlite(path: &Path) -> Result<(), Error> {
    sqlite::compact(path)
}

/// Creates an empty file of mode 0600.
fn create(path: &Path) -> Result<(), Error> {
    new_file::create(path, None).map_err(|error| Error::Lost {
        at: path.display().to_string(),
        problem: error.to_string(),
    })
}

/// A line of the file matches every server: only one program reads it.
fn write_passfile(path: &Path, password: &[u8]) -> std::io::Result<()> {
    let mut line = b"*:*:*:*:".to_vec();
    for byte in password {
        if matches!(byte, b':' | b'\\') {
            line.push(b'\\');
        }
        line.push(*byte);
    }
    line.push(b'\n');
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    options.open(path)?.write_all(&line)
}

/// Returns the names of all tables, sorted.
fn tables(connection: &mut Connection) -> Result<Vec<String>, Error> {
    let sql = match connection.engine() {
        Engine::Sqlite => {
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'
             ORDER BY name"
        }
        Engine::Postgres => {
            "SELECT CAST(tablename AS TEXT) FROM pg_tables WHERE schemaname = current_schema()
             ORDER BY 1"
        }
    };
    let rows = connection.query(sql, &[])?;
    rows.iter().map(|row| row.get(0)).collect()
}

fn is_empty(connection: &mut Connection, table: &str) -> Result<bool, Error> {
    let found = connection.query(&format!("SELECT 1 FROM {table} LIMIT 1"), &[])?;
    Ok(found.is_empty())
}
