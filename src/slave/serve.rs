//! `buildd-slave serve`: puts the daemon together, in the foreground, until it is told to stop.
//!
//! A stop, of whatever kind, is nothing to a running build: its shim goes on, and the next daemon
//! finds it in the journal.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::build::spec::Settings;
use crate::config::{Config, Isolation, Limits};
use crate::filecache::{self, FetchLimits, Fetcher, Store};
use crate::server::{self, Access, Server};
use crate::session::{self, launch, store};
use crate::sys;

use super::daemon::Daemon;
use super::handler::Handler;

/// What `serve` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  buildd-slave serve
  buildd-slave serve --config ./buildd-slave.conf
  RUST_LOG=debug buildd-slave serve

A master then speaks XML-RPC to http://HOST:8221/rpc/; `buildd-slave probe` does so by hand.
Stopping the daemon does not stop a build: start it again and the build is still there.")]
pub(crate) struct Serve {
    /// The configuration [default: $BUILDD_SLAVE_CONFIG, else /etc/buildd-slave/buildd-slave.conf]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

/// Why the daemon does not run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{source}; try: install -d -o {user} -g {user} {path}", path = path.display())]
    Folder {
        path: PathBuf,
        user: String,
        source: sys::fs::Error,
    },
    #[error("another daemon (pid {pid}) has the journal {path}; stop that one, or give this one its own home", path = path.display())]
    Taken { path: PathBuf, pid: String },
    #[error(transparent)]
    Session(#[from] session::Error),
    #[error(transparent)]
    Cache(#[from] filecache::Error),
    #[error(transparent)]
    Server(#[from] server::Error),
    #[error("the journal cannot be read: {0}")]
    Journal(io::Error),
    #[error("{0}")]
    System(#[from] io::Error),
}

/// Serves until a signal says stop. Returns only then, or when it cannot begin.
pub(crate) fn run(config: &Config) -> Result<(), Error> {
    let slave = &config.slave;
    let folder = |path: &Path| {
        sys::fs::make_private(path).map_err(|source| Error::Folder {
            path: path.to_owned(),
            user: slave.user.clone(),
            source,
        })
    };
    folder(&slave.journal)?;
    let _lock = lock_journal(&slave.journal)?;
    if slave.isolation == Isolation::Unshare && config.programs.mount.is_none() {
        folder(&slave.chroots)?;
        folder(&slave.sessions)?;
        store::sweep(&slave.chroots, launch::own_sub_ids()?)?;
    }
    let cache = Arc::new(Store::open(&slave.filecache, config.limits.reserve)?);
    let fetcher = Fetcher::new(fetch_limits(&config.limits), Arc::clone(&cache));
    let daemon = Daemon::start(
        Settings::of(config),
        slave.journal.clone(),
        Arc::clone(&cache),
    )
    .map_err(Error::Journal)?;
    let handler = Arc::new(Handler {
        daemon,
        store: cache,
        fetcher,
        arch: slave.architecturetag.clone(),
        form: slave.statusform,
    });
    listen(config, &handler)
}

/// Binds every address, then answers at all of them until a signal comes.
fn listen(config: &Config, handler: &Arc<Handler>) -> Result<(), Error> {
    let mut servers = Vec::new();
    for host in &config.slave.bindhost {
        let host = if host.contains(':') {
            format!("[{host}]")
        } else {
            host.clone()
        };
        let address = format!("{host}:{}", config.slave.bindport);
        servers.push(Server::bind(
            address,
            http_limits(&config.limits),
            access(config),
        )?);
    }
    let stops: Vec<_> = servers.iter().map(Server::stop_handle).collect();
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    thread::Builder::new().name("signals".into()).spawn(move || {
        for signal in &mut signals {
            if signal == SIGHUP {
                log::info!("hang-up ignored: there is no log file to reopen, and the configuration is read at start");
                continue;
            }
            log::info!("stopping; a running build goes on");
            stops.iter().for_each(server::StopHandle::stop);
        }
    })?;
    let mut running = Vec::new();
    for server in servers {
        let address = server.local_addr()?;
        let handler = Arc::clone(handler);
        let serve = move || server.run(handler);
        running.push(thread::Builder::new().name("http".into()).spawn(serve)?);
        log::info!("daemon ready! listening at http://{address}/");
    }
    for server in running {
        server
            .join()
            .map_err(|_| io::Error::other("the HTTP loop panicked"))??;
    }
    Ok(())
}

/// Takes the journal for this daemon alone.
fn lock_journal(journal: &Path) -> Result<File, Error> {
    let path = journal.join(".daemon");
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)?;
    match file.try_lock() {
        Ok(()) => {
            file.set_len(0)?;
            write!(file, "{}", std::process::id())?;
            Ok(file)
        }
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            file.read_to_string(&mut pid)?;
            Err(Error::Taken {
                path: journal.to_owned(),
                pid,
            })
        }
        Err(TryLockError::Error(error)) => Err(error.into()),
    }
}

fn fetch_limits(limits: &Limits) -> FetchLimits {
    FetchLimits {
        connect_timeout: limits.fetch_connect_timeout,
        idle_timeout: limits.fetch_idle_timeout,
        lowest_rate: limits.fetch_lowest_rate,
        size: limits.fetch_size,
        retries: limits.fetch_retries,
    }
}

fn http_limits(limits: &Limits) -> server::Limits {
    // A size that does not fit is a limit that nothing reaches.
    let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    let count = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
    server::Limits {
        head_bytes: size(limits.head),
        body_bytes: size(limits.body),
        connections: count(limits.connections),
        connections_per_peer: count(limits.connections_per_peer),
        downloads: count(limits.downloads),
        request_secs: limits.request_timeout.as_secs(),
        idle_secs: limits.idle_timeout.as_secs(),
        write_secs: limits.write_timeout.as_secs(),
        ..server::Limits::default()
    }
}

fn access(config: &Config) -> Access {
    let credentials = config.slave.credentials.as_ref();
    Access {
        allow: config.slave.allow.clone(),
        credentials: credentials.map(|c| (c.username.clone(), c.password.expose().to_owned())),
    }
}
