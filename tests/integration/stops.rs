//! Stops of the daemon, and reasons why it does not start: exit codes and messages.

use std::fs;
use std::net::TcpListener;
use std::process::Command;
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value as Json, json};

use crate::support::{Daemon, FileServer, Gate, Site, run, until};

const DICT: &str = "statusform = dict\nverdicts = exact";
const STOPS: [Signal; 2] = [Signal::SIGTERM, Signal::SIGINT];

fn serve(site: &Site) -> Command {
    site.command(&["serve", "--config", site.config().to_str().unwrap()])
}

/// Sends the signal `times` times, and checks that the daemon exits with 0.
fn stop(daemon: &mut Daemon, signal: Signal, times: u32) {
    for _ in 0..times {
        daemon.signal(signal);
    }
    assert_eq!(daemon.wait_end(), Some(0), "{signal} {times}");
    let said = daemon.said();
    assert!(said.contains("INFO: stopping\n"), "{said}");
}

#[test]
fn a_stop_exits_with_0_and_keeps_builds_and_aborts_running() {
    let mut daemon = Daemon::start(DICT);
    for signal in STOPS {
        for times in [1, 2] {
            // The builder is idle.
            stop(&mut daemon, signal, times);
            daemon.restart();
            assert_eq!(daemon.state(), "IDLE");
            // A build is running.
            daemon.reset();
            daemon.on("sbuild", "hold; exit 2");
            daemon.build("b1", json!({}));
            daemon.wait_at("sbuild");
            stop(&mut daemon, signal, times);
            daemon.restart();
            assert_eq!(daemon.state(), "BUILDING");
            // An abort is running.
            daemon.on("umount", "hold");
            daemon.ok("abort", &[]);
            daemon.wait_at("umount");
            stop(&mut daemon, signal, times);
            daemon.restart();
            assert_eq!(daemon.state(), "ABORTING");
            daemon.let_go("umount");
            assert_eq!(daemon.wait_over()["build_status"], "BuildStatus.ABORTED");
            daemon.clean();
        }
    }
    daemon.check_usable();
}

#[test]
fn sighup_disturbs_no_build() {
    let daemon = Daemon::start(DICT);
    daemon.signal(Signal::SIGHUP);
    until("log line", || {
        let said = daemon.said();
        said.contains("no changed key is applied").then_some(())
    });
    daemon.on("sbuild", "hold; exit 2");
    daemon.build("b1", json!({}));
    daemon.wait_at("sbuild");
    daemon.signal(Signal::SIGHUP);
    daemon.signal(Signal::SIGHUP);
    let shim = daemon.read("home/journal/b1/lock").parse().unwrap();
    kill(Pid::from_raw(shim), Signal::SIGHUP).unwrap();
    assert_eq!(daemon.state(), "BUILDING");
    daemon.let_go("sbuild");
    assert_eq!(daemon.wait_over()["build_status"], "BuildStatus.GIVENBACK");
}

#[test]
fn a_stop_during_a_download_leaves_no_partial_file() {
    let gate = Gate::default();
    let waiting = gate.clone();
    let server = FileServer::start(move |_, stream| {
        use std::io::Write as _;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\nhalf");
        waiting.wait();
    });
    let mut daemon = Daemon::start(DICT);
    let before = daemon.names("home/filecache");
    let sum = "00000000000000000000000000000000000000ff";
    for signal in STOPS {
        let (url, params) = (server.url("f"), Vec::from([json!(sum)]));
        let params = [params, vec![json!(url), json!(""), json!("")]].concat();
        let port = daemon.port;
        let body = crate::support::rpc::render_call("ensurepresent", &params);
        let asking = thread::spawn(move || {
            let head = format!(
                "POST /rpc HTTP/1.0\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            crate::support::exchange(port, format!("{head}{body}").as_bytes())
        });
        until("half a file", || {
            (daemon.names("home/filecache").len() > before.len()).then_some(())
        });
        stop(&mut daemon, signal, 1);
        assert!(asking.join().unwrap().is_err(), "the call is not answered");
        daemon.restart();
        assert_eq!(daemon.names("home/filecache"), before);
    }
    gate.open();
    daemon.check_usable();
}

#[test]
fn a_stop_during_clean_forgets_the_build_wholly_or_not_at_all() {
    let mut daemon = Daemon::start(DICT);
    for round in 0..6_u64 {
        daemon.reset();
        daemon.build_to_end("b1", json!({}));
        for number in 0..600 {
            let file = daemon
                .path("home/journal/b1")
                .join(format!("much-{number}"));
            fs::write(file, "").unwrap();
        }
        daemon.give(&daemon.path("home/journal/b1"));
        let port = daemon.port;
        let cleaning = thread::spawn(move || {
            let body = crate::support::rpc::render_call("clean", &[]);
            let head = format!(
                "POST /rpc HTTP/1.0\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            crate::support::exchange(port, format!("{head}{body}").as_bytes()).is_ok()
        });
        // Each round stops the daemon at another moment of the clean.
        thread::sleep(Duration::from_millis(round * 3));
        stop(&mut daemon, Signal::SIGTERM, 1);
        let answered = cleaning.join().unwrap();
        daemon.restart();
        match daemon.state().as_str() {
            "IDLE" => assert_eq!(daemon.names("home/journal"), [""; 0]),
            "WAITING" if !answered => daemon.clean(),
            state => panic!("{state}, answered: {answered}"),
        }
        daemon.check_cache();
    }
    daemon.check_usable();
}

/// The host shuts down, or an operator signals the shim instead of calling `abort`.
#[test]
fn a_signal_to_the_shim_gives_its_build_back() {
    let daemon = Daemon::start(DICT);
    for signal in STOPS {
        for times in [1, 2] {
            daemon.reset();
            daemon.on("sbuild", "stubborn; hold");
            daemon.build("b1", json!({}));
            daemon.wait_at("sbuild");
            let shim = daemon.read("home/journal/b1/lock").parse().unwrap();
            for _ in 0..times {
                kill(Pid::from_raw(shim), signal).unwrap();
            }
            let status = daemon.wait_over();
            assert_eq!(status["build_status"], "BuildStatus.GIVENBACK");
            assert_eq!(daemon.strays().len(), 0, "{:?}", daemon.strays());
            daemon.clean();
        }
    }
    daemon.check_usable();
}

#[test]
fn a_port_in_use_stops_the_start_and_not_the_build() {
    let mut daemon = Daemon::start(DICT);
    daemon.on("sbuild", "hold; exit 2");
    daemon.build("b1", json!({}));
    daemon.wait_at("sbuild");
    daemon.stop();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    daemon.reconfigure(|line| Some(line.replace("bindport = 0", &format!("bindport = {port}"))));
    let (code, said) = run(serve(&daemon));
    assert_eq!(code, Some(1), "{said}");
    let expect = format!("cannot listen on 127.0.0.1:{port}: Address already in use");
    assert!(
        said.contains(&expect) && said.contains("`ss -ltnp`"),
        "{said}"
    );
    // The build was not affected.
    daemon.configure(DICT);
    daemon.restart();
    assert_eq!(daemon.state(), "BUILDING");
    daemon.let_go("sbuild");
    assert_eq!(daemon.wait_over()["build_status"], "BuildStatus.GIVENBACK");
}

#[test]
fn a_daemon_is_ready_only_when_every_address_listens() {
    let site = Site::new("");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    // The first address is free, the second is taken.
    let addresses = format!("bindhost = 127.0.0.2 127.0.0.1\nbindport = {port}");
    site.reconfigure(|line| Some(line.replace("bindport = 0", &addresses)));
    let (code, said) = run(serve(&site));
    assert_eq!(code, Some(1), "{said}");
    let expect = format!("cannot listen on 127.0.0.1:{port}: ");
    assert!(said.contains(&expect) && !said.contains("ready!"), "{said}");
}

/// Runs a daemon that cannot start; returns its output.
fn does_not_start(site: &Site, change: impl Fn(&mut Command)) -> String {
    let mut command = serve(site);
    change(&mut command);
    let (code, said) = run(command);
    assert_eq!(code, Some(1), "{said}");
    assert!(!said.contains("ready"), "{said}");
    said
}

#[test]
fn each_missing_requirement_of_the_host_is_reported_with_its_remedy() {
    let site = Site::new("");
    // The daemon checks the host for sessions only if no site program makes them.
    site.reconfigure(|line| match line.contains("path = ") {
        true => None,
        false => Some(line.replace("isolation = none", "isolation = unshare")),
    });
    if nix::unistd::geteuid().is_root() {
        let text = fs::read_to_string(site.config()).unwrap();
        let set_user = |user: &str| {
            site.reconfigure(|line| match line.starts_with("user = ") {
                true => Some(format!("user = {user}")),
                false => Some(line.to_owned()),
            });
        };
        set_user("nobody-at-all");
        let said = does_not_start(&site, |_| {});
        assert!(
            said.contains("no user nobody-at-all on this host; try: useradd"),
            "{said}"
        );
        set_user("root");
        let said = does_not_start(&site, |_| {});
        assert!(
            said.contains("set [slave] user to another user than root"),
            "{said}"
        );
        // The user nobody owns all files and has no subordinate ids.
        let other = nix::unistd::User::from_name("nobody").unwrap().unwrap();
        set_user("nobody");
        for folder in ["", "home", "home/filecache"] {
            let (uid, gid) = (other.uid.as_raw(), other.gid.as_raw());
            std::os::unix::fs::chown(site.path(folder), Some(uid), Some(gid)).unwrap();
        }
        let said = does_not_start(&site, |_| {});
        assert!(said.contains("for user nobody in /etc/subuid"), "{said}");
        assert!(said.contains("usermod --add-subuids"), "{said}");
        fs::remove_dir_all(site.path("home/journal")).unwrap();
        for folder in ["home/chroots", "home/sessions"] {
            let _ = fs::remove_dir(site.path(folder));
        }
        fs::write(site.config(), text).unwrap();
        for folder in ["", "home", "home/filecache"] {
            site.give(&site.path(folder));
        }
    }
    // PATH has no newuidmap.
    let said = does_not_start(&site, |command| {
        command.env("PATH", site.path("bin"));
    });
    assert!(said.contains("newuidmap is not installed"), "{said}");
    assert!(said.contains("apt-get install uidmap"), "{said}");
    // The home is missing.
    fs::remove_dir_all(site.path("home")).unwrap();
    fs::write(site.path("home"), "").unwrap();
    let said = does_not_start(&site, |command| {
        command.current_dir(site.path(""));
    });
    assert!(said.contains("install -d -m 0700 -o "), "{said}");
}

#[test]
fn an_accepted_build_is_kept_when_the_daemon_is_killed_with_the_call() {
    let mut daemon = Daemon::start(DICT);
    for round in 0..10_u64 {
        daemon.reset();
        daemon.on("sbuild", "exit 2");
        let (port, params) = (daemon.port, daemon.parameters("b1", json!({})));
        let building = thread::spawn(move || {
            let body = crate::support::rpc::render_call("build", &params);
            let head = format!(
                "POST /rpc HTTP/1.0\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            let answer = crate::support::exchange(port, format!("{head}{body}").as_bytes());
            answer.is_ok_and(|answer| answer.text().contains("BUILDING"))
        });
        // Each round kills the daemon at another moment of the call.
        thread::sleep(Duration::from_millis(round * 2));
        daemon.signal(Signal::SIGKILL);
        daemon.wait_end();
        let answered = building.join().unwrap();
        daemon.restart();
        let state = daemon.ok("status_dict", &[]);
        if state["builder_status"] == "BuilderStatus.IDLE" {
            assert!(!answered, "round {round}: an accepted build is forgotten");
            continue;
        }
        let status: Json = daemon.wait_over();
        let expect = ["BuildStatus.GIVENBACK", "BuildStatus.BUILDERFAIL"];
        let verdict = status["build_status"].as_str().unwrap();
        assert!(expect.contains(&verdict), "{verdict}");
        assert_eq!(daemon.strays().len(), 0, "{:?}", daemon.strays());
        daemon.clean();
    }
    daemon.check_usable();
}
