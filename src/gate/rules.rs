//! Pure: decides which URLs and hosts a session may reach through the gate.
//!
//! A session reaches what is below the URI of one of its archives. The operator may add hosts that
//! archives redirect to.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::refusal::Refusal;
use super::url::{Host, Malformed, Url, Userinfo, split_authority};

/// A host of the operator's configuration: `HOST`, `HOST:PORT` or `*.DOMAIN`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct HostPattern {
    host: Host,
    /// Also all hosts below `host`, but not itself.
    subdomains: bool,
    port: Option<u16>,
}

impl FromStr for HostPattern {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let (rest, subdomains) = match text.strip_prefix("*.") {
            Some(rest) => (rest, true),
            None => (text, false),
        };
        let (host, port) = split_authority(rest)?;
        Ok(Self {
            host,
            subdomains,
            port,
        })
    }
}

impl HostPattern {
    /// Returns the hosts, with their ports, of apt's sources in either form.
    pub(crate) fn of_sources(text: &str) -> Vec<Self> {
        let uris = text.lines().flat_map(uris);
        let urls = uris.filter_map(|uri| Url::parse(uri, Userinfo::Drop).ok());
        urls.map(|url| Self {
            host: url.origin.host,
            subdomains: false,
            port: Some(url.origin.port),
        })
        .collect()
    }
}

impl TryFrom<String> for HostPattern {
    type Error = Malformed;

    fn try_from(text: String) -> Result<Self, Malformed> {
        text.parse()
    }
}

impl From<HostPattern> for String {
    fn from(pattern: HostPattern) -> Self {
        pattern.to_string()
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prefix = if self.subdomains { "*." } else { "" };
        write!(f, "{prefix}{}", self.host)?;
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

impl HostPattern {
    /// Returns whether this pattern names the host and, if it has a port, the port.
    pub(super) fn names(&self, host: &Host, port: u16) -> bool {
        self.port.is_none_or(|own| own == port) && self.names_host(host)
    }

    fn names_host(&self, host: &Host) -> bool {
        match (&self.host, host) {
            (Host::Name(own), Host::Name(name)) if self.subdomains => name
                .strip_suffix(own.as_str())
                .is_some_and(|front| front.ends_with('.')),
            (own, host) => !self.subdomains && own == host,
        }
    }
}

/// Why the gate lets a request pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Access {
    /// The URL is below an archive. Holds the decoded path below each such archive.
    Archive(Vec<String>),
    /// The operator allows the host for redirects.
    RedirectTarget,
}

/// The archives of one build, and the hosts that they may redirect to.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rules {
    archives: Vec<Url>,
    redirect_to: Vec<HostPattern>,
    /// Sentences about sources that the gate cannot serve.
    unusable: Vec<String>,
}

impl Rules {
    /// Takes apt's sources, as lines of either form or as plain URIs, and the operator's hosts.
    pub(crate) fn from_sources(sources: &[String], redirect_to: &[HostPattern]) -> Self {
        let mut rules = Self {
            redirect_to: redirect_to.to_vec(),
            ..Self::default()
        };
        rules.add(sources);
        rules
    }

    /// Adds archives; ones already known change nothing.
    pub(super) fn add(&mut self, sources: &[String]) {
        for uri in sources.iter().flat_map(|source| uris(source)) {
            let scheme = uri.split(':').next().unwrap_or_default();
            if !scheme.to_ascii_lowercase().contains("http") {
                // Such as file: and cdrom:, which need no network.
                continue;
            }
            match Url::parse(uri, Userinfo::Drop) {
                Ok(url) if self.archives.contains(&url) => {}
                Ok(url) => self.archives.push(url),
                Err(error) => self.unusable.push(format!(
                    "The gate cannot serve a source of this build ({scheme}): its URI has {error}. \
                     Write it as http://HOST/PATH or https://HOST/PATH."
                )),
            }
        }
    }

    /// Takes the sentences about sources that the gate cannot serve.
    pub(super) fn take_unusable(&mut self) -> Vec<String> {
        std::mem::take(&mut self.unusable)
    }

    /// Decides about a plain request.
    pub(super) fn file(&self, url: &Url) -> Result<Access, Refusal> {
        let below: Vec<String> = self
            .archives
            .iter()
            .filter_map(|archive| url.below(archive))
            .map(|segments| segments.join("/"))
            .collect();
        if !below.is_empty() {
            return match url.query {
                None => Ok(Access::Archive(below)),
                Some(_) => Err(Refusal::forbidden(
                    "a query is not part of an archive",
                    format!("The gate refused {url}: the request has a query (?…)."),
                )),
            };
        }
        if self.allows_redirect(&url.origin.host, url.origin.port) {
            return Ok(Access::RedirectTarget);
        }
        let same_host = |archive: &Url| archive.origin == url.origin;
        Err(if self.archives.iter().any(same_host) {
            Refusal::forbidden(
                "not below an archive of this build",
                format!(
                    "The gate refused {url}: it is not below the URI of an archive of this build."
                ),
            )
        } else {
            unknown_host(&url.origin.to_string(), &url.origin.authority())
        })
    }

    /// Decides about a CONNECT request.
    pub(super) fn tunnel(&self, host: &Host, port: u16) -> Result<Access, Refusal> {
        let is_archive = |archive: &Url| {
            let origin = &archive.origin;
            origin.https && origin.host == *host && origin.port == port
        };
        if self.archives.iter().any(is_archive) {
            Ok(Access::Archive(Vec::new()))
        } else if self.allows_redirect(host, port) {
            Ok(Access::RedirectTarget)
        } else {
            let name = format!("{host}:{port}");
            Err(unknown_host(&name, &name))
        }
    }

    /// Decides about the target of a redirect.
    pub(super) fn redirect(&self, from: &Url, to: &Url) -> Result<(), Refusal> {
        let allowed = if to.origin.https {
            self.tunnel(&to.origin.host, to.origin.port).map(drop)
        } else {
            self.file(to).map(drop)
        };
        allowed.map_err(|_| {
            let authority = to.origin.authority();
            Refusal::forbidden(
                &format!("redirect to {authority} not allowed"),
                format!(
                    "The gate refused the redirect of {from} to {to}. If the archive is known to \
                     use that host, add {authority} to [gate] redirect_to."
                ),
            )
        })
    }

    /// A pattern without a port stands for the default ports.
    fn allows_redirect(&self, host: &Host, port: u16) -> bool {
        self.redirect_to.iter().any(|pattern| {
            pattern.names(host, port) && (pattern.port.is_some() || matches!(port, 80 | 443))
        })
    }
}

fn unknown_host(shown: &str, authority: &str) -> Refusal {
    Refusal::forbidden(
        &format!("{authority} is not an archive of this build"),
        format!(
            "The gate refused {shown}: it is not an archive of this build. Add it to the build's \
             archives if it is one, or to [gate] redirect_to if an archive redirects there."
        ),
    )
}

/// Returns the URIs of a line of apt's sources, in either form, or of a plain URI.
fn uris(line: &str) -> Vec<&str> {
    let line = line.trim_start();
    let mut words = line;
    for kind in ["deb ", "deb\t", "deb-src ", "deb-src\t"] {
        if let Some(rest) = line.strip_prefix(kind) {
            // The options come before the URI.
            words = match rest.trim_start().strip_prefix('[') {
                Some(options) => options.split_once(']').map_or("", |(_, rest)| rest),
                None => rest,
            };
        }
    }
    words
        .split_whitespace()
        .take_while(|word| !word.starts_with('#'))
        .filter(|word| word.contains("://"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(sources: &[&str], redirect_to: &[&str]) -> Rules {
        let sources: Vec<String> = sources.iter().map(|&line| line.to_owned()).collect();
        let hosts: Vec<HostPattern> = redirect_to.iter().map(|h| h.parse().unwrap()).collect();
        Rules::from_sources(&sources, &hosts)
    }

    fn passes(rules: &Rules, url: &str) -> bool {
        let url = Url::parse(url, Userinfo::Refuse);
        url.is_ok_and(|url| rules.file(&url).is_ok())
    }

    fn tunnels(rules: &Rules, authority: &str) -> bool {
        let (host, port) = split_authority(authority).unwrap();
        rules.tunnel(&host, port.unwrap()).is_ok()
    }

    #[test]
    fn hosts_are_found_in_sources_of_both_forms() {
        let text = "# deb http://off.example/ sid main\n\
                    deb [arch=amd64] http://user:word@mirror.lan:3142/debian sid main\n\n\
                    Types: deb\nURIs: https://one.example/debian http://[fd00::1]/\n";
        let hosts: Vec<String> = HostPattern::of_sources(text)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            hosts,
            ["mirror.lan:3142", "one.example:443", "[fd00::1]:80"]
        );
    }

    #[test]
    fn all_forms_of_sources_are_read() {
        let rules = rules(
            &[
                "deb [arch=amd64 signed-by=/k] http://one.example/debian sid main # http://no.example/",
                "deb-src\thttp://two.example/debian sid main",
                "URIs: http://three.example/a HTTP://u:p@Four.example:8080/b/",
                "http://[2a00::1]/x",
                "# deb http://no.example/debian sid main",
                "deb file:///srv/repo ./",
                "deb cdrom:[Debian]/ sid main",
                "deb [trusted=yes] mirror+http://five.example/list sid main",
                "deb http://a:b@c@d/x sid main",
            ],
            &[],
        );
        for url in [
            "http://one.example/debian/dists/sid/InRelease",
            "http://two.example/debian/x",
            "http://three.example/a/x",
            "http://four.example:8080/b/x",
            "http://[2a00::1]/x/y",
        ] {
            assert!(passes(&rules, url), "{url}");
        }
        assert!(!passes(&rules, "http://no.example/debian/x"));
        assert_eq!(rules.unusable.len(), 2, "{:?}", rules.unusable);
        assert!(
            rules
                .unusable
                .iter()
                .all(|sentence| !sentence.contains("a:b"))
        );
    }

    #[test]
    fn only_what_is_below_an_archive_passes() {
        let rules = rules(
            &[
                "deb http://deb.example/debian/ sid main",
                "http://root.example",
            ],
            &[],
        );
        for good in [
            "http://deb.example/debian/dists/sid/InRelease",
            "http://DEB.example.:80/debian/./x",
            "http://deb.example/%64ebian/x",
            "http://root.example/x",
        ] {
            assert!(passes(&rules, good), "{good}");
        }
        for bad in [
            "http://deb.example/",
            "http://deb.example/debian",
            "http://deb.example/debian/",
            "http://deb.example/debian2/x",
            "http://deb.example/Debian/x",
            "http://deb.example/x/debian/x",
            "http://deb.example/debian/../x",
            "http://deb.example/debian/%2e%2e/x",
            "http://deb.example/debian%2fx/y",
            "http://deb.example/debian/x?y",
            "http://deb.example:8080/debian/x",
            "https://deb.example/debian/x",
            "http://sub.deb.example/debian/x",
            "http://deb.example.evil.example/debian/x",
            "http://root.example:81/x",
        ] {
            assert!(!passes(&rules, bad), "{bad}");
        }
    }

    #[test]
    fn tunnels_lead_to_https_archives_only() {
        let rules = rules(
            &[
                "https://one.example/x",
                "https://two.example:8443/",
                "http://three.example/",
            ],
            &["cdn.example"],
        );
        for good in [
            "ONE.example:443",
            "one.example.:443",
            "two.example:8443",
            "cdn.example:443",
        ] {
            assert!(tunnels(&rules, good), "{good}");
        }
        for bad in [
            "one.example:80",
            "one.example:22",
            "two.example:443",
            "three.example:80",
            "three.example:443",
            "cdn.example:25",
            "127.0.0.1:443",
        ] {
            assert!(!tunnels(&rules, bad), "{bad}");
        }
    }

    #[test]
    fn redirect_hosts_match_as_written() {
        let rules = rules(
            &[],
            &[
                "cdn.example",
                "*.mirror.example",
                "port.example:8080",
                "192.0.2.1",
            ],
        );
        for good in [
            "http://cdn.example/any?token=1",
            "http://a.mirror.example/x",
            "http://a.b.mirror.example/x",
            "http://port.example:8080/x",
            "http://192.0.2.1/x",
        ] {
            assert!(passes(&rules, good), "{good}");
        }
        for bad in [
            "http://cdn.example:8080/x",
            "http://a.cdn.example/x",
            "http://mirror.example/x",
            "http://evilmirror.example/x",
            "http://port.example/x",
        ] {
            assert!(!passes(&rules, bad), "{bad}");
        }
    }

    #[test]
    fn a_pattern_is_written_as_it_is_read() {
        for text in ["cdn.example", "*.cdn.example:81", "[::1]:8080", "10.0.0.1"] {
            let pattern: HostPattern = text.parse().unwrap();
            assert_eq!(pattern.to_string(), text);
            let json = serde_json::to_string(&pattern).unwrap();
            assert_eq!(serde_json::from_str::<HostPattern>(&json).unwrap(), pattern);
        }
        for bad in ["", "*", "*.", "a b", "http://a/", "a:b", "a/b", "u@a"] {
            assert!(bad.parse::<HostPattern>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_refusal_names_the_mend() {
        let rules = rules(&["http://deb.example/debian"], &[]);
        let url = |text| Url::parse(text, Userinfo::Refuse).unwrap();
        let refused = rules
            .file(&url("http://x.example:81/a?secret"))
            .unwrap_err();
        assert_eq!(
            refused.reason,
            "x.example:81 is not an archive of this build"
        );
        assert_eq!(
            refused.sentence,
            "The gate refused http://x.example:81: it is not an archive of this build. Add it to \
             the build's archives if it is one, or to [gate] redirect_to if an archive redirects \
             there."
        );
        let refused = rules.redirect(
            &url("http://deb.example/debian/x"),
            &url("https://y.example/s?t"),
        );
        let refused = refused.unwrap_err();
        assert_eq!(refused.reason, "redirect to y.example not allowed");
        assert!(
            refused
                .sentence
                .ends_with("add y.example to [gate] redirect_to.")
        );
    }
}
