//! Slow, endless and malformed peers on both sides, and a gate that closes meanwhile.

use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use super::support::*;

#[test]
fn ambiguous_responses_are_not_passed_on() {
    for headers in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Content-Length: 5\r\nContent-Length: 50",
        "Transfer-Encoding: gzip, chunked",
        "Content-Length: -5",
        "Location: /debian/a\r\nLocation: http://evil.test/",
    ] {
        let server = Server::start(move |_| {
            let smuggled = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
            let answer = format!("HTTP/1.1 200 OK\r\n{headers}\r\n\r\n0\r\n\r\n{smuggled}");
            (answer.into_bytes(), true)
        });
        let site = Site::of(&server);
        let mut client = site.client();
        let request = get(&server.url("/debian/x"));
        client.send(&(request.clone() + &request));
        for _ in 0..2 {
            let reply = client.reply().unwrap();
            assert_eq!(reply.status, 502, "{headers}");
            assert!(!reply.text().contains("evil"), "{headers}");
        }
    }
}

#[test]
fn bytes_behind_a_response_are_not_the_next_one() {
    // The server sends two responses to one request.
    let server = Server::start(|head| {
        let evil = if head.contains("/debian/a") {
            ok(b"evil")
        } else {
            Vec::new()
        };
        ([ok(b"good"), evil].concat(), true)
    });
    let site = Site::of(&server);
    let mut client = site.client();
    for path in ["/debian/a", "/debian/b"] {
        client.send(&get(&server.url(path)));
        assert_eq!(client.reply().unwrap().text(), "good", "{path}");
    }
}

#[test]
fn files_over_the_limit_are_refused_or_cut() {
    let server = Server::start(|head| {
        if head.contains("/debian/stated") {
            return (
                b"HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n".to_vec(),
                true,
            );
        }
        let head = b"HTTP/1.1 200 OK\r\n\r\n";
        ([head.as_slice(), &[b'x'; 1001]].concat(), false)
    });
    let mut settings = settings();
    settings.limits.file_bytes = 1000;
    let site = Site::start(&[&server.url("/debian")], settings);
    let reply = site.get(&server.url("/debian/stated"));
    assert_eq!(reply.status, 403);
    assert!(reply.text().contains("([limits] fetch_size)"), "{reply:?}");
    let mut client = site.client();
    client.send(&get(&server.url("/debian/endless")));
    client.reply().unwrap_err();
    until("a sentence", || site.gate.failed().len() == 1);
    assert!(site.gate.failed()[0].contains("[limits] fetch_size"));
    assert_eq!(site.gate.record(), []);
}

#[test]
fn silent_and_slow_servers_are_given_up() {
    let server = Server::with(|stream, head| {
        if head.contains("/debian/half") {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf");
        }
        if head.contains("/debian/slow") {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n");
            while stream.write_all(b"x").is_ok() {
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        // Waits for the gate to close.
        let _ = stream.read(&mut [0]);
        false
    });
    let mut settings = settings();
    settings.limits.server_idle = Duration::from_millis(400);
    settings.limits.lowest_rate = 1000;
    let site = Site::start(&[&server.url("/debian")], settings);
    let begun = Instant::now();
    assert_eq!(site.get(&server.url("/debian/silent")).status, 502);
    for path in ["half", "slow"] {
        let mut client = site.client();
        client.send(&get(&server.url(&format!("/debian/{path}"))));
        client.reply().unwrap_err();
    }
    assert!(begun.elapsed() < Duration::from_secs(5));
    until("three sentences", || site.gate.failed().len() == 3);
    let failed = site.gate.failed();
    assert!(failed[0].ends_with("no answer in time."), "{failed:#?}");
    assert!(
        failed[1].ends_with("no byte arrived in time."),
        "{failed:#?}"
    );
    assert!(
        failed[2].contains("slower than 1000 bytes per second"),
        "{failed:#?}"
    );
}

#[test]
fn slow_clients_are_cut_off() {
    let server = Server::with(|stream, _| {
        let head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n";
        let _ = stream.write_all(head);
        while stream.write_all(&[b'x'; 64 << 10]).is_ok() {}
        false
    });
    let mut settings = settings();
    settings.limits.head = Duration::from_millis(300);
    settings.limits.client_idle = Duration::from_millis(300);
    let site = Site::start(&[&server.url("/debian")], settings);

    // A head that never ends.
    let mut loris = site.client();
    let begun = Instant::now();
    for byte in get(&server.url("/debian/x")).bytes() {
        if loris.stream.write_all(&[byte]).is_err() {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(loris.rest(), b"");
    assert!(begun.elapsed() < Duration::from_secs(5));

    // No request at all.
    assert_eq!(site.client().rest(), b"");

    // Never reads.
    let mut deaf = site.client();
    deaf.send(&get(&server.url("/debian/x")));
    until("the deaf client is cut off", || {
        !site.gate.failed().is_empty()
    });
    let failed = site.gate.failed();
    assert!(failed[0].contains("broke off: apt: "), "{failed:?}");
}

#[test]
fn connections_are_limited() {
    let server = Server::start(|_| (ok(b"x"), true));
    let mut settings = settings();
    settings.limits.connections = 2;
    let site = Site::start(&[&server.url("/debian")], settings);
    let mut held: Vec<Client> = (0..2).map(|_| site.client()).collect();
    for client in &mut held {
        client.send(&get(&server.url("/debian/x")));
        assert_eq!(client.reply().unwrap().status, 200);
    }
    assert_eq!(site.client().reply().unwrap().status, 503);
    held.pop();
    until("a slot is free", || {
        let mut client = site.client();
        let sent = client
            .stream
            .write_all(get(&server.url("/debian/x")).as_bytes());
        sent.is_ok() && client.reply().is_ok_and(|reply| reply.status == 200)
    });
}

#[test]
fn closing_or_dropping_the_gate_ends_a_download() {
    for drop_it in [false, true] {
        let server = Server::with(|stream, _| {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf");
            let _ = stream.read(&mut [0]);
            false
        });
        let site = Site::of(&server);
        let mut client = site.client();
        client.send(&get(&server.url("/debian/x")));
        let mut begun = [0; 5];
        client.stream.read_exact(&mut begun).unwrap();
        if drop_it {
            drop(site.gate);
        } else {
            site.gate.close();
        }
        assert!(client.rest().len() < 1000);
    }
}
