//! Tests request bodies that a handler reads as a stream.

use super::*;

fn put(path: &str, len: usize, more: &str) -> String {
    format!("PUT {path} HTTP/1.1\r\nContent-Length: {len}\r\n{more}\r\n")
}

#[test]
fn a_body_over_the_memory_limit_is_streamed_and_the_connection_kept() {
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
    // A body that is held in memory is still limited.
    assert_eq!(client.ask(&put("/elsewhere", len, "")).status, 413);
}

#[test]
fn empty_and_pipelined_bodies_are_streamed() {
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
fn expect_100_continue_is_answered_before_a_stream() {
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
fn a_stream_without_a_length_is_refused() {
    let server = start();
    let mut client = Client::connect(&server);
    assert_eq!(client.ask("PUT /stream HTTP/1.1\r\n\r\n").status, 411);
    assert!(client.is_closed());
    // A path that takes no streams gets its usual answer.
    let mut client = Client::connect(&server);
    assert_eq!(client.ask("PUT /rpc HTTP/1.1\r\n\r\n").status, 501);
}

#[test]
fn an_unread_body_closes_the_connection() {
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
fn a_stream_that_ends_early_or_stalls_is_an_error() {
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
fn a_stream_below_the_lowest_rate_is_cut_off() {
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
fn streams_are_limited_and_do_not_block_other_requests() {
    let limits = Limits {
        uploads: 1,
        ..few_threads()
    };
    let server = start_with(limits, Access::default(), b"");
    let mut first = Client::connect(&server);
    let expect = put("/stream", 2, "Expect: 100-continue\r\n");
    assert_eq!(first.send(&expect).read_head().status, 100);
    let mut second = Client::connect(&server);
    second.send(&(put("/stream", 2, "") + "\x02\x02"));
    assert_still_serves(&server);
    assert!(!second.has_input(), "it waits for its turn");
    assert_eq!(first.ask("\x01\x01").body, b"2 of 2: 2\n");
    assert_eq!(second.read().body, b"2 of 2: 4\n");
}

#[test]
fn a_handler_sees_query_and_peer() {
    let server = start();
    let answer = Client::connect(&server).ask("GET /query?a=%2e&b?c HTTP/1.1\r\n\r\n");
    assert_eq!(answer.body, b"a=%2e&b?c 127.0.0.1\n");
}

/// Echoes what it reads.
struct EchoProtocol(Limits);

impl Protocol for EchoProtocol {
    fn serve(self: Arc<Self>, slot: &ConnectionSlot) -> Option<Parked> {
        let mut wire = Wire::new(slot, &self.0);
        let deadline = Instant::now() + TIMEOUT;
        while let Ok(true) = wire.read_more(deadline) {
            let input = wire.take(usize::MAX);
            wire.write(&input, deadline).unwrap();
        }
        None
    }

    fn rejection(&self, status: u16, reason: &str) -> Vec<u8> {
        format!("{status} {reason}").into_bytes()
    }
}

#[test]
fn another_protocol_is_served_under_the_same_limits() {
    let limits = Limits {
        connections: 1,
        waiting: 1,
        ..few_threads()
    };
    let server = Server::bind("127.0.0.1:0", limits.clone(), Access::default()).unwrap();
    let (address, stop) = (server.local_addr().unwrap(), server.stop_handle());
    let running = thread::spawn(move || server.run_protocol(Arc::new(EchoProtocol(limits)), || ()));
    let connect = || {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        Client(stream)
    };
    let mut first = connect();
    first.send("hello\n");
    let mut echoed = [0; 6];
    first.0.read_exact(&mut echoed).unwrap();
    assert_eq!(&echoed, b"hello\n");
    let mut second = connect();
    second.send("later\n");
    let mut third = String::new();
    connect().0.read_to_string(&mut third).unwrap();
    assert_eq!(third, "503 too many connections");
    drop(first);
    second.0.read_exact(&mut echoed).unwrap();
    assert_eq!(&echoed, b"later\n");
    drop(second);
    stop.stop();
    assert!(running.join().unwrap().is_ok());
}
