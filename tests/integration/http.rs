//! HTTP below XML-RPC: verbs, paths, versions of HTTP, and the files of the cache.

use std::io::{BufReader, Write};
use std::net::TcpStream;

use serde_json::json;

use crate::support::{Daemon, exchange, read_answer, until};

const ECHO: &str = "<?xml version='1.0'?><methodCall><methodName>echo</methodName><params>\
                    <param><value>hi</value></param></params></methodCall>";

#[test]
fn v18_rpc_accepts_only_post() {
    let daemon = Daemon::start("");
    for path in ["/rpc", "/rpc/", "/rpc/x"] {
        for verb in ["GET", "HEAD"] {
            let answer = daemon.request(verb, path, "");
            assert_eq!((answer.status, answer.header("Allow")), (405, Some("POST")));
        }
        assert_eq!(daemon.request("PUT", path, "").status, 501);
    }
}

#[test]
fn v19_paths_below_rpc_are_rpc() {
    let daemon = Daemon::start("");
    for path in ["/rpc", "/rpc/", "/rpc/x/y"] {
        let answer = daemon.post(path, ECHO.as_bytes());
        assert!(answer.text().contains("<string>hi</string>"), "{path}");
    }
    for path in ["/", "/RPC2", "/rpcx", "/x/rpc"] {
        assert_eq!(daemon.post(path, ECHO.as_bytes()).status, 404, "{path}");
    }
}

#[test]
fn v20_http_1_0_gets_an_answer_with_its_length() {
    let daemon = Daemon::start("");
    // `post` reads to the end of the connection and fails for a chunked answer.
    let answer = daemon.post("/rpc", ECHO.as_bytes());
    let length = answer.header("Content-Length").unwrap().parse::<usize>();
    assert_eq!(length.unwrap(), answer.body.len());

    let large = "x".repeat(300_000);
    assert_eq!(daemon.ok("echo", &[json!(large)]), json!([large]));
}

#[test]
fn a_connection_is_kept_between_calls() {
    let daemon = Daemon::start("");
    let stream = TcpStream::connect(("127.0.0.1", daemon.port)).unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let request = format!(
        "POST /rpc HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n{ECHO}",
        ECHO.len()
    );
    for _ in 0..3 {
        (&stream).write_all(request.as_bytes()).unwrap();
        let answer = read_answer(&mut reader, false).unwrap();
        assert!(answer.text().contains("<string>hi</string>"));
    }
}

#[test]
fn a_cached_file_is_served_whole_and_by_ranges() {
    let daemon = Daemon::start("");
    let sum = daemon.add_file(b"0123456789");
    let path = format!("/filecache/{sum}");

    let whole = daemon.get(&path);
    assert_eq!((whole.status, whole.text().as_str()), (200, "0123456789"));
    assert_eq!(whole.header("Accept-Ranges"), Some("bytes"));
    assert!(whole.header("Last-Modified").unwrap().ends_with(" GMT"));

    let head = daemon.request("HEAD", &path, "");
    assert_eq!(
        (head.status, head.header("Content-Length")),
        (200, Some("10"))
    );

    for (range, text, place) in [
        ("bytes=2-5", "2345", "bytes 2-5/10"),
        ("bytes=7-", "789", "bytes 7-9/10"),
        ("bytes=-1", "9", "bytes 9-9/10"),
        ("bytes=5-99", "56789", "bytes 5-9/10"),
    ] {
        let part = daemon.request("GET", &path, &format!("Range: {range}\r\n"));
        assert_eq!((part.status, part.text().as_str()), (206, text), "{range}");
        assert_eq!(part.header("Content-Range"), Some(place));
    }
    let beyond = daemon.request("GET", &path, "Range: bytes=10-\r\n");
    assert_eq!(beyond.status, 416);
    assert_eq!(beyond.header("Content-Range"), Some("bytes */10"));
    assert_eq!(daemon.post(&path, b"x").status, 405);
}

#[test]
fn http_1_0_gets_a_large_file_with_its_length() {
    let daemon = Daemon::start("");
    let bytes = vec![b'x'; 3_000_000];
    let sum = daemon.add_file(&bytes);
    let request = format!("GET /filecache/{sum} HTTP/1.0\r\n\r\n");
    let answer = exchange(daemon.port, request.as_bytes()).unwrap();
    assert_eq!(answer.status, 200);
    assert!(answer.body == bytes);
}

#[test]
fn only_cached_files_and_the_log_are_served() {
    let daemon = Daemon::start("");
    let sum = daemon.add_file(b"0123456789");
    let unfinished = daemon.path("home/filecache/.tmp-x");
    std::fs::write(unfinished, "SECRET").unwrap();
    std::fs::write(daemon.path("home/secret"), "SECRET").unwrap();
    std::os::unix::fs::symlink(
        "../secret",
        daemon.path("home/filecache").join("0".repeat(40)),
    )
    .unwrap();
    for path in [
        "",
        "/",
        "/buildlog",
        "/nothing",
        "/.",
        "/..",
        "/.tmp-x",
        "/../secret",
        "/%2e%2e/secret",
        "/..%2fsecret",
        "/%2e%2e%2fsecret",
        "/%252e%252e/secret",
        "/..\\secret",
        "//etc/passwd",
        "/0000000000000000000000000000000000000000",
        "/x/../../secret",
        "/%00",
        "/%zz",
    ] {
        let answer = daemon.get(&format!("/filecache{path}"));
        assert!(
            matches!(answer.status, 400 | 404),
            "{path}: {}",
            answer.status
        );
        let text = answer.text();
        assert!(
            !text.contains("SECRET") && !text.contains(&sum),
            "{path}: {text}"
        );
    }
}

#[test]
fn the_log_grows_with_the_build_and_is_removed_by_clean() {
    let daemon = Daemon::start("");
    daemon.on("update", "echo first; hold");
    daemon.on("sbuild", "echo second; hold; . \"$site/good\"");
    std::fs::write(
        daemon.path("good"),
        "printf Hello > $work/h.bin; changes h.bin",
    )
    .unwrap();
    assert_eq!(daemon.get("/filecache/buildlog").status, 404);
    daemon.build("b1", json!({}));

    daemon.wait_at("update");
    let early = until("the first line", || {
        Some(daemon.log()).filter(|log| log.contains("first\n"))
    });
    let tail = daemon.log_tail();
    assert!(tail.ends_with(&early) || early.ends_with(&tail), "{tail}");
    daemon.let_go("update");
    daemon.wait_at("sbuild");
    let later = until("the second line", || {
        Some(daemon.log()).filter(|log| log.contains("second\n"))
    });
    assert!(later.starts_with(&early) && later.len() > early.len());
    daemon.let_go("sbuild");

    assert_eq!(daemon.wait_over()["build_status"], "BuildStatus.OK");
    let log = daemon.log();
    assert!(log.starts_with(&later) && log.len() > later.len());
    let head = daemon.request("HEAD", "/filecache/buildlog", "");
    assert_eq!(head.header("Content-Length"), Some(&*log.len().to_string()));
    daemon.clean();
    assert_eq!(daemon.get("/filecache/buildlog").status, 404);
}

#[test]
fn the_log_tail_is_the_last_two_kibibytes() {
    let daemon = Daemon::start("");
    daemon.on(
        "sbuild",
        "head -c 100000 /dev/zero | tr '\\0' x; printf 'the very end'; hold",
    );
    daemon.build("b1", json!({}));
    daemon.wait_at("sbuild");
    let tail = until("the end of the output", || {
        Some(daemon.log_tail()).filter(|tail| tail.ends_with("the very end"))
    });
    assert_eq!(tail.len(), 2048);
    assert!(tail.starts_with("xxx"));
}
