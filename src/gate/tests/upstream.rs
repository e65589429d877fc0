//! Tunnels, and the operator's proxy.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::thread;

use super::support::*;
use crate::gate::{Fetched, Upstream};

/// A server that greets, then sends back what it gets.
fn echo() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            thread::spawn(move || echo_one(stream.unwrap()));
        }
    });
    port
}

fn echo_one(mut stream: TcpStream) {
    let _ = stream.write_all(b"hello ");
    let mut buffer = [0; 4096];
    while let Ok(count) = stream.read(&mut buffer) {
        if count == 0 || stream.write_all(&buffer[..count]).is_err() {
            return;
        }
    }
}

fn connect(authority: &str) -> String {
    format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n")
}

#[test]
fn a_tunnel_carries_bytes_both_ways_and_is_recorded() {
    let port = echo();
    let site = Site::start(&[&format!("https://{NAME}:{port}/debian")], settings());
    let mut client = site.client();
    // The first bytes come together with the request.
    client.send(&(connect(&format!("{NAME}:{port}")) + "early "));
    assert_eq!(client.reply().unwrap().status, 200);
    client.send("late");
    client.stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(client.rest(), b"hello early late");
    until("the record", || !site.gate.record().is_empty());
    let tunnel = Fetched::Tunnel {
        authority: format!("{NAME}:{port}"),
        bytes_sent: 10,
        bytes_received: 16,
    };
    assert_eq!(site.gate.record(), [tunnel]);
}

#[test]
fn tunnels_lead_to_https_archives_only() {
    let port = echo();
    let sources = [
        format!("https://{NAME}:{port}/debian"),
        format!("http://cdn.test:{port}/debian"),
    ];
    let site = Site::start(&[&sources[0], &sources[1]], settings());
    for authority in [
        format!("cdn.test:{port}"),
        format!("evil.test:{port}"),
        format!("127.0.0.1:{port}"),
        format!("{NAME}:22"),
        format!("{NAME}:443"),
    ] {
        let mut client = site.client();
        client.send(&connect(&authority));
        assert_eq!(client.reply().unwrap().status, 403, "{authority}");
        assert!(format!("{:?}", site.gate.refused()).contains(&authority));
    }
    assert_eq!(site.gate.record(), []);
}

#[test]
fn a_tunnel_ends_with_the_gate_when_idle_and_over_its_limit() {
    let port = echo();
    let source = format!("https://{NAME}:{port}/");
    let authority = format!("{NAME}:{port}");
    let site = Site::start(&[&source], settings());
    let mut client = site.client();
    client.send(&connect(&authority));
    client.reply().unwrap();
    site.gate.close();
    client.rest();

    let mut idle = settings();
    idle.limits.client_idle = std::time::Duration::from_millis(300);
    let site = Site::start(&[&source], idle);
    let mut client = site.client();
    client.send(&connect(&authority));
    client.reply().unwrap();
    assert_eq!(client.rest(), b"hello ");

    let mut small = settings();
    small.limits.file_bytes = 100;
    let site = Site::start(&[&source], small);
    let mut client = site.client();
    client.send(&connect(&authority));
    client.reply().unwrap();
    let _ = client.stream.write_all(&[b'x'; 100]);
    client.rest();
    until("a sentence", || !site.gate.refused().is_empty());
}

#[test]
fn the_operators_proxy_gets_whole_urls_and_its_password() {
    let proxy = Server::with(|stream, head| {
        if head.starts_with("CONNECT ") {
            let _ = stream.write_all(b"HTTP/1.0 200 OK\r\nContent-Length: 9\r\n\r\n");
            echo_one(stream.try_clone().unwrap());
            return false;
        }
        stream.write_all(&ok(b"by proxy")).is_ok()
    });
    let mut settings = settings();
    let url = format!("http://me:secret@127.0.0.1:{}/", proxy.port);
    settings.upstream = Some(Upstream::parse(&url).unwrap());
    settings.private.clear();
    // The proxy looks names up, the gate does not.
    resolve_to(&mut settings, &[]);
    let sources = [
        "http://one.test/debian",
        "http://two.test:81/debian",
        "https://three.test/",
        "http://localhost/debian",
        "http://169.254.169.254/debian",
        "https://10.0.0.1/debian",
    ];
    let site = Site::start(&sources, settings);
    let mut client = site.client();
    let urls = ["http://one.test/debian/x", "http://two.test:81/debian/y"];
    client.send(&(get(urls[0]) + &get(urls[1]) + &get("http://four.test/z")));
    assert_eq!(client.reply().unwrap().text(), "by proxy");
    assert_eq!(client.reply().unwrap().text(), "by proxy");
    assert_eq!(client.reply().unwrap().status, 403);
    let password = "\r\nProxy-Authorization: Basic bWU6c2VjcmV0\r\n";
    for (head, url) in proxy.heads().iter().zip(urls) {
        assert!(
            head.starts_with(&format!("GET {url} HTTP/1.1\r\n")),
            "{head}"
        );
        assert!(head.contains(password), "{head}");
    }
    assert_eq!(proxy.connections(), 1);

    let mut client = site.client();
    client.send(&connect("three.test:443"));
    assert_eq!(client.reply().unwrap().status, 200);
    client.send("bye");
    client.stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(client.rest(), b"hello bye");
    let head = proxy.heads().pop().unwrap();
    assert!(
        head.starts_with("CONNECT three.test:443 HTTP/1.1\r\n"),
        "{head}"
    );
    assert!(head.contains(password), "{head}");

    // The proxy must not be used to reach itself or its network.
    for url in [
        "http://localhost/debian/x",
        "http://169.254.169.254/debian/x",
    ] {
        assert_eq!(site.get(url).status, 403, "{url}");
    }
    let mut client = site.client();
    client.send(&connect("10.0.0.1:443"));
    assert_eq!(client.reply().unwrap().status, 403);
    let told = format!("{:?}{:?}", site.gate.record(), site.gate.refused());
    assert!(!told.contains("secret") && !told.contains("bWU6"), "{told}");
}

#[test]
fn a_proxy_that_refuses_is_named() {
    let proxy = Server::start(|head| {
        let status = if head.starts_with("CONNECT ") {
            "403 Forbidden"
        } else {
            "407 Proxy Authentication Required"
        };
        (
            format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").into_bytes(),
            true,
        )
    });
    let mut settings = settings();
    let url = format!("http://127.0.0.1:{}/", proxy.port);
    settings.upstream = Some(Upstream::parse(&url).unwrap());
    let site = Site::start(&["http://one.test/", "https://one.test/"], settings);
    let reply = site.get("http://one.test/x");
    assert_eq!(reply.status, 502);
    assert!(
        reply.text().contains("[proxy] apt wants a password"),
        "{reply:?}"
    );
    let mut client = site.client();
    client.send(&connect("one.test:443"));
    let reply = client.reply().unwrap();
    assert_eq!(reply.status, 502);
    assert!(reply.text().contains("status 403 Forbidden"), "{reply:?}");
}
