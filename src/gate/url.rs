//! Pure: parses URLs of archives and requests into one normal form, and refuses ambiguous ones.
//!
//! Two programs must never read one URL differently. So hosts are lower-case and well-formed, and
//! paths are compared as decoded segments. A path is refused if decoding it, even several times,
//! gives `..`, a slash, a backslash or a control character.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The most layers of percent-encoding that a path may have.
const MAX_LAYERS: usize = 4;
/// The longest host name that DNS knows.
const MAX_HOST_BYTES: usize = 253;
const MAX_LABEL_BYTES: usize = 63;

/// Why a text is not a URL that the gate understands. It never repeats the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Malformed(&'static str);

/// A host by name or by address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Host {
    /// In lower case, without a trailing dot.
    Name(String),
    Address(IpAddr),
}

/// Scheme, host and port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Origin {
    pub(super) https: bool,
    pub(super) host: Host,
    pub(super) port: u16,
}

/// An `http` or `https` URL without user and password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Url {
    pub(super) origin: Origin,
    /// The path as given; begins with a slash.
    pub(super) path: String,
    pub(super) query: Option<String>,
    /// The decoded segments of the path, without empty ones and `.`.
    pub(super) segments: Vec<String>,
}

/// The treatment of a user and password in a URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Userinfo {
    Refuse,
    Drop,
}

impl Url {
    pub(super) fn parse(text: &str, userinfo: Userinfo) -> Result<Self, Malformed> {
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Malformed("a URL has printable ASCII characters only"));
        }
        let (scheme, rest) = text.split_once("://").ok_or(Malformed("not a URL"))?;
        let https = match scheme.to_ascii_lowercase().as_str() {
            "http" => false,
            "https" => true,
            _ => return Err(Malformed("neither http nor https")),
        };
        if rest.contains(['\\', '#', '"', '<', '>']) {
            return Err(Malformed("a character that a URL cannot have"));
        }
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, rest) = rest.split_at(end);
        let (host, port) = split_authority(without_userinfo(authority, userinfo)?)?;
        let (path, query) = match rest.split_once('?') {
            Some((path, query)) => (path, Some(query.to_owned())),
            None => (rest, None),
        };
        let path = if path.is_empty() { "/" } else { path };
        Ok(Self {
            origin: Origin {
                https,
                host,
                port: port.unwrap_or(if https { 443 } else { 80 }),
            },
            segments: segments(path)?,
            path: path.to_owned(),
            query,
        })
    }

    /// Returns the URL that `location` in an answer to this one means.
    pub(super) fn join(&self, location: &str) -> Result<Self, Malformed> {
        if let Some(rest) = location.strip_prefix("//") {
            return Self::parse(
                &format!("{}://{rest}", self.origin.scheme()),
                Userinfo::Refuse,
            );
        }
        if location.starts_with('/') {
            return Self::parse(&format!("{}{location}", self.origin), Userinfo::Refuse);
        }
        if location.contains("://") {
            return Self::parse(location, Userinfo::Refuse);
        }
        let folder = self.path.rsplit_once('/').map_or("", |(folder, _)| folder);
        let whole = format!("{}{folder}/{location}", self.origin);
        Self::parse(&whole, Userinfo::Refuse)
    }

    /// Returns the target of a request to the server itself.
    pub(super) fn target(&self) -> String {
        match &self.query {
            Some(query) => format!("{}?{query}", self.path),
            None => self.path.clone(),
        }
    }

    /// Returns the segments below `base`; `None` if this URL is not below it.
    pub(super) fn below(&self, base: &Self) -> Option<&[String]> {
        let rest = self.segments.strip_prefix(base.segments.as_slice())?;
        (self.origin == base.origin && !rest.is_empty()).then_some(rest)
    }
}

/// Shows the URL without its query, which may be a credential.
impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.origin, self.path)
    }
}

impl Origin {
    fn scheme(&self) -> &'static str {
        if self.https { "https" } else { "http" }
    }

    /// Returns the host, and the port if it is not the default: the header `Host`.
    pub(super) fn authority(&self) -> String {
        match (self.https, self.port) {
            (false, 80) | (true, 443) => self.host.to_string(),
            _ => format!("{}:{}", self.host, self.port),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme(), self.authority())
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(IpAddr::V4(address)) => address.fmt(f),
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
        }
    }
}

impl Host {
    /// Parses a host name, an IPv4 address, or an IPv6 address in brackets.
    pub(super) fn parse(text: &str) -> Result<Self, Malformed> {
        if let Some(inside) = text.strip_prefix('[') {
            let address = inside
                .strip_suffix(']')
                .and_then(|inside| inside.parse().ok());
            let address: Ipv6Addr = address.ok_or(Malformed("not an IPv6 address"))?;
            return Ok(Self::Address(address.into()));
        }
        if let Ok(address) = text.parse::<Ipv4Addr>() {
            return Ok(Self::Address(address.into()));
        }
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        let last = name.rsplit('.').next().unwrap_or_default();
        // The system's resolver takes `127.1`, `2130706433` and `0x7f.1` for addresses.
        if last.bytes().all(|byte| byte.is_ascii_digit()) || last.starts_with("0x") {
            return Err(Malformed("neither a host name nor a plain IP address"));
        }
        let is_label = |label: &str| {
            (1..=MAX_LABEL_BYTES).contains(&label.len())
                && label
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
        };
        if name.len() > MAX_HOST_BYTES || !name.split('.').all(is_label) {
            return Err(Malformed("not a host name"));
        }
        Ok(Self::Name(name))
    }
}

fn without_userinfo(authority: &str, userinfo: Userinfo) -> Result<&str, Malformed> {
    match authority.split_once('@') {
        None => Ok(authority),
        Some((_, host)) if userinfo == Userinfo::Drop && !host.contains('@') => Ok(host),
        Some(_) => Err(Malformed("a user or password in the URL")),
    }
}

/// Splits `HOST` or `HOST:PORT`.
pub(super) fn split_authority(authority: &str) -> Result<(Host, Option<u16>), Malformed> {
    let (host, port) = match authority.rsplit_once(':') {
        // A colon inside the brackets belongs to the address.
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    };
    let port = port.map(|port| {
        let digits = port.bytes().all(|byte| byte.is_ascii_digit());
        let number = port
            .parse()
            .ok()
            .filter(|number| digits && *number != 0_u16);
        number.ok_or(Malformed("not a port number"))
    });
    Ok((Host::parse(host)?, port.transpose()?))
}

/// Decodes the segments of a path. Leaves out empty ones and `.`, as servers do.
fn segments(path: &str) -> Result<Vec<String>, Malformed> {
    path.split('/')
        .filter(|raw| !raw.is_empty() && *raw != ".")
        .map(decode_segment)
        .collect()
}

/// Decodes one layer of a segment; checks all layers.
fn decode_segment(raw: &str) -> Result<String, Malformed> {
    let once = decode(raw)?.ok_or(Malformed("a percent sign without two digits"))?;
    check_segment(raw)?;
    let mut text = once.clone();
    for _ in 0..MAX_LAYERS {
        check_segment(&text)?;
        match decode(&text)? {
            Some(next) if next != text => text = next,
            _ => return Ok(once),
        }
    }
    Err(Malformed("a path that is encoded too often"))
}

fn check_segment(text: &str) -> Result<(), Malformed> {
    // Some servers cut a parameter, as in `..;a`, before they look for `..`.
    let name = text.split(';').next().unwrap_or_default();
    if name == "." || name == ".." {
        return Err(Malformed("a path that leaves its folder"));
    }
    if text.contains(['/', '\\']) || text.contains(char::is_control) {
        return Err(Malformed("a hidden slash or control character"));
    }
    Ok(())
}

/// Decodes one layer of percent-encoding; `None` if a percent sign lacks its two digits.
fn decode(text: &str) -> Result<Option<String>, Malformed> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || char::from(rest.next()?).to_digit(16);
        let (Some(high), Some(low)) = (digit(), digit()) else {
            return Ok(None);
        };
        bytes.push(u8::try_from(high * 16 + low).unwrap_or_default());
    }
    let text = String::from_utf8(bytes);
    text.map(Some)
        .map_err(|_| Malformed("a path that is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<Url, Malformed> {
        Url::parse(text, Userinfo::Refuse)
    }

    #[test]
    fn equal_urls_have_one_form() {
        let plain = parse("http://deb.example/debian/dists/x").unwrap();
        for same in [
            "HTTP://Deb.EXAMPLE/debian/dists/x",
            "http://deb.example./debian/dists/x",
            "http://deb.example:80/debian/dists/x",
            "http://deb.example:080/debian/dists/x",
            "http://deb.example/debian/./dists//x",
            "http://deb.example/%64ebian/dist%73/x",
        ] {
            let url = parse(same).unwrap();
            assert_eq!(
                (&url.origin, &url.segments),
                (&plain.origin, &plain.segments)
            );
        }
        let port = parse("https://deb.example/").unwrap().origin.port;
        assert_eq!(port, 443);
        let literal = parse("http://[0:0::1]:8080/x").unwrap();
        assert_eq!(literal.to_string(), "http://[::1]:8080/x");
    }

    #[test]
    fn hostile_urls_are_refused() {
        for bad in [
            "",
            "deb.example/debian",
            "ftp://deb.example/",
            "file:///etc/passwd",
            "http:///etc",
            "http://",
            "http://user@deb.example/",
            "http://user:pw@deb.example/",
            "http://deb.example@evil.example/",
            "http://deb.example\\@evil.example/",
            "http://deb.example#@evil.example/",
            "http://deb.example:0/",
            "http://deb.example:65536/",
            "http://deb.example:+80/",
            "http://deb.example:80:80/",
            "http://deb.example:/",
            "http://deb..example/",
            "http://.example/",
            "http://deb.example../",
            "http://deb example/",
            "http://d%65b.example/",
            "http://déb.example/",
            "http://127.1/",
            "http://2130706433/",
            "http://0x7f000001/",
            "http://0x7f.1/",
            "http://0177.0.0.1/",
            "http://127.0.0.1./",
            "http://[::1/",
            "http://::1/",
            "http://[::1%25eth0]/",
            "http://[127.0.0.1]/",
            "http://deb.example/debian/../x",
            "http://deb.example/debian/..",
            "http://deb.example/debian/%2e%2e/x",
            "http://deb.example/debian/.%2E/x",
            "http://deb.example/debian/%2e/x",
            "http://deb.example/debian/..%2fx",
            "http://deb.example/debian/%2fx",
            "http://deb.example/debian/%5c..%5cx",
            "http://deb.example/debian/..;a/x",
            "http://deb.example/debian/%252e%252e/x",
            "http://deb.example/debian/%25252e%25252e%2fx",
            "http://deb.example/debian/..%252fx",
            "http://deb.example/debian/%c0%ae%c0%ae/x",
            "http://deb.example/debian/%25c0%25ae/x",
            "http://deb.example/debian/a%00b",
            "http://deb.example/debian/a%0d%0aHost:x",
            "http://deb.example/debian/a\r\nHost: x",
            "http://deb.example/debian/a b",
            "http://deb.example/debian/%",
            "http://deb.example/debian/%4",
            "http://deb.example/debian/%zz",
            "http://deb.example/debian/%+1",
            "http://deb.example/debian\\..\\x",
            "http://deb.example/debian/#x",
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn names_of_real_files_are_accepted() {
        for path in [
            "pool/main/g/g++/g%2b%2b_1%3a12.2.0-3_amd64.deb",
            "pool/main/g/gcc/gcc_12~rc1_amd64.deb",
            "pool/g%2b%2b_1%253a12%7erc1_amd64.deb",
            "dists/stable/main/binary-amd64/by-hash/SHA256/0123",
            "./Packages.xz",
            "a/...b/..c",
            "100%25_sure",
        ] {
            assert!(
                parse(&format!("http://deb.example/d/{path}")).is_ok(),
                "{path}"
            );
        }
    }

    #[test]
    fn userinfo_of_an_archive_is_dropped() {
        let url = Url::parse("https://u:p%40@deb.example/d", Userinfo::Drop).unwrap();
        assert_eq!(url.to_string(), "https://deb.example/d");
        assert!(Url::parse("https://a@b@deb.example/d", Userinfo::Drop).is_err());
    }

    #[test]
    fn a_location_is_relative_to_its_request() {
        let url = parse("http://deb.example/d/pool/a.deb").unwrap();
        for (location, expected) in [
            ("http://cdn.example/x", "http://cdn.example/x"),
            ("//cdn.example/x", "http://cdn.example/x"),
            ("/x", "http://deb.example/x"),
            ("b.deb?c", "http://deb.example/d/pool/b.deb"),
        ] {
            assert_eq!(url.join(location).unwrap().to_string(), expected);
        }
        for bad in ["../x", "/d/../x", "ftp://x/", "http://u@x/", "a b", "?"] {
            let joined = url.join(bad);
            assert!(joined.is_err() || bad == "?", "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_parsed_url_parses_to_itself(
            text in "[hH]ttps?://[aB.:0-9@\\[\\]]{1,9}(/|\\.|%2e|%25|%2F|;|a|\\\\|%7e){0,9}",
        ) {
            if let Ok(url) = parse(&text) {
                prop_assert_eq!(parse(&url.to_string()), Ok(url.clone()));
                prop_assert!(url.segments.iter().all(|segment| segment != ".."));
                prop_assert!(url.segments.iter().all(|segment| !segment.contains('/')));
            }
        }
    }
}
