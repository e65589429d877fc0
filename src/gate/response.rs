//! Pure: parses response heads of servers, and writes the heads that go to a session.
//!
//! The length of a body is stated in exactly one way on both sides, and only listed headers pass.
//! So a server can neither smuggle a second response nor split one.

use httparse::Status;

use super::request::{keep_alive, plain_value};

/// The longest head of a response, in bytes.
pub(super) const MAX_HEAD_BYTES: usize = 32 << 10;
/// The most headers of a response.
const MAX_HEADERS: usize = 100;
/// The longest reason phrase that passes, in bytes.
const MAX_REASON_BYTES: usize = 200;
/// Headers that a session gets as they are.
const FORWARDED: &[&str] = &[
    "Accept-Ranges",
    "Age",
    "Cache-Control",
    "Content-Encoding",
    "Content-Range",
    "Content-Type",
    "Date",
    "ETag",
    "Expires",
    "Last-Modified",
    "Location",
    "Retry-After",
    "Server",
    "WWW-Authenticate",
];

/// Why a response is not passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct Malformed(&'static str);

/// How the end of a body is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    NoBody,
    Length(u64),
    Chunked,
    /// The server closes the connection.
    UntilClose,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Response {
    pub(super) status: u16,
    pub(super) reason: String,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) framing: Framing,
    /// The stated length, also of a response to HEAD.
    pub(super) length: Option<u64>,
    /// Whether the server takes another request on this connection.
    pub(super) keep_alive: bool,
    /// HTTP/1.1: the server takes several requests at a time.
    pub(super) is_modern: bool,
    /// Length of the head, in bytes.
    pub(super) bytes: usize,
}

impl Response {
    /// Returns where a redirect leads.
    pub(super) fn redirect(&self) -> Option<&str> {
        let is_redirect = (300..400).contains(&self.status);
        let location = self.headers.iter().find(|(name, _)| *name == "Location");
        location
            .filter(|_| is_redirect)
            .map(|(_, value)| value.as_str())
    }
}

/// Parses the head at the start of `input`; `None` while it is incomplete. `to_head` is whether the
/// request was HEAD.
pub(super) fn parse(input: &[u8], to_head: bool) -> Result<Option<Response>, Malformed> {
    let mut slots = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut parsed = httparse::Response::new(&mut slots);
    let bytes = match parsed.parse(input) {
        Ok(Status::Complete(bytes)) if bytes <= MAX_HEAD_BYTES => bytes,
        Ok(Status::Partial) if input.len() < MAX_HEAD_BYTES => return Ok(None),
        Ok(_) => return Err(Malformed("its head is too long")),
        Err(_) => return Err(Malformed("its head is malformed")),
    };
    let (Some(status), Some(minor)) = (parsed.code, parsed.version) else {
        return Err(Malformed("its status line is incomplete"));
    };
    if !(100..600).contains(&status) || status == 101 {
        return Err(Malformed("its status is not one of a file"));
    }
    let (length, chunked) = stated_length(parsed.headers)?;
    let framing = match (status, length) {
        _ if to_head => Framing::NoBody,
        (100..200 | 204 | 304, _) => Framing::NoBody,
        _ if chunked && minor == 0 => return Err(Malformed("it is chunked in HTTP/1.0")),
        _ if chunked => Framing::Chunked,
        (_, Some(length)) => Framing::Length(length),
        (_, None) => Framing::UntilClose,
    };
    Ok(Some(Response {
        status,
        reason: reason(parsed.reason.unwrap_or_default()),
        headers: forwarded(parsed.headers)?,
        framing,
        length,
        keep_alive: keep_alive(minor, parsed.headers) && framing != Framing::UntilClose,
        is_modern: minor > 0,
        bytes,
    }))
}

/// Returns the stated length, and whether the body is chunked; never both.
fn stated_length(headers: &[httparse::Header<'_>]) -> Result<(Option<u64>, bool), Malformed> {
    let (mut length, mut chunked) = (None, false);
    for header in headers {
        let value = plain_value(header.value);
        if header.name.eq_ignore_ascii_case("Content-Length") {
            let digits = value
                .filter(|text| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()));
            let number = digits.and_then(|digits| digits.parse().ok());
            let number = number.ok_or(Malformed("its Content-Length is not a number"))?;
            if length.replace(number).is_some() {
                return Err(Malformed("it has two Content-Length headers"));
            }
        }
        if header.name.eq_ignore_ascii_case("Transfer-Encoding") {
            if chunked || !value.is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
                return Err(Malformed("its Transfer-Encoding is not just chunked"));
            }
            chunked = true;
        }
    }
    if chunked && length.is_some() {
        return Err(Malformed("it is chunked and has a Content-Length"));
    }
    Ok((length, chunked))
}

fn forwarded(headers: &[httparse::Header<'_>]) -> Result<Vec<(&'static str, String)>, Malformed> {
    let mut found: Vec<(&'static str, String)> = Vec::new();
    for header in headers {
        let known = FORWARDED
            .iter()
            .find(|known| known.eq_ignore_ascii_case(header.name));
        if let (Some(&name), Some(value)) = (known, plain_value(header.value)) {
            let twice = found.iter().any(|(before, _)| *before == name);
            if twice && matches!(name, "Location" | "Content-Range") {
                return Err(Malformed("it has two headers of which one may be"));
            }
            found.push((name, value.to_owned()));
        }
    }
    Ok(found)
}

fn reason(text: &str) -> String {
    let plain = |c: &char| *c == ' ' || c.is_ascii_graphic();
    text.chars().filter(plain).take(MAX_REASON_BYTES).collect()
}

/// Returns the head for the session; `framing` is that of the body to the session.
pub(super) fn head(response: &Response, framing: Framing, keep_alive: bool) -> Vec<u8> {
    let mut head = format!("HTTP/1.1 {} {}\r\n", response.status, response.reason);
    for (name, value) in &response.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    match (framing, response.length) {
        (Framing::Length(length), _) => head.push_str(&format!("Content-Length: {length}\r\n")),
        (Framing::Chunked, _) => head.push_str("Transfer-Encoding: chunked\r\n"),
        // The length that GET would have.
        (Framing::NoBody, Some(length)) if response.status == 200 => {
            head.push_str(&format!("Content-Length: {length}\r\n"));
        }
        (Framing::NoBody | Framing::UntilClose, _) => {}
    }
    let connection = if keep_alive { "keep-alive" } else { "close" };
    head.push_str(&format!("Connection: {connection}\r\n\r\n"));
    head.into_bytes()
}

/// Returns a whole response with a text.
pub(super) fn text(status: u16, reason: &str, text: &str, keep_alive: bool, body: bool) -> Vec<u8> {
    let connection = if keep_alive { "keep-alive" } else { "close" };
    let shown = if body { text } else { "" };
    format!(
        "HTTP/1.1 {status} {}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\
         Connection: {connection}\r\n\r\n{shown}{}",
        self::reason(reason),
        text.len() + 1,
        if body { "\n" } else { "" },
    )
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(head: &str) -> Result<Response, Malformed> {
        parse(head.as_bytes(), false).map(|response| response.expect("a whole head"))
    }

    #[test]
    fn the_framing_is_found() {
        let ok = |headers: &str| {
            let response = read(&format!("HTTP/1.1 200 OK\r\n{headers}\r\n")).unwrap();
            (response.framing, response.keep_alive)
        };
        assert_eq!(ok("Content-Length: 5\r\n"), (Framing::Length(5), true));
        assert_eq!(
            ok("transfer-encoding: Chunked\r\n"),
            (Framing::Chunked, true)
        );
        assert_eq!(ok(""), (Framing::UntilClose, false));
        assert_eq!(
            ok("Content-Length: 5\r\nConnection: close\r\n"),
            (Framing::Length(5), false)
        );
        for status in [204, 304] {
            let head = format!("HTTP/1.1 {status} X\r\nContent-Length: 5\r\n\r\n");
            assert_eq!(read(&head).unwrap().framing, Framing::NoBody);
        }
        let head = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
        let response = parse(head, true).unwrap().unwrap();
        assert_eq!(response.framing, Framing::NoBody);
        let sent = String::from_utf8(self::head(&response, Framing::NoBody, true)).unwrap();
        assert!(sent.contains("Content-Length: 5\r\n"), "{sent}");
    }

    #[test]
    fn ambiguous_responses_are_refused() {
        for headers in [
            "Content-Length: 5\r\nContent-Length: 5",
            "Content-Length: 5\r\nContent-Length: 6",
            "Content-Length: 5, 5",
            "Content-Length: +5",
            "Content-Length: -1",
            "Content-Length: 0x5",
            "Content-Length:",
            "Content-Length: 99999999999999999999999",
            "Content-Length: 5\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: gzip, chunked",
            "Transfer-Encoding: identity",
            "Transfer-Encoding:",
            "Content-Length : 5",
            "A: b\r\n Content-Length: 5",
            "Location: /a\r\nLocation: /b",
        ] {
            let head = format!("HTTP/1.1 200 OK\r\n{headers}\r\n\r\n");
            assert!(parse(head.as_bytes(), false).is_err(), "{headers:?}");
        }
        for head in [
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 101 Switching\r\n\r\n",
            "HTTP/1.1 999 X\r\n\r\n",
            "HTTP/1.1 20 X\r\n\r\n",
            "ICY 200 OK\r\n\r\n",
            "<html>",
        ] {
            assert!(parse(head.as_bytes(), false).is_err(), "{head:?}");
        }
        let long = format!("HTTP/1.1 200 OK\r\nA: {}", "b".repeat(MAX_HEAD_BYTES));
        assert!(parse(long.as_bytes(), false).is_err());
    }

    #[test]
    fn only_listed_headers_pass() {
        let response = read(
            "HTTP/1.1 206 Partial\tContent\r\nConnection: ETag\r\nSet-Cookie: x\r\n\
             Keep-Alive: timeout=5\r\nTrailer: Content-Length\r\nProxy-Authenticate: Basic\r\n\
             content-range: bytes 5-9/10\r\nETag: \"a\"\r\nContent-Length: 5\r\n\
             Content-Type: a\u{e9}\r\n\r\n",
        )
        .unwrap();
        let head = String::from_utf8(head(&response, response.framing, true)).unwrap();
        assert_eq!(
            head,
            "HTTP/1.1 206 PartialContent\r\nContent-Range: bytes 5-9/10\r\nETag: \"a\"\r\n\
             Content-Length: 5\r\nConnection: keep-alive\r\n\r\n"
        );
    }

    #[test]
    fn fuzz_gate_responses() {
        let seeds: [&[u8]; 4] = [
            b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\nETag: \"x\"\r\n\r\nHello World!",
            b"HTTP/1.1 302 Found\r\nLocation: http://a/b\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
            b"HTTP/1.0 304 Not Modified\r\nConnection: keep-alive\r\nLast-Modified: now\r\n\r\n",
            b"HTTP/1.1 200 \r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        ];
        crate::fuzz::fuzz("gate-responses", &seeds, |input| {
            for to_head in [false, true] {
                let Ok(Some(response)) = parse(input, to_head) else {
                    continue;
                };
                assert!(response.bytes <= input.len());
                let sent = match response.framing {
                    Framing::UntilClose => Framing::Chunked,
                    other => other,
                };
                let head = head(&response, sent, response.keep_alive);
                // The session reads exactly one response, with the same body.
                let again = parse(&head, to_head).unwrap().unwrap();
                assert_eq!(again.bytes, head.len());
                assert_eq!(again.framing, sent);
                assert_eq!(again.headers, response.headers);
                assert_eq!(again.status, response.status);
            }
        });
    }
}
