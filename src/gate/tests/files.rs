//! Files that pass: framing, conditions, pipelining, the record.

use super::support::*;
use crate::gate::Fetched;

fn file(url: &str, body: &[u8], partial: bool) -> Fetched {
    Fetched::File {
        url: url.to_owned(),
        bytes: body.len() as u64,
        sha256: sha256(body),
        partial,
        from_cache: false,
    }
}

#[test]
fn a_file_passes_and_is_recorded() {
    let body: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    let served = body.clone();
    let server = Server::start(move |_| (ok(&served), true));
    let site = Site::of(&server);
    let url = server.url("/debian/pool/a%2bb.deb");
    let reply = site.get(&url);
    assert_eq!((reply.status, reply.body == body), (200, true));
    assert_eq!(site.gate.record(), [file(&url, &body, false)]);
    let head = &server.heads()[0];
    assert!(
        head.starts_with("GET /debian/pool/a%2bb.deb HTTP/1.1\r\n"),
        "{head}"
    );
    assert!(
        head.contains(&format!("\r\nHost: {NAME}:{}\r\n", server.port)),
        "{head}"
    );
    assert_eq!((site.gate.refused(), site.gate.failed()), (vec![], vec![]));
}

#[test]
fn chunked_and_unmeasured_bodies_are_passed_as_chunks() {
    let server = Server::start(|head| {
        if head.contains("/chunked") {
            let body = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
                         5;x=y\r\nHello\r\n6\r\n World\r\n0\r\nContent-Length: 3\r\n\r\n";
            (body.to_vec(), true)
        } else {
            (b"HTTP/1.0 200 OK\r\n\r\nHello World".to_vec(), false)
        }
    });
    let site = Site::of(&server);
    let mut client = site.client();
    for path in ["/debian/chunked", "/debian/close", "/debian/chunked"] {
        client.send(&get(&server.url(path)));
        let reply = client.reply().unwrap();
        assert_eq!(reply.text(), "Hello World", "{path}");
        assert!(reply.head.contains("Transfer-Encoding: chunked\r\n"));
        assert!(!reply.head.contains("Content-Length"));
    }
    assert_eq!(site.gate.record().len(), 3);

    // A client of HTTP/1.0 finds the end by the close.
    let mut old = site.client();
    old.send(&format!(
        "GET {} HTTP/1.0\r\n\r\n",
        server.url("/debian/chunked")
    ));
    let answer = String::from_utf8(old.rest()).unwrap();
    assert!(
        answer.ends_with("\r\nConnection: close\r\n\r\nHello World"),
        "{answer}"
    );
}

#[test]
fn a_cut_body_is_cut_for_apt_too_and_not_recorded() {
    for response in [
        "HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nHello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nHello\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nHelloXX0\r\n\r\n",
    ] {
        let server = Server::start(move |_| (response.as_bytes().to_vec(), false));
        let site = Site::of(&server);
        let mut client = site.client();
        client.send(&get(&server.url("/debian/x")));
        client.reply().unwrap_err();
        assert_eq!(site.gate.record(), []);
        until("a sentence", || !site.gate.failed().is_empty());
        let failed = site.gate.failed();
        assert!(failed[0].contains("/debian/x broke off: "), "{failed:?}");
    }
}

#[test]
fn conditions_and_ranges_pass() {
    let server = Server::start(|head| {
        let answer = if head.contains("\r\nif-modified-since: ") {
            "HTTP/1.1 304 Not Modified\r\nLast-Modified: Sun, 22 Nov 2026 11:32:28 GMT\r\n\r\n"
        } else {
            assert!(head.contains("\r\nrange: bytes=6-\r\n"), "{head}");
            "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 6-10/11\r\n\
             Content-Length: 5\r\n\r\nWorld"
        };
        (answer.as_bytes().to_vec(), true)
    });
    let site = Site::of(&server);
    let url = server.url("/debian/x");
    let mut client = site.client();
    client.send(&get_with(
        &url,
        "If-Modified-Since: Sun, 22 Nov 2026 11:32:28 GMT\r\n",
    ));
    let reply = client.reply().unwrap();
    assert_eq!(reply.status, 304);
    assert!(reply.head.contains("Last-Modified: "), "{}", reply.head);
    client.send(&get_with(&url, "Range: bytes=6-\r\n"));
    let reply = client.reply().unwrap();
    assert_eq!((reply.status, reply.text().as_str()), (206, "World"));
    assert!(reply.head.contains("Content-Range: bytes 6-10/11\r\n"));
    assert_eq!(site.gate.record(), [file(&url, b"World", true)]);
    assert_eq!(server.connections(), 1);
}

#[test]
fn head_has_the_length_and_no_body() {
    let server = Server::start(|_| {
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n".to_vec(),
            true,
        )
    });
    let site = Site::of(&server);
    let mut client = site.client();
    let head = get(&server.url("/debian/x")).replace("GET", "HEAD");
    client.send(&(head.clone() + &head.replace("1.1\r\n", "1.1\r\nConnection: close\r\n")));
    let answers = String::from_utf8(client.rest()).unwrap();
    assert_eq!(answers.matches("HTTP/1.1 200 OK\r\n").count(), 2);
    assert_eq!(answers.matches("Content-Length: 1000\r\n").count(), 2);
    assert_eq!(site.gate.record(), []);
}

/// Sends all requests at once; each file holds its own path.
fn pipelined(server: &Server, count: usize) {
    let site = Site::of(server);
    let mut client = site.client();
    let paths: Vec<String> = (0..count).map(|n| format!("/debian/{n}")).collect();
    let requests: Vec<String> = paths.iter().map(|path| get(&server.url(path))).collect();
    client.send(&requests.concat());
    for path in &paths {
        assert_eq!(client.reply().unwrap().text(), *path);
    }
    assert_eq!(site.gate.record().len(), count);
    assert_eq!(site.gate.failed(), Vec::<String>::new());
}

fn path_of(head: &str) -> Vec<u8> {
    head.split(' ').nth(1).unwrap().as_bytes().to_vec()
}

#[test]
fn pipelined_requests_are_answered_in_order_on_one_connection() {
    let server = Server::start(|head| (ok(&path_of(head)), true));
    pipelined(&server, 50);
    assert_eq!(server.connections(), 1);
}

#[test]
fn pipelined_requests_reach_the_server_before_the_answers() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Barrier};
    // The server answers the second request only when it has got the third.
    let (first, later) = (Arc::new(AtomicUsize::new(0)), Arc::new(Barrier::new(2)));
    let server = Server::with(move |stream, head| {
        use std::io::Write as _;
        if first.fetch_add(1, Ordering::SeqCst) == 1 {
            let (mut stream, later) = (stream.try_clone().unwrap(), Arc::clone(&later));
            let answer = ok(&path_of(head));
            std::thread::spawn(move || {
                later.wait();
                stream.write_all(&answer).unwrap();
                later.wait();
            });
            return true;
        }
        if first.load(Ordering::SeqCst) == 3 {
            later.wait();
            later.wait();
        }
        stream.write_all(&ok(&path_of(head))).is_ok()
    });
    pipelined(&server, 3);
}

#[test]
fn a_server_that_closes_between_responses_loses_no_request() {
    for keeps in [1_usize, 3, 7] {
        let server = {
            let count = std::sync::atomic::AtomicUsize::new(0);
            Server::start(move |head| {
                let nth = count.fetch_add(1, std::sync::atomic::Ordering::SeqCst) + 1;
                (ok(&path_of(head)), nth % keeps != 0)
            })
        };
        pipelined(&server, 30);
    }
    // One that says so.
    let server = Server::start(|head| {
        let answer = String::from_utf8(ok(&path_of(head))).unwrap();
        let answer = answer.replace("Content-", "Connection: close\r\nContent-");
        (answer.into_bytes(), false)
    });
    pipelined(&server, 10);
    assert_eq!(server.connections(), 10);
}

#[test]
fn one_connection_serves_several_servers_and_refusals() {
    let one = Server::start(|_| (ok(b"one"), true));
    let two = Server::start(|_| (ok(b"two"), true));
    let site = Site::start(&[&one.url("/debian"), &two.url("/")], settings());
    let mut client = site.client();
    client.send(
        &[
            get(&one.url("/debian/x")),
            get(&two.url("/x")),
            get(&one.url("/elsewhere")),
            get(&two.url("/x")),
            get(&one.url("/debian/x")),
        ]
        .concat(),
    );
    let replies: Vec<_> = (0..5).map(|_| client.reply().unwrap()).collect();
    let statuses: Vec<u16> = replies.iter().map(|reply| reply.status).collect();
    assert_eq!(statuses, [200, 200, 403, 200, 200]);
    assert_eq!(replies[0].text() + &replies[3].text(), "onetwo");
}

#[test]
fn archives_can_be_added_later() {
    let server = Server::start(|_| (ok(b"x"), true));
    let site = Site::start(&[], settings());
    assert_eq!(site.get(&server.url("/debian/x")).status, 403);
    site.gate
        .add_archives(&[format!("deb {} sid main", server.url("/debian"))]);
    assert_eq!(site.get(&server.url("/debian/x")).status, 200);
    site.gate
        .add_archives(&["deb tor+http://deb.test/ sid main".to_owned()]);
    assert!(site.gate.refused().iter().any(|s| s.contains("(tor+http)")));
}

#[test]
fn a_password_reaches_its_archive_only() {
    let server = Server::start(|_| {
        let answer = "HTTP/1.1 302 Found\r\nLocation: http://cdn.test:80/x?signed=secret2\r\n\
                      Content-Length: 0\r\n\r\n";
        (answer.as_bytes().to_vec(), true)
    });
    let target = Server::start(|_| (ok(b"x"), true));
    let host = format!("cdn.test:{}", target.port);
    let archive = server
        .url("/debian")
        .replace("http://", "http://u:secret3@");
    let site = Site::redirecting(
        &[&archive],
        &[&host, "cdn.test:80", "cdn.test:1"],
        settings(),
    );
    let with = "Authorization: Basic secret1\r\n";
    let mut client = site.client();
    client.send(&get_with(&server.url("/debian/x"), with));
    client.reply().unwrap();
    client.send(&get_with(&format!("http://{host}/x?signed=secret2"), with));
    assert_eq!(client.reply().unwrap().text(), "x");
    assert!(server.heads()[0].contains("authorization: Basic secret1\r\n"));
    let forwarded = &target.heads()[0];
    assert!(
        forwarded.starts_with("GET /x?signed=secret2 "),
        "{forwarded}"
    );
    assert!(!forwarded.contains("secret1"), "{forwarded}");
    let told = format!("{:?}{:?}", site.gate.record(), site.gate.refused());
    assert!(!told.contains("secret"), "{told}");
}
