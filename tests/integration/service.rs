//! The daemon under a service manager: messages on its socket, and the shutdown of the host.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::support::{Daemon, Site, until};

const DICT: &str = "statusform = dict\nverdicts = exact";

/// A service manager: the lines that it has got and no test has taken yet.
struct Manager(Arc<Mutex<Vec<String>>>);

impl Manager {
    /// Makes the site's next daemons report to it; they have a watchdog of a second.
    fn of(site: &mut Site) -> Self {
        let path = site.path("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
        site.start_with(vec![
            ("NOTIFY_SOCKET", path.into()),
            ("WATCHDOG_USEC", "1000000".into()),
        ]);
        let lines = Arc::<Mutex<Vec<String>>>::default();
        let got = Arc::downgrade(&lines);
        let read = move || {
            let mut buffer = [0; 4096];
            while let Ok(length) = socket.recv(&mut buffer) {
                let Some(got) = got.upgrade() else { break };
                let text = String::from_utf8_lossy(&buffer[..length]);
                let mut got = got.lock().unwrap();
                got.extend(text.lines().map(str::to_owned));
            }
        };
        // The thread ends with the first message after the test.
        thread::spawn(read);
        Self(lines)
    }

    /// Waits for a line; returns the lines up to it.
    fn wait_for(&self, line: &str) -> Vec<String> {
        until(line, || {
            let mut lines = self.0.lock().unwrap();
            let place = lines.iter().position(|found| found == line)?;
            Some(lines.drain(..=place).collect())
        })
    }
}

#[test]
fn the_service_manager_learns_of_readiness_state_life_and_stop() {
    let mut site = Site::new(DICT);
    let manager = Manager::of(&mut site);
    let mut daemon = Daemon::start_in(site);
    let before = manager.wait_for("READY=1");
    assert!(before.contains(&"STATUS=IDLE".to_owned()), "{before:?}");
    assert_eq!(daemon.state(), "IDLE");
    for _ in 0..3 {
        // Without a client, too.
        manager.wait_for("WATCHDOG=1");
    }
    daemon.on("sbuild", "env > $site/environment; hold; exit 2");
    daemon.build("b1", json!({}));
    manager.wait_for("STATUS=BUILDING: build b1");
    daemon.wait_at("sbuild");
    let environment = daemon.read("environment");
    assert!(!environment.contains("NOTIFY_SOCKET"), "{environment}");
    assert!(!environment.contains("WATCHDOG_"), "{environment}");
    daemon.let_go("sbuild");
    manager.wait_for("STATUS=WAITING: build b1");
    daemon.clean();
    manager.wait_for("STATUS=IDLE");
    daemon.stop();
    manager.wait_for("STOPPING=1");
}

#[test]
fn a_shim_that_ends_without_an_abort_gives_the_build_back() {
    let daemon = Daemon::start(DICT);
    daemon.on("sbuild", "hold");
    daemon.build("b1", json!({}));
    daemon.wait_at("sbuild");
    let shim = daemon.read("home/journal/b1/lock").parse().unwrap();
    kill(Pid::from_raw(shim), Signal::SIGTERM).unwrap();
    let status = daemon.wait_over();
    assert_eq!(status["build_status"], "BuildStatus.GIVENBACK");
    let log = daemon.log();
    assert!(log.contains("Interrupted in SBUILD."), "{log}");
    assert!(
        log.contains("Verdict: GIVENBACK: interrupted by SIGTERM"),
        "{log}"
    );
    daemon.clean();
    daemon.check_usable();
}

/// Puts a `systemctl` into the daemon's PATH whose `is-system-running` prints `state`.
fn system_is(site: &mut Site, state: &str) {
    let folder = site.path("systemctl");
    fs::create_dir_all(&folder).unwrap();
    let program = folder.join("systemctl");
    fs::write(&program, format!("#!/bin/sh\necho {state}\nexit 1\n")).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:/usr/bin:/bin", folder.display());
    site.start_with(vec![("PATH", path.into())]);
}

#[test]
fn a_shutdown_of_the_host_gives_the_build_back_and_a_stop_of_the_daemon_keeps_it() {
    const ENDED: &str = "the host is shutting down: build b1";
    for (state, builder, verdict, log) in [
        ("stopping", "WAITING", "BuildStatus.GIVENBACK", ENDED),
        (
            "degraded",
            "BUILDING",
            "BuildStatus.PACKAGEFAIL",
            "build b1 continues",
        ),
    ] {
        let mut site = Site::new(DICT);
        system_is(&mut site, state);
        let mut daemon = Daemon::start_in(site);
        daemon.on("sbuild", "hold; exit 3");
        daemon.build("b1", json!({}));
        daemon.wait_at("sbuild");
        daemon.stop();
        let said = daemon.said();
        assert!(said.contains(log), "{said}");
        daemon.restart();
        assert_eq!(daemon.state(), builder, "{state}");
        daemon.let_go("sbuild");
        let status = daemon.wait_over();
        assert_eq!(status["build_status"], verdict, "{state}");
        daemon.clean();
    }
}

/// Changes the configuration, sends SIGHUP, and waits for a line of the log.
fn reload(daemon: &Daemon, more: &str, line: &str) {
    daemon.configure(more);
    let before = daemon.said().len();
    daemon.signal(Signal::SIGHUP);
    until(line, || {
        daemon.said()[before..].contains(line).then_some(())
    });
}

#[test]
fn a_reload_applies_keys_and_names_those_that_need_a_restart() {
    let mut site = Site::new("statusform = tuple");
    let manager = Manager::of(&mut site);
    let daemon = Daemon::start_in(site);
    manager.wait_for("READY=1");
    assert!(daemon.ok("status", &[]).is_array());
    daemon.on("sbuild", "hold; exit 3");
    daemon.build("b1", json!({}));
    daemon.wait_at("sbuild");
    let changed = "statusform = dict\nchroots = /other\nusername = u\npassword = p\n\
                   [limits]\nlog_size = 4K";
    let applied = "applied [limits] log_size, [slave] password, [slave] statusform, \
                   [slave] username\n";
    reload(&daemon, changed, applied);
    manager.wait_for("RELOADING=1");
    manager.wait_for("READY=1");
    until("warning", || {
        let said = daemon.said();
        said.contains("a restart is needed for [slave] chroots, changed")
            .then_some(())
    });
    assert_eq!(daemon.get("/healthz").status, 401);
    reload(&daemon, "statusform = dict\nverdicts = exact", "applied ");
    assert_eq!(daemon.get("/healthz").status, 200);
    let status = daemon.ok("status", &[]);
    assert_eq!(status["builder_status"], "BuilderStatus.BUILDING");
    daemon.let_go("sbuild");
    daemon.wait_over();
    daemon.clean();
    daemon.check_usable();
}

#[test]
fn the_next_build_gets_the_settings_of_a_reload_and_the_running_one_keeps_its_own() {
    let daemon = Daemon::start(DICT);
    let noise = "hold; head -c 20000 /dev/zero | tr '\\0' x; exit 3";
    let reason = |daemon: &Daemon| {
        daemon.let_go("sbuild");
        daemon.wait_over();
        let log = daemon.log();
        let is_cut = log.contains("of log left out here");
        daemon.clean();
        daemon.reset();
        is_cut
    };
    daemon.on("sbuild", noise);
    daemon.build("b1", json!({}));
    daemon.wait_at("sbuild");
    let small = format!("{DICT}\n[limits]\nlog_size = 4K");
    reload(&daemon, &small, "applied [limits] log_size");
    assert!(!reason(&daemon), "b1 began with the larger size");
    daemon.on("sbuild", noise);
    daemon.build("b2", json!({}));
    daemon.wait_at("sbuild");
    assert!(reason(&daemon), "b2 has the smaller size");
}

#[test]
fn a_wrong_configuration_changes_nothing_and_the_log_says_why() {
    let daemon = Daemon::start(DICT);
    let wrong = "statusform = tuple\nnosuchkey = 1";
    reload(&daemon, wrong, "the configuration in force stays");
    let said = daemon.said();
    assert!(said.contains("[slave] nosuchkey: unknown key"), "{said}");
    assert!(daemon.ok("status", &[]).is_object());
    // The next correct file counts as if the wrong one had never been there.
    reload(&daemon, DICT, "no changed key is applied");
}

/// The failed start of a daemon that root starts from a unit with `StateDirectory=`.
#[test]
fn a_unit_with_user_root_is_refused_with_its_mend() {
    let site = Site::new(DICT);
    if site.user().is_none() {
        eprintln!("NOT RUN: the test runs as an ordinary user");
        return;
    }
    let started = Command::new(env!("CARGO_BIN_EXE_buildd-slave"))
        .args(["serve", "--config", site.config().to_str().unwrap()])
        .env("STATE_DIRECTORY", "/var/lib/buildd-none:/etc")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&started.stderr);
    assert_eq!(started.status.code(), Some(1), "{said}");
    assert!(said.contains("systemd gave /etc to root"), "{said}");
    assert!(said.contains("remove User=root from it"), "{said}");
}
