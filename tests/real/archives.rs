//! Broken archives: the build is given back, and its last line names the archive.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use serde_json::json;

use super::archive::Archive;
use crate::support::machine::machine;
use crate::support::package::Package;
use crate::support::real_slave::Slave;

/// An archive on the loopback; every path without an answer is a 404.
struct Server {
    port: u16,
}

/// The answer to a request for a path.
#[derive(Clone)]
enum Answer {
    Bytes(Vec<u8>),
    /// No answer, for as long as the client waits.
    Silence,
}

impl Server {
    fn start(answers: HashMap<&'static str, Answer>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let answers = Arc::new(answers);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let answers = Arc::clone(&answers);
                thread::spawn(move || serve(stream, &answers));
            }
        });
        Self { port }
    }

    fn line(&self) -> String {
        format!("deb [trusted=yes] http://127.0.0.1:{}/ ./", self.port)
    }
}

/// Serves one request of a connection.
fn serve(mut stream: TcpStream, answers: &HashMap<&'static str, Answer>) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let request = lines.next().and_then(Result::ok).unwrap_or_default();
    let path = request.split(' ').nth(1).unwrap_or_default();
    let name = path.rsplit('/').next().unwrap_or_default();
    while lines
        .next()
        .is_some_and(|line| line.is_ok_and(|line| !line.is_empty()))
    {}
    let (status, body) = match answers.get(name) {
        Some(Answer::Bytes(bytes)) => ("200 OK", bytes.as_slice()),
        Some(Answer::Silence) => {
            // This waits until the client hangs up.
            let _ = lines.next();
            return;
        }
        None => ("404 Not Found", &b""[..]),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let _ = stream
        .write_all(head.as_bytes())
        .and_then(|()| stream.write_all(body));
}

/// Builds a package that needs a package from the archives `lines`, and checks that it is given
/// back with `said` in its last line.
fn build_is_given_back(test: &str, config: &str, lines: &[String], said: &str) {
    let Some(machine) = machine() else { return };
    let slave = Slave::start(machine, test, config);
    let package = Package {
        build_depends: "far",
        ..Package::new("toy", "echo not reached")
    };
    let ended = slave.build(&package, json!({"archives": lines}));
    ended.assert("GIVENBACK");
    let verdict = ended.log.lines().next_back().unwrap();
    assert!(verdict.contains(said), "{verdict}");
    assert!(!ended.log.contains("\nnot reached"));
    slave.clean(&ended);
}

#[test]
fn a_missing_archive_is_givenback() {
    let server = Server::start(HashMap::new());
    build_is_given_back("archive-404", "", &[server.line()], "404");
}

#[test]
fn a_silent_archive_is_givenback_after_the_timeout() {
    let silent = HashMap::from([("Release", Answer::Silence), ("InRelease", Answer::Silence)]);
    let server = Server::start(silent);
    build_is_given_back(
        "archive-stalls",
        "[limits]\nstage_time = 30",
        &[server.line()],
        "UPDATE took longer than it may",
    );
}

#[test]
fn a_hash_mismatch_of_package_lists_is_givenback() {
    let release = "Date: Thu, 01 Jan 2026 00:00:00 UTC\nSHA256:\n \
        0000000000000000000000000000000000000000000000000000000000000000 14 Packages\n";
    let server = Server::start(HashMap::from([
        ("Release", Answer::Bytes(release.into())),
        ("Packages", Answer::Bytes(b"Package: far\n\n".to_vec())),
    ]));
    build_is_given_back("archive-sum", "", &[server.line()], "Hash Sum mismatch");
}

#[test]
fn an_expired_archive_is_givenback() {
    let release = "Date: Thu, 01 Jan 2015 00:00:00 UTC\n\
        Valid-Until: Thu, 08 Jan 2015 00:00:00 UTC\nSHA256:\n \
        e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 0 Packages\n";
    let server = Server::start(HashMap::from([
        ("Release", Answer::Bytes(release.into())),
        ("Packages", Answer::Bytes(Vec::new())),
    ]));
    build_is_given_back("archive-expired", "", &[server.line()], "is expired");
}

#[test]
fn a_hash_mismatch_of_a_package_is_givenback() {
    let Some(machine) = machine() else { return };
    let folder = machine.folder("archive-of-damaged");
    let archive = Archive::with_package(folder.clone(), "far", "");
    let deb = folder.join("private.deb");
    let mut bytes = std::fs::read(&deb).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&deb, bytes).unwrap();
    let mut lines = vec![archive.line()];
    lines.extend(machine.archives());
    build_is_given_back("damaged-package", "", &lines, "The archive failed");
}
