//! Pure: configures apt in a session, and interprets its failures.
//!
//! Sources are written in the one-line and the deb822 form. Lines that apt would reject are left
//! out and reported (docs/wire.md §3.2).

use std::fmt::Write as _;

use crate::protocol::BuildStatus;
use crate::session::files::{Lists, NewFile, SecretLists};
use crate::xmlrpc::decode_base64;

use super::apt_auth::Logins;
use super::depwait::{BuildDeps, Cause, Named, Target};
use super::logscan::{Findings, Sign};
use super::package_lists::PackageLists;
use super::scrub::scrub_always;
use super::stage::Failure;
use super::verdict::{self, Classification, Verdict};
use crate::dpkg::Error;

/// Refreshes the package lists. [`settings`] makes every list that cannot be fetched an error.
pub(crate) const UPDATE: [&str; 8] = apt_get(["-uy", "update", "-q"]);
/// Upgrades the chroot.
pub(crate) const UPGRADE: [&str; 10] = [
    "env",
    "LANG=C",
    "DEBIAN_FRONTEND=noninteractive",
    "TTY=unknown",
    "apt-get",
    "-q",
    "-uy",
    "--purge",
    "-oDPkg::Options::=--force-confold",
    "dist-upgrade",
];
/// Collects the hashes of files from package lists, a line at a time.
#[derive(Debug, Default)]
pub(crate) struct FileHashes {
    name: Option<String>,
    sha256: Option<String>,
    bytes: Option<u64>,
}

impl FileHashes {
    /// Reads a line, the empty one after a package included. Returns path, SHA-256 and size of a
    /// file when its package ends.
    pub(crate) fn feed(&mut self, line: &str) -> Option<(String, String, u64)> {
        let line = line.trim_end();
        if line.is_empty() {
            let Self {
                name,
                sha256,
                bytes,
            } = std::mem::take(self);
            return Some((name?, sha256?, bytes?));
        }
        if let Some(name) = line.strip_prefix("Filename: ") {
            self.name = Some(name.to_owned());
        } else if let Some(sha256) = line.strip_prefix("SHA256: ") {
            self.sha256 = Some(sha256.to_owned());
        } else if let Some(bytes) = line.strip_prefix("Size: ") {
            self.bytes = bytes.parse().ok();
        }
        None
    }
}

/// Prints all package lists of apt.
pub(crate) const PACKAGE_LISTS: [&str; 3] = [
    "sh",
    "-c",
    "apt-get indextargets --format '$(FILENAME)' 'Created-By: Packages' \
     | xargs -r /usr/lib/apt/apt-helper cat-file",
];

const fn apt_get(rest: [&'static str; 3]) -> [&'static str; 8] {
    let [a, b, c] = rest;
    [
        "env",
        "LANG=C",
        "DEBIAN_FRONTEND=noninteractive",
        "TTY=unknown",
        "apt-get",
        a,
        b,
        c,
    ]
}

/// Returns the settings of apt and dpkg for every session (docs/wire.md §3.2). `gate` is the URL of
/// the session's gate.
pub(crate) fn settings(gate: Option<&str>) -> Vec<NewFile> {
    let file = |path: &str, content: String| NewFile {
        path: path.into(),
        content: content.into_bytes(),
        mode: 0o644,
    };
    let mut conf = String::from(
        "// Written by buildd-slave.\n\
         Acquire::Retries \"3\";\n\
         // Give up a silent mirror well before the silence timeout of the build.\n\
         Acquire::http::Timeout \"30\";\n\
         Acquire::https::Timeout \"30\";\n\
         Acquire::ftp::Timeout \"30\";\n\
         Acquire::Languages \"none\";\n\
         // A list that cannot be fetched is an error now, not a dep-wait later.\n\
         APT::Update::Error-Mode \"any\";\n\
         APT::Get::Always-Include-Phased-Updates \"true\";\n",
    );
    conf.push_str(&gate.map(apt_proxy).unwrap_or_default());
    let pin = |pocket: &str| format!("Package: *\nPin: release a=*-{pocket}\nPin-Priority: 500\n");
    vec![
        file("/etc/apt/apt.conf.d/99buildd-slave", conf),
        file("/etc/apt/preferences.d/proposed.pref", pin("proposed")),
        file("/etc/apt/preferences.d/backports.pref", pin("backports")),
        // A session does not survive a crash, so its files need no fsync.
        file(
            "/etc/dpkg/dpkg.cfg.d/99buildd-slave",
            "force-unsafe-io\n".into(),
        ),
    ]
}

/// Returns the settings that send apt through the gate at `url`.
pub(crate) fn apt_proxy(url: &str) -> String {
    ["http", "https"]
        .map(|scheme| {
            format!(
                "Acquire::{scheme}::Proxy \"{url}\";\n\
                 Acquire::{scheme}::Proxy-Auto-Detect \"\";\n"
            )
        })
        .concat()
}

/// Decodes `trusted_keys`, each the base64 of an OpenPGP keyring, armoured or not.
pub(crate) fn keyrings(keys: &[String]) -> Result<Vec<NewFile>, String> {
    const FOLDER: &str = "/etc/apt/trusted.gpg.d";
    (1..)
        .zip(keys)
        .map(|(number, key)| {
            let bytes =
                decode_base64(key).ok_or_else(|| format!("trusted key {number} is not base64"))?;
            let armoured = bytes.starts_with(b"-----BEGIN PGP");
            let extension = if armoured { "asc" } else { "gpg" };
            Ok(NewFile {
                path: format!("{FOLDER}/buildd-slave-{number}.{extension}"),
                content: bytes,
                mode: 0o644,
            })
        })
        .collect()
}

/// Decides whose fault a failed update is. A failed download is the archive's: a retry may succeed.
pub(crate) fn blame_update(findings: &Findings, disk_full: bool) -> Failure {
    if disk_full || findings.sign(Sign::NoSpace).is_some() {
        return Failure::new(BuildStatus::BuilderFail, "The builder's disk is full.");
    }
    let archive = [Sign::FetchFailed, Sign::Expired];
    if let Some(line) = archive.iter().find_map(|sign| findings.sign(*sign)) {
        return archive_failed(line);
    }
    if let Some(Classification { verdict, reason }) = verdict::classify_session(findings) {
        let status = match verdict {
            Verdict::BuilderFail => BuildStatus::BuilderFail,
            _ => BuildStatus::ChrootFail,
        };
        return Failure::new(status, reason);
    }
    let error = findings.sign(Sign::Error);
    let error = error.unwrap_or("apt failed without an error message; the log shows its output");
    let reason = format!("The chroot could not be brought up to date: {error}");
    Failure::new(BuildStatus::ChrootFail, reason)
}

/// Returns a give-back: the archive may work again later.
pub(crate) fn archive_failed(why: &str) -> Failure {
    let reason = format!("The archive cannot be used now: {why}");
    Failure::new(BuildStatus::GivenBack, reason)
}

/// The part of a package list's line that is read, in bytes; `Provides` may be long.
const MAX_LINE_BYTES: usize = 64 << 10;

/// Searches the package lists for the reason why apt cannot install the build dependencies.
#[derive(Debug)]
pub(crate) struct Query {
    deps: BuildDeps,
    lists: PackageLists,
    partial: Vec<u8>,
}

impl Query {
    /// Takes the text of a `.dsc`.
    pub(crate) fn new(dsc: &str, target: Target<'_>) -> Result<Self, Error> {
        let deps = BuildDeps::parse(dsc, target)?;
        Ok(Self {
            deps,
            lists: PackageLists::new(target.arch),
            partial: Vec::new(),
        })
    }

    /// Reads the next chunk of the package lists, cut anywhere.
    pub(crate) fn feed(&mut self, mut bytes: &[u8]) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            let (line, rest) = bytes.split_at(end);
            if self.partial.len() < MAX_LINE_BYTES {
                self.partial.extend_from_slice(line);
            }
            self.lists.feed(&String::from_utf8_lossy(&self.partial));
            self.partial.clear();
            bytes = rest.get(1..).unwrap_or_default();
        }
        // The rest of a longer line is dropped, to limit memory.
        if self.partial.len() < MAX_LINE_BYTES {
            self.partial.extend_from_slice(bytes);
        }
    }

    /// Decides why apt cannot install the dependencies; `named` is what it calls unmet. `None` if
    /// the lists are too large.
    pub(crate) fn cause(mut self, named: &[Named]) -> Option<Cause> {
        let whole = self.lists.finish();
        whole.then(|| self.deps.cause(named, &self.lists))
    }
}

/// The sources of a build for its session.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    /// Without passwords.
    pub(crate) public: Lists,
    /// `None` if no line has a password.
    pub(crate) secret: Option<SecretLists>,
    /// The numbers, from 1, of the lines left out. The lines are not kept: they may hold passwords.
    pub(crate) unreadable: Vec<usize>,
}

struct Entry<'a> {
    kind: &'a str,
    options: Vec<(&'a str, &'a str)>,
    uri: &'a str,
    suite: &'a str,
    components: Vec<&'a str>,
}

/// Translates the lines of `archives`, keeping their order.
pub(crate) fn translate(lines: &[String]) -> Sources {
    let mut sources = Sources::default();
    let (mut logins, mut private) = (Logins::default(), Lists::default());
    for (number, line) in (1..).zip(lines) {
        let Some(entry) = parse(line) else {
            sources.unreadable.push(number);
            continue;
        };
        write_entry(&mut private, line, &entry);
        let uri = logins.take(entry.uri);
        let public_line = scrub_always(&line.replace(entry.uri, &uri));
        let public_entry = Entry { uri: &uri, ..entry };
        write_entry(&mut sources.public, &public_line, &public_entry);
    }
    sources.secret = logins.any().then(|| SecretLists {
        auth: logins.conf(),
        lists: private,
    });
    sources
}

fn write_entry(lists: &mut Lists, line: &str, entry: &Entry<'_>) {
    let _ = writeln!(lists.one_line, "{}", line.trim());
    write_stanza(&mut lists.deb822, entry);
}

fn parse(line: &str) -> Option<Entry<'_>> {
    let line = line.trim();
    let (kind, rest) = line.split_once(char::is_whitespace)?;
    if !matches!(kind, "deb" | "deb-src") {
        return None;
    }
    let rest = rest.trim_start();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(inside) => inside.split_once(']')?,
        None => ("", rest),
    };
    let options = options
        .split_whitespace()
        .map(|option| option.split_once('='))
        .collect::<Option<Vec<_>>>()?;
    let mut words = rest.split_whitespace();
    let (uri, suite) = (words.next()?, words.next()?);
    let components: Vec<&str> = words.take_while(|word| !word.starts_with('#')).collect();
    // A suite that ends in a slash is a path without components; all others need components.
    (uri.contains(':') && suite.ends_with('/') == components.is_empty()).then_some(Entry {
        kind,
        options,
        uri,
        suite,
        components,
    })
}

fn write_stanza(out: &mut String, entry: &Entry<'_>) {
    let Entry {
        kind,
        options,
        uri,
        suite,
        components,
    } = entry;
    let _ = writeln!(out, "Types: {kind}\nURIs: {uri}\nSuites: {suite}");
    if !components.is_empty() {
        let _ = writeln!(out, "Components: {}", components.join(" "));
    }
    for (name, value) in options {
        let _ = writeln!(out, "{}: {}", field(name), value.replace(',', " "));
    }
    out.push('\n');
}

/// Returns the deb822 name of a one-line option (`sources.list(5)`): mostly the same, capitalised.
fn field(option: &str) -> String {
    let plural = match option {
        "arch" => "Architectures",
        "lang" => "Languages",
        "target" => "Targets",
        "pdiffs" => "PDiffs",
        other => {
            let words = other.split('-').map(|word| {
                let mut letters = word.chars();
                letters.next().map_or_else(String::new, |first| {
                    first.to_ascii_uppercase().to_string() + letters.as_str()
                })
            });
            return words.collect::<Vec<_>>().join("-");
        }
    };
    plural.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_collected_at_the_end_of_each_package() {
        let mut hashes = FileHashes::default();
        let text = "Package: a\nFilename: pool/a.deb\nSize: 7\nSHA256: 00ff\n\nPackage: b\n\n";
        let found: Vec<_> = text
            .split('\n')
            .filter_map(|line| hashes.feed(line))
            .collect();
        assert_eq!(found, [("pool/a.deb".to_owned(), "00ff".to_owned(), 7)]);
    }

    #[test]
    fn one_line_sources_are_also_written_as_deb822() {
        let lines = [
            "deb http://archive.example/debian bookworm main contrib",
            "  deb [arch=amd64,i386 trusted=yes signed-by=/k.gpg] https://u:p@ppa.example/x \
             noble main # why",
            "deb file:/srv/repo ./",
        ];
        let sources = translate(&lines.map(str::to_owned));
        assert_eq!(sources.unreadable, [0_usize; 0]);
        let private = sources.secret.unwrap();
        let auth = "machine ppa.example/x/ login u password p\n";
        assert_eq!(private.auth.as_deref(), Some(auth));
        let (first, rest) = sources.public.one_line.split_once('\n').unwrap();
        assert_eq!(first, lines[0]);
        assert_eq!(
            rest,
            "deb [arch=amd64,i386 trusted=yes signed-by=/k.gpg] https://ppa.example/x \
             noble main # why\ndeb file:/srv/repo ./\n"
        );
        assert!(
            private
                .lists
                .one_line
                .contains(" https://u:p@ppa.example/x ")
        );
        assert!(
            private
                .lists
                .deb822
                .contains("\nURIs: https://u:p@ppa.example/x\n")
        );
        assert_eq!(
            sources.public.deb822,
            "Types: deb\nURIs: http://archive.example/debian\nSuites: bookworm\n\
             Components: main contrib\n\n\
             Types: deb\nURIs: https://ppa.example/x\nSuites: noble\nComponents: main\n\
             Architectures: amd64 i386\nTrusted: yes\nSigned-By: /k.gpg\n\n\
             Types: deb\nURIs: file:/srv/repo\nSuites: ./\n\n"
        );
    }

    #[test]
    fn sources_without_passwords_have_no_secret_lists() {
        let sources = translate(&["deb http://h/debian sid main".to_owned()]);
        assert!(sources.secret.is_none());
    }

    #[test]
    fn missing_dependencies_are_found_across_any_cut() {
        let dsc = "Source: x\nBuild-Depends: debhelper (>= 13), libnew-dev (>= 2) | libother-dev\n";
        let amd64 = Target {
            arch: "amd64",
            arch_indep: false,
            profiles: &[],
        };
        let lists = "Package: debhelper\nVersion: 13.1\n\nPackage: libnew-dev\nVersion: 1.9\n\n";
        for cut in 0..lists.len() {
            let mut query = Query::new(dsc, amd64).unwrap();
            query.feed(&lists.as_bytes()[..cut]);
            query.feed(&lists.as_bytes()[cut..]);
            assert_eq!(
                query.cause(&[]),
                Some(Cause::Missing("libnew-dev (>= 2) | libother-dev".into())),
                "{cut}"
            );
        }
    }

    #[test]
    fn keys_stay_armoured_or_binary() {
        let keys = [
            "LS0tLS1CRUdJTiBQR1AgUFVCTElDIEtFWQ==".to_owned(),
            "mQAA".to_owned(),
        ];
        let files = keyrings(&keys).unwrap();
        assert!(files[0].path.ends_with("-1.asc") && files[1].path.ends_with("-2.gpg"));
        assert_eq!(files[1].content, [0x99, 0, 0]);
        assert!(keyrings(&["!".to_owned()]).is_err());
    }

    #[test]
    fn lines_that_apt_would_reject_are_numbered() {
        for bad in [
            "",
            "deb",
            "rpm http://a b c",
            "deb [arch=x http://a b c",
            "deb http://a b",
            "deb nourl b c",
        ] {
            assert_eq!(translate(&[bad.to_owned()]).unreadable, [1], "{bad:?}");
        }
    }
}
