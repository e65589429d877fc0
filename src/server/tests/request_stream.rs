//! What becomes of bodies that a handler takes as they come.

use super::*;

fn put(path: &str, len: usize, more: &str) -> String {
    format!("PUT {path} HTTP/1.1\r\nContent-Length: {len}\r\n{more}\r\n")
}

#[test]
fn a_body_longer_than_any_held_in_memory_is_streamed_and_the_connection_kept() {
    let limits = Limits {
        body_bytes: 1000,
        ..few_threads()
    };
    let server = start_with(limits, Access::default(), b"");
    let mut client = Client::connect(&server);
    let len = 5_000_000;
    for _ in 0..2 {
        client.send(&put("/stream", len, ""));
        client.0.write_all(&vec![1; len]).unwrap();
        let answer = client.read();
        assert_eq!(answer.status, 201);
        assert_eq!(answer.body, format!("{len} of {len}: {len}\n").as_bytes());
        assert_eq!(answer.header("Connection"), Some("keep-alive"));
    }
    // Held in memory it is as limited as ever.
    assert_eq!(client.ask(&put("/elsewhere", len, "")).status, 413);
}

#[test]
fn bodies_empty_and_pipelined() {
    let server = start();
    let mut client = Client::connect(&server);
    let both = [
        put("/stream", 0, ""),
        put("/stream", 3, ""),
        "\x01\x02\x03".into(),
    ]
    .concat();
    client.send(&(both + &post("next")));
    assert_eq!(client.read().body, b"0 of 0: 0\n");
    assert_eq!(client.read().body, b"3 of 3: 6\n");
    assert_eq!(client.read().body, b"next");
}

#[test]
fn a_client_that_asks_first_is_answered_first() {
    let server = start();
    let expect = "Expect: 100-continue\r\n";
    let mut client = Client::connect(&server);
    assert_eq!(
        client.send(&put("/stream", 2, expect)).read_head().status,
        100
    );
    assert_eq!(client.ask("\x01\x01").body, b"2 of 2: 2\n");

    let refused = client.send(&put("/stream/refused", 1 << 40, expect)).read();
    assert_eq!(refused.status, 403);
    assert_eq!(refused.header("Connection"), Some("close"));
    assert!(client.is_closed());
}

#[test]
fn a_stream_has_to_tell_its_length() {
    let server = start();
    let mut client = Client::connect(&server);
    assert_eq!(client.ask("PUT /stream HTTP/1.1\r\n\r\n").status, 411);
    assert!(client.is_closed());
    // To a handler that takes no streams it is a verb like any other.
    let mut client = Client::connect(&server);
    assert_eq!(client.ask("PUT /rpc HTTP/1.1\r\n\r\n").status, 501);
}

#[test]
fn what_is_left_unread_costs_the_connection() {
    let server = start();
    for (path, status) in [
        ("/stream/refused", 403),
        ("/stream/half", 409),
        ("/stream/panic", 500),
    ] {
        let mut client = Client::connect(&server);
        client.send(&put(path, 400_000, ""));
        client.0.write_all(&[1; 400_000]).unwrap();
        assert_eq!(client.read().status, status, "{path}");
        assert!(client.is_closed(), "{path}");
    }
    assert_still_serves(&server);
}

#[test]
fn a_stream_that_ends_early_or_stands_still_is_an_error() {
    let limits = Limits {
        request_secs: 1,
        ..few_threads()
    };
    let server = start_with(limits, Access::default(), b"");
    let mut client = Client::connect(&server);
    client.send(&put("/stream", 10, "")).send("12345");
    client.0.shutdown(Shutdown::Write).unwrap();
    assert_eq!(
        server.errors.recv_timeout(TIMEOUT).unwrap(),
        ErrorKind::UnexpectedEof
    );
    let mut silent = Client::connect(&server);
    silent.send(&put("/stream", 10, "")).send("12345");
    assert_eq!(silent.read().status, 408);
    assert_eq!(
        server.errors.recv_timeout(TIMEOUT).unwrap(),
        ErrorKind::TimedOut
    );
}

#[test]
fn a_stream_that_drips_is_cut_off_by_its_pace() {
    let limits = Limits {
        request_secs: 1,
        lowest_rate: 1 << 20,
        ..few_threads()
    };
    let server = start_with(limits, Access::default(), b"");
    let mut client = Client::connect(&server);
    client.send(&put("/stream", 1 << 30, ""));
    let mut dripping = client.0.try_clone().unwrap();
    let drip = thread::spawn(move || {
        let begun = Instant::now();
        while begun.elapsed() < TIMEOUT && dripping.write_all(b"x").is_ok() {
            thread::park_timeout(Duration::from_millis(50));
        }
    });
    assert_eq!(client.read().status, 408);
    drop(client);
    drip.join().unwrap();
}

#[test]
fn streams_are_limited_in_number_and_others_are_not_held_up() {
    let limits = Limits {
        uploads: 1,
        ..few_threads()
    };
    let server = start_with(limits, Access::default(), b"");
    let mut first = Client::connect(&server);
    let expect = put("/stream", 2, "Expect: 100-continue\r\n");
    assert_eq!(first.send(&expect).read_head().status, 100);
    let mut second = Client::connect(&server);
    assert_eq!(second.ask(&put("/stream", 2, "")).status, 503);
    assert_still_serves(&server);
    assert_eq!(first.ask("\x01\x01").status, 201);
}

#[test]
fn a_handler_sees_query_and_peer() {
    let server = start();
    let answer = Client::connect(&server).ask("GET /query?a=%2e&b?c HTTP/1.1\r\n\r\n");
    assert_eq!(answer.body, b"a=%2e&b?c 127.0.0.1\n");
}

/// Answers lines with lines.
struct Lines(Limits);

impl Protocol for Lines {
    fn serve(&self, slot: &ConnectionSlot) {
        let mut wire = Wire::new(slot, &self.0);
        let deadline = Instant::now() + TIMEOUT;
        while let Ok(true) = wire.read_more(deadline) {
            let said = wire.take(usize::MAX);
            wire.write(&said, deadline).unwrap();
        }
    }

    fn rejection(&self, status: u16, reason: &str) -> Vec<u8> {
        format!("{status} {reason}").into_bytes()
    }
}

#[test]
fn another_protocol_behind_the_same_door() {
    let limits = Limits {
        connections: 1,
        ..few_threads()
    };
    let server = Server::bind("127.0.0.1:0", limits.clone(), Access::default()).unwrap();
    let (address, stop) = (server.local_addr().unwrap(), server.stop_handle());
    let running = thread::spawn(move || server.run_protocol(Arc::new(Lines(limits))));
    let connect = || {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        Client(stream)
    };
    let mut first = connect();
    first.send("hello\n");
    let mut heard = [0; 6];
    first.0.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"hello\n");
    let mut second = String::new();
    connect().0.read_to_string(&mut second).unwrap();
    assert_eq!(second, "503 too many connections");
    stop.stop();
    assert!(running.join().unwrap().is_ok());
}
