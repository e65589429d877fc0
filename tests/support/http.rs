//! An HTTP client that sends exactly the bytes of a test.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

use super::DEADLINE;

/// The answer of a server.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self
            .headers
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Connects to the local `port`, with a read timeout.
pub(crate) fn connect(port: u16) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(DEADLINE))?;
    Ok(stream)
}

/// Sends `request` on a connection of its own and returns the answer.
pub(crate) fn exchange(port: u16, request: &[u8]) -> std::io::Result<Answer> {
    let mut stream = connect(port)?;
    stream.write_all(request)?;
    read_answer(&mut BufReader::new(stream), request.starts_with(b"HEAD"))
}

/// Reads one answer, which must have a Content-Length. The answer to HEAD (`to_head`) has no body.
pub(crate) fn read_answer(stream: &mut impl BufRead, to_head: bool) -> std::io::Result<Answer> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let status = lines[0].split(' ').nth(1).unwrap().parse().unwrap();
    let split = |line: &String| {
        let (key, value) = line.split_once(':').unwrap();
        (key.to_owned(), value.trim().to_owned())
    };
    let mut answer = Answer {
        status,
        headers: lines[1..].iter().map(split).collect(),
        body: Vec::new(),
    };
    assert_eq!(answer.header("Transfer-Encoding"), None, "{answer:?}");
    let length = answer.header("Content-Length").expect("a Content-Length");
    let length: u64 = length.parse().unwrap();
    if !to_head {
        let read = stream.take(length).read_to_end(&mut answer.body)?;
        assert_eq!(read as u64, length, "the body is as long as announced");
    }
    Ok(answer)
}
