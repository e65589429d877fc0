//! Tests that what is beyond a limit waits for its turn, and delays nothing else.

use super::*;

const GET: &str = "GET /filecache/a HTTP/1.1\r\n\r\n";

/// The limits of a server whose clients all have one address, so that all limits are reached.
fn one_address() -> Limits {
    Limits {
        calls: 2,
        calls_per_peer: 2,
        downloads: 2,
        downloads_per_peer: 2,
        ..few_threads()
    }
}

#[test]
fn connections_beyond_the_limit_wait_and_are_all_answered() {
    let server = start();
    let mut busy: Vec<Client> = (0..8).map(|_| Client::connect(&server)).collect();
    for client in &mut busy {
        client.send("GET /wait HTTP/1.1\r\n\r\n");
    }
    let mut waiting: Vec<Client> = (0..100).map(|_| Client::connect(&server)).collect();
    for client in &mut waiting {
        client.send(&post("in turn"));
    }
    for _ in 0..8 {
        server.gate.send(()).unwrap();
    }
    for client in &mut busy {
        assert_eq!(client.read().body, b"waited\n");
    }
    for client in &mut waiting {
        assert_eq!(client.read().body, b"in turn");
    }
}

#[test]
fn a_kept_connection_gives_way_to_a_new_one_of_its_address() {
    let server = start();
    let mut kept: Vec<Client> = (0..8).map(|_| Client::connect(&server)).collect();
    for client in &mut kept {
        assert_eq!(client.ask(&post("in")).status, 200);
    }
    for _ in 0..20 {
        assert_eq!(Client::connect(&server).ask(&post("new")).body, b"new");
    }
}

#[test]
fn connections_are_refused_when_the_line_is_full_or_the_wait_too_long() {
    let limits = Limits {
        waiting: 1,
        wait_secs: 2,
        ..few_threads()
    };
    let server = start_with(limits, Access::default(), b"");
    let mut silent: Vec<Client> = (0..8).map(|_| Client::connect(&server)).collect();
    let begun = Instant::now();
    let mut waiting = Client::connect(&server);
    for _ in 0..20 {
        let answer = Client::connect(&server).read();
        assert_eq!(
            (answer.status, answer.header("Retry-After")),
            (503, Some("1"))
        );
    }
    assert_eq!(waiting.read().body, b"too many connections\n");
    assert!(begun.elapsed() >= Duration::from_secs(2));
    assert_eq!(silent[0].ask(&post("still")).body, b"still");
}

#[test]
fn slow_downloads_beyond_the_limit_all_succeed_and_delay_no_call() {
    // More than the kernel buffers between two sockets.
    let content = vec![7; 16 << 20];
    let server = start_with(one_address(), Access::default(), &content);
    let mut readers: Vec<Client> = (0..24).map(|_| Client::connect(&server)).collect();
    for reader in &mut readers {
        reader.send(GET);
    }
    // The two that are being sent hold two of the eight connections; the others hold none.
    for _ in 0..20 {
        assert_still_serves(&server);
    }
    let waiting = readers.iter().filter(|reader| !reader.has_input());
    assert_eq!(waiting.count(), 22);
    let read: Vec<_> = readers
        .into_iter()
        .map(|mut reader| thread::spawn(move || reader.read().body.len()))
        .collect();
    for len in read {
        assert_eq!(len.join().unwrap(), content.len());
    }
}

#[test]
fn long_calls_beyond_the_limit_wait_and_delay_no_other_call() {
    let server = start_with(one_address(), Access::default(), b"");
    let mut long: Vec<Client> = (0..120).map(|_| Client::connect(&server)).collect();
    for client in &mut long {
        client.send("GET /long HTTP/1.1\r\n\r\n");
    }
    for _ in 0..20 {
        assert_still_serves(&server);
    }
    assert!(long.iter().all(|client| !client.has_input()));
    for _ in 0..120 {
        server.gate.send(()).unwrap();
    }
    for client in &mut long {
        assert_eq!(client.read().body, b"waited\n");
    }
}

#[test]
fn a_download_that_waits_too_long_is_refused_with_its_reason() {
    let limits = Limits {
        wait_secs: 1,
        ..one_address()
    };
    let server = start_with(limits, Access::default(), &vec![7; 16 << 20]);
    let mut readers: Vec<Client> = (0..2).map(|_| Client::connect(&server)).collect();
    for reader in &mut readers {
        assert_eq!(reader.send(GET).read_head().status, 200);
    }
    let answer = Client::connect(&server).ask(GET);
    assert_eq!(answer.status, 503);
    assert_eq!(answer.header("Retry-After"), Some("1"));
    assert_eq!(answer.body, b"too many downloads at once\n");
    assert_still_serves(&server);
}

#[test]
fn requests_that_follow_a_wait_are_answered_on_the_same_connection() {
    let server = start_with(one_address(), Access::default(), b"0123456789");
    let mut long: Vec<Client> = (0..3).map(|_| Client::connect(&server)).collect();
    for client in &mut long {
        // Pipelined: the second request is read before the first has its turn.
        client.send(&("GET /long HTTP/1.1\r\n\r\n".to_owned() + &post("next")));
    }
    assert_still_serves(&server);
    for _ in 0..3 {
        server.gate.send(()).unwrap();
    }
    for client in &mut long {
        assert_eq!(client.read().body, b"waited\n");
        assert_eq!(client.read().body, b"next");
    }
}
