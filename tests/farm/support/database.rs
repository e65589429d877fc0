//! Access to the farm's database, the same for both engines.

use std::path::PathBuf;
use std::time::Duration;

use postgres::types::Type;
use rusqlite::types::ValueRef;
use serde_json::{Value as Json, json};

/// The kind of database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Engine {
    Sqlite,
    Postgres,
}

#[derive(Clone, Debug)]
pub(crate) enum Database {
    Sqlite(PathBuf),
    Postgres(String),
}

impl Database {
    /// The value of `[database] url`.
    pub(crate) fn url(&self) -> String {
        match self {
            Self::Sqlite(path) => format!("sqlite:{}", path.display()),
            Self::Postgres(url) => url.clone(),
        }
    }

    /// Runs statements without parameters, all or none of them.
    pub(crate) fn execute(&self, sql: &str) {
        let done = match self {
            Self::Sqlite(path) => {
                let sql = format!("BEGIN IMMEDIATE;\n{sql};\nCOMMIT;");
                sqlite(path)
                    .execute_batch(&sql)
                    .map_err(|error| error.to_string())
            }
            Self::Postgres(url) => connect(url)
                .batch_execute(sql)
                .map_err(|error| format!("{error:?}")),
        };
        done.unwrap_or_else(|error| panic!("{error}: {sql}"));
    }

    /// Runs a statement that no transaction may contain.
    pub(crate) fn run(&self, sql: &str) {
        match self {
            Self::Sqlite(path) => sqlite(path).execute_batch(sql).unwrap(),
            Self::Postgres(url) => connect(url).batch_execute(sql).unwrap(),
        }
    }

    /// The rows of a query, an array each. Booleans are 1 or 0 on both engines.
    pub(crate) fn rows(&self, sql: &str) -> Vec<Json> {
        match self {
            Self::Sqlite(path) => {
                let connection = sqlite(path);
                let prepared = connection.prepare(sql);
                let mut statement = prepared.unwrap_or_else(|error| panic!("{error}: {sql}"));
                let count = statement.column_count();
                let rows = statement.query_map([], |row| {
                    let value = |index| row.get_ref(index).map(from_sqlite);
                    (0..count).map(value).collect::<Result<Json, _>>()
                });
                rows.unwrap().map(Result::unwrap).collect()
            }
            Self::Postgres(url) => {
                let found = connect(url).query(sql, &[]);
                let found = found.unwrap_or_else(|error| panic!("{error:?}: {sql}"));
                let value = |row| (0..).map_while(|index| from_postgres(row, index)).collect();
                found.iter().map(value).collect()
            }
        }
    }

    /// The only row.
    pub(crate) fn row(&self, sql: &str) -> Json {
        let mut rows = self.rows(sql);
        assert_eq!(rows.len(), 1, "{sql}: {rows:?}");
        rows.remove(0)
    }

    /// The only column of the only row.
    pub(crate) fn value(&self, sql: &str) -> Json {
        self.row(sql)[0].clone()
    }

    pub(crate) fn number(&self, sql: &str) -> i64 {
        let value = self.value(sql);
        value.as_i64().unwrap_or_else(|| panic!("{sql}: {value}"))
    }

    /// Makes the engine skip the ids that a test has inserted.
    pub(crate) fn skip_ids(&self, tables: &[&str]) {
        if let Self::Postgres(_) = self {
            for table in tables {
                self.rows(&format!(
                    "SELECT setval(pg_get_serial_sequence('{table}', 'id'), \
                     (SELECT COALESCE(MAX(id), 1) FROM {table}))"
                ));
            }
        }
    }

    pub(crate) fn session(&self) -> Session {
        match self {
            Self::Sqlite(path) => Session::Sqlite(sqlite(path)),
            Self::Postgres(url) => Session::Postgres(Box::new(connect(url))),
        }
    }

    /// Blocks all writes until dropped; reads still work.
    pub(crate) fn hold(&self) -> Held {
        match self {
            Self::Sqlite(path) => {
                let connection = sqlite(path);
                connection.execute_batch("BEGIN IMMEDIATE").unwrap();
                Held::Sqlite {
                    _connection: connection,
                }
            }
            Self::Postgres(url) => {
                let mut client = connect(url);
                client
                    .batch_execute(
                        "BEGIN; LOCK TABLE builder, build, build_queue, library_alias \
                         IN EXCLUSIVE MODE",
                    )
                    .unwrap();
                Held::Postgres { _client: client }
            }
        }
    }
}

/// An open connection, for statements that are timed.
pub(crate) enum Session {
    Sqlite(rusqlite::Connection),
    Postgres(Box<postgres::Client>),
}

impl Session {
    /// Runs statements without parameters, each in a transaction of its own.
    pub(crate) fn execute(&mut self, sql: &str) {
        match self {
            Self::Sqlite(connection) => connection.execute_batch(sql).unwrap(),
            Self::Postgres(client) => client.batch_execute(sql).unwrap(),
        }
    }
}

/// A transaction that holds locks and changes nothing.
pub(crate) enum Held {
    Sqlite { _connection: rusqlite::Connection },
    Postgres { _client: postgres::Client },
}

fn sqlite(path: &PathBuf) -> rusqlite::Connection {
    let connection = rusqlite::Connection::open(path).unwrap();
    connection.busy_timeout(Duration::from_secs(20)).unwrap();
    connection
        .execute_batch("PRAGMA foreign_keys=ON; PRAGMA synchronous=OFF")
        .unwrap();
    connection
}

fn connect(url: &str) -> postgres::Client {
    postgres::Client::connect(url, postgres::NoTls).unwrap()
}

fn from_sqlite(value: ValueRef<'_>) -> Json {
    match value {
        ValueRef::Null => Json::Null,
        ValueRef::Integer(number) => json!(number),
        ValueRef::Real(number) => json!(number),
        ValueRef::Text(text) => json!(String::from_utf8_lossy(text)),
        ValueRef::Blob(_) => panic!("the schema has no blobs"),
    }
}

fn from_postgres(row: &postgres::Row, index: usize) -> Option<Json> {
    let kind = row.columns().get(index)?.type_().clone();
    Some(match kind {
        Type::INT2 => json!(row.get::<_, Option<i16>>(index)),
        Type::INT4 => json!(row.get::<_, Option<i32>>(index)),
        Type::INT8 => json!(row.get::<_, Option<i64>>(index)),
        Type::BOOL => json!(row.get::<_, Option<bool>>(index).map(i64::from)),
        Type::TEXT | Type::VARCHAR => json!(row.get::<_, Option<String>>(index)),
        other => panic!("a column of type {other}"),
    })
}
