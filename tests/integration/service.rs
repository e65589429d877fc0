//! The daemon under a service manager: messages on its socket, and the shutdown of the host.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::support::{Daemon, Site, until};

const DICT: &str = "statusform = dict\nverdicts = exact";

/// The socket of a service manager.
struct Manager(UnixDatagram);

impl Manager {
    /// Makes the site's next daemons report to it; they have a watchdog of a second.
    fn of(site: &mut Site) -> Self {
        let path = site.path("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
        let wait = Some(Duration::from_millis(20));
        socket.set_read_timeout(wait).unwrap();
        site.start_with(vec![
            ("NOTIFY_SOCKET", path.into()),
            ("WATCHDOG_USEC", "1000000".into()),
        ]);
        Self(socket)
    }

    /// Reads messages until one of them has the line; returns all lines read.
    fn wait_for(&self, line: &str) -> Vec<String> {
        let mut lines = Vec::new();
        until(line, || {
            let mut buffer = [0; 4096];
            match self.0.recv(&mut buffer) {
                Ok(length) => {
                    let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
                    lines.extend(text.lines().map(str::to_owned));
                }
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
            lines.iter().any(|found| found == line).then_some(())
        });
        lines
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
