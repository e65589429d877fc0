//! Connects to PostgreSQL, runs statements and translates errors. The only file that names
//! `postgres`.

use std::collections::HashMap;
use std::error::Error as _;
use std::time::Duration;

use postgres::config::{Host, SslMode};
use postgres::error::SqlState;
use postgres::types::private::BytesMut;
use postgres::types::{IsNull, ToSql, Type, to_sql_checked};
use postgres::{Client, Config, NoTls, Statement};

use super::url::{self, Server, Tls};
use super::value::{Row, Value};
use super::{Error, tls};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long sent data may stay unacknowledged before the connection counts as lost.
const NETWORK_TIMEOUT: Duration = Duration::from_secs(30);
/// The settings of each connection. The timeouts limit how long a stalled process blocks others.
/// Compiling a statement, or starting workers for it, takes longer than any statement here runs.
const SESSION: &str = "SET jit = off; SET max_parallel_workers_per_gather = 0; SET statement_timeout = '60s'; \
    SET idle_in_transaction_session_timeout = '60s'; SET lock_timeout = '30s'; \
    SET client_min_messages = warning";

pub(super) struct Connection {
    client: Client,
    prepared: HashMap<String, Statement>,
    at: String,
}

impl Connection {
    pub(super) fn open(server: &Server) -> Result<Self, Error> {
        let mut config = parsed(server)?;
        config
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_user_timeout(NETWORK_TIMEOUT)
            .application_name("buildd-slave");
        let at = describe(&config);
        let lost = |error: postgres::Error| Error::Lost {
            at: at.clone(),
            problem: format!("{}{}", message_of(&error), tls::advice(&error)),
        };
        let mut client = connect(&mut config, &server.tls, &at)?.map_err(lost)?;
        client.batch_execute(SESSION).map_err(lost)?;
        let prepared = HashMap::new();
        Ok(Self {
            client,
            prepared,
            at,
        })
    }

    pub(super) fn batch(&mut self, sql: &str) -> Result<(), Error> {
        let done = self.client.batch_execute(sql);
        done.map_err(|error| wrap(&self.at, sql, &error))
    }

    pub(super) fn query(&mut self, sql: &str, params: &[Value]) -> Result<Vec<Row>, Error> {
        let run = |this: &mut Self| {
            let statement = this.prepare(sql)?;
            let rows = this.client.query(&statement, &borrow(params))?;
            rows.iter().map(read).collect::<Result<_, _>>()
        };
        run(self).map_err(|error| wrap(&self.at, sql, &error))
    }

    pub(super) fn execute(&mut self, sql: &str, params: &[Value]) -> Result<u64, Error> {
        let run = |this: &mut Self| {
            let statement = this.prepare(sql)?;
            this.client.execute(&statement, &borrow(params))
        };
        run(self).map_err(|error| wrap(&self.at, sql, &error))
    }

    fn prepare(&mut self, sql: &str) -> Result<Statement, postgres::Error> {
        if let Some(statement) = self.prepared.get(sql) {
            return Ok(statement.clone());
        }
        let translated = sql.replace("{SKIP LOCKED}", "FOR UPDATE SKIP LOCKED");
        let statement = self.client.prepare(&translated)?;
        self.prepared.insert(sql.to_owned(), statement.clone());
        Ok(statement)
    }
}

/// Connects with or without TLS. A Unix socket needs none, whatever `sslmode` says.
fn connect(
    config: &mut Config,
    tls: &Tls,
    at: &str,
) -> Result<Result<Client, postgres::Error>, Error> {
    let is_local = |host: &Host| matches!(host, Host::Unix(_));
    let hosts = config.get_hosts();
    if tls.mode == url::SslMode::Disable || !hosts.is_empty() && hosts.iter().all(is_local) {
        return Ok(config.ssl_mode(SslMode::Disable).connect(NoTls));
    }
    if hosts.is_empty() {
        // The handshake needs a name.
        for address in config.get_hostaddrs().to_vec() {
            config.host(&address.to_string());
        }
    }
    let mode = match tls.mode {
        url::SslMode::Prefer => SslMode::Prefer,
        _ => SslMode::Require,
    };
    let error = match config.ssl_mode(mode).connect(tls::connector(tls)?) {
        Err(error) if mode == SslMode::Prefer => error,
        other => return Ok(other),
    };
    if tls::is_of_handshake(&error) {
        let (problem, advice) = (message_of(&error), tls::advice(&error));
        log::warn!("database {at}: {problem}{advice}; connecting without TLS, as sslmode=prefer");
    } else if error.code() != Some(&SqlState::INVALID_AUTHORIZATION_SPECIFICATION) {
        return Ok(Err(error));
    }
    // The server may allow only connections without TLS (`hostnossl`).
    Ok(config.ssl_mode(SslMode::Disable).connect(NoTls))
}

/// How PostgreSQL's own programs connect to a server.
pub(super) struct ForPrograms {
    /// Environment variables, which hold no password.
    pub(super) variables: Vec<(&'static str, String)>,
    pub(super) password: Option<Vec<u8>>,
}

fn parsed(server: &Server) -> Result<Config, Error> {
    let problem = |error: postgres::Error| Error::Lost {
        at: "PostgreSQL".to_owned(),
        problem: message_of(&error),
    };
    server.url.parse().map_err(problem)
}

/// Returns how PostgreSQL's own programs connect to the server.
pub(super) fn for_programs(server: &Server) -> Result<ForPrograms, Error> {
    let config = parsed(server)?;
    let hosts = config.get_hosts().iter().map(|host| match host {
        Host::Tcp(name) => name.clone(),
        Host::Unix(path) => path.display().to_string(),
    });
    let addresses = config.get_hostaddrs().iter().map(ToString::to_string);
    let ports = config.get_ports().iter().map(ToString::to_string);
    let join = |parts: Vec<String>| Some(parts.join(",")).filter(|text| !text.is_empty());
    let mut variables = vec![("PGSSLMODE", server.tls.mode.word().to_owned())];
    for (name, value) in [
        ("PGHOST", join(hosts.collect())),
        ("PGHOSTADDR", join(addresses.collect())),
        ("PGPORT", join(ports.collect())),
        ("PGUSER", config.get_user().map(str::to_owned)),
        ("PGDATABASE", config.get_dbname().map(str::to_owned)),
        ("PGOPTIONS", config.get_options().map(str::to_owned)),
        ("PGSSLROOTCERT", tls::roots_file(&server.tls)),
    ] {
        variables.extend(value.map(|value| (name, value)));
    }
    Ok(ForPrograms {
        variables,
        password: config.get_password().map(<[u8]>::to_vec),
    })
}

fn borrow(params: &[Value]) -> Vec<&(dyn ToSql + Sync)> {
    params
        .iter()
        .map(|value| value as &(dyn ToSql + Sync))
        .collect()
}

/// Returns name and host of the database, without the password.
fn describe(config: &Config) -> String {
    let host = config.get_hosts().first().map_or_else(
        || "localhost".into(),
        |host| match host {
            Host::Tcp(name) => name.clone(),
            Host::Unix(path) => path.display().to_string(),
        },
    );
    let name = config
        .get_dbname()
        .or_else(|| config.get_user())
        .unwrap_or_default();
    format!("{name} at {host}")
}

/// A number is sent in the width of its column.
impl ToSql for Value {
    fn to_sql(
        &self,
        ty: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        match self {
            Self::Null => Ok(IsNull::Yes),
            Self::Int(number) => match *ty {
                Type::INT2 => i16::try_from(*number)?.to_sql(ty, out),
                Type::INT4 => i32::try_from(*number)?.to_sql(ty, out),
                Type::INT8 => number.to_sql(ty, out),
                _ => Err(format!("a number for a column of type {ty}").into()),
            },
            Self::Bool(flag) if *ty == Type::BOOL => flag.to_sql(ty, out),
            Self::Bool(_) => Err(format!("a flag for a column of type {ty}").into()),
            Self::Text(text) => text.to_sql(ty, out),
        }
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

fn read(row: &postgres::Row) -> Result<Row, postgres::Error> {
    let column = |(index, column): (usize, &postgres::Column)| {
        let value = match *column.type_() {
            Type::BOOL => row.try_get::<_, Option<bool>>(index)?.into(),
            Type::INT2 => row.try_get::<_, Option<i16>>(index)?.map(i64::from).into(),
            Type::INT4 => row.try_get::<_, Option<i32>>(index)?.into(),
            Type::INT8 => row.try_get::<_, Option<i64>>(index)?.into(),
            _ => row.try_get::<_, Option<String>>(index)?.into(),
        };
        Ok(value)
    };
    let values = row.columns().iter().enumerate().map(column);
    Ok(Row(values.collect::<Result<_, _>>()?))
}

fn wrap(at: &str, sql: &str, error: &postgres::Error) -> Error {
    let problem = message_of(error);
    let Some(state) = error.code() else {
        // The crate does not always report a closed connection as such. An error without a code
        // from the server is one, unless it is about values.
        let about_values = problem.contains("serializing") || problem.contains("deserializing");
        return if about_values {
            Error::Query {
                sql: sql.to_owned(),
                problem,
            }
        } else {
            Error::Lost {
                at: at.to_owned(),
                problem,
            }
        };
    };
    if [
        SqlState::T_R_SERIALIZATION_FAILURE,
        SqlState::T_R_DEADLOCK_DETECTED,
        SqlState::LOCK_NOT_AVAILABLE,
    ]
    .contains(state)
    {
        Error::Busy(problem)
    } else if state.code().starts_with("23") {
        Error::Constraint(problem)
    } else if ["57P", "53", "08", "25P03"]
        .iter()
        .any(|class| state.code().starts_with(class))
    {
        // Shutdown, lack of resources, connection failure, timeout in an idle transaction.
        Error::Lost {
            at: at.to_owned(),
            problem,
        }
    } else {
        Error::Query {
            sql: sql.to_owned(),
            problem,
        }
    }
}

/// Returns an error's message with its causes; the crate's own message is only "db error".
fn message_of(error: &postgres::Error) -> String {
    if let Some(db) = error.as_db_error() {
        return db.message().to_owned();
    }
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        cause = inner.source();
    }
    text
}
