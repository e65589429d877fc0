//! Pure: moves the passwords of apt's URIs into the format of apt_auth.conf(5).
//!
//! The format has no quoting. A password that it cannot express stays in the sources, which the
//! session then hides until the build starts (`session::secrets`).

use std::collections::BTreeMap;

/// The logins of several URIs.
#[derive(Debug, Default)]
pub(super) struct Logins {
    /// The tokens after `machine`, by what stands before them.
    entries: BTreeMap<String, String>,
    inexpressible: bool,
    found: bool,
}

impl Logins {
    /// Takes the login out of a URI and returns the URI without it.
    pub(super) fn take(&mut self, uri: &str) -> String {
        let Some(parts) = Parts::of(uri) else {
            return uri.to_owned();
        };
        self.found = true;
        match parts.entry() {
            Some((machines, login)) => {
                for machine in machines {
                    let old = self.entries.insert(machine, login.clone());
                    self.inexpressible |= old.is_some_and(|old| old != login);
                }
            }
            None => self.inexpressible = true,
        }
        format!("{}://{}{}", parts.scheme, parts.host, parts.path)
    }

    /// Returns whether a URI had a login.
    pub(super) fn any(&self) -> bool {
        self.found
    }

    /// Returns the text of the file; `None` if it cannot express every login.
    pub(super) fn conf(&self) -> Option<String> {
        // apt takes the first entry whose path begins the URI's: the longest comes first.
        let mut entries: Vec<_> = self.entries.iter().collect();
        entries.sort_by_key(|(machine, _)| std::cmp::Reverse(machine.len()));
        let lines = entries
            .iter()
            .map(|(machine, login)| format!("machine {machine} {login}\n"));
        (!self.inexpressible).then(|| lines.collect())
    }
}

/// A URI with a login.
struct Parts<'a> {
    scheme: &'a str,
    login: &'a str,
    /// With the port.
    host: &'a str,
    path: &'a str,
}

impl<'a> Parts<'a> {
    /// Splits a URI as apt does; `None` without a login.
    fn of(uri: &'a str) -> Option<Self> {
        let (scheme, rest) = uri.split_once("://")?;
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (login, host) = authority.rsplit_once('@')?;
        Some(Self {
            scheme,
            login,
            host,
            path,
        })
    }

    /// Returns the machines and the login of the entry, as apt's file has them.
    fn entry(&self) -> Option<(Vec<String>, String)> {
        // apt compares the address of IPv6 without its brackets.
        let host = self.host.replace(['[', ']'], "");
        let path = self.path.trim_end_matches('/');
        let place = format!("{host}{path}/");
        if !is_token(&place) || place.contains('%') {
            return None;
        }
        let machines = match self.scheme {
            "https" => vec![place],
            // Without the scheme, for apt before 1.9.9. A newer one has found the other entry.
            "http" => vec![format!("http://{place}"), place],
            _ => return None,
        };
        let (user, password) = self.login.split_once(':').unwrap_or((self.login, ""));
        let (user, password) = (decode(user)?, decode(password)?);
        if !is_token(&user) {
            return None;
        }
        match password.as_str() {
            "" => Some((machines, format!("login {user}"))),
            _ if !is_token(&password) => None,
            _ => Some((machines, format!("login {user} password {password}"))),
        }
    }
}

/// Returns whether the text is one token of the file.
fn is_token(text: &str) -> bool {
    !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || c.is_control())
}

/// Decodes `%XX`, as apt does in user and password.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('%') {
        bytes.extend_from_slice(before.as_bytes());
        let is_hex = |digits: &&str| digits.bytes().all(|b| b.is_ascii_hexdigit());
        if let Some(digits) = after.get(..2).filter(is_hex) {
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = after.get(2..).unwrap_or_default();
        } else {
            bytes.push(b'%');
            rest = after;
        }
    }
    bytes.extend_from_slice(rest.as_bytes());
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the URIs without logins, and the file.
    fn taken(uris: &[&str]) -> (Vec<String>, Option<String>) {
        let mut logins = Logins::default();
        let clean: Vec<String> = uris.iter().map(|uri| logins.take(uri)).collect();
        assert_eq!(logins.any(), uris.iter().any(|uri| uri.contains('@')));
        (clean, logins.conf())
    }

    #[test]
    fn logins_move_to_the_file() {
        for (uri, clean, conf) in [
            (
                "http://buildd:s3cret@ppa.example/cprov/ubuntu",
                "http://ppa.example/cprov/ubuntu",
                "machine http://ppa.example/cprov/ubuntu/ login buildd password s3cret\n\
                 machine ppa.example/cprov/ubuntu/ login buildd password s3cret\n",
            ),
            (
                "https://u:p%40%3a%25@h:8443/",
                "https://h:8443/",
                "machine h:8443/ login u password p@:%\n",
            ),
            (
                "https://u:p@q@h",
                "https://h",
                "machine h/ login u password p@q\n",
            ),
            (
                "https://u:p:q@h/x",
                "https://h/x",
                "machine h/x/ login u password p:q\n",
            ),
            ("https://u@h/x", "https://h/x", "machine h/x/ login u\n"),
            (
                "https://u:100%@h/x",
                "https://h/x",
                "machine h/x/ login u password 100%\n",
            ),
            (
                "https://u:p@[::1]:80/x",
                "https://[::1]:80/x",
                "machine ::1:80/x/ login u password p\n",
            ),
            ("http://h/x@y", "http://h/x@y", ""),
            ("file:/srv/repo", "file:/srv/repo", ""),
        ] {
            let mut logins = Logins::default();
            assert_eq!(logins.take(uri), clean);
            assert_eq!(logins.conf().as_deref(), Some(conf), "{uri}");
        }
    }

    #[test]
    fn the_longest_path_comes_first() {
        let (_, conf) = taken(&["https://a:1@h/x", "https://b:2@h/x/y", "https://a:1@h/x"]);
        let expect = "machine h/x/y/ login b password 2\nmachine h/x/ login a password 1\n";
        assert_eq!(conf.as_deref(), Some(expect));
    }

    #[test]
    fn what_the_file_cannot_express_is_recognized() {
        for uris in [
            &["http://u:a%20b@h/x"][..],
            &["http://u:a%0ab@h/x"],
            &["http://:p@h/x"],
            &["http://u:%ff@h/x"],
            &["http://u:p@h/a%20b"],
            &["ftp://u:p@h/x"],
            &["https://a:1@h/x", "https://b:2@h/x"],
        ] {
            let (clean, conf) = taken(uris);
            assert_eq!(conf, None, "{uris:?}");
            assert!(clean.iter().all(|uri| !uri.contains('@')), "{clean:?}");
        }
    }
}
