//! Pure: parses and checks a request head, or returns the answer that refuses it.
//!
//! Strict where two parsers could disagree (lengths, encodings, paths): a malformed head is
//! refused, never repaired. Chunked bodies are refused with 411, because no master sends them.
//! `connection` calls the parser each time more bytes arrive.

use super::limits::Limits;
use super::message::find;
use httparse::Status;
use tiny_http::{HTTPVersion, Header, Method};

/// The largest number of headers in a request; each takes memory beyond its bytes.
const HEADERS: usize = 64;

/// A request up to its body.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) query: String,
    pub(super) headers: Vec<Header>,
    pub(super) version: HTTPVersion,
    /// Length of the head, in bytes.
    pub(super) bytes: usize,
    /// Declared length of the body, in bytes; not limited here.
    pub(super) body_bytes: u64,
    /// Whether the client may send another request on this connection.
    pub(super) keep_alive: bool,
    /// Whether the client sends the body only after `100 Continue`.
    pub(super) expects_continue: bool,
}

/// A request that is answered with an error instead of being handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refusal {
    /// The HTTP status code.
    pub(super) status: u16,
    /// The reason, for the client.
    pub(super) reason: &'static str,
}

/// The answer to a request without a declared body length.
pub(super) const LENGTH_REQUIRED: Refusal = refusal(411, "Content-Length needed");

pub(super) const fn refusal(status: u16, reason: &'static str) -> Refusal {
    Refusal { status, reason }
}

/// Parses the head at the start of `input`; `None` while it is incomplete.
pub(super) fn parse(input: &[u8], limits: &Limits) -> Result<Option<Head>, Refusal> {
    const TOO_LONG: Refusal = refusal(431, "request line and headers too long");
    let mut slots = [httparse::EMPTY_HEADER; HEADERS];
    let mut parsed = httparse::Request::new(&mut slots);
    let bytes = match parsed.parse(input) {
        Ok(Status::Complete(bytes)) if bytes <= limits.head_bytes => bytes,
        Ok(Status::Partial) if input.len() < limits.head_bytes => return Ok(None),
        Ok(_) => return Err(TOO_LONG),
        Err(error) => return Err(malformed(error)),
    };
    let (Some(method), Some(target), Some(minor)) = (parsed.method, parsed.path, parsed.version)
    else {
        return Err(refusal(400, "incomplete request line"));
    };
    let method: Method = method.parse().map_err(|()| refusal(400, "bad verb"))?;
    let headers = headers(parsed.headers)?;
    let (path, query) = read_target(target)?;
    let body_bytes = body_bytes(&method, &headers)?;
    Ok(Some(Head {
        keep_alive: keep_alive(minor, &headers),
        expects_continue: minor > 0 && expects_continue(&headers)?,
        version: HTTPVersion(1, minor),
        method,
        path,
        query,
        headers,
        bytes,
        body_bytes,
    }))
}

fn malformed(error: httparse::Error) -> Refusal {
    match error {
        httparse::Error::Version => refusal(505, "only HTTP/1.0 and HTTP/1.1 are supported"),
        httparse::Error::TooManyHeaders => refusal(431, "too many headers"),
        httparse::Error::HeaderName
        | httparse::Error::HeaderValue
        | httparse::Error::NewLine
        | httparse::Error::Status
        | httparse::Error::Token => refusal(400, "malformed request"),
    }
}

fn headers(parsed: &[httparse::Header<'_>]) -> Result<Vec<Header>, Refusal> {
    parsed
        .iter()
        .map(|header| Header::from_bytes(header.name, header.value))
        .collect::<Result<_, ()>>()
        .map_err(|()| refusal(400, "header value not ASCII"))
}

/// Returns the length of the body. Exactly one header may declare it: two parsers that disagree on
/// the length would disagree on where the next request begins (request smuggling).
fn body_bytes(method: &Method, headers: &[Header]) -> Result<u64, Refusal> {
    let chunked = find(headers, "Transfer-Encoding").is_some();
    let mut lengths = headers
        .iter()
        .filter(|header| header.field.equiv("Content-Length"));
    let length = lengths.next().map(|header| header.value.as_str());
    if lengths.next().is_some() || (chunked && length.is_some()) {
        return Err(refusal(400, "more than one statement of the body's length"));
    }
    match length {
        None if chunked || *method == Method::Post => Err(LENGTH_REQUIRED),
        None => Ok(0),
        Some(digits) if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) => {
            Err(refusal(400, "Content-Length is not a number"))
        }
        // The only parse error left is a number that is too large.
        Some(digits) => digits.parse().map_err(|_| refusal(413, "body too long")),
    }
}

fn keep_alive(minor: u8, headers: &[Header]) -> bool {
    let has = |token: &str| {
        headers
            .iter()
            .filter(|header| header.field.equiv("Connection"))
            .flat_map(|header| header.value.as_str().split(','))
            .any(|given| given.trim().eq_ignore_ascii_case(token))
    };
    if minor == 0 {
        has("keep-alive") && !has("close")
    } else {
        !has("close")
    }
}

fn expects_continue(headers: &[Header]) -> Result<bool, Refusal> {
    match find(headers, "Expect") {
        None => Ok(false),
        Some(value) if value.eq_ignore_ascii_case("100-continue") => Ok(true),
        Some(_) => Err(refusal(417, "only 100-continue can be expected")),
    }
}

/// Returns the decoded path of a request target, and its query without decoding.
fn read_target(target: &str) -> Result<(String, String), Refusal> {
    // A client that uses this server as its proxy sends a full URL.
    let target = match target.strip_prefix("http://") {
        Some(rest) => rest.find('/').map_or("/", |slash| &rest[slash..]),
        None => target,
    };
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    Ok((decode_path(path)?, query.to_owned()))
}

/// Percent-decodes a path once and refuses a path that could name a different file than it shows. A
/// path with `..` gets 404, as in launchpad-buildd (docs/wire.md §1.7).
fn decode_path(path: &str) -> Result<String, Refusal> {
    const BAD_PATH: Refusal = refusal(400, "bad path");
    let mut decoded = Vec::with_capacity(path.len());
    let mut rest = path.bytes();
    while let Some(byte) = rest.next() {
        decoded.push(match byte {
            b'%' => {
                let digit = |byte: Option<u8>| char::from(byte?).to_digit(16)?.try_into().ok();
                let pair: Option<(u8, u8)> = digit(rest.next()).zip(digit(rest.next()));
                pair.map(|(high, low)| high << 4 | low).ok_or(BAD_PATH)?
            }
            byte => byte,
        });
    }
    let path = String::from_utf8(decoded).map_err(|_| BAD_PATH)?;
    if !path.starts_with('/') || path.contains(char::is_control) {
        return Err(BAD_PATH);
    }
    if path.split('/').any(|segment| matches!(segment, "." | "..")) {
        return Err(refusal(404, "not found"));
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(input: &str) -> Result<Option<Head>, u16> {
        parse(input.as_bytes(), &Limits::default()).map_err(|refusal| refusal.status)
    }

    fn head(input: &str) -> Head {
        read(input).unwrap().unwrap()
    }

    #[test]
    fn a_complete_head_is_parsed() {
        let input = "POST /rpc/?a=%2e&b HTTP/1.1\r\nHost: x\r\ncontent-length: 12\r\n\r\n<xml";
        let head = head(input);
        assert_eq!(
            (
                head.method.as_str(),
                head.path.as_str(),
                head.query.as_str()
            ),
            ("POST", "/rpc/", "a=%2e&b")
        );
        assert_eq!((head.bytes, head.body_bytes), (input.len() - 4, 12));
        assert!(head.keep_alive && !head.expects_continue);
        assert_eq!(head.version, (1, 1));
        assert_eq!(head.headers.len(), 2);
    }

    #[test]
    fn an_incomplete_head_is_not_parsed() {
        let input = "GET / HTTP/1.0\r\nA: b\r\n\r\n";
        for end in 0..input.len() {
            assert!(read(&input[..end]).unwrap().is_none(), "{end}");
        }
        assert!(read(input).unwrap().is_some());
    }

    #[test]
    fn keep_alive_depends_on_version_and_header() {
        for (minor, connection, expect) in [
            (1, "x", true),
            (1, "close", false),
            (1, "x, Close", false),
            (0, "x", false),
            (0, "Keep-Alive", true),
            (0, "keep-alive, close", false),
        ] {
            let input = format!("GET / HTTP/1.{minor}\r\nConnection: {connection}\r\n\r\n");
            assert_eq!(head(&input).keep_alive, expect, "{minor} {connection}");
        }
    }

    #[test]
    fn missing_and_ambiguous_lengths_are_refused() {
        for (headers, status) in [
            ("", 411),
            ("Transfer-Encoding: chunked", 411),
            ("Transfer-Encoding: identity", 411),
            ("Content-Length: 1\r\nTransfer-Encoding: chunked", 400),
            ("Content-Length: 1\r\nContent-Length: 1", 400),
            ("Content-Length: 1, 1", 400),
            ("Content-Length: +1", 400),
            ("Content-Length: -1", 400),
            ("Content-Length: 0x1", 400),
            ("Content-Length:", 400),
            ("Content-Length: 1 1", 400),
            ("Content-Length : 1", 400),
            ("Content-Length: 99999999999999999999999999", 413),
        ] {
            let input = format!("POST / HTTP/1.1\r\n{headers}\r\n\r\n");
            assert_eq!(read(&input).unwrap_err(), status, "{headers:?}");
        }
        assert_eq!(
            head("POST / HTTP/1.1\r\nContent-Length: 1048576\r\n\r\n").body_bytes,
            1 << 20
        );
    }

    #[test]
    fn malformed_and_oversized_heads_are_refused() {
        for (input, status) in [
            ("GET / HTTP/2.0\r\n\r\n", 505),
            ("PRI * HTTP/2.0\r\n\r\n", 505),
            ("GET /\r\n\r\n", 400),
            ("\x16\x03\x01\x02", 400),
            ("GET / HTTP/1.1\r\nA: b\r\n folded\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nA: b\0\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nA: é\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nExpect: cake\r\n\r\n", 417),
            ("OPTIONS * HTTP/1.1\r\n\r\n", 400),
        ] {
            assert_eq!(read(input).unwrap_err(), status, "{input:?}");
        }
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(HEADERS + 1));
        assert_eq!(read(&many).unwrap_err(), 431);
        for end in ["", "\r\n\r\n"] {
            let long = format!("GET / HTTP/1.1\r\nA: {}{end}", "x".repeat(16 << 10));
            assert_eq!(read(&long).unwrap_err(), 431);
        }
    }

    #[test]
    fn paths_are_decoded_or_refused() {
        for (target, expect) in [
            ("/", Ok("/")),
            ("/a%20b", Ok("/a b")),
            ("/a+b", Ok("/a+b")),
            ("/%C3%A9", Ok("/é")),
            ("/%2520", Ok("/%20")),
            ("/a..b/.c/...", Ok("/a..b/.c/...")),
            ("http://host:8221/rpc", Ok("/rpc")),
            ("http://host", Ok("/")),
            ("/..", Err(404)),
            ("/filecache/../x", Err(404)),
            ("/filecache/%2e%2E/x", Err(404)),
            ("/filecache/..%2fx", Err(404)),
            ("/./x", Err(404)),
            ("/a%00b", Err(400)),
            ("/a%0d%0ab", Err(400)),
            ("/a%7f", Err(400)),
            ("/%c0%ae%c0%ae/x", Err(400)),
            ("/%ff", Err(400)),
            ("/%", Err(400)),
            ("/%4", Err(400)),
            ("/%+1", Err(400)),
            ("/%zz", Err(400)),
            ("rpc", Err(400)),
            ("ftp://host/", Err(400)),
        ] {
            let found = read(&format!("GET {target} HTTP/1.1\r\n\r\n"));
            let found = found.map(|head| head.unwrap().path);
            assert_eq!(
                found.as_deref().map_err(|status| *status),
                expect,
                "{target}"
            );
        }
    }

    #[test]
    fn fuzz_heads() {
        let seeds: [&[u8]; 5] = [
            b"POST /rpc HTTP/1.1\r\nHost: a:8221\r\nContent-Length: 12\r\n\r\nHello World!",
            b"GET /filecache/a%20b?c=%2e HTTP/1.0\r\nConnection: Keep-Alive, close\r\n\r\n",
            b"HEAD http://host/../x HTTP/1.1\nRange: bytes=0-5\nExpect: 100-continue\n\n",
            b"PUT /%C3%A9%00 HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n",
            b"\r\n\nGET / HTTP/1.1\r\nContent-Length: 18446744073709551615\r\nX:\t y \r\n\r\n",
        ];
        let limits = Limits {
            head_bytes: 1000,
            ..Limits::default()
        };
        crate::fuzz::fuzz("heads", &seeds, |input| {
            let Ok(Some(head)) = parse(input, &limits) else {
                return;
            };
            assert!(head.bytes <= limits.head_bytes && head.bytes <= input.len());
            assert!(head.path.starts_with('/') && !head.path.contains(char::is_control));
            assert!(head.path.split('/').all(|part| part != ".." && part != "."));
            assert!(find(&head.headers, "Transfer-Encoding").is_none());
            let lengths = head
                .headers
                .iter()
                .filter(|h| h.field.equiv("Content-Length"));
            assert!(lengths.count() <= 1);
            // Every proper prefix is incomplete, and the head alone parses to the same request.
            for end in 0..head.bytes {
                let early = parse(&input[..end], &limits);
                assert!(matches!(early, Ok(None)), "{end}: {early:?}");
            }
            let alone = parse(&input[..head.bytes], &limits).unwrap().unwrap();
            assert_eq!(
                (&alone.path, alone.body_bytes),
                (&head.path, head.body_bytes)
            );
        });
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_decoded_path_has_no_dot_segments(path in "(/|\\.|%2e|%2F|a|%00|%25|é){0,12}") {
            if let Ok(path) = decode_path(&path) {
                prop_assert!(path.split('/').all(|part| part != ".." && part != "."));
                prop_assert!(path.starts_with('/') && !path.contains('\0'));
            }
        }
    }
}
