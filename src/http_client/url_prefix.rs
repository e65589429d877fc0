//! Pure: decides whether a URL begins with an allowed prefix.
//!
//! A prefix is `http://HOST/PATH/`, with an optional port, or only `HOST` or `HOST:PORT` for both
//! schemes. The parts are compared, not the text: `http://allowed@elsewhere/` is elsewhere.

use std::str::FromStr;

use ureq::http::Uri;

/// The beginning of the URLs that a client may request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UrlPrefix {
    /// `None` for both schemes.
    scheme: Option<String>,
    host: String,
    /// `None` for any port.
    port: Option<u16>,
    path: String,
}

impl UrlPrefix {
    /// Returns whether the URL begins with this prefix. A path matches whole segments.
    pub(crate) fn contains(&self, uri: &Uri) -> bool {
        let (Some(scheme), Some(host)) = (uri.scheme_str(), uri.host()) else {
            return false;
        };
        let is_scheme = |own: &String| own.eq_ignore_ascii_case(scheme);
        self.scheme.as_ref().is_none_or(is_scheme)
            && self.host.eq_ignore_ascii_case(host)
            && self.port.is_none_or(|port| port_of(uri) == Some(port))
            && self.contains_path(uri.path())
    }

    fn contains_path(&self, path: &str) -> bool {
        let own = self.path.trim_end_matches('/');
        let rest = path.strip_prefix(own);
        let inside = rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        inside && (own.is_empty() || !can_leave(path))
    }
}

/// True if a server could read the path as one in another folder.
fn can_leave(path: &str) -> bool {
    let path = path.to_ascii_lowercase();
    let encoded = ["%2e", "%2f", "%5c", "%25", "\\"];
    encoded.iter().any(|part| path.contains(part)) || path.split('/').any(|part| part == "..")
}

/// Returns the port of a URL, or that of its scheme.
fn port_of(uri: &Uri) -> Option<u16> {
    match (uri.port_u16(), uri.scheme_str()) {
        (Some(port), _) => Some(port),
        (None, Some("http")) => Some(80),
        (None, Some("https")) => Some(443),
        (None, _) => None,
    }
}

impl FromStr for UrlPrefix {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let bare = !text.contains("://");
        // Without a scheme, `Uri` takes a host for a path.
        let whole = if bare {
            format!("http://{text}")
        } else {
            text.to_owned()
        };
        let uri: Uri = whole.parse().map_err(|_| ())?;
        let authority = uri.authority().ok_or(())?.as_str();
        let scheme = uri.scheme_str().ok_or(())?;
        let good = matches!(scheme, "http" | "https")
            && !authority.contains('@')
            && uri.query().is_none()
            && !(bare && text.contains('/'))
            && !can_leave(uri.path());
        let host = uri
            .host()
            .filter(|host| good && !host.is_empty())
            .ok_or(())?;
        let port = if bare { uri.port_u16() } else { port_of(&uri) };
        Ok(Self {
            scheme: (!bare).then(|| scheme.to_owned()),
            host: host.to_owned(),
            port,
            path: uri.path().to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(prefix: &str, inside: &[&str], outside: &[&str]) {
        let prefix: UrlPrefix = prefix.parse().unwrap();
        for url in inside {
            assert!(
                prefix.contains(&url.parse().unwrap()),
                "{url} of {prefix:?}"
            );
        }
        for url in outside {
            assert!(
                !prefix.contains(&url.parse().unwrap()),
                "{url} of {prefix:?}"
            );
        }
    }

    #[test]
    fn a_prefix_contains_only_its_urls() {
        check(
            "http://files.example.org:8000/",
            &[
                "http://files.example.org:8000/1/a",
                "HTTP://FILES.example.org:8000/?x",
            ],
            &[
                "http://files.example.org/1/a",
                "https://files.example.org:8000/",
                "http://files.example.org:8001/",
                "http://files.example.org:8000@127.0.0.1:8221/",
                "http://files.example.org.evil.example:8000/",
            ],
        );
        check(
            "https://h/a",
            &["https://h/a", "https://h/a/b?c", "https://h:443/a/"],
            &[
                "https://h/ab",
                "https://h/",
                "https://h/a/../b",
                "https://h/a/%2E%2e/b",
                "https://h/a/%2fb",
                "http://h:443/a/",
            ],
        );
        check(
            "h",
            &["http://h/x", "https://h:9/../x"],
            &["http://i/h", "http://x.h/"],
        );
        check("h:9", &["http://h:9/", "https://h:9/"], &["http://h/"]);
        check("[::1]:9", &["http://[::1]:9/"], &["http://[::2]:9/"]);
    }

    #[test]
    fn other_texts_are_no_prefixes() {
        for text in [
            "",
            "ftp://h/",
            "http://",
            "http://u@h/",
            "http://h/?x",
            "h/a",
            "http://h/../",
        ] {
            assert!(text.parse::<UrlPrefix>().is_err(), "{text:?}");
        }
    }
}
