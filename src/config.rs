//! Pure: parses the configuration into a [`Config`], or returns all its errors at once.
//!
//! The format is launchpad-buildd's of 2008: ini, with the same sections and keys, so that existing
//! configurations work. An empty value means the default. `config_file` reads the file and checks
//! the paths. The shipped `buildd-slave.conf` documents each key for operators.

mod farm;
mod gate;
mod limits;
mod master;
mod programs;
mod raw;
mod reader;
mod reload;
#[cfg(test)]
mod tests;
mod units;

pub(crate) use farm::{Farm, Librarian};
pub(crate) use gate::Gate;
pub(crate) use limits::Limits;
pub(crate) use master::{Master, Scoring};
pub(crate) use programs::Programs;
pub(crate) use reload::{Changes, Daemon};
#[cfg(test)]
pub(crate) use tests::known_keys;

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use reader::Reader;

use crate::arch;
use crate::http_client::UrlPrefix;
use crate::protocol::{StatusForm, Verdicts};
use crate::server::Cidr;

/// One error in a configuration, with its place and its fix.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}: {place}: {problem}{}; {fix}", given.as_ref().map_or(String::new(), |given| format!(" (given {given:?})")))]
pub(crate) struct Error {
    file: String,
    place: String,
    problem: String,
    given: Option<String>,
    fix: String,
}

impl Error {
    /// Creates an error without the file, which `Config::parse` adds.
    fn new(place: &str, problem: &str, given: Option<&str>, fix: &str) -> Self {
        Self {
            file: String::new(),
            place: place.to_owned(),
            problem: problem.to_owned(),
            given: given.map(str::to_owned),
            fix: fix.to_owned(),
        }
    }
}

/// A section or key of a valid configuration that has no effect.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Warning {
    file: String,
    place: String,
    text: String,
}

impl Warning {
    fn new(place: &str, text: &str) -> Self {
        Self {
            file: String::new(),
            place: place.to_owned(),
            text: text.to_owned(),
        }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.file, self.place, self.text)
    }
}

/// A text that `Debug` does not print.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(String);

impl Secret {
    pub(crate) fn new(text: String) -> Self {
        Self(text)
    }

    /// Returns the text. Call it only to send or to compare the secret.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Defaults that depend on the host.
#[derive(Debug, Clone)]
pub(crate) struct Defaults {
    /// Debian's name of the host's architecture, as `dpkg --print-architecture` prints it.
    pub(crate) host_arch: String,
    /// `$HOME`.
    pub(crate) home: PathBuf,
    /// Number of processors, at least 1.
    pub(crate) cpus: u32,
}

/// The slave's configuration; immutable once read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Config {
    pub(crate) slave: Slave,
    pub(crate) limits: Limits,
    pub(crate) programs: Programs,
    /// `[proxy] apt`: URL of the HTTP proxy for apt in the session. Defaults to none.
    pub(crate) apt_proxy: Option<Secret>,
    pub(crate) gate: Gate,
}

/// `[slave]`, also called `[builder]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Slave {
    /// Defaults to the host's architecture.
    pub(crate) architecturetag: String,
    /// Holds the work trees `build-ID`. Defaults to `$HOME`.
    pub(crate) home: PathBuf,
    /// This path and the next three default to the folder of that name below `home`.
    pub(crate) filecache: PathBuf,
    pub(crate) chroots: PathBuf,
    pub(crate) journal: PathBuf,
    /// Writable layers of sessions.
    pub(crate) sessions: PathBuf,
    /// Addresses or host names to listen on. Defaults to 127.0.0.1; never empty.
    pub(crate) bindhost: Vec<String>,
    /// Defaults to 8221; with 0 the kernel chooses a free port.
    pub(crate) bindport: u16,
    /// Addresses that may connect. Defaults to empty: all.
    pub(crate) allow: Vec<Cidr>,
    /// Prefixes of the URLs that `ensurepresent` may fetch. Defaults to empty: all.
    pub(crate) fetch_from: Vec<UrlPrefix>,
    /// HTTP Basic credentials for calls and files. Defaults to none.
    pub(crate) credentials: Option<Credentials>,
    /// The user that root becomes to build. Defaults to `buildd`.
    pub(crate) user: String,
    /// Defaults to [`Isolation::Unshare`].
    pub(crate) isolation: Isolation,
    /// Defaults to [`StatusForm::Dict`] if the section is called `[builder]`, else to
    /// [`StatusForm::Tuple`].
    pub(crate) statusform: StatusForm,
    /// Defaults to [`Verdicts::Launchpad`] in the dict form, else to [`Verdicts::Exact`].
    pub(crate) verdicts: Verdicts,
    /// Parallel jobs of one build. Defaults to the number of processors.
    pub(crate) parallel: u32,
    /// Defaults to [`Network::BuildDeps`].
    pub(crate) network: Network,
    /// Defaults to [`Overlay::Auto`].
    pub(crate) overlay: Overlay,
    /// Further architectures that this host builds for by emulation. Defaults to none.
    pub(crate) emulate: Vec<String>,
}

/// The user name and password that a client must send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Credentials {
    pub(crate) username: String,
    pub(crate) password: Secret,
}

/// The isolation of a build from the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Isolation {
    /// User namespaces and an overlay, built in.
    Unshare,
    /// The site's programs isolate the build, or do not.
    None,
}

/// The time during which the session has a network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Network {
    /// Until the build dependencies are installed; not while the package is built.
    #[default]
    BuildDeps,
    Always,
    /// Not even for apt.
    Never,
}

/// The storage of a session's writable layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Overlay {
    /// In memory if the kernel supports it and enough memory is free, else on disk.
    Auto,
    Disk,
    /// Needs Linux 6.6 or newer.
    Tmpfs,
    /// No overlay: a copy of the chroot on disk for each session.
    Copy,
}

impl Config {
    /// Parses `text`; messages call it `file`.
    pub(crate) fn parse(
        file: &str,
        text: &str,
        defaults: &Defaults,
    ) -> Result<(Self, Vec<Warning>), Vec<Error>> {
        parse(file, text, defaults).map(|(config, _, warnings)| (config, warnings))
    }

    fn read(reader: &mut Reader<'_>, defaults: &Defaults) -> Self {
        let slave = Slave::read(reader, defaults);
        let programs = Programs::read(reader);
        programs.check(reader, slave.isolation);
        Self {
            limits: Limits::read(reader),
            programs,
            apt_proxy: read_proxy(reader),
            gate: Gate::read(reader, &slave.home),
            slave,
        }
    }
}

/// Parses both the slave's and the farm's sections: one file may hold both.
fn parse(
    file: &str,
    text: &str,
    defaults: &Defaults,
) -> Result<(Config, Farm, Vec<Warning>), Vec<Error>> {
    let mut errors = Vec::new();
    let mut warnings = Vec::new();
    let sections = raw::read(text, &mut errors, &mut warnings);
    let mut reader = Reader::new(sections, &mut errors);
    let config = Config::read(&mut reader, defaults);
    let farm = Farm::read(&mut reader, &config);
    reader.finish();
    if errors.is_empty() {
        warnings
            .iter_mut()
            .for_each(|warning| file.clone_into(&mut warning.file));
        Ok((config, farm, warnings))
    } else {
        errors
            .iter_mut()
            .for_each(|error| file.clone_into(&mut error.file));
        Err(errors)
    }
}

const URL_PREFIXES: &str = "hosts or beginnings of URLs such as http://files.example.org:8000/";
const ISOLATIONS: &[(&str, Isolation)] =
    &[("unshare", Isolation::Unshare), ("none", Isolation::None)];
const STATUS_FORMS: &[(&str, StatusForm)] =
    &[("tuple", StatusForm::Tuple), ("dict", StatusForm::Dict)];
const VERDICTS: &[(&str, Verdicts)] = &[
    ("exact", Verdicts::Exact),
    ("launchpad", Verdicts::Launchpad),
];
const NETWORKS: &[(&str, Network)] = &[
    ("build-deps", Network::BuildDeps),
    ("always", Network::Always),
    ("never", Network::Never),
];
const OVERLAYS: &[(&str, Overlay)] = &[
    ("auto", Overlay::Auto),
    ("disk", Overlay::Disk),
    ("tmpfs", Overlay::Tmpfs),
    ("copy", Overlay::Copy),
];

impl Slave {
    fn read(reader: &mut Reader<'_>, defaults: &Defaults) -> Self {
        const S: &str = "slave";
        let home = reader
            .path(S, "home")
            .unwrap_or_else(|| defaults.home.clone());
        let (statusform, verdicts) = read_status(reader, S);
        let mut below_home =
            |key: &'static str| reader.path(S, key).unwrap_or_else(|| home.join(key));
        Self {
            filecache: below_home("filecache"),
            chroots: below_home("chroots"),
            journal: below_home("journal"),
            sessions: below_home("sessions"),
            home,
            architecturetag: reader
                .name(
                    S,
                    "architecturetag",
                    "a Debian architecture such as amd64",
                    "-",
                )
                .unwrap_or_else(|| defaults.host_arch.clone()),
            bindhost: read_hosts(reader, S),
            bindport: reader.port(S, "bindport").unwrap_or(8221),
            allow: read_networks(reader, S, "allow").unwrap_or_default(),
            fetch_from: reader
                .list(S, "fetch_from", URL_PREFIXES, |text| text.parse().ok())
                .unwrap_or_default(),
            credentials: read_credentials(reader, S),
            user: reader
                .name(S, "user", "a user name", "-._")
                .unwrap_or_else(|| "buildd".to_owned()),
            isolation: reader
                .choice(S, "isolation", ISOLATIONS, " (schroot is not supported)")
                .unwrap_or(Isolation::Unshare),
            statusform,
            verdicts,
            parallel: reader.count(S, "parallel", 1, defaults.cpus),
            network: reader
                .choice(S, "network", NETWORKS, "")
                .unwrap_or(Network::BuildDeps),
            overlay: reader
                .choice(S, "overlay", OVERLAYS, "")
                .unwrap_or(Overlay::Auto),
            emulate: read_emulated(reader, &defaults.host_arch),
        }
    }
}

/// Reads what `status` answers: its form, and which verdicts it tells.
fn read_status(reader: &mut Reader<'_>, section: &'static str) -> (StatusForm, Verdicts) {
    // The name of today's launchpad-buildd, whose masters know the dict form only.
    let of_section = match reader.is_called("builder") {
        true => StatusForm::Dict,
        false => StatusForm::Tuple,
    };
    let form = reader
        .choice(section, "statusform", STATUS_FORMS, "")
        .unwrap_or(of_section);
    let of_form = match form {
        StatusForm::Tuple => Verdicts::Exact,
        StatusForm::Dict => Verdicts::Launchpad,
    };
    let verdicts = reader.choice(section, "verdicts", VERDICTS, "");
    (form, verdicts.unwrap_or(of_form))
}

/// Reads the addresses to listen on; defaults to loopback.
fn read_hosts(reader: &mut Reader<'_>, section: &'static str) -> Vec<String> {
    let given = reader.list(section, "bindhost", "addresses or host names", |text| {
        let good = text.parse::<IpAddr>().is_ok() || is_name(text, "-.");
        good.then(|| text.to_owned())
    });
    given
        .filter(|hosts| !hosts.is_empty())
        .unwrap_or_else(|| vec!["127.0.0.1".to_owned()])
}

/// Reads the architectures to emulate, each once.
fn read_emulated(reader: &mut Reader<'_>, host: &str) -> Vec<String> {
    let expected = format!(
        "architectures that {host} does not run itself and qemu emulates, of {}",
        arch::emulated()
    );
    let given = reader.list("slave", "emulate", &expected, |text| {
        arch::may_emulate(host, text).then(|| text.to_owned())
    });
    let mut emulated: Vec<String> = Vec::new();
    for arch in given.unwrap_or_default() {
        if !emulated.contains(&arch) {
            emulated.push(arch);
        }
    }
    emulated
}

/// Reads a list of addresses and networks.
fn read_networks(
    reader: &mut Reader<'_>,
    section: &'static str,
    key: &'static str,
) -> Option<Vec<Cidr>> {
    let expected = "addresses such as 192.0.2.1 or 192.0.2.0/24";
    reader.list(section, key, expected, |text| text.parse().ok())
}

fn read_credentials(reader: &mut Reader<'_>, section: &'static str) -> Option<Credentials> {
    let username = reader.secret(section, "username");
    let password = reader.secret(section, "password");
    let fix = "set username and password, or neither";
    match (username, password) {
        (Some(username), Some(password)) => {
            if username.contains(':') {
                let problem = "has a colon, which HTTP Basic cannot send";
                reader.error(section, "username", problem, None, "choose another name");
            }
            return Some(Credentials {
                username,
                password: Secret(password),
            });
        }
        (Some(_), None) => reader.error(section, "password", "missing", None, fix),
        (None, Some(_)) => reader.error(section, "username", "missing", None, fix),
        (None, None) => {}
    }
    None
}

fn read_proxy(reader: &mut Reader<'_>) -> Option<Secret> {
    let url = reader.secret("proxy", "apt")?;
    let host = url.strip_prefix("http://").unwrap_or_default();
    let bad = host.is_empty() || host.contains(|c: char| !c.is_ascii_graphic());
    if bad || crate::gate::Upstream::parse(&url).is_err() {
        // The URL may contain a password, so the message does not repeat it.
        reader.error(
            "proxy",
            "apt",
            "not an http URL",
            None,
            "write http://HOST:PORT/",
        );
        return None;
    }
    Some(Secret(url))
}

/// Returns whether `text` consists of ASCII letters, digits and characters of `also`, and begins
/// with a letter or digit.
fn is_name(text: &str, also: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || also.contains(c))
}
