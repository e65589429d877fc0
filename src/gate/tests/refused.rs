//! Requests that the gate refuses, and their sentences.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::support::*;

#[test]
fn other_hosts_ports_and_paths_are_refused_and_named() {
    let server = Server::start(|_| (ok(b"secret"), true));
    let site = Site::of(&server);
    let port = server.port;
    for url in [
        server.url("/"),
        server.url("/debian"),
        server.url("/debian2/x"),
        server.url("/x/debian/x"),
        format!("http://evil.test:{port}/debian/x"),
        format!("http://127.0.0.1:{port}/debian/x"),
        format!("http://{NAME}/debian/x"),
        // apt repeats the user of a source in the request; it decides nothing.
        format!("http://{NAME}:{port}@evil.test/debian/x"),
    ] {
        let reply = site.get(&url);
        assert_eq!(reply.status, 403, "{url}");
        assert!(reply.text().starts_with("The gate refused "), "{reply:?}");
    }
    for url in [
        server.url("/debian/../x"),
        server.url("/debian/%2e%2e/x"),
        server.url("/debian/%2e%2e%2fx"),
        "/debian/x".to_owned(),
        "https://deb.test/debian/x".to_owned(),
    ] {
        assert_eq!(site.get(&url).status, 400, "{url}");
    }
    assert_eq!(server.connections(), 0);
    let refused = site.gate.refused();
    let evil = format!(
        "The gate refused http://evil.test:{port}: it is not an archive of this build. Add it to \
         the build's archives if it is one, or to [gate] redirect_to if an archive redirects there."
    );
    assert!(refused.contains(&evil), "{refused:#?}");
    assert_eq!(site.gate.record(), []);
}

#[test]
fn other_methods_are_refused_and_end_the_connection() {
    let server = Server::start(|_| (ok(b"x"), true));
    let site = Site::of(&server);
    let url = server.url("/debian/x");
    for (request, status) in [
        (
            format!("POST {url} HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc"),
            405,
        ),
        (format!("DELETE {url} HTTP/1.1\r\n\r\n"), 405),
        (get_with(&url, "Content-Length: 40\r\n"), 400),
        (get_with(&url, "Transfer-Encoding: chunked\r\n"), 400),
    ] {
        let mut client = site.client();
        client.send(&(request + &get(&url)));
        let answers = String::from_utf8(client.rest()).unwrap();
        assert!(
            answers.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answers}"
        );
        assert_eq!(answers.matches("HTTP/1.1").count(), 1, "{answers}");
    }
    assert_eq!(server.connections(), 0);
}

#[test]
fn redirects_lead_to_allowed_hosts_only() {
    let server = Server::start(|head| {
        let target = head.split(' ').nth(1).unwrap();
        let location = match target {
            "/debian/own" => "/debian/x",
            "/debian/cdn" => "http://cdn.test/x?token",
            "/debian/tls" => "https://cdn.test/x",
            "/debian/out" => "/private/x",
            "/debian/other" => "http://evil.test/x?token",
            "/debian/tls-other" => "https://deb.test/debian/x",
            "/debian/metadata" => "http://169.254.169.254/latest/meta-data/",
            "/debian/file" => "file:///etc/passwd",
            "/debian/user" => "http://u:p@cdn.test/x",
            _ => return (ok(b"here"), true),
        };
        let head = format!("HTTP/1.1 302 Found\r\nLocation: {location}\r\n");
        (
            format!("{head}Content-Length: 5\r\n\r\nmoved").into_bytes(),
            true,
        )
    });
    let site = Site::redirecting(&[&server.url("/debian")], &["cdn.test"], settings());
    let mut client = site.client();
    for (path, status) in [
        ("own", 302),
        ("cdn", 302),
        ("tls", 302),
        ("out", 403),
        ("other", 403),
        ("tls-other", 403),
        ("metadata", 403),
        ("file", 403),
        ("user", 403),
        ("x", 200),
    ] {
        client.send(&get(&server.url(&format!("/debian/{path}"))));
        let reply = client.reply().unwrap();
        assert_eq!(reply.status, status, "{path}: {reply:?}");
    }
    let refused = site.gate.refused();
    assert!(
        refused.contains(&format!(
            "The gate refused the redirect of {} to http://evil.test/x. If the archive is known \
             to use that host, add evil.test to [gate] redirect_to.",
            server.url("/debian/other")
        )),
        "{refused:#?}"
    );
    assert!(!format!("{refused:?}").contains("token"));
}

#[test]
fn hosts_without_a_public_address_are_refused_unless_the_operator_names_them() {
    let server = Server::start(|_| (ok(b"secret"), true));
    let addresses: Vec<IpAddr> = [
        "127.0.0.1",
        "169.254.169.254",
        "10.1.2.3",
        "::1",
        "::ffff:127.0.0.1",
        "64:ff9b::7f00:1",
        "fe80::1",
    ]
    .map(|address| address.parse().unwrap())
    .to_vec();
    let port = server.port;
    for address in addresses {
        let mut settings = settings();
        settings.private.clear();
        resolve_to(&mut settings, &[(NAME, &[address])]);
        let literal = match address {
            IpAddr::V4(address) => format!("http://{address}:{port}/x"),
            IpAddr::V6(address) => format!("http://[{address}]:{port}/x"),
        };
        let site = Site::start(&[&server.url("/debian"), &literal], settings);
        for url in [server.url("/debian/x"), format!("{literal}/y")] {
            let reply = site.get(&url);
            assert_eq!(reply.status, 403, "{url}");
            let text = reply.text();
            assert!(
                text.contains(&format!("its address {address} is not public")),
                "{text}"
            );
            assert!(text.trim_end().ends_with(" to [gate] private."), "{text}");
        }
    }
    assert_eq!(server.connections(), 0);

    for (pattern, status) in [
        (format!("{NAME}:{port}"), 200),
        (NAME.to_owned(), 200),
        ("*.test".to_owned(), 200),
        (format!("{NAME}:80"), 403),
        ("127.0.0.1".to_owned(), 403),
    ] {
        let mut settings = settings();
        settings.private = vec![pattern.parse().unwrap()];
        let site = Site::start(&[&server.url("/debian")], settings);
        assert_eq!(
            site.get(&server.url("/debian/x")).status,
            status,
            "{pattern}"
        );
    }
}

#[test]
fn a_name_is_looked_up_once_so_that_it_cannot_change_after_the_check() {
    let server = Server::start(|_| (ok(b"x"), true));
    let lookups = Arc::new(AtomicUsize::new(0));
    let mut settings = settings();
    let count = Arc::clone(&lookups);
    settings.resolve = Arc::new(move |_| match count.fetch_add(1, Ordering::SeqCst) {
        0 => Ok(vec![IpAddr::from([127, 0, 0, 1])]),
        _ => Ok(vec![IpAddr::from([127, 0, 0, 2])]),
    });
    let site = Site::start(&[&server.url("/debian")], settings);
    assert_eq!(site.get(&server.url("/debian/x")).status, 200);
    assert_eq!(lookups.load(Ordering::SeqCst), 1);
}

#[test]
fn a_public_address_of_this_host_is_refused() {
    // Only where this host has one.
    let Ok(probe) = std::net::UdpSocket::bind("0.0.0.0:0") else {
        return;
    };
    // Sends nothing: it only chooses the source address.
    let routed = probe
        .connect("198.41.0.4:53")
        .and_then(|()| probe.local_addr());
    let Ok(own) = routed.map(|address| address.ip()) else {
        return;
    };
    let mut settings = settings();
    settings.private.clear();
    resolve_to(&mut settings, &[(NAME, &[own])]);
    let site = Site::start(&["http://deb.test/debian"], settings);
    let reply = site.get("http://deb.test/debian/x");
    assert_eq!(reply.status, 403, "{own} {reply:?}");
}

#[test]
fn servers_that_cannot_be_reached_are_failures_not_refusals() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = closed.local_addr().unwrap().port();
    drop(closed);
    let archive = format!("http://{NAME}:{port}/d");
    let site = Site::start(&[&archive, "http://nowhere.test/d"], settings());
    let reply = site.get(&format!("{archive}/x"));
    assert_eq!(reply.status, 502);
    assert!(
        reply
            .head
            .starts_with("HTTP/1.1 502 cannot connect to deb.test:")
    );
    let reply = site.get("http://nowhere.test/d/x");
    assert_eq!(
        reply.text(),
        "The gate cannot look up the host nowhere.test: no such name.\n"
    );
    assert_eq!(site.gate.refused(), Vec::<String>::new());
    assert_eq!(site.gate.failed().len(), 2);
}

#[test]
fn a_closed_gate_refuses_everything() {
    let server = Server::start(|_| (ok(b"x"), true));
    let site = Site::start(&[&server.url("/debian"), "https://deb.test"], settings());
    assert_eq!(site.get(&server.url("/debian/x")).status, 200);
    let mut idle = site.client();
    idle.send(&get(&server.url("/debian/x")));
    idle.reply().unwrap();
    site.gate.close();
    site.gate.close();
    assert_eq!(idle.rest(), b"");
    for request in [
        get(&server.url("/debian/x")),
        "CONNECT deb.test:443 HTTP/1.1\r\n\r\n".to_owned(),
    ] {
        let mut client = site.client();
        client.send(&request);
        let reply = client.reply().unwrap();
        let expected = "HTTP/1.1 403 the build has begun: no network\r\n";
        assert!(reply.head.starts_with(expected), "{reply:?}");
    }
    assert_eq!(server.connections(), 2);
    assert_eq!(site.gate.record().len(), 2);
    assert_eq!(site.gate.refused().len(), 2);
}
