//! The settings of a gate.

use std::fmt;
use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::rules::HostPattern;
use super::url::{Host, Malformed, Url, Userinfo};

/// Looks up the addresses of a host name.
pub(super) type Resolve = Arc<dyn Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync>;

/// The settings of a gate.
#[derive(Clone)]
pub(crate) struct Settings {
    /// `[proxy] apt`: the proxy that all requests go to.
    pub(crate) upstream: Option<Upstream>,
    /// Hosts that may have addresses that are not public.
    pub(crate) private: Vec<HostPattern>,
    /// `None` for private builds, whose files other builds must not get.
    pub(crate) cache: Option<CacheSettings>,
    pub(crate) limits: Limits,
    pub(super) resolve: Resolve,
}

impl Settings {
    /// Creates settings without upstream, private hosts and cache.
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            upstream: None,
            private: Vec::new(),
            cache: None,
            limits,
            resolve: Arc::new(system_resolver),
        }
    }
}

/// The place and size of the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CacheSettings {
    /// Created if it is missing.
    pub(crate) dir: PathBuf,
    /// The most bytes that the cache may hold.
    pub(crate) limit: u64,
    /// Bytes that stay free on its file system.
    pub(crate) reserve: u64,
}

/// Limits on the resources that a session or a server can make the gate spend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Concurrent connections of the session.
    pub(crate) connections: usize,
    /// Timeout to receive a request head, from its first byte on.
    pub(crate) head: Duration,
    /// Timeout between requests, and for the session to accept the next piece of a file.
    pub(crate) client_idle: Duration,
    /// Timeouts to look a host name up, and to connect.
    pub(crate) connect: Duration,
    /// Timeout without a byte from a server.
    pub(crate) server_idle: Duration,
    /// Bytes per second; a slower transfer fails.
    pub(crate) lowest_rate: u64,
    /// The largest file, and the most bytes through one tunnel.
    pub(crate) file_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 32,
            head: Duration::from_secs(30),
            client_idle: Duration::from_secs(60),
            connect: Duration::from_secs(10),
            server_idle: Duration::from_secs(30),
            lowest_rate: 16 << 10,
            file_bytes: 20 << 30,
        }
    }
}

/// A proxy of the operator's. `Debug` does not print its password.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Upstream {
    pub(super) host: Host,
    pub(super) port: u16,
    /// The header line for its password, or nothing.
    pub(super) headers: String,
}

impl Upstream {
    /// Parses `http://USER:PASSWORD@HOST:PORT/`, of which user and password are optional.
    pub(crate) fn parse(text: &str) -> Result<Self, Malformed> {
        let url = Url::parse(text, Userinfo::Drop)?;
        let authority = text.split_once("://").map_or("", |(_, rest)| rest);
        let userinfo = authority.split('/').next().unwrap_or_default();
        let userinfo = userinfo.rsplit_once('@').map(|(userinfo, _)| userinfo);
        let headers = userinfo.map(|userinfo| {
            let (user, password) = userinfo.split_once(':').unwrap_or((userinfo, ""));
            let plain = [decode(user), b":".to_vec(), decode(password)].concat();
            format!("Proxy-Authorization: Basic {}\r\n", STANDARD.encode(plain))
        });
        Ok(Self {
            host: url.origin.host,
            port: url.origin.port,
            headers: headers.unwrap_or_default(),
        })
    }
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Upstream({}:{})", self.host, self.port)
    }
}

/// Decodes percent-encoding; keeps a percent sign without two digits.
fn decode(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let (mut decoded, mut at) = (Vec::new(), 0);
    while let Some(&byte) = bytes.get(at) {
        let digits = text.get(at + 1..at + 3);
        let escaped = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match escaped {
            Some(escaped) if byte == b'%' => {
                decoded.push(escaped);
                at += 3;
            }
            _ => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    decoded
}

fn system_resolver(name: &str) -> io::Result<Vec<IpAddr>> {
    let found = (name, 0).to_socket_addrs()?;
    Ok(found.map(|address| address.ip()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_of_the_upstream_is_sent_and_not_shown() {
        let proxy = Upstream::parse("http://user:p%40%ss@Proxy.example:3128/").unwrap();
        // user:p@%ss
        assert_eq!(
            proxy.headers,
            "Proxy-Authorization: Basic dXNlcjpwQCVzcw==\r\n"
        );
        assert_eq!(format!("{proxy:?}"), "Upstream(proxy.example:3128)");
        let proxy = Upstream::parse("http://127.0.0.1:3128").unwrap();
        assert_eq!(proxy.headers, "");
        assert!(Upstream::parse("socks://a:1").is_err());
    }
}
