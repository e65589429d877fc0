//! Pure: parses request heads of a session, and writes the heads that go to a server.
//!
//! The gate forwards a short list of headers and writes the rest itself. So nothing that two
//! programs could read differently reaches a server.

use httparse::Status;

use super::refusal::Refusal;
use super::url::{Host, Url, Userinfo, split_authority};

/// The longest head of a request, in bytes.
pub(super) const MAX_HEAD_BYTES: usize = 16 << 10;
/// The most headers of a request.
const MAX_HEADERS: usize = 64;
/// Headers that a server gets as they are.
const FORWARDED: &[&str] = &[
    "user-agent",
    "accept",
    "cache-control",
    "pragma",
    "range",
    "if-range",
    "if-modified-since",
    "if-none-match",
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    Get,
    Head,
}

/// The aim of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    File(Method, Url),
    Tunnel(Host, u16),
}

/// A well-formed request, up to its end: none has a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) target: Target,
    /// The headers to forward.
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) authorization: Option<String>,
    /// HTTP/1.1, so that an answer may be chunked.
    pub(super) is_modern: bool,
    /// Whether the client may send another request on this connection.
    pub(super) keep_alive: bool,
    /// Length of the head, in bytes.
    pub(super) bytes: usize,
}

impl Request {
    /// Returns whether the client may be content with less than the whole file.
    pub(super) fn is_partial(&self) -> bool {
        let partial = |name: &str| name == "range" || name.starts_with("if-");
        self.headers.iter().any(|(name, _)| partial(name))
    }

    /// Returns the head for the server of `url`, or for a proxy.
    pub(super) fn head_for(&self, url: &Url, method: Method, via_proxy: Option<&str>) -> Vec<u8> {
        let verb = match method {
            Method::Get => "GET",
            Method::Head => "HEAD",
        };
        let target = match via_proxy {
            Some(_) => format!("{}{}", url.origin, url.target()),
            None => url.target(),
        };
        let host = url.origin.authority();
        let mut head =
            format!("{verb} {target} HTTP/1.1\r\nHost: {host}\r\nConnection: keep-alive\r\n");
        let authorization = self
            .authorization
            .as_ref()
            .map(|value| ("authorization", value));
        let forwarded = self.headers.iter().map(|(name, value)| (*name, value));
        for (name, value) in forwarded.chain(authorization) {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if let Some(proxy_headers) = via_proxy {
            head.push_str(proxy_headers);
        }
        head.push_str("\r\n");
        head.into_bytes()
    }
}

/// Parses the head at the start of `input`; `None` while it is incomplete. After an error, nothing
/// else on the connection can be understood.
pub(super) fn parse(input: &[u8]) -> Result<Option<Request>, Refusal> {
    let mut slots = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut parsed = httparse::Request::new(&mut slots);
    let bad = |status, reason| Err(Refusal::bad_request(status, reason));
    let bytes = match parsed.parse(input) {
        Ok(Status::Complete(bytes)) if bytes <= MAX_HEAD_BYTES => bytes,
        Ok(Status::Partial) if input.len() < MAX_HEAD_BYTES => return Ok(None),
        Ok(_) | Err(httparse::Error::TooManyHeaders) => return bad(431, "request head too long"),
        Err(httparse::Error::Version) => return bad(505, "only HTTP/1.0 and HTTP/1.1"),
        Err(_) => return bad(400, "malformed request head"),
    };
    let (Some(verb), Some(target), Some(minor)) = (parsed.method, parsed.path, parsed.version)
    else {
        return bad(400, "incomplete request line");
    };
    let target = read_target(verb, target)?;
    let mut headers = Vec::new();
    let mut authorization = None;
    for header in parsed.headers.iter() {
        let name = header.name.to_ascii_lowercase();
        let Some(value) = plain_value(header.value) else {
            return bad(400, "a header that is not ASCII");
        };
        match name.as_str() {
            "transfer-encoding" | "expect" | "upgrade" => {
                return bad(400, "a request to an archive has no body");
            }
            "content-length" if value != "0" => {
                return bad(400, "a request to an archive has no body");
            }
            "authorization" if authorization.is_some() => {
                return bad(400, "two Authorization headers");
            }
            "authorization" => authorization = Some(value.to_owned()),
            _ => {
                let forwarded = FORWARDED.iter().find(|known| **known == name);
                headers.extend(forwarded.map(|known| (*known, value.to_owned())));
            }
        }
    }
    Ok(Some(Request {
        target,
        headers,
        authorization,
        is_modern: minor > 0,
        keep_alive: keep_alive(minor, parsed.headers),
        bytes,
    }))
}

fn read_target(verb: &str, target: &str) -> Result<Target, Refusal> {
    let method = match verb {
        "GET" => Method::Get,
        "HEAD" => Method::Head,
        "CONNECT" => {
            let parsed = split_authority(target).ok();
            let parsed = parsed.and_then(|(host, port)| Some((host, port?)));
            return parsed
                .map(|(host, port)| Target::Tunnel(host, port))
                .ok_or_else(|| Refusal::bad_request(400, "CONNECT takes HOST:PORT"));
        }
        _ => {
            return Err(Refusal::bad_request(
                405,
                "the gate serves only GET, HEAD and CONNECT",
            ));
        }
    };
    if target.starts_with('/') {
        let reason = "the gate is a proxy: requests name a whole URL";
        return Err(Refusal::bad_request(400, reason));
    }
    let url = Url::parse(target, Userinfo::Drop)
        .map_err(|error| Refusal::bad_request(400, &error.to_string()))?;
    if url.origin.https {
        let reason = "https goes through the gate by CONNECT";
        return Err(Refusal::bad_request(400, reason));
    }
    Ok(Target::File(method, url))
}

/// Returns a header's value if it is printable ASCII.
pub(super) fn plain_value(value: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(value).ok()?;
    let plain = |byte: u8| byte == b' ' || byte == b'\t' || byte.is_ascii_graphic();
    text.bytes().all(plain).then(|| text.trim())
}

/// Returns whether a peer of HTTP version 1.`minor` keeps its connection after this message.
pub(super) fn keep_alive(minor: u8, headers: &[httparse::Header<'_>]) -> bool {
    let has = |token: &str| {
        headers
            .iter()
            .filter(|header| {
                header.name.eq_ignore_ascii_case("Connection")
                    || header.name.eq_ignore_ascii_case("Proxy-Connection")
            })
            .filter_map(|header| plain_value(header.value))
            .flat_map(|value| value.split(','))
            .any(|given| given.trim().eq_ignore_ascii_case(token))
    };
    if minor == 0 {
        has("keep-alive") && !has("close")
    } else {
        !has("close")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(head: &str) -> Result<Request, u16> {
        match parse(head.as_bytes()) {
            Ok(request) => Ok(request.expect("a whole head")),
            Err(refusal) => Err(refusal.status),
        }
    }

    #[test]
    fn a_request_of_apt_is_forwarded_with_few_headers() {
        let request = read(
            "GET http://deb.example:8080/debian/a%2bb.deb HTTP/1.1\r\nHost: evil.example\r\n\
             User-Agent: Debian APT-HTTP/1.3 (2.6.1)\r\nCache-Control: max-age=0\r\n\
             Range: bytes=5-\r\nIf-Range: Sun, 22 Nov 2026 11:32:28 GMT\r\nX-Other: 1\r\n\
             Proxy-Authorization: Basic c2VjcmV0\r\nCookie: x\r\nConnection: Range\r\n\
             Authorization: Basic dTpw\r\n\r\n",
        )
        .unwrap();
        assert!(request.keep_alive && request.is_modern && request.is_partial());
        let Target::File(method, url) = &request.target else {
            panic!("{request:?}");
        };
        let common = "user-agent: Debian APT-HTTP/1.3 (2.6.1)\r\ncache-control: max-age=0\r\n\
                      range: bytes=5-\r\nif-range: Sun, 22 Nov 2026 11:32:28 GMT\r\n\
                      authorization: Basic dTpw\r\n";
        assert_eq!(
            String::from_utf8(request.head_for(url, *method, None)).unwrap(),
            format!(
                "GET /debian/a%2bb.deb HTTP/1.1\r\nHost: deb.example:8080\r\n\
                 Connection: keep-alive\r\n{common}\r\n"
            )
        );
        assert_eq!(
            String::from_utf8(request.head_for(url, *method, Some("P: q\r\n"))).unwrap(),
            format!(
                "GET http://deb.example:8080/debian/a%2bb.deb HTTP/1.1\r\n\
                 Host: deb.example:8080\r\nConnection: keep-alive\r\n{common}P: q\r\n\r\n"
            )
        );
    }

    #[test]
    fn a_tunnel_is_host_and_port() {
        for (target, expected) in [
            ("Deb.Example:443", Ok("deb.example:443")),
            ("[2A00::1]:443", Ok("[2a00::1]:443")),
            ("deb.example", Err(400)),
            ("deb.example:", Err(400)),
            ("u@deb.example:443", Err(400)),
            ("https://deb.example:443", Err(400)),
            ("deb.example:443/x", Err(400)),
            ("127.1:443", Err(400)),
        ] {
            let found = read(&format!("CONNECT {target} HTTP/1.1\r\n\r\n"));
            let found = found.map(|request| match request.target {
                Target::Tunnel(host, port) => format!("{host}:{port}"),
                Target::File(..) => panic!("{target}"),
            });
            assert_eq!(found.as_deref().map_err(|e| *e), expected, "{target}");
        }
    }

    #[test]
    fn other_requests_are_refused() {
        const GET: &str = "GET http://deb.example/x HTTP/1.1\r\n";
        for (head, status) in [
            ("POST http://deb.example/x HTTP/1.1\r\n\r\n".to_owned(), 405),
            ("OPTIONS * HTTP/1.1\r\n\r\n".to_owned(), 405),
            ("get http://deb.example/x HTTP/1.1\r\n\r\n".to_owned(), 405),
            (
                "GET /x HTTP/1.1\r\nHost: deb.example\r\n\r\n".to_owned(),
                400,
            ),
            ("GET https://deb.example/x HTTP/1.1\r\n\r\n".to_owned(), 400),
            ("GET ftp://deb.example/x HTTP/1.1\r\n\r\n".to_owned(), 400),
            (
                "GET http://deb.example/../x HTTP/1.1\r\n\r\n".to_owned(),
                400,
            ),
            ("GET http://deb.example/x HTTP/2.0\r\n\r\n".to_owned(), 505),
            ("GET http://deb.example/x\r\n\r\n".to_owned(), 400),
            ("\x16\x03\x01\x02".to_owned(), 400),
            (format!("{GET}Content-Length: 5\r\n\r\nhello"), 400),
            (
                format!("{GET}Content-Length: 0\r\nContent-Length: 5\r\n\r\n"),
                400,
            ),
            (format!("{GET}Content-Length: 0, 5\r\n\r\n"), 400),
            (format!("{GET}Transfer-Encoding: chunked\r\n\r\n"), 400),
            (format!("{GET}transfer-ENCODING: xchunked\r\n\r\n"), 400),
            (format!("{GET}Transfer-Encoding : chunked\r\n\r\n"), 400),
            (format!("{GET}Upgrade: websocket\r\n\r\n"), 400),
            (
                format!("{GET}A: b\r\n Transfer-Encoding: chunked\r\n\r\n"),
                400,
            ),
            (format!("{GET}User-Agent: a\u{e9}\r\n\r\n"), 400),
            (
                format!("{GET}Authorization: a\r\nAuthorization: b\r\n\r\n"),
                400,
            ),
            (format!("{GET}{}\r\n", "A: b\r\n".repeat(65)), 431),
            (format!("{GET}A: {}", "b".repeat(16 << 10)), 431),
        ] {
            assert_eq!(read(&head).unwrap_err(), status, "{head:?}");
        }
        assert!(read(&format!("{GET}Content-Length: 0\r\n\r\n")).is_ok());
        assert_eq!(parse(GET.as_bytes()), Ok(None));
    }

    #[test]
    fn fuzz_gate_requests() {
        let seeds: [&[u8]; 4] = [
            b"GET http://deb.example/debian/x%2by HTTP/1.1\r\nHost: a\r\nRange: bytes=1-\r\n\r\n",
            b"CONNECT deb.example:443 HTTP/1.1\r\nProxy-Connection: close\r\n\r\nmore",
            b"HEAD http://[::1]:80/%2e%2e HTTP/1.0\r\nConnection: Keep-Alive, close\r\n\r\n",
            b"GET http://a/b HTTP/1.1\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n",
        ];
        crate::fuzz::fuzz("gate-requests", &seeds, |input| {
            let Ok(Some(request)) = parse(input) else {
                return;
            };
            assert!(request.bytes <= input.len() && request.bytes <= MAX_HEAD_BYTES);
            assert!(matches!(parse(&input[..request.bytes - 1]), Ok(None)));
            let Target::File(method, url) = &request.target else {
                return;
            };
            // A server reads exactly one request, with the same headers, in the forwarded head.
            let head = request.head_for(url, *method, Some(""));
            let again = parse(&head).unwrap().unwrap();
            assert_eq!(again.bytes, head.len());
            assert_eq!(again.target, request.target);
            assert_eq!(again.headers, request.headers);
            assert_eq!(again.authorization, request.authorization);
        });
    }
}
