//! A gate under test, a server that answers as told, and a client.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};

use crate::gate::settings::Settings;
use crate::gate::{Gate, Limits, Rules, start};
use crate::sys::digest::hex;
use crate::sys::lock::lock;

/// The name of the server in all tests; it resolves to loopback.
pub(super) const NAME: &str = "deb.test";

/// A whole response with a length.
pub(super) fn ok(body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
    [head.as_bytes(), body].concat()
}

pub(super) fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Waits for a condition.
pub(super) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < end, "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// An HTTP server on loopback. Closes a connection after a response without length.
pub(super) struct Server {
    pub(super) port: u16,
    /// The heads of all requests.
    heads: Arc<Mutex<Vec<String>>>,
    connections: Arc<Mutex<usize>>,
}

/// The answer to a request head: bytes, and whether the connection stays open.
pub(super) type Answer = (Vec<u8>, bool);

impl Server {
    pub(super) fn start(answer: impl Fn(&str) -> Answer + Send + Sync + 'static) -> Self {
        Self::with(move |stream, head| {
            let (bytes, keep) = answer(head);
            stream.write_all(&bytes).is_ok() && keep
        })
    }

    /// Calls `serve` for each request; it returns whether the connection stays open.
    pub(super) fn with(
        serve: impl Fn(&mut TcpStream, &str) -> bool + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Self {
            port: listener.local_addr().unwrap().port(),
            heads: Arc::default(),
            connections: Arc::default(),
        };
        let (heads, connections) = (server.heads.clone(), server.connections.clone());
        let serve = Arc::new(serve);
        thread::spawn(move || {
            for stream in listener.incoming() {
                *lock(&connections) += 1;
                let (heads, serve) = (heads.clone(), serve.clone());
                thread::spawn(move || serve_one(stream.unwrap(), &heads, &*serve));
            }
        });
        server
    }

    pub(super) fn heads(&self) -> Vec<String> {
        lock(&self.heads).clone()
    }

    pub(super) fn connections(&self) -> usize {
        *lock(&self.connections)
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("http://{NAME}:{}{path}", self.port)
    }
}

fn serve_one(
    mut stream: TcpStream,
    heads: &Mutex<Vec<String>>,
    serve: &dyn Fn(&mut TcpStream, &str) -> bool,
) {
    let mut input = Vec::new();
    loop {
        let end = loop {
            if let Some(at) = input.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            let mut buffer = [0; 4096];
            match stream.read(&mut buffer) {
                Ok(0) | Err(_) => return,
                Ok(count) => input.extend_from_slice(&buffer[..count]),
            }
        };
        let head = String::from_utf8(input.drain(..end).collect()).unwrap();
        lock(heads).push(head.clone());
        if !serve(&mut stream, &head) {
            return;
        }
    }
}

/// A gate and its port.
pub(super) struct Site {
    pub(super) gate: Gate,
    pub(super) port: u16,
}

pub(super) fn settings() -> Settings {
    let second = Duration::from_secs(1);
    let mut settings = Settings::new(Limits {
        connections: 8,
        head: second,
        client_idle: second * 5,
        connect: second * 5,
        server_idle: second * 5,
        lowest_rate: 1,
        file_bytes: 1 << 30,
    });
    settings.private = vec![NAME.parse().unwrap(), "cdn.test".parse().unwrap()];
    let loopback = IpAddr::from([127, 0, 0, 1]);
    resolve_to(
        &mut settings,
        &[
            (NAME, &[loopback]),
            ("cdn.test", &[loopback]),
            ("evil.test", &[loopback]),
        ],
    );
    settings
}

pub(super) fn resolve_to(settings: &mut Settings, names: &[(&str, &[IpAddr])]) {
    let names: HashMap<String, Vec<IpAddr>> = names
        .iter()
        .map(|(name, addresses)| ((*name).to_owned(), addresses.to_vec()))
        .collect();
    settings.resolve = Arc::new(move |name| {
        let found = names.get(name).cloned();
        found.ok_or_else(|| std::io::Error::other("no such name"))
    });
}

impl Site {
    pub(super) fn start(sources: &[&str], settings: Settings) -> Self {
        Self::redirecting(sources, &[], settings)
    }

    pub(super) fn redirecting(sources: &[&str], to: &[&str], settings: Settings) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let sources: Vec<String> = sources.iter().map(|&source| source.to_owned()).collect();
        let to: Vec<_> = to.iter().map(|host| host.parse().unwrap()).collect();
        let gate = start(listener, Rules::from_sources(&sources, &to), settings).unwrap();
        Self { gate, port }
    }

    /// A gate for the archive `/debian` of `server`.
    pub(super) fn of(server: &Server) -> Self {
        Self::start(&[&server.url("/debian")], settings())
    }

    pub(super) fn client(&self) -> Client {
        let stream = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], self.port))).unwrap();
        let timeout = Some(Duration::from_secs(20));
        stream.set_read_timeout(timeout).unwrap();
        Client {
            stream,
            input: Vec::new(),
        }
    }

    pub(super) fn get(&self, url: &str) -> Reply {
        let mut client = self.client();
        client.send(&get(url));
        client.reply().unwrap()
    }
}

pub(super) fn get(url: &str) -> String {
    get_with(url, "")
}

pub(super) fn get_with(url: &str, headers: &str) -> String {
    format!("GET {url} HTTP/1.1\r\nHost: ignored\r\n{headers}\r\n")
}

pub(super) struct Client {
    pub(super) stream: TcpStream,
    pub(super) input: Vec<u8>,
}

#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) head: String,
    pub(super) body: Vec<u8>,
}

impl Reply {
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Client {
    pub(super) fn send(&mut self, bytes: &str) {
        self.stream.write_all(bytes.as_bytes()).unwrap();
    }

    /// Reads more bytes; false at the end.
    fn more(&mut self) -> bool {
        let mut buffer = [0; 64 << 10];
        match self.stream.read(&mut buffer) {
            Ok(count) => {
                self.input.extend_from_slice(&buffer[..count]);
                count > 0
            }
            Err(error) => {
                let kind = error.kind();
                assert!(kind == std::io::ErrorKind::ConnectionReset, "{error}");
                false
            }
        }
    }

    /// Reads to the end of the connection.
    pub(super) fn rest(mut self) -> Vec<u8> {
        while self.more() {}
        self.input
    }

    /// Reads one response; the error is what came of a cut one.
    pub(super) fn reply(&mut self) -> Result<Reply, Vec<u8>> {
        let end = loop {
            if let Some(at) = self.input.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            if !self.more() {
                return Err(std::mem::take(&mut self.input));
            }
        };
        let head = String::from_utf8(self.input.drain(..end).collect()).unwrap();
        let status = head[9..12].parse().unwrap();
        let field = |name: &str| {
            let line = head.lines().find_map(|line| line.strip_prefix(name));
            line.map(str::to_owned)
        };
        let body = if field("Transfer-Encoding: ").is_some() {
            self.chunks()?
        } else if let Some(length) = field("Content-Length: ") {
            self.take(length.parse().unwrap())?
        } else {
            Vec::new()
        };
        Ok(Reply { status, head, body })
    }

    fn take(&mut self, count: usize) -> Result<Vec<u8>, Vec<u8>> {
        while self.input.len() < count {
            if !self.more() {
                return Err(std::mem::take(&mut self.input));
            }
        }
        Ok(self.input.drain(..count).collect())
    }

    fn chunks(&mut self) -> Result<Vec<u8>, Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let mut line = Vec::new();
            while !line.ends_with(b"\r\n") {
                line.extend(self.take(1)?);
            }
            let line = String::from_utf8(line).unwrap();
            let size = usize::from_str_radix(line.trim(), 16).unwrap();
            body.extend(self.take(size)?);
            self.take(2)?;
            if size == 0 {
                return Ok(body);
            }
        }
    }
}
