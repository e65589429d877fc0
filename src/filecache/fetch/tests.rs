//! Tests every row of the `ensurepresent` table against a scripted server on the loopback.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;

use super::*;
use crate::filecache::Rules;

const HELLO: &str = "aaf4c61ddcc5e8a2dabede0f3b482cd9aea9434d";
const OK_HELLO: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
const DIGESTS: &str = "Digests did not match, removing again!";

/// A server that answers each connection once and records the request heads in `heads`.
struct Server {
    port: u16,
    heads: mpsc::Receiver<String>,
}

impl Server {
    /// Answers request number n, from 0, with `answer(n)`, then closes the connection.
    fn start(answer: impl Fn(usize) -> String + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (sender, heads) = mpsc::channel();
        thread::spawn(move || {
            for (number, stream) in listener.incoming().enumerate() {
                let mut stream = stream.unwrap();
                if sender.send(read_head(&stream)).is_err() {
                    return;
                }
                // The client may have disconnected.
                let _ = stream.write_all(answer(number).as_bytes());
            }
        });
        Self { port, heads }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}/file", self.port)
    }

    fn requests(&self) -> usize {
        self.heads.try_iter().count()
    }
}

fn read_head(stream: &TcpStream) -> String {
    BufReader::new(stream)
        .lines()
        .map_while(Result::ok)
        .take_while(|line| !line.is_empty())
        .map(|line| line.to_ascii_lowercase() + "\n")
        .collect()
}

fn fetcher(retries: u32) -> (tempfile::TempDir, Fetcher) {
    let dir = tempfile::tempdir().unwrap();
    let limits = FetchLimits {
        connect_timeout: Duration::from_secs(5),
        idle_timeout: Duration::from_secs(5),
        lowest_rate: 1,
        size: 1000,
        retries,
    };
    let store = Arc::new(Store::open(dir.path(), Rules::none()).unwrap());
    (dir, Fetcher::new(limits, Vec::new(), store))
}

fn count(dir: &tempfile::TempDir) -> usize {
    dir.path().read_dir().unwrap().count()
}

#[test]
fn the_answer_names_the_source_of_the_file() {
    let (dir, fetcher) = fetcher(0);
    let ask = |url: Option<&str>| fetcher.ensure_present(HELLO, url, None);
    let server = Server::start(|_| OK_HELLO.to_owned());
    assert_eq!(ask(None), (false, "No URL".to_owned()));
    assert_eq!(ask(Some(&server.url())), (true, "Download".to_owned()));
    assert_eq!(ask(Some(&server.url())), (true, "Cache".to_owned()));
    assert_eq!(ask(Some("")), (true, "Cache".to_owned()));
    assert_eq!(ask(None), (true, "No URL".to_owned()));
    assert_eq!(server.requests(), 1);
    assert_eq!(count(&dir), 1);
}

#[test]
fn malformed_sha1s_are_refused() {
    let (_dir, fetcher) = fetcher(0);
    for sha1 in [
        "",
        "../../etc/passwd",
        "buildlog",
        &HELLO.to_uppercase(),
        "a\nb",
    ] {
        let (present, info) = fetcher.ensure_present(sha1, Some("http://127.0.0.1:1/"), None);
        assert!(
            !present && info.starts_with("not a SHA-1 sum: \""),
            "{info}"
        );
        assert!(!info.contains('\n'));
        let asked = fetcher.ensure_present(sha1, None, None);
        assert_eq!(asked, (false, "No URL".to_owned()), "{sha1:?}");
    }
}

/// The answer for every failed download, whatever the host did.
const FAILED: &str =
    "Error accessing Librarian: the file could not be fetched; the log of the slave says why";

/// Returns the reason in the log for a failed download.
fn reason_for(fetcher: &Fetcher, url: &str) -> String {
    let sha1 = Sha1Hex::parse(HELLO).unwrap();
    fetcher.attempt(&sha1, url, None).unwrap_err().to_string()
}

/// The server's response, the expected reason in the log ("" for a mismatch), and the expected
/// number of requests when one retry is allowed.
const FAILURES: &[(&str, &str, usize)] = &[
    (
        "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
        "HTTP Error 404: Not Found",
        1,
    ),
    (
        "HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n",
        "HTTP Error 401: Unauthorized",
        1,
    ),
    (
        "HTTP/1.1 206 Partial Content\r\nContent-Length: 0\r\n\r\n",
        "HTTP Error 206: ",
        1,
    ),
    (
        "HTTP/1.1 503 Oh\r\nContent-Length: 0\r\n\r\n",
        "HTTP Error 503: Service Unavailable",
        2,
    ),
    ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel", "io: ", 2),
    (
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
        "io: ",
        2,
    ),
    (
        "HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n",
        "longer than the limit of 1000 bytes",
        1,
    ),
    ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nHELLO", "", 1),
    ("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nhello", "", 1),
    ("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhel", "", 1),
    (
        "HTTP/1.1 302 Found\r\nLocation: ftp://u:secret@h/\r\n\r\n",
        "redirected to a URL that is not",
        1,
    ),
    // Taken as a path on the same server: no local file is read.
    (
        "HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\nContent-Length: 0\r\n\r\n",
        "too many redirects",
        6,
    ),
    (
        "HTTP/1.1 302 Found\r\nLocation: /file\r\nContent-Length: 0\r\n\r\n",
        "too many redirects",
        6,
    ),
    ("secret nonsense\r\n\r\n", "malformed HTTP answer", 1),
    ("", "io: ", 2),
];

#[test]
fn failures_are_answers_and_leave_nothing() {
    for (response, expected, requests) in FAILURES {
        let (dir, fetcher) = fetcher(1);
        let server = Server::start(|_| (*response).to_owned());
        let (present, info) = fetcher.ensure_present(HELLO, Some(&server.url()), None);
        assert!(!present, "{response}");
        assert!(!info.contains("secret"), "{info}");
        assert_eq!(server.requests(), *requests, "{response}: {info}");
        let answer = if expected.is_empty() { DIGESTS } else { FAILED };
        assert_eq!(info, answer, "{response}");
        let reason = reason_for(&fetcher, &server.url());
        assert!(reason.starts_with(expected), "{response}: {reason}");
        assert!(!reason.contains("secret"), "{reason}");
        assert_eq!(count(&dir), 0, "{response}");
    }
}

#[test]
fn the_size_limit_holds_for_a_body_without_length() {
    let (dir, fetcher) = fetcher(0);
    let server = Server::start(|_| format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(2000)));
    let info = reason_for(&fetcher, &server.url());
    assert!(
        info.contains("longer than the limit of 1000 bytes"),
        "{info}"
    );
    assert_eq!(count(&dir), 0);
}

#[test]
fn urls_that_are_not_http_are_refused() {
    let (_dir, fetcher) = fetcher(1);
    for url in [
        "",
        "file:///etc/passwd",
        "ftp://u:secret@h/x",
        "/x",
        "http://u:secret@h/a b",
    ] {
        let (present, info) = fetcher.ensure_present(HELLO, Some(url), None);
        assert!(!present, "{url}");
        assert_eq!(
            info, "Error accessing Librarian: not an http or https URL",
            "{url}"
        );
    }
}

#[test]
fn a_refused_connection_is_named_without_credentials() {
    let (_dir, fetcher) = fetcher(0);
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let url = format!("http://user:secret@127.0.0.1:{port}/");
    let (_, info) = fetcher.ensure_present(HELLO, Some(&url), Some(("user", "hidden")));
    assert_eq!(info, FAILED);
    let info = reason_for(&fetcher, &url);
    assert!(info.contains("Connection refused"), "{info}");
    assert!(
        !info.contains("secret") && !info.contains("hidden"),
        "{info}"
    );
}

#[test]
fn a_silent_server_times_out() {
    let (_dir, mut fetcher) = fetcher(0);
    let limits = FetchLimits {
        idle_timeout: Duration::from_millis(50),
        ..fetcher.limits
    };
    fetcher = Fetcher::new(limits, Vec::new(), fetcher.store);
    let (_hold, held) = mpsc::channel::<()>();
    let server = Server::start(move |_| {
        let _ = held.recv();
        String::new()
    });
    let (present, info) = fetcher.ensure_present(HELLO, Some(&server.url()), None);
    assert_eq!((present, &*info), (false, FAILED));
    let info = reason_for(&fetcher, &server.url());
    assert!(info.starts_with("timeout: "), "{info}");
}

#[test]
fn only_allowed_urls_are_requested_and_followed() {
    let (dir, mut fetcher) = fetcher(0);
    let hidden = Server::start(|_| OK_HELLO.to_owned());
    let target = hidden.url();
    let open = Server::start(move |number| match number {
        0 => OK_HELLO.replace("hello", "wrong"),
        _ => format!("HTTP/1.1 302 Found\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n"),
    });
    let prefix = format!("http://127.0.0.1:{}/", open.port);
    let allowed = vec![prefix.parse().unwrap()];
    fetcher = Fetcher::new(fetcher.limits.clone(), allowed, fetcher.store);
    let ask = |url: &str| fetcher.ensure_present(HELLO, Some(url), None).1;
    assert_eq!(ask(&open.url()), DIGESTS);
    let refused = format!(
        "Error accessing Librarian: http://127.0.0.1:{}/… is not allowed by [slave] fetch_from",
        hidden.port
    );
    assert_eq!(ask(&hidden.url()), refused);
    assert_eq!(ask(&open.url()), FAILED);
    let reason = reason_for(&fetcher, &open.url());
    assert_eq!(
        reason,
        "redirected to a URL that [slave] fetch_from does not allow"
    );
    assert_eq!(hidden.requests(), 0);
    assert_eq!(count(&dir), 0);
}

#[test]
fn lack_of_space_is_reported_before_a_byte_is_written() {
    let (dir, mut fetcher) = fetcher(1);
    let rules = Rules {
        reserve: u64::MAX,
        ..Rules::none()
    };
    fetcher.store = Arc::new(Store::open(dir.path(), rules).unwrap());
    let server = Server::start(|_| OK_HELLO.to_owned());
    let (present, info) = fetcher.ensure_present(HELLO, Some(&server.url()), None);
    assert!(
        !present && info.starts_with("Error keeping the file: no room for 5 bytes: "),
        "{info}"
    );
    assert_eq!(server.requests(), 1);
    assert_eq!(count(&dir), 0);
}

#[test]
fn a_transient_failure_is_retried() {
    let (_dir, fetcher) = fetcher(1);
    let server = Server::start(|number| match number {
        0 => "HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n".to_owned(),
        _ => OK_HELLO.to_owned(),
    });
    let answer = fetcher.ensure_present(HELLO, Some(&server.url()), None);
    assert_eq!(answer, (true, "Download".to_owned()));
    assert_eq!(server.requests(), 2);
}

#[test]
fn credentials_are_sent_with_the_first_request_if_not_empty() {
    for (credentials, expected) in [
        (
            Some(("user", "pw")),
            Some("authorization: basic dxnlcjpwdw=="),
        ),
        (
            Some(("", "macaroon")),
            Some("authorization: basic om1hy2fyb29u"),
        ),
        (Some(("", "")), None),
        (None, None),
    ] {
        let (_dir, fetcher) = fetcher(0);
        let server = Server::start(|_| OK_HELLO.to_owned());
        assert!(
            fetcher
                .ensure_present(HELLO, Some(&server.url()), credentials)
                .0
        );
        let head = server.heads.recv().unwrap();
        let sent = head.lines().find(|line| line.starts_with("authorization"));
        assert_eq!(sent, expected);
        assert!(head.contains("accept-encoding: identity\n"), "{head}");
    }
}

#[test]
fn credentials_do_not_follow_a_redirect() {
    // The other server differs in its port only, which counts as another host.
    for userinfo in ["", "user:secret@"] {
        let (_dir, fetcher) = fetcher(0);
        let other = Server::start(|_| OK_HELLO.to_owned());
        let location = other.url();
        let first = Server::start(move |_| {
            format!("HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n")
        });
        let url = first.url().replace("//", &format!("//{userinfo}"));
        let credentials = userinfo.is_empty().then_some(("user", "secret"));
        assert!(fetcher.ensure_present(HELLO, Some(&url), credentials).0);
        assert!(
            first
                .heads
                .recv()
                .unwrap()
                .contains("authorization: basic ")
        );
        let head = other.heads.recv().unwrap();
        assert!(
            !head.contains("authorization") && !head.contains("secret"),
            "{head}"
        );
    }
}

#[test]
fn calls_for_one_sha1_share_one_download() {
    const CALLERS: usize = 8;
    let (_dir, fetcher) = fetcher(0);
    let (release, released) = mpsc::channel::<()>();
    let server = Server::start(move |_| {
        // Returns also when the test panics and drops the sender.
        let _ = released.recv();
        OK_HELLO.to_owned()
    });
    let url = server.url();
    let answers: Vec<Answer> = thread::scope(|scope| {
        let callers: Vec<_> = (0..CALLERS)
            .map(|_| scope.spawn(|| fetcher.ensure_present(HELLO, Some(&url), None)))
            .collect();
        // The map and each call, including the downloading one, hold a reference to the flight.
        let waiting = || {
            lock(&fetcher.flights)
                .values()
                .map(Arc::strong_count)
                .sum::<usize>()
        };
        while waiting() < CALLERS + 1 {
            thread::yield_now();
        }
        release.send(()).unwrap();
        callers
            .into_iter()
            .map(|caller| caller.join().unwrap())
            .collect()
    });
    assert_eq!(answers, vec![(true, "Download".to_owned()); CALLERS]);
    assert_eq!(server.requests(), 1);
    assert!(lock(&fetcher.flights).is_empty());
}
