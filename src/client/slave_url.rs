//! Pure: which slave does a word on the command line mean?
//!
//! People write `http://host:8221`, with `/rpc` or `/rpc/` as masters do, or `host:8221`, with or
//! without a user name and password. All become one base URL, in which no password is left to be
//! shown. Resolves nothing.

use std::net::Ipv6Addr;

use crate::protocol::Credentials;

/// The port of a slave that is named without a scheme and without a port.
const DEFAULT_PORT: u16 = 8221;

/// Says what is wrong with a URL, without repeating it: it may hold a password.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the URL of a slave: {0}; write http://HOST:8221 or http://USER:PASSWORD@HOST:8221")]
pub(crate) struct Invalid(&'static str);

/// Where a slave is, and what it asks of its callers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SlaveUrl {
    /// Scheme, host and port, and what is before `/rpc` if anything; no slash at the end.
    pub(crate) base: String,
    /// The address part of `base`, its port always there.
    pub(crate) address: String,
    pub(crate) credentials: Option<Credentials>,
}

impl SlaveUrl {
    /// Reads what a person typed.
    ///
    /// # Errors
    /// What is neither `host`, `host:port` nor an http or https URL, or has a query.
    pub(crate) fn parse(text: &str) -> Result<Self, Invalid> {
        let (scheme, rest, default_port) = match text.split_once("://") {
            Some(("http", rest)) => ("http", rest, 80),
            Some(("https", rest)) => ("https", rest, 443),
            Some(_) => return Err(Invalid("neither http nor https")),
            None => ("http", text, DEFAULT_PORT),
        };
        if rest.contains(|c: char| matches!(c, '?' | '#') || !c.is_ascii_graphic()) {
            return Err(Invalid("a query, a fragment or a stray character"));
        }
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (credentials, place) = match authority.rsplit_once('@') {
            Some((userinfo, place)) => (Some(read_credentials(userinfo)?), place),
            None => (None, authority),
        };
        let (host, port) = split_port(place)?;
        let address = format!("{host}:{}", port.unwrap_or(default_port));
        let path = path.trim_end_matches('/');
        let path = path.strip_suffix("/rpc").unwrap_or(path);
        Ok(Self {
            base: format!("{scheme}://{address}{path}"),
            address,
            credentials,
        })
    }
}

/// Returns a URL without user name and password, otherwise as it stands.
pub(crate) fn shown_url(url: &str) -> String {
    match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, place))) => format!("{scheme}://{place}"),
        (None, Some((_, place))) => place.to_owned(),
        _ => url.to_owned(),
    }
}

fn split_port(place: &str) -> Result<(&str, Option<u16>), Invalid> {
    let host_end = if place.starts_with('[') {
        place.find(']').map_or(place.len(), |bracket| bracket + 1)
    } else {
        place.find(':').unwrap_or(place.len())
    };
    let (host, rest) = place.split_at(host_end);
    let is_name = !host.is_empty()
        && host
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
    let inner = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let is_address = inner.is_some_and(|h| h.parse::<Ipv6Addr>().is_ok());
    if !(is_name || is_address) {
        return Err(Invalid("no host name or address in it"));
    }
    match rest.strip_prefix(':') {
        None if rest.is_empty() => Ok((host, None)),
        Some(port) if port.bytes().all(|b| b.is_ascii_digit()) => port
            .parse()
            .map(|port| (host, Some(port)))
            .map_err(|_| Invalid("no such port")),
        _ => Err(Invalid("no such port")),
    }
}

fn read_credentials(userinfo: &str) -> Result<Credentials, Invalid> {
    let (username, password) = userinfo.split_once(':').unwrap_or((userinfo, ""));
    let decode =
        |part| percent_decode(part).ok_or(Invalid("a bad % escape in user name or password"));
    Ok(Credentials {
        username: decode(username)?,
        password: decode(password)?,
    })
}

fn percent_decode(text: &str) -> Option<String> {
    let mut parts = text.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at_checked(2)?;
        if !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_name_a_slave() {
        for (text, base) in [
            ("http://host:8221", "http://host:8221"),
            ("http://host:8221/", "http://host:8221"),
            ("http://host:8221/rpc", "http://host:8221"),
            ("http://host:8221/rpc/", "http://host:8221"),
            ("host:8221", "http://host:8221"),
            ("host:8221/rpc/", "http://host:8221"),
            ("host", "http://host:8221"),
            ("http://host", "http://host:80"),
            ("https://host/slaves/1/rpc", "https://host:443/slaves/1"),
            ("10.1.2.3:99", "http://10.1.2.3:99"),
            ("[::1]:99", "http://[::1]:99"),
            ("[::1]", "http://[::1]:8221"),
            ("u:p@host:1", "http://host:1"),
        ] {
            assert_eq!(SlaveUrl::parse(text).unwrap().base, base, "{text}");
        }
    }

    #[test]
    fn what_names_no_slave_is_not_repeated() {
        for text in [
            "",
            "http://",
            "ftp://host",
            "/rpc",
            "host:",
            "host:+1",
            "host:70000",
            "host:secret",
            "[::1",
            "[::1]9",
            "ho st",
            "http://host/rpc?secret",
            "u:secret%@host",
            "u:secret%+1@host",
        ] {
            let error = SlaveUrl::parse(text);
            assert!(error.is_err(), "{text}: {error:?}");
            assert!(!error.unwrap_err().to_string().contains("secret"));
        }
    }

    #[test]
    fn credentials_are_decoded_and_taken_out() {
        let url = SlaveUrl::parse("http://me:p%40ss%2fw%C3%B6rd@[2001:db8::1]/rpc").unwrap();
        assert_eq!(url.address, "[2001:db8::1]:80");
        assert!(!url.base.contains("me"), "{}", url.base);
        let credentials = url.credentials.unwrap();
        assert_eq!(credentials.username, "me");
        assert_eq!(credentials.password, "p@ss/w\u{f6}rd");
    }
}
