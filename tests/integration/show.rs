//! Metrics, health, running logs, and the daemon's own log.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;

use serde_json::json;

use crate::support::rpc::render_call;
use crate::support::{Answer, Daemon, FileServer, Site, connect, exchange, send, until};

/// Returns the value of a metric; `name` includes its labels.
fn metric(daemon: &Daemon, name: &str) -> Option<f64> {
    let answer = daemon.get("/metrics");
    assert_eq!(answer.status, 200);
    let kind = answer.header("Content-Type").unwrap();
    assert!(kind.starts_with("text/plain; version=0.0.4"), "{kind}");
    let text = answer.text();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    Some(line?.parse().unwrap())
}

#[test]
fn metrics_count_builds_stages_aborts_and_faults() {
    let daemon = Daemon::start("");
    let state = |word: &str| metric(&daemon, &format!("buildd_slave_state{{state=\"{word}\"}}"));
    assert_eq!((state("idle"), state("building")), (Some(1.0), Some(0.0)));
    let stored = "buildd_slave_stored_entries{store=\"filecache\"}";
    assert_eq!(metric(&daemon, stored), Some(2.0));
    daemon.on("sbuild", "hold");
    daemon.build("1-1", json!({}));
    daemon.wait_at("sbuild");
    assert_eq!((state("idle"), state("building")), (Some(0.0), Some(1.0)));
    daemon.ok("abort", &[]);
    daemon.wait_over();
    assert_eq!(state("waiting"), Some(1.0));
    let value = |name: &str| metric(&daemon, name);
    assert_eq!(value("buildd_slave_aborts_total"), Some(1.0));
    assert_eq!(value("buildd_slave_abort_seconds_count"), Some(1.0));
    let aborted = "buildd_slave_builds_total{verdict=\"ABORTED\"}";
    assert_eq!(value(aborted), Some(1.0));
    let stage = "buildd_slave_stage_seconds_count{stage=\"SBUILD\"}";
    assert_eq!(value(stage), Some(1.0));
    daemon.refused("abort", &[]);
    let faults = "buildd_slave_calls_total{method=\"abort\",outcome=\"fault\"}";
    assert_eq!(value(faults), Some(1.0));
    // A method name from a client does not become a label.
    assert!(daemon.call("no_such_thing", &[]).is_err());
    assert!(!daemon.get("/metrics").text().contains("no_such_thing"));
    assert_eq!(daemon.post("/metrics", b"").status, 405);
}

#[test]
fn log_and_metrics_show_the_same_limits() {
    let daemon = Daemon::start("");
    let by = |resource: &str| {
        let words = ["cgroup_v2", "cgroup_v1", "measurement"];
        let used = words.into_iter().filter(|by| {
            let name = format!("buildd_slave_build_limits{{by=\"{by}\",resource=\"{resource}\"}}");
            metric(&daemon, &name) == Some(1.0)
        });
        let used: Vec<String> = used.map(|by| by.replace('_', " ")).collect();
        assert_eq!(used.len(), 1, "{used:?}");
        format!("{resource} by {}", used[0])
    };
    let shown = format!("limits of builds: {}, {}", by("memory"), by("processes"));
    let said = daemon.said();
    assert!(said.contains(&shown), "no {shown:?} in {said}");
}

#[test]
fn healthz_names_the_problem() {
    let daemon = Daemon::start("");
    let answer = daemon.get("/healthz");
    assert_eq!((answer.status, answer.text().as_str()), (200, "ok\n"));
    let daemon = Daemon::start("[limits]\nreserve = 1000000 G\n");
    let answer = daemon.get("/healthz");
    assert_eq!(answer.status, 503);
    let text = answer.text();
    assert!(text.contains("[slave] filecache: "), "{text}");
    assert!(text.contains("less than [limits] reserve"), "{text}");
}

/// Follows a log in HTTP/1.0, where the log ends with the connection.
fn follow(daemon: &Daemon, id: &str) -> TcpStream {
    let mut stream = connect(daemon.port).unwrap();
    let request = format!("GET /log/{id}?follow HTTP/1.0\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    stream
}

#[test]
fn a_running_log_is_followed_to_its_end() {
    let daemon = Daemon::start("");
    daemon.on("sbuild", "echo before; hold; echo after");
    daemon.build("8-1", json!({}));
    daemon.wait_at("sbuild");
    for wrong in ["/log/8-2", "/log/8-2?follow", "/log/..?follow"] {
        assert!([404, 400].contains(&daemon.get(wrong).status), "{wrong}");
    }
    let so_far = daemon.get("/log/8-1").text();
    assert!(so_far.contains("\nbefore\n"), "{so_far}");

    let mut followers: Vec<TcpStream> = (0..3).map(|_| follow(&daemon, "8-1")).collect();
    let mut first = followers.remove(0);
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains("\nbefore\n") {
        let mut part = [0; 4096];
        let count = first.read(&mut part).unwrap();
        assert!(count > 0, "the log ended");
        seen.extend_from_slice(&part[..count]);
    }
    // One follower hangs up; the others go on.
    drop(followers.remove(0));
    let waiting = thread::spawn(move || {
        let mut text = String::new();
        followers[0].read_to_string(&mut text).unwrap();
        text
    });
    daemon.let_go("sbuild");
    daemon.wait_over();
    first.read_to_end(&mut seen).unwrap();
    let log = daemon.log();
    for text in [String::from_utf8(seen).unwrap(), waiting.join().unwrap()] {
        let (_, body) = text.split_once("\r\n\r\n").unwrap();
        assert_eq!(body, log);
    }
    // A log of an ended build is sent whole.
    let mut text = String::new();
    follow(&daemon, "8-1").read_to_string(&mut text).unwrap();
    assert_eq!(text.split_once("\r\n\r\n").unwrap().1, log);
    daemon.ok("clean", &[]);
    assert_eq!(daemon.get("/log/8-1").status, 404);
}

#[test]
fn a_running_log_over_its_limit_keeps_its_head_and_tail() {
    let daemon = Daemon::start("[limits]\nlog_size = 4000\n");
    daemon.on("sbuild", "seq 10000; echo now; hold; echo after");
    daemon.build("8-1", json!({}));
    daemon.wait_at("sbuild");
    let mut follower = follow(&daemon, "8-1");
    let log = until("the end of the output", || {
        Some(daemon.log()).filter(|log| log.ends_with("\n10000\nnow\n"))
    });
    assert!(
        log.contains("] SBUILD\n") && log.contains("\n[... "),
        "{log}"
    );
    let part = daemon.request("GET", "/log/8-1", "Range: bytes=10-19\r\n");
    assert_eq!((part.status, part.text().as_str()), (206, &log[10..20]));
    // A range may only touch the part of a log that will not change.
    let part = daemon.request("GET", "/filecache/buildlog", "Range: bytes=2000-\r\n");
    assert_eq!(part.status, 416);

    daemon.let_go("sbuild");
    daemon.wait_over();
    let log = daemon.log();
    assert!(log.contains("\nnow\nafter\n"), "{log}");
    let mut followed = String::new();
    follower.read_to_string(&mut followed).unwrap();
    assert!(followed.contains("\nnow\nafter\n"), "{followed}");
    assert!(followed.ends_with(&log[log.len() - 100..]), "{followed}");
}

#[test]
fn the_daemon_logs_each_state_and_stage() {
    let daemon = Daemon::start("");
    daemon.build_to_end("8-1", json!({}));
    daemon.ok("clean", &[]);
    let said = daemon.said();
    let lines: Vec<&str> = said
        .lines()
        .filter_map(|line| Some(line.split_once(" INFO: ")?.1))
        .filter(|line| line.contains("8-1"))
        .collect();
    let stages = [
        "INIT", "UNPACK", "MOUNT", "UPDATE", "SBUILD", "REAP", "UMOUNT", "CLEANUP",
    ];
    let mut expect = vec!["IDLE to BUILDING: build 8-1 begins".to_owned()];
    expect.extend(stages.map(|stage| format!("build 8-1: {stage}")));
    expect.push("BUILDING to WAITING: build 8-1 has ended: OK: built".to_owned());
    expect.push("WAITING to IDLE: build 8-1 is cleaned".to_owned());
    assert_eq!(lines, expect, "{said}");
}

/// The password in every test of the daemon's own log, and what base64 makes of it.
const SECRET: &str = "hunter2z";
const ENCODED: [&str; 2] = ["aHVudGVyMno", "bWFzdGVyOm"];
const RIGHT: &str = "Authorization: Basic bWFzdGVyOmh1bnRlcjJ6\r\n";

/// A daemon that logs at level `trace`, with passwords in its configuration.
fn daemon_with_secrets() -> Daemon {
    let site = Site::new(
        "username = master\npassword = hunter2z\n[proxy]\napt = http://u:hunter2z@127.0.0.1:1/\n",
    );
    Daemon::start_in(site.talkative())
}

/// Posts a body with a header line for the credentials, or with none.
fn ask(daemon: &Daemon, path: &str, body: &str, authorization: &str) -> Answer {
    let head = format!(
        "POST {path} HTTP/1.0\r\n{authorization}Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    exchange(daemon.port, head.as_bytes()).unwrap()
}

/// Makes a call with the right credentials.
fn call(daemon: &Daemon, method: &str, parameters: &[serde_json::Value]) -> String {
    let body = render_call(method, parameters);
    ask(daemon, "/rpc", &body, RIGHT).text()
}

/// Checks that the password is neither in the daemon's log nor in its metrics.
fn check_no_secret_is_shown(daemon: &Daemon) {
    // The daemon logs a broken request at level `debug`.
    ask(daemon, "/rpc/%zzhunter2z", "", RIGHT);
    assert!(daemon.said().contains("DEBUG"), "{}", daemon.said());
    let metrics = format!("GET /metrics HTTP/1.0\r\n{RIGHT}\r\n");
    let metrics = exchange(daemon.port, metrics.as_bytes()).unwrap();
    assert_eq!(metrics.status, 200);
    for text in [daemon.said(), metrics.text()] {
        assert!(!text.contains(SECRET), "{text}");
        assert!(!ENCODED.iter().any(|word| text.contains(word)), "{text}");
    }
}

#[test]
fn the_password_of_a_request_is_not_logged() {
    let daemon = daemon_with_secrets();
    assert_eq!(ask(&daemon, "/rpc", SECRET, RIGHT).status, 200);
    for wrong in [
        "",
        "Authorization: Basic aHVudGVyMno6aHVudGVyMno=\r\n",
        "Authorization: hunter2z\r\n",
    ] {
        assert_eq!(ask(&daemon, "/rpc", "", wrong).status, 401);
    }
    assert_eq!(
        ask(&daemon, "/hunter2z?token=hunter2z", "", RIGHT).status,
        404
    );
    ask(&daemon, "/rpc/%zzhunter2z", "", RIGHT);
    ask(&daemon, "/rpc", "<methodCall>hunter2z", RIGHT);
    call(&daemon, SECRET, &[json!(SECRET)]);
    call(&daemon, "echo", &[json!(SECRET)]);
    check_no_secret_is_shown(&daemon);
}

#[test]
fn the_password_of_a_download_is_not_logged() {
    let daemon = daemon_with_secrets();
    let elsewhere = FileServer::of(b"redirected");
    let target = elsewhere
        .url("x?token=hunter2z")
        .replace("//", "//u:hunter2z@");
    let files = FileServer::start(move |head, stream| {
        if head.contains("/moved") {
            let status = format!("302 Found\r\nLocation: {target}");
            send(stream, &status, b"");
        } else {
            send(stream, "500 No", SECRET.as_bytes());
        }
    });
    let sum = "1".repeat(40);
    for url in [
        files.url("file?token=hunter2z"),
        files.url("file").replace("//", "//u:hunter2z@"),
        files.url("moved?token=hunter2z"),
        "ftp://u:hunter2z@127.0.0.1/".to_owned(),
        "http://u:hunter2z@127.0.0.1:1/x".to_owned(),
        "http://u:hunter2z@ /".to_owned(),
    ] {
        let parameters = [json!(sum), json!(url), json!("u"), json!(SECRET)];
        let answer = call(&daemon, "ensurepresent", &parameters);
        assert!(!answer.contains(SECRET), "{answer}");
    }
    let parameters = [json!(SECRET), json!("x"), json!(""), json!("")];
    call(&daemon, "ensurepresent", &parameters);
    assert_eq!(elsewhere.heads().len(), 1, "the redirect was followed");
    check_no_secret_is_shown(&daemon);
}

#[test]
fn the_secrets_of_a_private_build_are_not_logged() {
    let daemon = daemon_with_secrets();
    let args = json!({
        "archive_private": true,
        "archives": ["deb http://u:hunter2z@127.0.0.1:1/ bookworm main"],
        "build_url": "http://u:hunter2z@127.0.0.1/build",
        "secrets": {"token": SECRET},
    });
    daemon.on(
        "sources",
        "echo Get:1 http://u:hunter2z@127.0.0.1:1/ bookworm; exit 1",
    );
    let answer = call(&daemon, "build", &daemon.parameters("8-1", args));
    assert!(answer.contains("BUILDING"), "{answer}");
    until("the end of the build", || {
        call(&daemon, "status", &[])
            .contains("WAITING")
            .then_some(())
    });
    call(&daemon, "clean", &[]);
    check_no_secret_is_shown(&daemon);
}
