//! Crowds from many addresses: no cap for one address holds them, and all places are taken.

use std::io::{BufReader, Read, Write};

use serde_json::json;

use super::crowd::{Caller, Gone, connect_from};
use super::siege::{Siege, attacked, echo_again, post};
use crate::support::rpc::render_call;
use crate::support::{DEADLINE, FileServer, read_answer};

/// Lets 2,000 clients attack from 20 addresses together, and from one each.
fn keeps_a_place(name: &str, step: impl Fn(&Siege, &mut Caller) -> Result<(), Gone> + Sync) {
    keeps_a_place_with("", 2000, name, step);
}

fn keeps_a_place_with(
    config: &str,
    clients: usize,
    name: &str,
    step: impl Fn(&Siege, &mut Caller) -> Result<(), Gone> + Sync,
) {
    std::thread::scope(|scope| {
        for addresses in [20, clients] {
            let step = &step;
            scope.spawn(move || {
                let mut siege = Siege::lay(config);
                siege.crowded = true;
                let from: Vec<_> = siege.attackers().take(addresses).collect();
                let from: Vec<_> = from.into_iter().cycle().take(clients).collect();
                attacked(&siege, &from, |caller| step(&siege, caller));
                siege.check_service();
                siege.show(&format!("{name} from {addresses} addresses"));
            });
        }
    });
}

#[test]
fn idle_connections_from_everywhere() {
    keeps_a_place("idle", |_, caller| caller.hold());
}

#[test]
fn half_requests_from_everywhere() {
    let starts = [
        "POST /rpc HTTP/1.1\r\nX: ",
        "POST /rpc HTTP/1.1\r\nContent-Length: 90\r\n\r\n",
    ];
    keeps_a_place("half requests", |_, caller| {
        caller.begin(starts[caller.number % 2].as_bytes())?;
        caller.drip()?;
        caller.hold()
    });
}

/// To make each of them wait takes a while, so there are few places.
#[test]
fn answers_not_read_from_everywhere() {
    let long = "x".repeat(15_000);
    let request = echo_again(&format!("<param><value>{long}</value></param>"));
    let config = "[limits]\nconnections = 16";
    keeps_a_place_with(config, 40, "not read", |_, caller| {
        caller.send(request.as_bytes()).map(drop)
    });
}

#[test]
fn files_that_never_come() {
    let files = FileServer::start(|_, stream| drop(stream.read(&mut [0])));
    let url = files.url("x");
    keeps_a_place("files that never come", |_, caller| {
        let sum = format!("{:040x}", caller.number);
        let params = [json!(sum), json!(url), json!(""), json!("")];
        caller.begin(&post(render_call("ensurepresent", &params).as_bytes()))?;
        caller.hold()
    });
}

/// The least that a crowd of strangers may cost a master that has a connection already: what it
/// has asked is answered on it.
#[test]
fn a_request_under_way_is_answered_when_all_places_are_wanted() {
    let siege = Siege::lay("[limits]\nconnections = 8");
    let master = connect_from(siege.stranger(), siege.port, DEADLINE).unwrap();
    let body = b"<methodCall><methodName>echo</methodName></methodCall>";
    let head = format!(
        "POST /rpc HTTP/1.1\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let mut reader = BufReader::new(master.try_clone().unwrap());
    let mut crowd = Vec::new();
    for number in 0..20 {
        (&master)
            .write_all(&[head.as_bytes(), body].concat())
            .unwrap();
        assert_eq!(
            read_answer(&mut reader, false).unwrap().status,
            200,
            "{number}"
        );
        // Two each, so that the master holds fewest.
        let from = siege.attackers().nth(number / 2).unwrap();
        crowd.push(connect_from(from, siege.port, DEADLINE).unwrap());
    }
}
