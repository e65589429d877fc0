//! The request that a handler gets and the response it returns.
//!
//! The head is parsed and the path decoded. The body is read, unless the handler takes it as a
//! stream. The length of a response is known, unless its body is a [`BodyStream`].

use std::fs::File;
use std::io::{self, Read};
use std::net::IpAddr;
use tiny_http::Header;
pub(crate) use tiny_http::Method;

/// One request, with its body unless the handler takes that as a stream.
pub(crate) struct Request {
    pub(crate) method: Method,
    /// The path, percent-decoded once: starts with `/`, without `.` and `..` segments, control
    /// characters and NUL.
    pub(crate) path: String,
    /// The text after the first `?`, not decoded; empty without one.
    pub(crate) query: String,
    /// The headers in the order of the request.
    pub(crate) headers: Vec<Header>,
    /// The body, at most [`Limits::body_bytes`](super::Limits::body_bytes).
    pub(crate) body: Vec<u8>,
    /// The client's address.
    pub(crate) peer: IpAddr,
}

impl Request {
    /// Returns the value of the first header called `name`, ignoring case.
    pub(crate) fn header(&self, name: &'static str) -> Option<&str> {
        find(&self.headers, name)
    }
}

/// Returns the value of the first of `headers` called `name`, ignoring case.
pub(super) fn find<'a>(headers: &'a [Header], name: &'static str) -> Option<&'a str> {
    let header = headers.iter().find(|header| header.field.equiv(name))?;
    Some(header.value.as_str())
}

/// The body of a response.
pub(crate) enum Body {
    /// Bytes in memory.
    Bytes(Vec<u8>),
    /// The next `len` bytes of a file, from its current position; it counts as a download.
    File {
        /// An open regular file.
        file: File,
        /// How many bytes to send; if the file is shorter, the connection is cut.
        len: u64,
    },
    /// The next `len` bytes of other data on disk; it counts as a download.
    Reader {
        /// If the data is shorter than `len`, the connection is cut.
        reader: Box<dyn Read + Send>,
        /// How many bytes to send.
        len: u64,
    },
    /// A body of unknown length; it counts as a follower, and the connection closes after it.
    Stream(Box<dyn BodyStream>),
}

impl Body {
    /// Returns the length in bytes; 0 for a stream.
    pub(super) fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File { len, .. } | Self::Reader { len, .. } => *len,
            Self::Stream(_) => 0,
        }
    }
}

/// A body that is produced while it is sent.
pub(crate) trait BodyStream: Send {
    /// Returns the next bytes; waits a moment if there are none. An empty piece means that more may
    /// follow, `None` ends the body. An error cuts the connection, so that the client sees that
    /// the body is incomplete.
    fn next(&mut self) -> io::Result<Option<Vec<u8>>>;
}

/// An answer. The server adds `Content-Length`, `Connection`, `Date` and `Server`.
pub(crate) struct Response {
    /// The HTTP status code.
    pub(crate) status: u16,
    /// Further headers.
    pub(crate) headers: Vec<Header>,
    /// The body; left out in the answer to a HEAD.
    pub(crate) body: Body,
}

impl Response {
    /// Makes a response of `bytes` with the given content type.
    pub(crate) fn bytes(status: u16, content_type: &str, bytes: Vec<u8>) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: Body::Bytes(bytes),
        }
        .with_header("Content-Type", content_type)
    }

    /// Makes a response of one line of plain text.
    pub(crate) fn text(status: u16, line: &str) -> Self {
        Self::bytes(
            status,
            "text/plain; charset=utf-8",
            format!("{line}\n").into_bytes(),
        )
    }

    /// Adds a header. `name` must not come from a client. Only printable ASCII of `value` is kept,
    /// so that no value can end its line.
    pub(crate) fn with_header(mut self, name: &str, value: &str) -> Self {
        let value: String = value.chars().filter(|c| matches!(c, ' '..='~')).collect();
        if let Ok(header) = Header::from_bytes(name, value) {
            self.headers.push(header);
        }
        self
    }
}

/// Answers requests, on many threads at once.
pub(crate) trait Handler: Send + Sync + 'static {
    /// Answers one request. It may block. A panic is answered 500 and closes that connection.
    fn handle(&self, request: &Request) -> Response;

    /// Returns whether [`Handler::handle`] may take long for this request, such as for a transfer
    /// from elsewhere. Requests beyond the limit on such calls wait for their turn.
    fn takes_long(&self, _request: &Request) -> bool {
        false
    }

    /// Returns whether [`Handler::receive`] takes this request, with a body of any length.
    fn takes_stream(&self, _request: &Request) -> bool {
        false
    }

    /// Answers a request with a body of `len` bytes. `body` fails if it ends early. Bytes left
    /// unread close the connection.
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
