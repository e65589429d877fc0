//! `ensurepresent` against slow, broken and hostile servers (docs/wire.md §1.4, §5).

use std::io::{BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};

use crate::support::{Daemon, FileServer, Gate, read_answer, send, sha1, until};

const HELLO: &[u8] = b"Hello World";
const AT_ONCE: Duration = Duration::from_secs(1);

fn ensure(daemon: &Daemon, bytes: &[u8], url: &str) -> Json {
    let params = [json!(sha1(bytes)), json!(url), json!(""), json!("")];
    daemon.ok("ensurepresent", &params)
}

/// Checks that a download failed and left nothing; returns the reason in the answer.
fn check_absent(daemon: &Daemon, answer: &Json, before: &[String]) -> String {
    assert_eq!(answer[0], false, "{answer}");
    assert_eq!(daemon.names("home/filecache"), before);
    answer[1].as_str().unwrap().to_owned()
}

/// Vector 22: the reference answered nothing at all while it downloaded.
#[test]
fn v22_downloads_delay_no_other_call() {
    let daemon = Daemon::start("");
    daemon.on("sbuild", "hold");
    let gate = Gate::default();
    let closed = gate.clone();
    let files = FileServer::start(move |head, stream| {
        closed.wait();
        send(stream, "200 OK", head.split(' ').nth(1).unwrap().as_bytes());
    });
    thread::scope(|scope| {
        let downloads: Vec<_> = (0..30)
            .map(|number| {
                let (daemon, files) = (&daemon, &files);
                scope.spawn(move || {
                    let path = format!("{number}");
                    ensure(daemon, format!("/{path}").as_bytes(), &files.url(&path))
                })
            })
            .collect();
        until("downloads under way", || {
            (files.heads().len() == 30).then_some(())
        });
        let begun = Instant::now();
        assert_eq!(daemon.ok("echo", &[json!("Test")]), json!(["Test"]));
        assert_eq!(daemon.state(), "IDLE");
        daemon.build("b1", json!({}));
        daemon.wait_at("sbuild");
        let held = ensure(
            &daemon,
            b"Source: hello\nVersion: 1\n",
            "http://127.0.0.1:1/",
        );
        assert_eq!(held, json!([true, "Cache"]));
        daemon.ok("abort", &[]);
        daemon.wait_over();
        daemon.clean();
        assert!(begun.elapsed() < 4 * AT_ONCE, "{:?}", begun.elapsed());
        assert!(downloads.iter().all(|download| !download.is_finished()));
        gate.open();
        for download in downloads {
            assert_eq!(download.join().unwrap(), json!([true, "Download"]));
        }
    });
}

#[test]
fn equal_requests_share_one_download() {
    let daemon = Daemon::start("");
    let gate = Gate::default();
    let closed = gate.clone();
    let files = FileServer::start(move |_, stream| {
        closed.wait();
        send(stream, "200 OK", HELLO);
    });
    let params = [
        sha1(HELLO),
        files.url("hello"),
        String::new(),
        String::new(),
    ];
    let params: String = params
        .iter()
        .map(|text| format!("<param><value>{text}</value></param>"))
        .collect();
    let body = format!(
        "<methodCall><methodName>ensurepresent</methodName><params>{params}</params></methodCall>"
    );
    let request = format!(
        "POST /rpc HTTP/1.0\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let streams: Vec<TcpStream> = (0..8)
        .map(|_| {
            let mut stream = TcpStream::connect(("127.0.0.1", daemon.port)).unwrap();
            stream.write_all(request.as_bytes()).unwrap();
            stream
        })
        .collect();
    until("the first request", || {
        (!files.heads().is_empty()).then_some(())
    });
    // The daemon reads all earlier calls before it answers this one.
    daemon.ok("echo", &[]);
    gate.open();
    for stream in streams {
        let answer = read_answer(&mut BufReader::new(stream), false)
            .unwrap()
            .text();
        assert!(answer.contains("<boolean>1</boolean>"), "{answer}");
    }
    assert_eq!(files.heads().len(), 1);
}

/// The answer for every failed download, whatever the host did.
const FAILED: &str =
    "Error accessing Librarian: the file could not be fetched; the log of the slave says why";

#[test]
fn fetch_from_limits_requests_and_redirects() {
    let files = FileServer::start(|head, stream| match head.split(' ').nth(1).unwrap() {
        "/open/hello" => send(stream, "200 OK", HELLO),
        "/open/away" => {
            let _ = stream
                .write_all(b"HTTP/1.1 302 Found\r\nLocation: /hidden\r\nContent-Length: 0\r\n\r\n");
        }
        path => panic!("requested {path}"),
    });
    let daemon = Daemon::start(&format!(
        "fetch_from = other.example.org {}",
        files.url("open/")
    ));
    let before = daemon.names("home/filecache");
    let away = ensure(&daemon, HELLO, &files.url("open/away"));
    assert_eq!(check_absent(&daemon, &away, &before), FAILED);
    for path in ["hidden", "openly", "open/../hidden"] {
        let refused = ensure(&daemon, HELLO, &files.url(path));
        let info = check_absent(&daemon, &refused, &before);
        assert!(
            info.ends_with("is not allowed by [slave] fetch_from"),
            "{info}"
        );
    }
    let said = daemon.said();
    assert!(
        said.contains("redirected to a URL that [slave] fetch_from does not allow"),
        "{said}"
    );
    let fetched = ensure(&daemon, HELLO, &files.url("open/hello"));
    assert_eq!(fetched, json!([true, "Download"]));
}

#[test]
fn a_wrong_or_broken_answer_is_not_kept() {
    let daemon = Daemon::start("[limits]\nfetch_retries = 0\nfetch_size = 1K");
    let before = daemon.names("home/filecache");
    let files = FileServer::start(|head, stream| match head.split(' ').nth(1).unwrap() {
        "/wrong" => send(stream, "200 OK", b"Hello Wurld"),
        "/404" => send(stream, "404 Not Found", b"Hello World"),
        "/403" => send(stream, "403 Forbidden", b"Hello World"),
        "/500" => send(stream, "500 Internal Server Error", b"Hello World"),
        "/short" => {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nHello");
        }
        "/unannounced" => {
            let _ = stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nHello");
        }
        "/cut" => {
            let _ = stream
                .write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nHello\r\n");
        }
        "/huge" => send(stream, "200 OK", &[b'x'; 4096]),
        "/nonsense" => {
            let _ = stream.write_all(b"nonsense\r\n\r\n");
        }
        "/round" => {
            let _ = stream
                .write_all(b"HTTP/1.1 302 Found\r\nLocation: /round\r\nContent-Length: 0\r\n\r\n");
        }
        "/nowhere" => {
            let _ = stream.write_all(
                b"HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\nContent-Length: 0\r\n\r\n",
            );
        }
        _ => {}
    });
    for (path, start) in [
        ("wrong", "Digests did not match, removing again!"),
        ("unannounced", "Digests did not match, removing again!"),
        ("404", FAILED),
        ("403", FAILED),
        ("500", FAILED),
        ("short", FAILED),
        ("cut", FAILED),
        ("huge", FAILED),
        ("nonsense", FAILED),
        ("nothing", FAILED),
        ("round", FAILED),
        ("nowhere", FAILED),
    ] {
        let answer = ensure(&daemon, HELLO, &files.url(path));
        let info = check_absent(&daemon, &answer, &before);
        assert!(info.starts_with(start), "{path}: {info}");
    }
    for reason in [
        "HTTP Error 404: Not Found",
        "longer than the limit of 1024 bytes",
    ] {
        assert!(
            daemon.said().contains(reason),
            "{reason}: {}",
            daemon.said()
        );
    }
    // A caller cannot tell a closed port from one that answers.
    let closed = ensure(&daemon, HELLO, "http://127.0.0.1:1/");
    assert_eq!(check_absent(&daemon, &closed, &before), FAILED);
    for url in ["", "hello", "file:///etc/passwd", "ftp://127.0.0.1/x"] {
        let info = check_absent(&daemon, &ensure(&daemon, HELLO, url), &before);
        assert!(
            info.starts_with("Error accessing Librarian: "),
            "{url}: {info}"
        );
    }
}

#[test]
fn a_silent_server_runs_into_the_timeout() {
    let daemon = Daemon::start("[limits]\nfetch_retries = 0\nfetch_idle_timeout = 1");
    let before = daemon.names("home/filecache");
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let never = Gate::default();
    let stalls = FileServer::start(move |_, stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nHello");
        never.wait();
    });
    let url = format!("http://{}/x", silent.local_addr().unwrap());
    for url in [url, stalls.url("x")] {
        let begun = Instant::now();
        let info = check_absent(&daemon, &ensure(&daemon, HELLO, &url), &before);
        assert!(info.starts_with("Error accessing Librarian: "), "{info}");
        assert!(begun.elapsed() < 10 * AT_ONCE);
    }
}

#[test]
fn a_download_is_retried_after_a_503() {
    let daemon = Daemon::start("");
    let count = AtomicUsize::new(0);
    let files = FileServer::start(
        move |_, stream| match count.fetch_add(1, Ordering::SeqCst) {
            0 => send(stream, "503 Service Unavailable", b""),
            _ => send(stream, "200 OK", HELLO),
        },
    );
    assert_eq!(
        ensure(&daemon, HELLO, &files.url("x")),
        json!([true, "Download"])
    );
    assert_eq!(files.heads().len(), 2);
}

#[test]
fn credentials_reach_only_the_server() {
    let daemon = Daemon::start("[limits]\nfetch_retries = 0");
    let files = FileServer::start(|head, stream| match head.split(' ').nth(1).unwrap() {
        "/hello?token=hush77" => send(stream, "200 OK", HELLO),
        _ => send(stream, "403 Forbidden", b""),
    });
    let fetch = |path: &str, bytes: &[u8], user: &str| {
        let sum = json!(sha1(bytes));
        let params = [sum, json!(files.url(path)), json!(user), json!("hush77")];
        daemon.ok("ensurepresent", &params)
    };
    let answer = fetch("hello?token=hush77", HELLO, "buildd");
    assert_eq!(answer, json!([true, "Download"]));
    // "buildd:hush77"; then a macaroon of a librarian, which has no user.
    assert!(
        files.heads()[0]
            .to_lowercase()
            .contains("authorization: basic")
    );
    assert!(files.heads()[0].contains("YnVpbGRkOmh1c2g3Nw=="));
    let answer = fetch("other?token=hush77", b"other", "");
    assert!(files.heads()[1].contains("Omh1c2g3Nw=="));
    assert!(!answer.to_string().contains("hush77"), "{answer}");
    assert_eq!(daemon.files_holding("hush77"), [""; 0]);
}

#[test]
fn a_large_file_is_downloaded_whole() {
    static LARGE: [u8; 5 << 20] = [b'x'; 5 << 20];
    let daemon = Daemon::start("");
    let files = FileServer::of(&LARGE);
    assert_eq!(
        ensure(&daemon, &LARGE, &files.url("x")),
        json!([true, "Download"])
    );
    let answer = daemon.get(&format!("/filecache/{}", sha1(&LARGE)));
    assert!(answer.body == LARGE);
}

#[test]
fn a_download_outlives_its_caller() {
    let daemon = Daemon::start("");
    let gate = Gate::default();
    let closed = gate.clone();
    let files = FileServer::start(move |_, stream| {
        closed.wait();
        send(stream, "200 OK", HELLO);
    });
    let body = format!(
        "<methodCall><methodName>ensurepresent</methodName><params><param><value>{}</value></param>\
         <param><value>{}</value></param><param><value/></param><param><value/></param></params>\
         </methodCall>",
        sha1(HELLO),
        files.url("x")
    );
    let request = format!(
        "POST /rpc HTTP/1.0\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut stream = TcpStream::connect(("127.0.0.1", daemon.port)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    until("the request", || (files.heads().len() == 1).then_some(()));
    drop(stream);
    gate.open();
    let sum = sha1(HELLO);
    until("the file in the cache", || {
        daemon.names("home/filecache").contains(&sum).then_some(())
    });
    assert_eq!(
        ensure(&daemon, HELLO, &files.url("x")),
        json!([true, "Cache"])
    );
}
