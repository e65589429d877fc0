//! A PostgreSQL server with TLS on a port of this host.

use std::fs;
use std::net::TcpListener;
use std::path::Path;

use super::database::Database;
use super::postgres::{self, Server};
use crate::support::until;

pub(crate) struct TlsServer {
    server: Server,
    port: u16,
}

impl TlsServer {
    /// Starts a server; its user owns the key. `None` where PostgreSQL is not installed.
    pub(crate) fn start(certificate: &Path, key: &Path) -> Option<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let (certificate, key) = (certificate.display(), key.display());
        let server = postgres::start(&format!(
            "-c listen_addresses=127.0.0.1 -c port={port} -c ssl_cert_file={certificate} \
             -c ssl_key_file={key}"
        ))?;
        let server = Self { server, port };
        server.change("ALTER SYSTEM SET ssl = on");
        Some(server)
    }

    /// The URL of the database `postgres` at a host, with more parameters.
    pub(crate) fn url(&self, host: &str, parameters: &str) -> String {
        format!(
            "postgresql://postgres@{host}:{}/postgres?{parameters}",
            self.port
        )
    }

    /// The same database by the Unix socket.
    pub(crate) fn local(&self) -> Database {
        let folder = self.server.folder.display().to_string().replace('/', "%2F");
        Database::Postgres(self.url(&folder, ""))
    }

    pub(crate) fn switch_tls_off(&self) {
        self.change("ALTER SYSTEM SET ssl = off");
    }

    /// Accepts connections by TCP only with TLS (`hostssl`) or only without (`hostnossl`).
    pub(crate) fn allow_only(&self, kind: &str) {
        let rules = format!("local all all trust\n{kind} all all 127.0.0.1/32 trust\n");
        fs::write(self.server.folder.join("data/pg_hba.conf"), rules).unwrap();
        self.change("SELECT 1");
    }

    /// Runs a statement outside a transaction, and waits until new connections have the new
    /// configuration.
    fn change(&self, statement: &str) {
        let loaded = || {
            let sql = "SELECT CAST(pg_conf_load_time() AS TEXT)";
            self.local().value(sql)
        };
        let before = loaded();
        self.local().run(statement);
        self.local().rows("SELECT pg_reload_conf()");
        until("the new configuration", || {
            (loaded() != before).then_some(())
        });
    }
}
