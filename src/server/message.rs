//! A request as a handler sees it, and the answer it gives back.
//!
//! A request here is complete and checked: its head parsed, its path decoded, its body read or, for
//! a handler that wants it so, at hand as a stream. An answer knows its length, unless it is
//! one that is still being made ([`BodyStream`]). Used by every handler.

use std::fs::File;
use std::io::{self, Read};
use std::net::IpAddr;
use tiny_http::Header;
pub(crate) use tiny_http::Method;

/// One request, read to its end, or to that of its head if the handler takes the body as a stream.
pub(crate) struct Request {
    /// The verb.
    pub(crate) method: Method,
    /// The path, percent-decoded once: starts with `/`, without `.` and `..` segments, control
    /// characters and NUL.
    pub(crate) path: String,
    /// What follows the first `?`, as it came; empty without one.
    pub(crate) query: String,
    /// The headers in their order.
    pub(crate) headers: Vec<Header>,
    /// The body, at most [`Limits::body_bytes`](super::Limits::body_bytes).
    pub(crate) body: Vec<u8>,
    /// Who asks.
    pub(crate) peer: IpAddr,
}

impl Request {
    /// Returns the value of the first header called `name`, whatever its case.
    pub(crate) fn header(&self, name: &'static str) -> Option<&str> {
        find(&self.headers, name)
    }
}

/// Returns the value of the first of `headers` called `name`, whatever its case.
pub(super) fn find<'a>(headers: &'a [Header], name: &'static str) -> Option<&'a str> {
    let header = headers.iter().find(|header| header.field.equiv(name))?;
    Some(header.value.as_str())
}

/// What follows the head of an answer.
pub(crate) enum Body {
    /// Bytes at hand.
    Bytes(Vec<u8>),
    /// The next `len` bytes of a file, from its current position; it counts as a download.
    File {
        /// An open regular file.
        file: File,
        /// How many bytes to send: if the file turns out shorter, the connection is cut.
        len: u64,
    },
    /// The next `len` bytes of something else that is on a disk; it counts as a download.
    Reader {
        /// If it turns out shorter, the connection is cut.
        reader: Box<dyn Read + Send>,
        /// How many bytes to send.
        len: u64,
    },
    /// What comes as it comes. Its reader is a follower, and the connection ends with it.
    Stream(Box<dyn BodyStream>),
}

impl Body {
    /// Returns the length in bytes, as far as it is known; a feed has none.
    pub(super) fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File { len, .. } | Self::Reader { len, .. } => *len,
            Self::Stream(_) => 0,
        }
    }
}

/// Bytes of an answer that are still being made.
pub(crate) trait BodyStream: Send {
    /// Returns what has come since the last time, after a moment if there is nothing; an empty
    /// piece means that more may come, `None` that nothing will. On an error the connection is cut,
    /// so that the client knows that there would have been more.
    fn next(&mut self) -> io::Result<Option<Vec<u8>>>;
}

/// An answer. `Content-Length`, `Connection`, `Date` and `Server` are the server's to add.
pub(crate) struct Response {
    /// The HTTP status code.
    pub(crate) status: u16,
    /// Further headers.
    pub(crate) headers: Vec<Header>,
    /// The body; left out in the answer to a HEAD.
    pub(crate) body: Body,
}

impl Response {
    /// Answers `bytes` of the given content type.
    pub(crate) fn bytes(status: u16, content_type: &str, bytes: Vec<u8>) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: Body::Bytes(bytes),
        }
        .with_header("Content-Type", content_type)
    }

    /// Answers one line of plain text.
    pub(crate) fn text(status: u16, line: &str) -> Self {
        Self::bytes(
            status,
            "text/plain; charset=utf-8",
            format!("{line}\n").into_bytes(),
        )
    }

    /// Adds a header. `name` and `value` are ours, not a client's: anything but printable ASCII
    /// is left out, so that no value can end its line.
    pub(crate) fn with_header(mut self, name: &str, value: &str) -> Self {
        let value: String = value.chars().filter(|c| matches!(c, ' '..='~')).collect();
        if let Ok(header) = Header::from_bytes(name, value) {
            self.headers.push(header);
        }
        self
    }
}

/// What answers requests, on many threads at once.
pub(crate) trait Handler: Send + Sync + 'static {
    /// Answers one request. It may block; a panic is answered 500 and costs that connection.
    fn handle(&self, request: &Request) -> Response;

    /// Says whether the body of this request, of whatever length, is for [`Handler::receive`].
    fn takes_stream(&self, _request: &Request) -> bool {
        false
    }

    /// Answers a request with the next `len` bytes of `body`, which end early with an error only.
    /// What is left unread costs the connection.
    fn receive(&self, request: &Request, _body: &mut dyn Read, _len: u64) -> Response {
        self.handle(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_value_cannot_end_its_line() {
        let response = Response::text(200, "x").with_header("Location", "/a\r\nEvil: é1");
        assert_eq!(find(&response.headers, "location"), Some("/aEvil: 1"));
    }
}
