//! Many well-behaved clients at a time.

use std::io::{BufReader, Write};
use std::net::TcpStream;
use std::time::Instant;

use super::crowd::connect_from;
use super::siege::{Siege, attack_time, echo_again};
use crate::support::{DEADLINE, read_answer};

/// Runs `clients` that call in turn, each on one persistent connection, and checks every answer.
fn serves(clients: usize) {
    let siege = Siege::start("");
    let request = echo_again("");
    let mut clients: Vec<(TcpStream, BufReader<TcpStream>)> = (0..clients)
        .map(|_| {
            let stream = connect_from(siege.attacker(), siege.port, DEADLINE).unwrap();
            let reader = BufReader::new(stream.try_clone().unwrap());
            (stream, reader)
        })
        .collect();
    let ending = Instant::now() + attack_time();
    while Instant::now() < ending {
        for (stream, _) in &mut clients {
            stream.write_all(request.as_bytes()).unwrap();
        }
        siege.check_status(siege.other_client());
        for (_, reader) in &mut clients {
            let answer = read_answer(reader, false).unwrap();
            assert_eq!(answer.status, 200, "{}", answer.text());
            assert_eq!(answer.header("Connection"), Some("keep-alive"));
        }
    }
    let count = clients.len();
    drop(clients);
    siege.check_service();
    siege.show(&format!("{count} honest clients"));
}

#[test]
fn five_clients_at_once_are_all_served() {
    serves(5);
}

#[test]
fn sixty_four_clients_at_once_are_all_served() {
    serves(64);
}
