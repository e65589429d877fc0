//! A daemon in a site: starts, stops, kills, and the calls of a master.

use std::fs::OpenOptions;
use std::ops::Deref;
use std::process::Child;
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value as Json, json};

use super::rpc::{Fault, parse_answer, render_call};
use super::{Answer, DEADLINE, Site, exchange, until, within};

/// A running daemon and its site.
pub(crate) struct Daemon {
    site: Site,
    child: Child,
    pub(crate) port: u16,
}

impl Deref for Daemon {
    type Target = Site;

    fn deref(&self) -> &Site {
        &self.site
    }
}

impl Daemon {
    /// Starts a daemon in a new site; `more` is as for [`Site::new`].
    pub(crate) fn start(more: &str) -> Self {
        Self::start_in(Site::new(more))
    }

    /// Starts a daemon in `site` and waits until it is ready.
    pub(crate) fn start_in(site: Site) -> Self {
        let (child, port) = launch(&site);
        Self { site, child, port }
    }

    /// Starts the daemon again after a stop or a kill, at another port.
    pub(crate) fn restart(&mut self) {
        assert!(
            self.child.try_wait().unwrap().is_some(),
            "the daemon still runs"
        );
        (self.child, self.port) = launch(&self.site);
    }

    /// Stops the daemon with SIGTERM and waits for its end.
    pub(crate) fn stop(&mut self) {
        self.signal(Signal::SIGTERM);
        until("end of the daemon", || self.child.try_wait().unwrap());
    }

    /// Kills the daemon with SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends the daemon a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid() as i32), signal).unwrap();
    }

    /// Waits for the end of the daemon; returns its exit code.
    pub(crate) fn wait_end(&mut self) -> Option<i32> {
        until("end of the daemon", || self.child.try_wait().unwrap()).code()
    }

    /// Kills the daemon, starts it again, and checks that `status` answers the same.
    pub(crate) fn check_same_after_restart(&mut self) {
        let before = self.ok("status", &[]);
        self.kill();
        self.restart();
        assert_eq!(self.ok("status", &[]), before);
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// All processes of the site but the daemon.
    pub(crate) fn strays(&self) -> Vec<super::Process> {
        let own = self.pid() as i32;
        let mut processes = self.processes();
        processes.retain(|process| process.pid != own);
        processes
    }

    /// The log of the daemon so far.
    pub(crate) fn said(&self) -> String {
        self.read("daemon.log")
    }

    // ---- the wire ----

    /// Makes a call as masters do: HTTP/1.0, one connection for each call.
    pub(crate) fn call(&self, method: &str, params: &[Json]) -> Result<Json, Fault> {
        let answer = self.post("/rpc", render_call(method, params).as_bytes());
        assert_eq!(answer.status, 200, "{method}: {}", answer.text());
        parse_answer(&answer.body)
    }

    /// Makes a call that must succeed.
    pub(crate) fn ok(&self, method: &str, params: &[Json]) -> Json {
        self.call(method, params)
            .unwrap_or_else(|fault| panic!("{method}: {fault:?}"))
    }

    /// Makes a call that must fail with fault 8002; returns the reason.
    pub(crate) fn refused(&self, method: &str, params: &[Json]) -> String {
        match self.call(method, params) {
            Err(Fault { code: 8002, text }) => text,
            other => panic!("{method}: {other:?} instead of fault 8002"),
        }
    }

    /// Posts a body to `path`.
    pub(crate) fn post(&self, path: &str, body: &[u8]) -> Answer {
        let head = format!(
            "POST {path} HTTP/1.0\r\nHost: localhost\r\nContent-Type: text/xml\r\n\
             Content-Length: {}\r\n\r\n",
            body.len()
        );
        exchange(self.port, &[head.as_bytes(), body].concat()).unwrap()
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.request("GET", path, "")
    }

    /// Sends a request without a body; `headers` are whole lines.
    pub(crate) fn request(&self, verb: &str, path: &str, headers: &str) -> Answer {
        let head = format!(
            "{verb} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n"
        );
        exchange(self.port, head.as_bytes()).unwrap()
    }

    /// The log of the build.
    pub(crate) fn log(&self) -> String {
        let answer = self.get("/filecache/buildlog");
        assert_eq!(answer.status, 200);
        answer.text()
    }

    // ---- builds ----

    /// The parameters of a build of the site's source package.
    pub(crate) fn parameters(&self, id: &str, args: Json) -> Vec<Json> {
        let files = json!({"hello_1.dsc": self.dsc()});
        vec![
            json!(id),
            json!("debian"),
            json!(self.chroot()),
            files,
            args,
        ]
    }

    /// Starts a build.
    pub(crate) fn build(&self, id: &str, args: Json) {
        let answer = self.ok("build", &self.parameters(id, args));
        assert_eq!(answer, json!(["BuilderStatus.BUILDING", id]));
    }

    /// Starts a build and waits for its end; returns the status in its dict form.
    pub(crate) fn build_to_end(&self, id: &str, args: Json) -> Json {
        self.build(id, args);
        self.wait_over()
    }

    /// Waits for the state WAITING; returns the status in its dict form.
    pub(crate) fn wait_over(&self) -> Json {
        self.wait_for("WAITING", DEADLINE)
    }

    /// Waits for a state, no longer than `limit`; returns the status in its dict form.
    pub(crate) fn wait_for(&self, word: &str, limit: Duration) -> Json {
        let word = format!("BuilderStatus.{word}");
        within(limit, &word, || {
            let status = self.ok("status_dict", &[]);
            (status["builder_status"] == word).then_some(status)
        })
    }

    /// The state of the builder, without its prefix.
    pub(crate) fn state(&self) -> String {
        let status = self.ok("status_dict", &[]);
        let word = status["builder_status"].as_str().unwrap();
        word.strip_prefix("BuilderStatus.").unwrap().to_owned()
    }

    /// The log tail in the answer to `status` while a build runs.
    pub(crate) fn log_tail(&self) -> String {
        let status = self.ok("status_dict", &[]);
        let tail = status["logtail"]["base64"].as_str().expect("a log tail");
        String::from_utf8_lossy(&BASE64_STANDARD.decode(tail).unwrap()).into_owned()
    }

    /// Cleans a waiting build.
    pub(crate) fn clean(&self) {
        assert_eq!(self.ok("clean", &[]), json!("BuilderStatus.IDLE"));
        assert_eq!(self.state(), "IDLE");
    }

    /// Checks that a build still succeeds.
    pub(crate) fn check_usable(&self) {
        self.reset();
        let status = self.build_to_end("after-1", json!({}));
        assert_eq!(status["build_status"], "BuildStatus.OK", "{}", self.log());
        self.clean();
    }
}

/// Starts the daemon and returns its port.
fn launch(site: &Site) -> (Child, u16) {
    let log = site.path("daemon.log");
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&log)
        .unwrap();
    let before = site.read("daemon.log").len();
    let mut child = site
        .command(&["serve", "--config", site.config().to_str().unwrap()])
        .stdout(file.try_clone().unwrap())
        .stderr(file)
        .spawn()
        .unwrap();
    let port = until("ready line of the daemon", || {
        let said = site.read("daemon.log").split_off(before);
        let ended = child.try_wait().unwrap();
        assert!(ended.is_none(), "the daemon ended, {ended:?}: {said}");
        let (_, rest) = said.split_once("daemon ready! listening at http://127.0.0.1:")?;
        rest.split_once('/')?.0.parse().ok()
    });
    (child, port)
}

/// Kills the daemon; the site kills its builds. A failed test prints the logs.
impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("---- daemon.log\n{}", self.said());
            for build in self.names("home/journal") {
                let log = self.read(&format!("home/journal/{build}/log"));
                eprintln!("---- log of {build}\n{log}");
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
