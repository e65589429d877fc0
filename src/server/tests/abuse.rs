//! Tests that too many, slow or failing clients do not harm others.

use super::*;

#[test]
fn a_panic_is_answered_500() {
    let server = start();
    // More panics than threads.
    for _ in 0..20 {
        let mut client = Client::connect(&server);
        assert_eq!(client.ask("GET /panic HTTP/1.1\r\n\r\n").status, 500);
        assert!(client.is_closed());
    }
    assert_still_serves(&server);
}

#[test]
fn many_clients_at_once_are_all_answered() {
    let limits = Limits {
        connections: 64,
        connections_per_peer: 64,
        ..Limits::default()
    };
    let server = start_with(limits, Access::default(), b"");
    let mut clients: Vec<Client> = (0..64).map(|_| Client::connect(&server)).collect();
    for _ in 0..3 {
        for client in &mut clients {
            client.send(&post("hello"));
        }
        for client in &mut clients {
            assert_eq!(client.read().body, b"hello");
        }
    }
}

#[test]
fn clients_are_refused_by_address_and_by_credentials() {
    let elsewhere = Access {
        allow: vec!["192.0.2.0/24".parse().unwrap()],
        credentials: None,
    };
    let server = start_with(few_threads(), elsewhere, b"");
    assert_eq!(Client::connect(&server).read().status, 403);

    let access = Access {
        allow: vec!["127.0.0.0/8".parse().unwrap()],
        credentials: Some(("user".into(), "pass".into())),
    };
    let server = start_with(few_threads(), access, b"");
    let mut client = Client::connect(&server);
    let answer = client.ask(&post("x"));
    assert_eq!(answer.status, 401);
    assert!(
        answer
            .header("WWW-Authenticate")
            .unwrap()
            .starts_with("Basic ")
    );
    assert!(client.is_closed());
    let right = "GET /filecache/a HTTP/1.1\r\nAuthorization: Basic dXNlcjpwYXNz\r\n\r\n";
    assert_eq!(Client::connect(&server).ask(right).status, 200);
}

#[test]
fn slow_and_silent_clients_are_cut_off_after_their_timeout() {
    let limits = Limits {
        request_secs: 1,
        idle_secs: 1,
        ..few_threads()
    };
    let server = start_with(limits, Access::default(), b"");
    let starts = ["GET /", "POST /rpc HTTP/1.1\r\nContent-Length: 50\r\n\r\n"];
    let begun = Instant::now();
    let mut drips = Vec::new();
    let mut slow = Vec::new();
    for start in starts {
        let mut client = Client::connect(&server);
        client.send(start);
        let mut dripping = client.0.try_clone().unwrap();
        slow.push(client);
        // Sending single bytes does not extend the timeout.
        drips.push(thread::spawn(move || {
            while begun.elapsed() < TIMEOUT && dripping.write_all(b"x").is_ok() {
                thread::park_timeout(Duration::from_millis(100));
            }
        }));
    }
    let mut silent = Client::connect(&server);
    let mut between = Client::connect(&server);
    assert_eq!(between.ask(&post("x")).status, 200);
    for client in &mut slow {
        assert_eq!(client.read().status, 408);
    }
    drop(slow);
    assert!(silent.is_closed(), "before a request");
    assert!(between.is_closed(), "between requests");
    drips.into_iter().for_each(|drip| drip.join().unwrap());
    assert!(begun.elapsed() < TIMEOUT);
}

#[test]
fn readers_that_stop_or_slow_down_are_cut_off_and_do_not_block_calls() {
    // More than the kernel buffers between two sockets.
    let content = vec![7; 32 << 20];
    let limits = Limits {
        downloads: 2,
        downloads_per_peer: 2,
        write_secs: 1,
        lowest_rate: 64 << 20,
        ..few_threads()
    };
    let server = start_with(limits, Access::default(), &content);
    let get = "GET /filecache/a HTTP/1.1\r\n\r\n";
    let mut readers: Vec<Client> = (0..2).map(|_| Client::connect(&server)).collect();
    for reader in &mut readers {
        assert_eq!(reader.send(get).read_head().status, 200);
    }
    let mut third = Client::connect(&server);
    third.send("GET /filecache/a HTTP/1.1\r\nRange: bytes=0-1\r\n\r\n");
    let mut other = Client::connect(&server);
    assert_eq!(other.ask(&post("call")).body, b"call");
    let head = "HEAD /filecache/a HTTP/1.1\r\n\r\n";
    assert_eq!(other.send(head).read_head().status, 200);

    // One client reads nothing, one reads a little at a time: both lose their permits.
    let drips = thread::spawn({
        let mut dripping = readers[0].0.try_clone().unwrap();
        move || {
            let started = Instant::now();
            while started.elapsed() < TIMEOUT && matches!(dripping.read(&mut [0; 600]), Ok(1..)) {
                thread::park_timeout(Duration::from_millis(50));
            }
        }
    });
    assert_eq!(third.read().status, 206);
    let mut rest = Vec::new();
    let whole = readers[1].0.read_to_end(&mut rest).is_ok() && rest.len() >= content.len();
    assert!(!whole, "a client that stopped reading got the whole file");
    readers.clear();
    drips.join().unwrap();
}

#[test]
fn a_slow_call_does_not_block_another() {
    let server = start();
    let mut slow = Client::connect(&server);
    slow.send("GET /wait HTTP/1.1\r\n\r\n");
    assert_still_serves(&server);
    server.gate.send(()).unwrap();
    assert_eq!(slow.read().body, b"waited\n");
}

#[test]
fn long_bodies_are_limited_in_total() {
    let limits = Limits {
        body_bytes: 70_000,
        ..few_threads()
    };
    let server = start_with(limits, Access::default(), b"");
    let long = "x".repeat(70_000);
    let head = "POST /rpc HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 70000\r\n\r\n";
    let mut first = Client::connect(&server);
    assert_eq!(first.send(head).read_head().status, 100);
    let mut second = Client::connect(&server);
    second.send(head);
    assert_still_serves(&server);
    assert!(!second.has_input(), "it waits for its turn");
    assert_eq!(first.ask(&long).body.len(), long.len());
    assert_eq!(second.read_head().status, 100);
    assert_eq!(second.ask(&long).body.len(), long.len());
}

#[test]
fn refusals_and_sent_files_are_counted() {
    let numbers = metrics();
    let refused = |status: &str| numbers.refused.with_label_values(&[status]).get();
    // Other tests increment the same counters, so only growth is checked.
    let before: Vec<u64> = ["400", "413", "503"].map(refused).into();
    let (not_found, sent) = (refused("404"), numbers.sent_bytes.get());
    let limits = Limits {
        connections: 1,
        waiting: 0,
        ..few_threads()
    };
    let server = start_with(limits, Access::default(), b"0123456789");
    let mut client = Client::connect(&server);
    let get = |name: &str| format!("GET /{name} HTTP/1.1\r\n\r\n");
    assert_eq!(client.ask(&get("filecache/a")).body, b"0123456789");
    assert!(numbers.connections.get() > 0);
    // A body is counted after it is sent, but before the next answer of the connection.
    assert_eq!(client.ask(&get("nothing")).status, 404);
    assert!(numbers.sent_files.get() > 0 && numbers.sent_bytes.get() >= sent + 10);
    // A connection with half a request gives way to no other.
    client.send("PO");
    assert_eq!(Client::connect(&server).read().status, 503);
    assert_eq!(
        client
            .ask("ST / HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n")
            .status,
        413
    );
    drop(client);
    let started = Instant::now();
    loop {
        let mut client = Client::connect(&server);
        // The server may have rejected the connection before this write.
        let _ = client.0.write_all(b"nonsense\r\n\r\n");
        if client.read().status == 400 {
            break;
        }
        assert!(started.elapsed() < TIMEOUT, "the slot was not freed");
    }
    for (status, before) in ["400", "413", "503"].into_iter().zip(before) {
        assert!(refused(status) > before, "{status}");
    }
    assert_eq!(refused("404"), not_found, "a 404 is not a refusal");
}

#[test]
fn an_address_in_use_is_reported_with_advice() {
    let server = start();
    let error = Server::bind(server.address, Limits::default(), Access::default());
    let error = error.err().unwrap().to_string();
    assert!(error.contains(&server.address.to_string()), "{error}");
    assert!(
        error.contains("in use") && error.contains("ss -ltnp"),
        "{error}"
    );
}
