//! Tests a real server on a free port with clients that write raw bytes.
//!
//! `exchange` tests single exchanges, `response_stream` answers of unknown length, `request_stream`
//! streamed request bodies, `waits` what waits for its turn, and `abuse` hostile clients. This
//! file holds the shared server and
//! client.

mod abuse;
mod exchange;
mod request_stream;
mod response_stream;
mod waits;

use super::*;
use crate::metrics::metrics;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, UNIX_EPOCH};

/// A test that waits this long fails.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Serves `content` as the only file, echoes RPC bodies, and obeys commands in the path.
struct Echo {
    content: File,
    len: u64,
    /// Each GET of `/wait` or `/long` takes one message.
    gate: Mutex<Receiver<()>>,
    /// Receives the error of each request stream that failed.
    errors: Mutex<Sender<ErrorKind>>,
}

impl Handler for Echo {
    fn handle(&self, request: &Request) -> Response {
        match request.path.as_str() {
            "/panic" => panic!("requested by the test"),
            "/query" => return Response::text(200, &format!("{} {}", request.query, request.peer)),
            "/wait" | "/long" => {
                self.gate.lock().unwrap().recv_timeout(TIMEOUT).unwrap();
                return Response::text(200, "waited");
            }
            _ => {}
        }
        match route(&request.method, &request.path) {
            Route::Rpc => Response::bytes(200, "text/xml", request.body.clone()),
            Route::File(name) => {
                // A new file description, so that transfers do not share a position.
                let path = format!("/proc/self/fd/{}", self.content.as_raw_fd());
                let declared = if name == "longer" {
                    self.len + 1
                } else {
                    self.len
                };
                let file = File::open(path).unwrap();
                let time = UNIX_EPOCH + Duration::from_secs(784_111_777);
                serve_file(request, file, declared, "application/octet-stream", time)
            }
            Route::Log(id) => Response {
                status: 200,
                headers: Vec::new(),
                body: Body::Stream(Box::new(Words(id.split(' ').map(str::to_owned).collect()))),
            },
            Route::NotFound | Route::Metrics | Route::Health => Response::text(404, "not found"),
            Route::NotImplemented => Response::text(501, "not implemented"),
            Route::MethodNotAllowed { allow } => {
                Response::text(405, "not allowed").with_header("Allow", allow)
            }
        }
    }

    fn takes_long(&self, request: &Request) -> bool {
        request.path == "/long"
    }

    fn takes_stream(&self, request: &Request) -> bool {
        request.method == Method::Put && request.path.starts_with("/stream")
    }

    /// Counts and adds up the body's bytes. Some paths leave bytes unread.
    fn receive(&self, request: &Request, body: &mut dyn Read, len: u64) -> Response {
        assert!(request.body.is_empty());
        let (mut count, mut sum, mut buffer) = (0, 0, vec![0; 100_000]);
        loop {
            match request.path.as_str() {
                "/stream/refused" => return Response::text(403, "not you"),
                "/stream/panic" => panic!("requested by the test"),
                "/stream/half" if count >= len / 2 => return Response::text(409, "enough"),
                _ => {}
            }
            match body.read(&mut buffer) {
                Ok(0) => return Response::text(201, &format!("{count} of {len}: {sum}")),
                Ok(read) => {
                    count += read as u64;
                    sum += buffer[..read].iter().map(|&b| u64::from(b)).sum::<u64>();
                }
                Err(error) => {
                    let _ = self.errors.lock().unwrap().send(error.kind());
                    return Response::text(408, "body incomplete");
                }
            }
        }
    }
}

/// Yields one word after another. `-` yields nothing, `!` an error, `...` repeats without end.
struct Words(VecDeque<String>);

impl BodyStream for Words {
    fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        // The pace of a log that grows.
        thread::sleep(Duration::from_millis(10));
        match self.0.pop_front().as_deref() {
            Some("!") => Err(io::Error::other("requested by the test")),
            Some("-") => Ok(Some(Vec::new())),
            Some("...") => {
                self.0.push_front("...".to_owned());
                Ok(Some(Vec::new()))
            }
            word => Ok(word.map(|word| word.as_bytes().to_vec())),
        }
    }
}

struct TestServer {
    address: SocketAddr,
    stop: StopHandle,
    thread: Option<JoinHandle<Result<(), Error>>>,
    gate: Sender<()>,
    errors: Receiver<ErrorKind>,
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.stop.stop();
        let ended = self.thread.take().unwrap().join().unwrap();
        assert!(ended.is_ok());
    }
}

fn few_threads() -> Limits {
    Limits {
        connections: 8,
        connections_per_peer: 8,
        ..Limits::default()
    }
}

fn start_with(limits: Limits, access: Access, content: &[u8]) -> TestServer {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(content).unwrap();
    let (gate, receiver) = channel();
    let (sender, errors) = channel();
    let handler = Echo {
        content: file,
        len: content.len() as u64,
        gate: Mutex::new(receiver),
        errors: Mutex::new(sender),
    };
    let server = Server::bind("127.0.0.1:0", limits, access).unwrap();
    let address = server.local_addr().unwrap();
    let stop = server.stop_handle();
    let thread = thread::spawn(move || server.run(Arc::new(handler)));
    TestServer {
        address,
        stop,
        thread: Some(thread),
        gate,
        errors,
    }
}

fn start() -> TestServer {
    start_with(few_threads(), Access::default(), b"0123456789")
}

/// An answer as the client reads it.
#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.head
            .lines()
            .filter_map(|line| line.split_once(": "))
            .find_map(|(field, value)| field.eq_ignore_ascii_case(name).then_some(value))
    }
}

struct Client(TcpStream);

impl Client {
    fn connect(server: &TestServer) -> Self {
        let stream = TcpStream::connect(server.address).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        stream.set_write_timeout(Some(TIMEOUT)).unwrap();
        Self(stream)
    }

    fn send(&mut self, bytes: &str) -> &mut Self {
        self.0.write_all(bytes.as_bytes()).unwrap();
        self
    }

    fn read_head(&mut self) -> Answer {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            self.0.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap();
        Answer {
            status: head[9..12].parse().unwrap(),
            head,
            body: Vec::new(),
        }
    }

    fn read(&mut self) -> Answer {
        let mut answer = self.read_head();
        assert_eq!(answer.header("Transfer-Encoding"), None);
        answer.body = vec![0; answer.header("Content-Length").unwrap().parse().unwrap()];
        self.0.read_exact(&mut answer.body).unwrap();
        answer
    }

    fn ask(&mut self, bytes: &str) -> Answer {
        self.send(bytes).read()
    }

    /// Returns whether bytes of an answer have arrived. Does not wait.
    fn has_input(&self) -> bool {
        self.0.set_nonblocking(true).unwrap();
        let peeked = self.0.peek(&mut [0]);
        self.0.set_nonblocking(false).unwrap();
        peeked.is_ok()
    }

    /// Returns whether the server has closed or reset the connection without another byte.
    fn is_closed(&mut self) -> bool {
        match self.0.read(&mut [0]) {
            Ok(count) => count == 0,
            Err(error) => error.kind() == ErrorKind::ConnectionReset,
        }
    }
}

fn post(body: &str) -> String {
    format!(
        "POST /rpc HTTP/1.1\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Checks that the server still answers a new client.
fn assert_still_serves(server: &TestServer) {
    assert_eq!(Client::connect(server).ask(&post("alive")).body, b"alive");
}
