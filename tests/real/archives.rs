//! Archives that misbehave: never the package's fault, and the sentence says whose.

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

/// An archive at a port of this machine; what it has no answer for is not found.
struct Server {
    port: u16,
}

/// What is said to a request for a path.
#[derive(Clone)]
enum Answer {
    Bytes(Vec<u8>),
    /// Nothing at all, for as long as the client waits.
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

/// One request a connection will do.
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
            // Until the client hangs up.
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

/// Builds a package that wants something of the archives `lines`; it is given back, and the verdict
/// has `said`.
fn from(test: &str, config: &str, lines: &[String], said: &str) {
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
fn an_archive_that_is_not_there() {
    let server = Server::start(HashMap::new());
    from("archive-404", "", &[server.line()], "404");
}

#[test]
fn an_archive_that_says_nothing() {
    let silent = HashMap::from([("Release", Answer::Silence), ("InRelease", Answer::Silence)]);
    let server = Server::start(silent);
    from(
        "archive-stalls",
        "[limits]\nstage_time = 30",
        &[server.line()],
        "UPDATE took longer than it may",
    );
}

#[test]
fn an_archive_whose_lists_are_not_those_it_names() {
    let release = "Date: Thu, 01 Jan 2026 00:00:00 UTC\nSHA256:\n \
        0000000000000000000000000000000000000000000000000000000000000000 14 Packages\n";
    let server = Server::start(HashMap::from([
        ("Release", Answer::Bytes(release.into())),
        ("Packages", Answer::Bytes(b"Package: far\n\n".to_vec())),
    ]));
    from("archive-sum", "", &[server.line()], "Hash Sum mismatch");
}

#[test]
fn an_archive_that_has_expired() {
    let release = "Date: Thu, 01 Jan 2015 00:00:00 UTC\n\
        Valid-Until: Thu, 08 Jan 2015 00:00:00 UTC\nSHA256:\n \
        e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 0 Packages\n";
    let server = Server::start(HashMap::from([
        ("Release", Answer::Bytes(release.into())),
        ("Packages", Answer::Bytes(Vec::new())),
    ]));
    from("archive-expired", "", &[server.line()], "is expired");
}

#[test]
fn a_package_of_an_archive_that_is_not_what_its_list_says() {
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
    from("damaged-package", "", &lines, "The archive failed");
}
