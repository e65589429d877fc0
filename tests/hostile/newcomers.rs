//! Attacks from many addresses, which no limit per address stops and which use all connections.

use std::io::{BufReader, Read, Write};

use serde_json::json;

use super::crowd::{Caller, Gone, connect_from};
use super::siege::{Siege, attacked, echo_again, post};
use crate::support::rpc::render_call;
use crate::support::{DEADLINE, FileServer, read_answer};

/// Runs 2,000 clients from 20 addresses, and 2,000 clients from 2,000 addresses.
fn leaves_a_connection(name: &str, step: impl Fn(&Siege, &mut Caller) -> Result<(), Gone> + Sync) {
    leaves_a_connection_with("", 2000, name, step);
}

fn leaves_a_connection_with(
    config: &str,
    clients: usize,
    name: &str,
    step: impl Fn(&Siege, &mut Caller) -> Result<(), Gone> + Sync,
) {
    std::thread::scope(|scope| {
        for addresses in [20, clients] {
            let step = &step;
            scope.spawn(move || {
                let mut siege = Siege::start(config);
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
fn idle_connections_from_many_addresses_leave_one_for_others() {
    leaves_a_connection("idle", |_, caller| caller.hold());
}

#[test]
fn half_requests_from_many_addresses_leave_a_connection_for_others() {
    let starts = [
        "POST /rpc HTTP/1.1\r\nX: ",
        "POST /rpc HTTP/1.1\r\nContent-Length: 90\r\n\r\n",
    ];
    leaves_a_connection("half requests", |_, caller| {
        caller.begin(starts[caller.number % 2].as_bytes())?;
        caller.drip()?;
        caller.hold()
    });
}

/// Filling the buffers of each client takes a while, so the connections are few.
#[test]
fn unread_answers_from_many_addresses_leave_a_connection_for_others() {
    let long = "x".repeat(15_000);
    let request = echo_again(&format!("<param><value>{long}</value></param>"));
    let config = "[limits]\nconnections = 16";
    leaves_a_connection_with(config, 40, "not read", |_, caller| {
        caller.send(request.as_bytes()).map(drop)
    });
}

#[test]
fn downloads_that_never_end_leave_a_connection_for_others() {
    let files = FileServer::start(|_, stream| drop(stream.read(&mut [0])));
    let url = files.url("x");
    leaves_a_connection("files that never come", |_, caller| {
        let sum = format!("{:040x}", caller.number);
        let params = [json!(sum), json!(url), json!(""), json!("")];
        caller.begin(&post(render_call("ensurepresent", &params).as_bytes()))?;
        caller.hold()
    });
}

/// A connection that is being served is never closed for a new one.
#[test]
fn a_running_request_is_answered_when_all_connections_are_in_use() {
    let siege = Siege::start("[limits]\nconnections = 8");
    let master = connect_from(siege.other_client(), siege.port, DEADLINE).unwrap();
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
        // Each address holds two connections, and the master holds one.
        let from = siege.attackers().nth(number / 2).unwrap();
        crowd.push(connect_from(from, siege.port, DEADLINE).unwrap());
    }
}
