//! PostgreSQL over TLS: `sslmode` and `sslrootcert` in `[database] url` (docs/farm.md §6.3).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use super::support::database::Database;
use super::support::tls_server::TlsServer;
use super::support::{Engine, Farm, QUICK};
use crate::support::mounts::not_run;

/// Makes a CA `NAME.crt` in `folder`, and a certificate `NAME-server.crt` of it for `localhost`.
const CERTIFICATES: &str = r#"
cd "$1"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 \
    -subj "/CN=$2" -keyout "$2.key" -out "$2.crt"
openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes \
    -subj /CN=server -keyout "$2-server.key" -out "$2-server.csr"
printf 'subjectAltName=DNS:localhost\nbasicConstraints=CA:FALSE\n' >"$2.ext"
openssl x509 -req -in "$2-server.csr" -CA "$2.crt" -CAkey "$2.key" -CAcreateserial -days 2 \
    -extfile "$2.ext" -out "$2-server.crt"
"#;

fn make_certificates(folder: &Path, name: &str) {
    let mut shell = Command::new("sh");
    shell
        .args(["-ec", CERTIFICATES, "sh"])
        .arg(folder)
        .arg(name);
    let output = shell.output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// A farm whose database is on a server with TLS. `ours` is the CA of the server, `other` is not.
struct Bench {
    farm: Farm,
    server: TlsServer,
    ca: PathBuf,
}

impl Bench {
    fn new() -> Option<Self> {
        if Command::new("openssl").arg("version").output().is_err() {
            not_run("PostgreSQL over TLS", "the package openssl");
            return None;
        }
        let farm = Farm::new(Engine::Sqlite, QUICK);
        let ca = farm.path("ca");
        fs::create_dir(&ca).unwrap();
        for name in ["ours", "other"] {
            make_certificates(&ca, name);
        }
        for entry in fs::read_dir(&ca).unwrap() {
            farm.give(&entry.unwrap().path());
        }
        let (certificate, key) = (ca.join("ours-server.crt"), ca.join("ours-server.key"));
        let server = TlsServer::start(&certificate, &key)?;
        Some(Self { farm, server, ca })
    }

    /// Configures a URL at `host` with these parameters; `CA` is the folder of certificates.
    fn configure(&mut self, host: &str, parameters: &str) {
        let parameters = parameters.replace("CA", &self.ca.display().to_string());
        self.farm.db = Database::Postgres(self.server.url(host, &parameters));
        self.farm.configure(QUICK);
    }

    /// Runs a command that must fail; returns its message.
    fn refused(&mut self, host: &str, parameters: &str) -> String {
        self.configure(host, parameters);
        let (code, said) = self.farm.run(&["master", "builder", "list"]);
        assert!(code.is_some_and(|code| code != 0), "{parameters}: {said}");
        said
    }

    /// Runs a command that must succeed; returns its output, with warnings.
    fn works(&mut self, host: &str, parameters: &str) -> String {
        self.configure(host, parameters);
        self.farm.ok(&["master", "builder", "list"])
    }

    /// Checks whether the connections of a running master are encrypted.
    fn check_encrypted(&mut self, host: &str, parameters: &str, encrypted: bool) {
        self.configure(host, parameters);
        let master = self.farm.master("master");
        let rows = self.server.local().rows(
            "SELECT DISTINCT s.ssl FROM pg_stat_ssl s JOIN pg_stat_activity a ON a.pid = s.pid
             WHERE a.application_name = 'buildd-slave'",
        );
        assert_eq!(rows, [json!([i32::from(encrypted)])], "{parameters}");
        master.stop();
    }
}

#[test]
fn connections_to_postgresql_are_encrypted_and_certificates_checked_as_sslmode_says() {
    let Some(mut bench) = Bench::new() else {
        return;
    };
    for (host, parameters, encrypted) in [
        (
            "localhost",
            "sslmode=verify-full&sslrootcert=CA/ours.crt",
            true,
        ),
        (
            "127.0.0.1",
            "sslmode=verify-ca&sslrootcert=CA/ours.crt",
            true,
        ),
        ("127.0.0.1", "sslmode=require", true),
        ("127.0.0.1", "", true),
        ("127.0.0.1", "sslmode=disable", false),
        // Certificates that do not match are no obstacle to `prefer`.
        (
            "127.0.0.1",
            "sslmode=prefer&sslrootcert=CA/other.crt",
            false,
        ),
    ] {
        bench.check_encrypted(host, parameters, encrypted);
    }
    for (host, parameters, problem, advice) in [
        (
            "localhost",
            "sslmode=verify-full&sslrootcert=CA/other.crt",
            "UnknownIssuer",
            "let sslrootcert name the certificate of its CA",
        ),
        (
            "localhost",
            "sslmode=verify-ca&sslrootcert=CA/other.crt",
            "UnknownIssuer",
            "let sslrootcert name the certificate of its CA",
        ),
        // As for libpq, a root certificate makes `require` check the CA.
        (
            "localhost",
            "sslmode=require&sslrootcert=CA/other.crt",
            "UnknownIssuer",
            "let sslrootcert name the certificate of its CA",
        ),
        (
            "127.0.0.1",
            "sslmode=verify-full&sslrootcert=CA/ours.crt",
            "not valid for name \"127.0.0.1\"",
            "write a host name into the URL that the server's certificate has",
        ),
        (
            "localhost",
            "sslmode=verify-full&sslrootcert=CA/missing.crt",
            "ca/missing.crt: No such file",
            "write the certificate of the server's CA into it",
        ),
        (
            "localhost",
            "sslmode=verify-full&sslrootcert=CA/ours.key",
            "ca/ours.key: no certificate in it",
            "write the certificate of the server's CA into it",
        ),
        (
            "localhost",
            "sslmode=verify-full",
            "need the CA's certificate",
            "add sslrootcert=FILE",
        ),
    ] {
        let said = bench.refused(host, parameters);
        assert!(
            said.contains(problem) && said.contains(advice),
            "{parameters}: {said}"
        );
        assert!(!said.contains("is PostgreSQL running"), "{said}");
    }
}

#[test]
fn sslrootcert_system_trusts_the_cas_of_the_host() {
    let Some(mut bench) = Bench::new() else {
        return;
    };
    let said = bench.refused("localhost", "sslrootcert=system");
    assert!(said.contains("UnknownIssuer"), "{said}");
    let own = bench.ca.join("ours.crt");
    let mut list = bench.farm.farm_command(&["master", "builder", "list"]);
    let (code, said) = crate::support::run({
        list.env("SSL_CERT_FILE", own);
        list
    });
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn a_server_without_tls_is_refused_unless_sslmode_allows_it() {
    let Some(mut bench) = Bench::new() else {
        return;
    };
    bench.server.switch_tls_off();
    for parameters in [
        "sslmode=require",
        "sslmode=verify-full&sslrootcert=CA/ours.crt",
    ] {
        let said = bench.refused("localhost", parameters);
        assert!(said.contains("server does not support TLS"), "{said}");
        assert!(
            said.contains("set `ssl = on`") && said.contains("sslmode=disable"),
            "{said}"
        );
    }
    for parameters in ["", "sslmode=prefer", "sslmode=disable"] {
        bench.works("localhost", parameters);
    }
}

#[test]
fn prefer_connects_without_tls_where_the_server_allows_nothing_else() {
    let Some(mut bench) = Bench::new() else {
        return;
    };
    bench.server.allow_only("hostnossl");
    bench.check_encrypted("127.0.0.1", "", false);
    let said = bench.refused("127.0.0.1", "sslmode=require");
    assert!(said.contains("pg_hba.conf"), "{said}");
    bench.server.allow_only("hostssl");
    bench.check_encrypted("127.0.0.1", "", true);
    let said = bench.refused("127.0.0.1", "sslmode=disable");
    assert!(said.contains("pg_hba.conf"), "{said}");
}
