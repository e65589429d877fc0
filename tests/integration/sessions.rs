//! Connections from build sessions are refused (docs/wire.md §1.1).

use std::net::Ipv4Addr;
use std::process::Command;

use nix::ifaddrs::getifaddrs;

use crate::support::{Daemon, in_session, run, talk};

const HEALTH: &str = "GET /healthz HTTP/1.0\\r\\n\\r\\n";

/// An IPv4 address of this host other than loopback, if it has one.
fn own_address() -> Option<Ipv4Addr> {
    getifaddrs().unwrap().find_map(|interface| {
        let ip = interface.address?.as_sockaddr_in()?.ip();
        (!ip.is_loopback()).then_some(ip)
    })
}

/// Returns the port of the daemon at one of its addresses.
fn port_at(daemon: &Daemon, host: &str) -> u16 {
    let said = daemon.said();
    let (_, rest) = said
        .split_once(&format!("listening at http://{host}:"))
        .unwrap();
    rest.split_once('/').unwrap().0.parse().unwrap()
}

#[test]
fn a_session_on_the_host_network_is_refused_and_others_are_served() {
    let daemon = Daemon::start("bindhost = 127.0.0.1 0.0.0.0 ::");
    let mut ways = vec![
        ("127.0.0.1".to_owned(), "127.0.0.1"),
        ("::1".to_owned(), "[::]"),
    ];
    // The daemon sees the last as an IPv4-mapped IPv6 address.
    for host in ["0.0.0.0", "[::]"] {
        ways.push(("127.3.2.1".to_owned(), host));
        ways.extend(own_address().map(|address| (address.to_string(), host)));
    }
    for (address, host) in ways {
        let script = talk(&address, port_at(&daemon, host), HEALTH);
        let (_, answer) = run(in_session(&daemon, &script));
        assert!(answer.starts_with("HTTP/1.1 403 "), "{address}: {answer}");
        assert!(
            answer.contains("build sessions may not connect"),
            "{answer}"
        );
        // The same client under the id of this test.
        let mut own = Command::new("bash");
        own.args(["-c", &script]);
        let (_, answer) = run(own);
        assert!(answer.contains(" 200 OK"), "{address}: {answer}");
    }
    let said = daemon.said();
    assert!(
        said.contains("is a subordinate id: a build session may not connect"),
        "{said}"
    );
}

/// The kernel forgets the user of a closed socket, so its call is not carried out.
#[test]
fn a_session_that_closes_at_once_is_not_obeyed() {
    let daemon = Daemon::start("");
    daemon.on("sbuild", "hold");
    daemon.build("b1", serde_json::json!({}));
    daemon.wait_at("sbuild");
    let body = "<?xml version=\"1.0\"?><methodCall><methodName>abort</methodName></methodCall>";
    let call = format!(
        "POST /rpc HTTP/1.0\\r\\nContent-Length: {}\\r\\n\\r\\n{body}",
        body.len()
    );
    let port = daemon.port;
    let script = format!(
        "for n in $(seq 200); do exec 3<>/dev/tcp/127.0.0.1/{port} && printf '{call}' >&3; \
         exec 3>&-; done"
    );
    run(in_session(&daemon, &script));
    assert_eq!(daemon.state(), "BUILDING");
    daemon.let_go("sbuild");
    daemon.wait_over();
}
