//! A librarian for one test, with its upload and download clients.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Child;
use std::time::{Duration, SystemTime};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value as Json;

use super::database::Database;
use super::postgres;
use crate::support::{Answer, DEADLINE, Site, exchange, run, until};

/// Runs a test on SQLite, which needs no URL, and on PostgreSQL if it is installed.
pub(crate) fn on_both(test: impl Fn(Option<String>)) {
    eprintln!("---- on SQLite");
    test(None);
    if let Some(url) = postgres::database() {
        eprintln!("---- on PostgreSQL");
        test(Some(url));
    }
}

/// A running librarian.
pub(crate) struct Librarian {
    pub(crate) site: Site,
    pub(crate) db: Database,
    child: Child,
    more: String,
    pub(crate) public: u16,
    pub(crate) restricted: u16,
    pub(crate) store: u16,
    pub(crate) restricted_store: u16,
}

impl Librarian {
    /// Starts a librarian on PostgreSQL at `database`, or on SQLite. `more` follows the keys of
    /// `[librarian]`.
    pub(crate) fn start(database: Option<String>, more: &str) -> Self {
        let site = Site::new("");
        let own = site.path("home/farm.db");
        let db = database.map_or(Database::Sqlite(own), Database::Postgres);
        let mut librarian = Self {
            child: idle(),
            site,
            db,
            more: more.to_owned(),
            public: 0,
            restricted: 0,
            store: 0,
            restricted_store: 0,
        };
        librarian.child.wait().unwrap();
        librarian.restart();
        librarian
    }

    /// Writes the configuration with the port of the running librarian.
    fn configure(&self) {
        self.site.configure(&format!(
            "[database]\nurl = {}\n[librarian]\nbindport = 0\nrestricted_port = 0\nupload_port = 0\n\
             restricted_upload_port = 0\nurl = http://127.0.0.1:{}/\n{}\n",
            self.db.url(),
            self.public,
            self.more,
        ));
    }

    /// Starts the librarian again after a stop or a kill, at other ports.
    pub(crate) fn restart(&mut self) {
        assert!(self.child.try_wait().unwrap().is_some(), "it still runs");
        self.public = 0;
        self.configure();
        let log = self.site.path("librarian.log");
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .unwrap();
        let before = self.said().len();
        self.child = self
            .command(&["serve"])
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap();
        let ports = until("ready line of the librarian", || {
            let said = self.said().split_off(before);
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "the librarian ended, {ended:?}: {said}");
            let mut ports = HashMap::new();
            for what in [
                "downloads",
                "restricted files",
                "uploads",
                "restricted uploads",
            ] {
                let lines = said.lines().filter_map(|line| {
                    let (_, rest) = line.split_once(&format!(" {what} "))?;
                    let port = rest.trim_end_matches('/').rsplit(':').next()?;
                    port.parse::<u16>().ok()
                });
                // "uploads" is also the end of "restricted uploads".
                ports.insert(what, lines.into_iter().next()?);
            }
            Some(ports)
        });
        self.public = ports["downloads"];
        self.restricted = ports["restricted files"];
        self.store = ports["uploads"];
        self.restricted_store = ports["restricted uploads"];
        self.configure();
    }

    /// Sets the keys that follow those of `[librarian]`, from the next start.
    pub(crate) fn set(&mut self, more: &str) {
        self.more = more.to_owned();
    }

    /// Stops the librarian with SIGTERM and waits for its end.
    pub(crate) fn stop(&mut self) {
        kill(
            Pid::from_raw(self.child.id().try_into().unwrap()),
            Signal::SIGTERM,
        )
        .unwrap();
        let ended = until("end of the librarian", || self.child.try_wait().unwrap());
        assert!(ended.success(), "{ended}");
    }

    /// Kills the librarian with SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// The log so far.
    pub(crate) fn said(&self) -> String {
        self.site.read("librarian.log")
    }

    fn command(&self, args: &[&str]) -> std::process::Command {
        let config = self.site.config().display().to_string();
        let args = [&["librarian", "--config", &config], args].concat();
        self.site.command(&args)
    }

    /// Runs a `librarian` command; returns its exit code and output.
    pub(crate) fn run(&self, args: &[&str]) -> (Option<i32>, String) {
        run(self.command(args))
    }

    /// Runs a query that returns one number.
    pub(crate) fn number(&self, question: &str) -> i64 {
        self.db.number(question)
    }

    /// Counts the rows of a table.
    pub(crate) fn count(&self, table: &str) -> i64 {
        self.number(&format!("SELECT COUNT(*) FROM {table}"))
    }

    // ---- HTTP ----

    /// Sends a request without a body; `headers` are whole lines.
    pub(crate) fn ask(&self, port: u16, verb: &str, path: &str, headers: &str) -> Answer {
        let head = format!(
            "{verb} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n"
        );
        exchange(port, head.as_bytes()).unwrap()
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.ask(self.public, "GET", path, "")
    }

    /// Uploads by PUT; `headers` are whole lines.
    pub(crate) fn put(&self, port: u16, path: &str, headers: &str, body: &[u8]) -> Answer {
        let head = format!(
            "PUT {path} HTTP/1.1\r\nConnection: close\r\nContent-Length: {}\r\n{headers}\r\n",
            body.len()
        );
        exchange(port, &[head.as_bytes(), body].concat()).unwrap()
    }

    /// Uploads a public file, which must succeed; returns its number.
    pub(crate) fn add(&self, name: &str, body: &[u8]) -> i64 {
        let answer = self.put(self.public, &format!("/{name}"), "", body);
        assert_eq!(answer.status, 201, "{}", answer.text());
        let answer: Json = serde_json::from_slice(&answer.body).unwrap();
        answer["id"].as_i64().unwrap()
    }

    // ---- disk ----

    fn root(&self) -> PathBuf {
        self.site.path("home/librarian")
    }

    /// The paths of all blobs.
    pub(crate) fn blobs(&self) -> Vec<PathBuf> {
        let list = |dir: PathBuf| -> Vec<PathBuf> {
            let entries = fs::read_dir(dir).unwrap();
            entries.map(|entry| entry.unwrap().path()).collect()
        };
        let outer = list(self.root())
            .into_iter()
            .filter(|path| path.file_name().unwrap() != "incoming");
        outer.flat_map(list).flat_map(list).collect()
    }

    /// The number of incomplete uploads on disk.
    pub(crate) fn unfinished(&self) -> usize {
        self.site.names("home/librarian/incoming").len()
    }

    /// Sets the time of every blob to `age` ago.
    pub(crate) fn age_blobs(&self, age: Duration) {
        for path in self.blobs() {
            let then = SystemTime::now() - age;
            File::open(path).unwrap().set_modified(then).unwrap();
        }
    }
}

/// Kills the process; a failed test prints the log.
impl Drop for Librarian {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("---- librarian.log\n{}", self.said());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A process that ends at once, as a placeholder.
fn idle() -> Child {
    std::process::Command::new("true").spawn().unwrap()
}

/// A connection to an upload port.
pub(crate) struct Store(BufReader<TcpStream>);

impl Store {
    pub(crate) fn connect(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        Self(BufReader::new(stream))
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.get_mut().write_all(bytes).unwrap();
        self
    }

    /// Sends one file; `headers` are whole lines.
    pub(crate) fn store(&mut self, name: &str, headers: &str, body: &[u8]) -> &mut Self {
        let head = format!(
            "STORE {} {name}\r\nDatabase-Name: farm\r\n{headers}\r\n",
            body.len()
        );
        self.send(&[head.as_bytes(), body].concat())
    }

    /// The next line of the answer; empty after the last one.
    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        // A connection reset after the last line counts as its end.
        let _ = self.0.read_line(&mut line);
        assert!(line.is_empty() || line.ends_with("\r\n"), "{line:?}");
        line.trim_end().to_owned()
    }

    /// Reads the answer to an upload; returns the number of the file.
    pub(crate) fn stored(&mut self) -> i64 {
        let line = self.line();
        let ids = line
            .strip_prefix("200 ")
            .unwrap_or_else(|| panic!("{line:?}"));
        ids.split_once('/').unwrap().1.parse().unwrap()
    }
}
