//! Pure: parses the sections `[database]`, `[librarian]` and `[master]`.
//!
//! The slave validates these sections as well, and the farm validates the slave's.

use std::path::PathBuf;
use std::time::Duration;

use super::reader::Reader;
use super::{Config, Credentials, Defaults, Error, Limits, Master, Secret, Warning};
use super::{parse, read_credentials, read_hosts, read_networks};

use crate::server::Cidr;

/// The configuration of the librarian and the master; immutable once read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Farm {
    /// `[slave] user`: the user that root becomes.
    pub(crate) user: String,
    /// `[limits]`: the HTTP limits and `reserve` apply to the librarian too.
    pub(crate) limits: Limits,
    pub(crate) database: Database,
    pub(crate) librarian: Librarian,
    pub(crate) master: Master,
}

/// `[database]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Database {
    /// A path, `sqlite:PATH` or `postgresql://…`, which may hold a password. Defaults to `farm.db`
    /// below `[slave] home`.
    pub(crate) url: Secret,
    /// Timeout for a lost database to return. Defaults to 60 seconds.
    pub(crate) patience: Duration,
}

/// `[librarian]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Librarian {
    /// Holds the files. Defaults to `librarian` below `[slave] home`.
    pub(crate) root: PathBuf,
    /// Addresses or host names to listen on. Defaults to 127.0.0.1; never empty.
    pub(crate) bindhost: Vec<String>,
    /// Public files over HTTP, and uploads by PUT. Defaults to 8000; with 0 the kernel chooses.
    pub(crate) bindport: u16,
    /// Uploads by the `STORE` protocol. Defaults to 9090. `None` disables this port and the next
    /// two.
    pub(crate) upload_port: Option<u16>,
    /// All files over HTTP, and uploads of restricted ones. Defaults to 8005.
    pub(crate) restricted_port: Option<u16>,
    /// Uploads of restricted files by `STORE`. Defaults to 9095.
    pub(crate) restricted_upload_port: Option<u16>,
    /// URL of the public port for other hosts; ends in `/`. Defaults to localhost and `bindport`.
    pub(crate) url: String,
    /// URL for uploads by the farm's commands; ends in `/`. Defaults to `url`.
    pub(crate) upload_url: String,
    /// Addresses that may download public files. Defaults to empty: all.
    pub(crate) allow: Vec<Cidr>,
    /// Addresses that may upload and use the restricted ports. Defaults to this host.
    pub(crate) upload_allow: Vec<Cidr>,
    /// HTTP Basic credentials for uploads and the restricted ports. Defaults to none.
    pub(crate) credentials: Option<Credentials>,
    /// Largest file, in bytes. Defaults to 16 GiB.
    pub(crate) max_size: u64,
    /// The `Database-Name` that a `STORE` client must send. Defaults to `farm`.
    pub(crate) dbname: String,
    /// Interval between two garbage collections. Defaults to 24 h.
    pub(crate) gc_interval: Duration,
}

impl Farm {
    /// Parses `text`; messages call it `file`.
    pub(crate) fn parse(
        file: &str,
        text: &str,
        defaults: &Defaults,
    ) -> Result<(Self, Vec<Warning>), Vec<Error>> {
        parse(file, text, defaults).map(|(_, farm, warnings)| (farm, warnings))
    }

    pub(super) fn read(reader: &mut Reader<'_>, config: &Config) -> Self {
        Self {
            user: config.slave.user.clone(),
            limits: config.limits.clone(),
            database: Database::read(reader, config),
            librarian: Librarian::read(reader, config),
            master: Master::read(reader, &config.slave.home),
        }
    }
}

impl Database {
    fn read(reader: &mut Reader<'_>, config: &Config) -> Self {
        const D: &str = "database";
        let default = || config.slave.home.join("farm.db").display().to_string();
        Self {
            url: Secret(reader.secret(D, "url").unwrap_or_else(default)),
            patience: reader.duration(D, "patience", 60),
        }
    }
}

impl Librarian {
    fn read(reader: &mut Reader<'_>, config: &Config) -> Self {
        const L: &str = "librarian";
        let bindport = reader.port(L, "bindport").unwrap_or(8000);
        let mut base = |key| reader.value(L, key, "http://HOST:PORT/", read_base);
        let url = base("url").unwrap_or_else(|| format!("http://localhost:{bindport}/"));
        let upload_url = base("upload_url").unwrap_or_else(|| url.clone());
        let this_host =
            || ["127.0.0.0/8", "::1"].map(|block| block.parse().expect("the block is valid"));
        Self {
            root: reader
                .path(L, "root")
                .unwrap_or_else(|| config.slave.home.join("librarian")),
            bindhost: read_hosts(reader, L),
            bindport,
            upload_port: reader.port_or_none(L, "upload_port", 9090),
            restricted_port: reader.port_or_none(L, "restricted_port", 8005),
            restricted_upload_port: reader.port_or_none(L, "restricted_upload_port", 9095),
            url,
            upload_url,
            allow: read_networks(reader, L, "allow").unwrap_or_default(),
            upload_allow: read_networks(reader, L, "upload_allow")
                .filter(|blocks| !blocks.is_empty())
                .unwrap_or_else(|| this_host().to_vec()),
            credentials: read_credentials(reader, L),
            max_size: reader.bytes(L, "max_size", 16 << 30),
            dbname: reader
                .name(L, "dbname", "one word", "-._")
                .unwrap_or_else(|| "farm".to_owned()),
            gc_interval: reader.duration(L, "gc_interval", 24 * 3600),
        }
    }
}

/// Checks a base URL and ends it with one slash.
fn read_base(text: &str) -> Option<String> {
    let rest = ["http://", "https://"]
        .iter()
        .find_map(|scheme| text.strip_prefix(scheme))?;
    let is_good = rest.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '[')
        && rest
            .chars()
            .all(|c| c.is_ascii_graphic() && !matches!(c, '?' | '#' | '@'));
    is_good.then(|| format!("{}/", text.trim_end_matches('/')))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Farm, Vec<String>> {
        let defaults = Defaults {
            host_arch: "amd64".to_owned(),
            home: "/home/buildd".into(),
            cpus: 2,
        };
        Farm::parse("x.conf", text, &defaults)
            .map(|(farm, _)| farm)
            .map_err(|errors| errors.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn defaults_follow_from_the_keys_that_are_set() {
        let farm = parse("[slave]\nhome = /srv\nuser = farm\n").unwrap();
        assert_eq!(farm.user, "farm");
        assert_eq!(farm.database.url.expose(), "/srv/farm.db");
        assert_eq!(farm.librarian.root, PathBuf::from("/srv/librarian"));
        assert_eq!(farm.librarian.url, "http://localhost:8000/");
        assert_eq!(farm.librarian.upload_url, farm.librarian.url);
        let allowed = |address: &str| {
            let blocks = &farm.librarian.upload_allow;
            let address = address.parse().unwrap();
            blocks.iter().any(|block| block.contains(address))
        };
        assert!(allowed("127.0.0.1") && allowed("::1") && !allowed("192.0.2.1"));

        let farm = parse("[librarian]\nbindport = 58000\nupload_allow =\n").unwrap();
        assert_eq!(farm.librarian.upload_url, "http://localhost:58000/");
        assert_eq!(farm.librarian.upload_allow.len(), 2);
    }

    #[test]
    fn values_of_every_kind_are_parsed() {
        let farm = parse(
            "[database]\nurl = postgresql://farm:hu%(s)h@db/farm\npatience = 5m\n\
             [librarian]\nroot = /lib\nbindhost = ::1 0.0.0.0\nbindport = 1\nupload_port = none\n\
             restricted_port = 0\nurl = https://files.example.org/lib\nupload_url = http://[::1]:1\n\
             allow = 10.0.0.0/8\nupload_allow = 10.0.0.1 10.0.0.2\n\
             username = farm\npassword = hush-hush\nmax_size = 1 GiB\ndbname = lp_dev\n",
        )
        .unwrap();
        assert!(farm.database.url.expose().contains("hu%(s)h"));
        assert!(!format!("{farm:?}").contains("hu%"));
        assert_eq!(farm.database.patience, Duration::from_secs(300));
        let librarian = farm.librarian;
        assert_eq!(librarian.bindhost, ["::1", "0.0.0.0"]);
        assert_eq!(librarian.upload_port, None);
        assert_eq!(librarian.restricted_port, Some(0));
        assert_eq!(librarian.restricted_upload_port, Some(9095));
        assert_eq!(librarian.url, "https://files.example.org/lib/");
        assert_eq!(librarian.upload_url, "http://[::1]:1/");
        assert_eq!(
            (librarian.allow.len(), librarian.upload_allow.len()),
            (1, 2)
        );
        assert_eq!(librarian.max_size, 1 << 30);
        assert_eq!(librarian.dbname, "lp_dev");
        let credentials = librarian.credentials.as_ref().unwrap();
        assert_eq!(credentials.username, "farm");
        assert_eq!(credentials.password.expose(), "hush-hush");
        assert!(!format!("{librarian:?}").contains("hush-hush"));
    }

    #[test]
    fn all_errors_are_reported_at_once_including_the_slaves() {
        let errors = parse(
            "[librarian]\nbindport = none\nupload_port = off\nurl = ftp://x\nupload_url = http://u:p@x/\n\
             upload_allow = office\nmax_size = 0\ndbname = a b\nbindprot = 1\nusername = farm\n\
             [database]\npatience = x\n\
             [slave]\nbindport = x\n",
        )
        .unwrap_err();
        assert_eq!(errors.len(), 11, "{errors:#?}");
        assert!(
            errors.contains(
                &"x.conf: [librarian] upload_port: not understood (given \"off\"); write a port \
              number, 0 to 65535, or none"
                    .to_owned()
            )
        );
    }
}
