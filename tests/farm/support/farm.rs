//! A farm: a site with a database, a librarian and masters, each a process of the real program.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::{BufReader, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::ops::Deref;
use std::process::{Child, Command};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::database::{Database, Engine};
use super::fake::next_address;
use super::postgres;
use crate::support::{Answer, DEADLINE, Site, read_answer, run, until, within};

/// Keys of `[master]` with short intervals.
pub(crate) const QUICK: &str = "scan_interval = 1\nlease = 2\ntail_interval = 1\nrpc_timeout = 5\n";

/// A farm on this host, which ends with the test.
pub(crate) struct Farm {
    site: Site,
    pub(crate) db: Database,
    address: Ipv4Addr,
    /// The librarian's ports: public, upload, restricted, restricted upload.
    pub(crate) ports: [u16; 4],
}

impl Deref for Farm {
    type Target = Site;

    fn deref(&self) -> &Site {
        &self.site
    }
}

impl Farm {
    /// Makes a farm with an empty database; `more` are keys of `[master]`. Nothing runs yet.
    pub(crate) fn new(engine: Engine, more: &str) -> Self {
        let site = Site::new("");
        let db = match engine {
            Engine::Sqlite => Database::Sqlite(site.path("home/farm.db")),
            Engine::Postgres => Database::Postgres(postgres::database().expect("PostgreSQL")),
        };
        let address = next_address();
        let farm = Self {
            site,
            db,
            address,
            ports: free_ports(address),
        };
        for folder in ["home/results", "home/librarian"] {
            fs::create_dir(farm.path(folder)).unwrap();
            farm.give(&farm.path(folder));
        }
        farm.configure(more);
        farm
    }

    /// Makes copies of the program start as the site's user, so that root may preload a library.
    pub(crate) fn copy_program(&mut self) {
        self.site.start_with(Vec::new());
    }

    /// Writes the configuration anew.
    pub(crate) fn configure(&self, more: &str) {
        let [public, upload, restricted, restricted_upload] = self.ports;
        let address = self.address;
        // The configuration file needs no escape for the percent signs of the URL.
        self.site.configure(&format!(
            "[database]\nurl = {}\npatience = 20\n[librarian]\nbindhost = {address}\n\
             bindport = {public}\nupload_port = {upload}\nrestricted_port = {restricted}\n\
             restricted_upload_port = {restricted_upload}\nurl = http://{address}:{public}/\n\
             [master]\n{more}\n",
            self.db.url(),
        ));
    }

    /// The base of the librarian's public URLs.
    pub(crate) fn library_url(&self) -> String {
        format!("http://{}:{}/", self.address, self.ports[0])
    }

    pub(crate) fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Fetches from the librarian's public port.
    pub(crate) fn library(&self, path: &str) -> Answer {
        let mut stream = TcpStream::connect((self.address, self.ports[0])).unwrap();
        let head = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        read_answer(&mut BufReader::new(stream), false).unwrap()
    }

    /// The program with this farm's configuration; `args` are a command of two words and more.
    pub(crate) fn farm_command(&self, args: &[&str]) -> Command {
        let config = self.config().display().to_string();
        let (command, rest) = args.split_at(2);
        let mut command = self.command(&[command, &["--config", &config], rest].concat());
        command.env("BUILDD_FULL_SCANS", self.path(FULL_SCANS));
        command
    }

    /// Runs a command to its end; returns its exit code and all it printed.
    pub(crate) fn run(&self, args: &[&str]) -> (Option<i32>, String) {
        run(self.farm_command(args))
    }

    /// Runs a command that must succeed; returns its output.
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let (code, printed) = self.run(args);
        assert_eq!(code, Some(0), "{args:?}: {printed}");
        printed
    }

    /// Makes the tables.
    pub(crate) fn migrate(&self) {
        self.ok(&["master", "series", "list"]);
    }

    /// Runs one pass, as cron does; returns its log.
    pub(crate) fn scan(&self) -> Said {
        Said(self.ok(&["master", "scan"]))
    }

    /// Starts a master of that name and waits until it is ready.
    pub(crate) fn master(&self, name: &str) -> Process {
        self.start(name, &["master", "run"], "master ready")
    }

    /// Starts the librarian and waits until it is ready.
    pub(crate) fn librarian(&self) -> Process {
        self.start("librarian", &["librarian", "serve"], "librarian ready")
    }

    /// Starts a process that logs to `NAME.log`, and waits until it logs `ready`.
    pub(crate) fn start(&self, name: &str, args: &[&str], ready: &str) -> Process {
        self.spawn(name, self.farm_command(args), ready)
    }

    /// Like `master`, with more environment variables.
    pub(crate) fn master_with(
        &self,
        name: &str,
        variables: &[(&'static str, OsString)],
    ) -> Process {
        let mut command = self.farm_command(&["master", "run"]);
        command.envs(variables.iter().cloned());
        self.spawn(name, command, "master ready")
    }

    fn spawn(&self, name: &str, mut command: Command, ready: &str) -> Process {
        let log = format!("{name}.log");
        let before = self.read(&log).len();
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.path(&log))
            .unwrap();
        let child = command
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap();
        let mut process = Process {
            child,
            log: self.path(&log),
            before,
        };
        until(&format!("ready line of {name}"), || {
            let said = process.said();
            let ended = process.child.try_wait().unwrap();
            assert!(ended.is_none(), "{name} ended, {ended:?}: {}", said.0);
            said.0.contains(ready).then_some(())
        });
        process
    }

    /// Waits until the query returns the expected row.
    pub(crate) fn wait_row(&self, sql: &str, expected: &serde_json::Value) {
        self.wait_row_within(DEADLINE, sql, expected);
    }

    pub(crate) fn wait_row_within(&self, limit: Duration, sql: &str, expected: &serde_json::Value) {
        let mut last = Vec::new();
        let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            within(limit, "such row", || {
                last = self.db.rows(sql);
                (last.len() == 1 && last[0] == *expected).then_some(())
            });
        }));
        assert!(found.is_ok(), "{sql}: {last:?} instead of {expected}");
    }
}

/// The file in which the program records statements that scan a whole large table.
const FULL_SCANS: &str = "home/full-scans";

/// A failed test prints the logs. A test fails if any statement of the program scanned a whole
/// large table, on the engine of the farm.
impl Drop for Farm {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let scans = fs::read_to_string(self.path(FULL_SCANS)).unwrap_or_default();
            assert!(scans.is_empty(), "statements without an index:\n{scans}");
        } else {
            for name in self.names("") {
                if name.ends_with(".log") {
                    eprintln!("---- {name}\n{}", self.read(&name));
                }
            }
        }
    }
}

/// A process of the farm; killed when dropped.
pub(crate) struct Process {
    pub(crate) child: Child,
    log: std::path::PathBuf,
    before: usize,
}

impl Process {
    /// Kills the process with SIGKILL.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Stops the process with SIGTERM and waits for its end.
    pub(crate) fn stop(mut self) {
        let pid = Pid::from_raw(self.child.id().try_into().unwrap());
        kill(pid, Signal::SIGTERM).unwrap();
        let status = until("end of the process", || self.child.try_wait().unwrap());
        assert!(status.success(), "{status}: {}", self.said().0);
    }

    /// The log so far.
    pub(crate) fn said(&self) -> Said {
        let mut text = fs::read(&self.log).unwrap_or_default();
        Said(String::from_utf8_lossy(&text.split_off(self.before)).into_owned())
    }

    /// Waits until the log has `text`.
    pub(crate) fn wait_said(&self, text: &str) {
        until(text, || self.said().0.contains(text).then_some(()));
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Lines of a log.
pub(crate) struct Said(pub(crate) String);

impl Said {
    /// The lines of warnings and worse, without the time: `WARN root.builders.x86: Builder …`.
    pub(crate) fn warnings(&self) -> Vec<String> {
        self.lines_of(&["WARN", "ERROR"])
    }

    /// The lines of these levels, without the time.
    pub(crate) fn lines_of(&self, levels: &[&str]) -> Vec<String> {
        let rest = self.0.lines().filter_map(|line| line.split_once(' '));
        let of = |rest: &&str| {
            let level = rest.split([' ', ':']).next().unwrap_or_default();
            levels.contains(&level)
        };
        let lines = rest.map(|(_, rest)| rest).filter(of);
        lines.map(str::to_owned).collect()
    }
}

/// Free ports at an address that no other test uses.
fn free_ports(address: Ipv4Addr) -> [u16; 4] {
    let listeners = [(); 4].map(|()| TcpListener::bind((address, 0)).unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

/// Runs the named functions once on each engine.
macro_rules! on_both_engines {
    ($($name:ident)*) => {
        mod sqlite {
            $(#[test] fn $name() { super::$name($crate::farm::support::Engine::Sqlite); })*
        }
        mod postgresql {
            $(#[test] fn $name() {
                if $crate::farm::support::postgres::database().is_some() {
                    super::$name($crate::farm::support::Engine::Postgres);
                }
            })*
        }
    };
}
pub(crate) use on_both_engines;
