//! A cheap client, as it shares the machine with both servers.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::rpc::render_call;

/// A call, and the kind of its connection.
#[derive(Clone)]
pub(crate) struct Caller {
    port: u16,
    request: Vec<u8>,
    keep_alive: bool,
}

impl Caller {
    /// A caller of an XML-RPC method with the parameter `text`, or without one if it is empty.
    /// Without `keep_alive` it speaks HTTP/1.0, as masters do.
    pub(crate) fn new(port: u16, method: &str, text: &str, keep_alive: bool) -> Self {
        let parameters: Vec<_> = (!text.is_empty())
            .then(|| text.into())
            .into_iter()
            .collect();
        let body = render_call(method, &parameters);
        let version = if keep_alive { "1.1" } else { "1.0" };
        let request = format!(
            "POST /rpc HTTP/{version}\r\nHost: localhost\r\nContent-Type: text/xml\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        Self {
            port,
            request: request.into_bytes(),
            keep_alive,
        }
    }

    /// Calls for `time` on so many connections; returns the calls per second.
    pub(crate) fn rate(&self, connections: usize, time: Duration) -> f64 {
        let began = Instant::now();
        let until = began + time;
        let calls: u64 = thread::scope(|scope| {
            let callers: Vec<_> = (0..connections)
                .map(|_| scope.spawn(|| self.calls(until)))
                .collect();
            callers
                .into_iter()
                .map(|caller| caller.join().unwrap())
                .sum()
        });
        calls as f64 / began.elapsed().as_secs_f64()
    }

    fn calls(&self, until: Instant) -> u64 {
        let mut calls = 0;
        let mut kept = None;
        while Instant::now() < until {
            self.call_on(&mut kept).unwrap();
            calls += 1;
        }
        calls
    }

    /// Makes one call on a new connection; returns the time it took.
    pub(crate) fn once(&self) -> io::Result<Duration> {
        let began = Instant::now();
        self.call_on(&mut None)?;
        Ok(began.elapsed())
    }

    fn call_on(&self, kept: &mut Option<TcpStream>) -> io::Result<()> {
        let mut stream = match kept.take() {
            Some(stream) => stream,
            None => TcpStream::connect(("127.0.0.1", self.port))?,
        };
        stream.write_all(&self.request)?;
        read_answer(&mut stream)?;
        *kept = self.keep_alive.then_some(stream);
        Ok(())
    }
}

/// Reads and discards one answer.
fn read_answer(stream: &mut TcpStream) -> io::Result<()> {
    let mut answer = [0; 16 << 10];
    let mut have = 0;
    let mut need = usize::MAX;
    while have < need {
        let count = stream.read(&mut answer[have..])?;
        if count == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        have += count;
        if need == usize::MAX {
            let mut ends = answer[..have].windows(4);
            if let Some(head) = ends.position(|end| end == b"\r\n\r\n") {
                need = head + 4 + body_bytes(&answer[..head])?;
            }
        }
    }
    Ok(())
}

/// Returns the Content-Length of a 200 answer.
fn body_bytes(head: &[u8]) -> io::Result<usize> {
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    let (_, length) = head
        .split_once("content-length:")
        .ok_or(ErrorKind::InvalidData)?;
    let length = length
        .lines()
        .next()
        .and_then(|length| length.trim().parse().ok());
    let is_good = head.split(' ').nth(1) == Some("200");
    length
        .filter(|_| is_good)
        .ok_or_else(|| io::Error::other(head))
}

/// Downloads and discards a file on so many connections at once; returns the bytes per second.
pub(crate) fn download(port: u16, path: &str, readers: usize, bytes: u64) -> f64 {
    let began = Instant::now();
    let read_one = || {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let request = format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut buffer = vec![0; 256 << 10];
        let mut read = 0;
        loop {
            match stream.read(&mut buffer).unwrap() {
                0 => break,
                count => read += count as u64,
            }
        }
        assert!(read > bytes, "{path}: {read} bytes of {bytes}");
    };
    thread::scope(|scope| {
        for reader in (0..readers)
            .map(|_| scope.spawn(read_one))
            .collect::<Vec<_>>()
        {
            reader.join().unwrap();
        }
    });
    readers as f64 * bytes as f64 / began.elapsed().as_secs_f64()
}
