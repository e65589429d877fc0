//! Pure: parses the URL of a slave.
//!
//! Accepts `http://host:8221`, with or without `/rpc` or `/rpc/`, and `host:8221`, each with or
//! without user name and password. All become a base URL without credentials. Resolves no names.

use std::net::Ipv6Addr;

use crate::protocol::Credentials;

/// The port of a slave given without scheme and port.
const DEFAULT_PORT: u16 = 8221;

/// Why a URL is invalid. Does not repeat the URL, which may contain a password.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the URL of a slave: {0}; write http://HOST:8221 or http://USER:PASSWORD@HOST:8221")]
pub(crate) struct Invalid(&'static str);

/// The address of a slave, and the credentials for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SlaveUrl {
    /// Scheme, host, port, and the path before `/rpc`; no trailing slash.
    pub(crate) base: String,
    /// Host and port of `base`.
    pub(crate) address: String,
    pub(crate) credentials: Option<Credentials>,
}

impl SlaveUrl {
    /// Parses a URL from a command line or a configuration.
    ///
    /// # Errors
    /// Fails unless the text is `host`, `host:port` or an http or https URL without a query.
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
        let (credentials, host_port) = match authority.rsplit_once('@') {
            Some((userinfo, host_port)) => (Some(read_credentials(userinfo)?), host_port),
            None => (None, authority),
        };
        let (host, port) = split_port(host_port)?;
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

/// Returns a URL without user name and password, otherwise unchanged.
pub(crate) fn shown_url(url: &str) -> String {
    match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host_port))) => format!("{scheme}://{host_port}"),
        (None, Some((_, host_port))) => host_port.to_owned(),
        _ => url.to_owned(),
    }
}

fn split_port(host_port: &str) -> Result<(&str, Option<u16>), Invalid> {
    let host_end = if host_port.starts_with('[') {
        host_port
            .find(']')
            .map_or(host_port.len(), |bracket| bracket + 1)
    } else {
        host_port.find(':').unwrap_or(host_port.len())
    };
    let (host, rest) = host_port.split_at(host_end);
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
    fn every_form_of_a_slave_url_is_parsed() {
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
    fn an_invalid_url_is_not_repeated_in_the_error() {
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
    fn credentials_are_decoded_and_removed_from_the_base() {
        let url = SlaveUrl::parse("http://me:p%40ss%2fw%C3%B6rd@[2001:db8::1]/rpc").unwrap();
        assert_eq!(url.address, "[2001:db8::1]:80");
        assert!(!url.base.contains("me"), "{}", url.base);
        let credentials = url.credentials.unwrap();
        assert_eq!(credentials.username, "me");
        assert_eq!(credentials.password, "p@ss/w\u{f6}rd");
    }
}
