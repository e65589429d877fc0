//! Pure: parses the URL or path of a database.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;

use super::Error;

/// Where a database is, by engine.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Location {
    Sqlite(PathBuf),
    Postgres(Server),
}

/// A PostgreSQL server.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Server {
    /// The URL without the parameters of `tls`. It may contain a password.
    pub(super) url: String,
    pub(super) tls: Tls,
}

/// How to protect the connection to a server, by `sslmode` and `sslrootcert` of the URL. The values
/// mean what they mean to libpq (docs/farm.md §6.3).
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Tls {
    pub(super) mode: SslMode,
    /// The CAs that may have signed the server's certificate. `None`: any certificate is accepted.
    pub(super) roots: Option<Roots>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SslMode {
    Disable,
    /// With TLS if possible, else without.
    Prefer,
    Require,
    VerifyCa,
    /// The certificate must be valid for the host name of the URL.
    VerifyFull,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Roots {
    /// The CAs that the host trusts.
    System,
    /// A file of certificates in PEM.
    File(PathBuf),
}

impl Location {
    /// Parses `postgresql://…`, `postgres://…`, `sqlite:PATH` or a path.
    pub(super) fn parse(text: &str) -> Result<Self, Error> {
        if text.starts_with("postgresql://") || text.starts_with("postgres://") {
            return Server::parse(text).map(Self::Postgres);
        }
        let path = text.strip_prefix("sqlite:").unwrap_or(text);
        let path = path.strip_prefix("//").unwrap_or(path);
        if path.is_empty() || path.contains("://") {
            // The text before the colon contains no password.
            let scheme = text.split("://").next().unwrap_or_default();
            return Err(Error::Url(scheme.to_owned()));
        }
        Ok(Self::Sqlite(PathBuf::from(path)))
    }
}

impl Server {
    fn parse(text: &str) -> Result<Self, Error> {
        // A password may contain a question mark.
        let host = text.find('@').unwrap_or(0);
        let Some(at) = text[host..].find('?').map(|at| host + at) else {
            let (url, tls) = (text.to_owned(), Tls::new(None, None)?);
            return Ok(Self { url, tls });
        };
        let (mut mode, mut roots, mut others) = (None, None, Vec::new());
        for parameter in text[at + 1..].split('&') {
            let (key, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            match key {
                "sslmode" => mode = Some(SslMode::parse(value)?),
                "sslrootcert" => roots = Roots::parse(value),
                _ => others.push(parameter),
            }
        }
        let mut url = text[..at].to_owned();
        if !others.is_empty() {
            url = format!("{url}?{}", others.join("&"));
        }
        let tls = Tls::new(mode, roots)?;
        Ok(Self { url, tls })
    }
}

impl Tls {
    fn new(mode: Option<SslMode>, roots: Option<Roots>) -> Result<Self, Error> {
        use SslMode::{Prefer, VerifyCa, VerifyFull};
        let system = roots == Some(Roots::System);
        let mode = mode.unwrap_or(if system { VerifyFull } else { Prefer });
        if system && mode != VerifyFull {
            return Err(Error::Tls(
                "sslrootcert=system needs sslmode=verify-full, because anybody can get a \
                 certificate of a public CA for some name"
                    .to_owned(),
            ));
        }
        if roots.is_none() && matches!(mode, VerifyCa | VerifyFull) {
            return Err(Error::Tls(
                "sslmode=verify-ca and verify-full need the CA's certificate: add \
                 sslrootcert=FILE, or sslrootcert=system for the CAs that this host trusts"
                    .to_owned(),
            ));
        }
        Ok(Self { mode, roots })
    }
}

impl SslMode {
    fn parse(text: &str) -> Result<Self, Error> {
        Ok(match text {
            "disable" => Self::Disable,
            "prefer" => Self::Prefer,
            "require" => Self::Require,
            "verify-ca" => Self::VerifyCa,
            "verify-full" => Self::VerifyFull,
            _ => {
                return Err(Error::Tls(format!(
                    "sslmode={text:?} is unknown; write disable, prefer, require, verify-ca or \
                     verify-full"
                )));
            }
        })
    }
}

impl SslMode {
    /// Returns the value of `sslmode`.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Prefer => "prefer",
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        }
    }
}

impl Roots {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "" => None,
            "system" => Some(Self::System),
            _ => Some(Self::File(OsString::from_vec(percent_decode(text)).into())),
        }
    }
}

/// Decodes `%2F`. A percent sign without two digits stays.
fn percent_decode(text: &str) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let digits = after.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        let byte = digits.filter(|two| two.bytes().all(|digit| digit.is_ascii_hexdigit()));
        let byte = byte.and_then(|two| u8::from_str_radix(two, 16).ok());
        rest = match byte.filter(|_| *first == b'%') {
            Some(byte) => {
                decoded.push(byte);
                &after[2..]
            }
            None => {
                decoded.push(*first);
                after
            }
        };
    }
    decoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_a_database_url_is_parsed() {
        for (text, path) in [
            ("/a/b.db", "/a/b.db"),
            ("b.db", "b.db"),
            ("sqlite:/a/b.db", "/a/b.db"),
            ("sqlite:///a/b.db", "/a/b.db"),
        ] {
            assert_eq!(
                Location::parse(text).unwrap(),
                Location::Sqlite(path.into()),
                "{text}"
            );
        }
        for url in [
            "postgresql://u:p@h/d",
            "postgres:///d?host=/run",
            "postgresql://u:a?b@h/d",
        ] {
            assert_eq!(server(url).url, url);
        }
        let error = Location::parse("mysql://u:secret@h/d").unwrap_err();
        assert!(!error.to_string().contains("secret"), "{error}");
        assert!(Location::parse("").is_err());
    }

    fn server(url: &str) -> Server {
        match Location::parse(url).unwrap() {
            Location::Postgres(server) => server,
            Location::Sqlite(path) => panic!("{path:?}"),
        }
    }

    #[test]
    fn sslmode_and_sslrootcert_mean_what_they_mean_to_libpq() {
        use SslMode::{Disable, Prefer, Require, VerifyCa, VerifyFull};
        let file = || Some(Roots::File("/a b/ca.crt".into()));
        for (parameters, mode, roots) in [
            ("", Prefer, None),
            ("?sslmode=disable", Disable, None),
            ("?sslmode=prefer&sslrootcert=/a%20b/ca.crt", Prefer, file()),
            ("?sslmode=require", Require, None),
            (
                "?sslrootcert=%2Fa%20b%2fca.crt&sslmode=require",
                Require,
                file(),
            ),
            (
                "?sslmode=verify-ca&sslrootcert=/a%20b/ca.crt",
                VerifyCa,
                file(),
            ),
            (
                "?sslmode=verify-full&sslrootcert=/a%20b/ca.crt",
                VerifyFull,
                file(),
            ),
            ("?sslrootcert=system", VerifyFull, Some(Roots::System)),
        ] {
            let found = server(&format!("postgresql://u:p@h/d{parameters}"));
            assert_eq!(found.tls, Tls { mode, roots }, "{parameters}");
            assert_eq!(found.url, "postgresql://u:p@h/d");
        }
        let with_more = "postgresql://u:p@h/d?port=1&sslmode=require&options=-c%20a%3Db";
        assert_eq!(
            server(with_more).url,
            "postgresql://u:p@h/d?port=1&options=-c%20a%3Db"
        );
        for (parameters, message) in [
            ("sslmode=verify-full", "sslrootcert=FILE"),
            ("sslmode=verify-ca", "sslrootcert=FILE"),
            (
                "sslmode=require&sslrootcert=system",
                "needs sslmode=verify-full",
            ),
            (
                "sslmode=allow",
                "write disable, prefer, require, verify-ca or verify-full",
            ),
        ] {
            let error = Location::parse(&format!("postgresql://u:secret@h/d?{parameters}"));
            let error = error.unwrap_err().to_string();
            assert!(
                error.contains(message) && !error.contains("secret"),
                "{error}"
            );
        }
    }
}
