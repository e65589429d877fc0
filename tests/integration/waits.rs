//! Calls and downloads beyond a limit wait for their turn (docs/wire.md §1.1).

use std::io::{BufReader, Read, Write};
use std::net::TcpStream;
use std::thread;

use serde_json::{Value as Json, json};

use crate::support::rpc::{parse_answer, render_call};
use crate::support::{DEADLINE, Daemon, FileServer, Gate, read_answer, send, sha1, until};

/// Begins a request and returns its connection.
fn begin(daemon: &Daemon, request: &str) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", daemon.port)).unwrap();
    stream.set_read_timeout(Some(2 * DEADLINE)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    stream
}

fn call(method: &str, params: &[Json]) -> String {
    let body = render_call(method, params);
    format!(
        "POST /rpc HTTP/1.0\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Calls `ensurepresent` as Launchpad does: on a connection of its own.
fn ensure(daemon: &Daemon, number: usize, files: &FileServer) -> Json {
    let path = number.to_string();
    let sum = sha1(format!("/{path}").as_bytes());
    let url = json!(files.url(&path));
    let request = call("ensurepresent", &[json!(sum), url, json!(""), json!("")]);
    let answer = read_answer(&mut BufReader::new(begin(daemon, &request)), false).unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    parse_answer(&answer.body).unwrap()
}

/// A server whose files are their own paths, served while the gate is open.
fn gated_files(gate: &Gate) -> FileServer {
    let closed = gate.clone();
    FileServer::start(move |head, stream| {
        closed.wait();
        send(stream, "200 OK", head.split(' ').nth(1).unwrap().as_bytes());
    })
}

#[test]
fn a_hundred_and_twenty_files_are_fetched_at_once_and_delay_no_status() {
    let daemon = Daemon::start("");
    let gate = Gate::default();
    let files = gated_files(&gate);
    thread::scope(|scope| {
        let calls: Vec<_> = (0..120)
            .map(|number| {
                scope.spawn({
                    let (daemon, files) = (&daemon, &files);
                    move || ensure(daemon, number, files)
                })
            })
            .collect();
        until("as many downloads as one address may have", || {
            (files.heads().len() == 32).then_some(())
        });
        for _ in 0..10 {
            assert_eq!(daemon.state(), "IDLE");
        }
        assert_eq!(files.heads().len(), 32);
        gate.open();
        for call in calls {
            assert_eq!(call.join().unwrap(), json!([true, "Download"]));
        }
    });
    daemon.check_usable();
}

#[test]
fn twenty_four_results_over_a_slow_link_are_all_sent_and_delay_no_status() {
    // More than the kernel buffers between two sockets.
    const BYTES: usize = 16 << 20;
    let daemon = Daemon::start("");
    let sum = daemon.add_file(&vec![b'x'; BYTES]);
    let get = format!("GET /filecache/{sum} HTTP/1.0\r\n\r\n");
    let readers: Vec<TcpStream> = (0..24).map(|_| begin(&daemon, &get)).collect();
    let begun = |reader: &&TcpStream| {
        reader.set_nonblocking(true).unwrap();
        let begun = reader.peek(&mut [0]).is_ok();
        reader.set_nonblocking(false).unwrap();
        begun
    };
    // Nobody reads: sixteen fill the buffers between two sockets, the others wait.
    until("as many downloads as one address may have", || {
        (readers.iter().filter(begun).count() == 16).then_some(())
    });
    for _ in 0..10 {
        assert_eq!(daemon.state(), "IDLE");
    }
    assert_eq!(readers.iter().filter(begun).count(), 16);
    let lengths = readers.into_iter().map(|mut reader| {
        thread::spawn(move || {
            let (mut length, mut piece) = (0, vec![0; 64 << 10]);
            loop {
                match reader.read(&mut piece).unwrap() {
                    0 => return length,
                    count => length += count,
                }
            }
        })
    });
    for length in lengths.collect::<Vec<_>>() {
        assert!(length.join().unwrap() > BYTES);
    }
}

#[test]
fn a_wait_that_is_too_long_ends_with_a_503() {
    let daemon = Daemon::start("[limits]\nconnections_per_peer = 2\nwait_timeout = 1");
    let gate = Gate::default();
    let files = gated_files(&gate);
    thread::scope(|scope| {
        let first = scope.spawn(|| ensure(&daemon, 0, &files));
        until("the first download", || {
            (files.heads().len() == 1).then_some(())
        });
        let url = json!(files.url("1"));
        let request = call(
            "ensurepresent",
            &[json!(sha1(b"/1")), url, json!(""), json!("")],
        );
        let waiting = begin(&daemon, &request);
        let refused = read_answer(&mut BufReader::new(waiting), false).unwrap();
        assert_eq!(refused.status, 503);
        assert_eq!(refused.header("Retry-After"), Some("1"));
        assert_eq!(refused.text(), "too many long calls at once\n");
        assert_eq!(daemon.state(), "IDLE");
        gate.open();
        assert_eq!(first.join().unwrap(), json!([true, "Download"]));
    });
    assert!(daemon.said().contains("too many long calls at once"));
}
