//! Renders the head of an answer. Only this file uses tiny_http's `raw_print`.

use super::message::{Body, Response};
use std::io::{self, Write};
use tiny_http::{HTTPVersion, Header, StatusCode};

/// How an answer is written.
pub(super) struct Framing {
    pub(super) version: HTTPVersion,
    /// Whether the body is left out, as for HEAD.
    pub(super) head_only: bool,
    pub(super) keep_alive: bool,
}

impl Framing {
    /// Returns the framing of a connection's last answer, independent of the request.
    pub(super) fn last() -> Self {
        Self {
            version: HTTPVersion(1, 1),
            head_only: false,
            keep_alive: false,
        }
    }

    /// Returns whether an answer of unknown length may use chunks. Otherwise the close of the
    /// connection ends it.
    pub(super) fn takes_chunks(&self) -> bool {
        self.version >= HTTPVersion(1, 1)
    }
}

/// Renders an answer up to its body. A stream gets chunks, every other body `Content-Length`.
pub(super) fn render(response: &Response, framing: &Framing) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(512);
    tiny_http::Response::new(
        StatusCode(response.status),
        response.headers.clone(),
        io::empty(),
        Some(usize::try_from(response.body.len()).map_err(io::Error::other)?),
        None,
    )
    .with_header(Header::from_bytes("Server", "buildd-slave").expect("the header is ASCII"))
    .with_chunked_threshold(usize::MAX)
    .raw_print(&mut bytes, framing.version.clone(), &[], true, None)?;
    // tiny_http does not set these headers, so they are inserted before the closing empty line.
    bytes.truncate(bytes.len() - 2);
    if let Body::Stream(_) = response.body {
        let length = b"Content-Length: 0\r\n";
        let at = bytes.windows(length.len()).position(|part| part == length);
        if let Some(at) = at {
            bytes.drain(at..at + length.len());
        }
        if framing.takes_chunks() {
            bytes.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
        }
    }
    let connection = if framing.keep_alive {
        "keep-alive"
    } else {
        "close"
    };
    write!(bytes, "Connection: {connection}\r\n\r\n")?;
    Ok(bytes)
}
