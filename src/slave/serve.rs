//! `buildd-slave serve`: runs the slave daemon in the foreground until a signal stops it.
//!
//! A running build survives every stop of the daemon: its shim keeps running, and the next daemon
//! finds it in the journal.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::unistd::User;

use crate::config::{self, Config, Defaults, Isolation, Network};
use crate::config_file::{self, ConfigOption, ConfigText, Reload};
use crate::filecache::{self, Fetcher, Rules, Store};
use crate::pipeline::journal::{check_formats, pinned};
use crate::pipeline::spec::Settings;
use crate::privileges;
use crate::server::{self, Events, Group, Server};
use crate::session::binfmt::{FIX, Way};
use crate::session::{self, bootstrap, launch, outside, store, store_owner};
use crate::sys;
use crate::sys::cgroup::{self, ResourceControl};
use crate::sys::format::Newer;
use crate::sys::service_manager;
use crate::sys::user;

use super::daemon::Daemon;
use super::handler::Handler;
use super::reload::{Reloader, access, fetch_limits, handler_settings};
use super::show;

/// How long the daemon waits for the end of a build when the host stops. systemd kills the daemon
/// after 90 s.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(60);

/// The arguments of `serve`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  buildd-slave serve
  buildd-slave serve --config ./buildd-slave.conf
  RUST_LOG=debug buildd-slave serve

Masters send XML-RPC to http://HOST:8221/rpc/; `buildd-slave probe` sends single calls.
Stopping the daemon does not stop a build: after a restart, the daemon finds the build again.

Exit code: 0 after SIGTERM or SIGINT, 1 if it cannot start, 2 for a wrong command line.")]
#[derive(Default)]
pub(crate) struct Serve {
    #[command(flatten)]
    config: ConfigOption,
}

/// Why the daemon cannot run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Config(#[from] config_file::Error),
    #[error(transparent)]
    Privileges(#[from] privileges::Error),
    #[error("{source}; try: install -d -m 0700 -o {user} -g {user} {path}", path = path.display())]
    Folder {
        path: PathBuf,
        user: String,
        source: sys::fs::Error,
    },
    #[error(
        "another daemon (pid {pid}) has the {what} {path}; \
         stop it, or configure another [slave] home",
        path = path.display()
    )]
    Taken {
        what: &'static str,
        path: PathBuf,
        pid: String,
    },
    #[error(
        "systemd gave {path} to root, as the unit has User=root and StateDirectory=; remove \
         User=root from it: the daemon needs no root, and systemd then gives the folder to {user}",
        path = path.display()
    )]
    RootsFolder { path: PathBuf, user: String },
    #[error(transparent)]
    Session(#[from] session::Error),
    #[error(transparent)]
    Cache(#[from] filecache::Error),
    #[error(transparent)]
    Server(#[from] server::Error),
    #[error(transparent)]
    Disk(sys::fs::Error),
    #[error(
        "{path}: {source}; nothing has changed; install the newer version again, and go back to \
         this one after the build has ended and its master has cleaned the slave",
        path = path.display()
    )]
    Newer { path: PathBuf, source: Newer },
    #[error("the journal cannot be read: {0}")]
    Journal(io::Error),
    #[error("{0}")]
    System(#[from] io::Error),
}

/// Reads the configuration, becomes `[slave] user` if started as root, and serves until a signal
/// stops the daemon.
pub(crate) fn run(args: &Serve) -> ExitCode {
    match start(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let lines = error.to_string();
            lines.lines().for_each(|line| log::error!("{line}"));
            ExitCode::FAILURE
        }
    }
}

fn start(args: &Serve) -> Result<(), Error> {
    let defaults = config_file::host_defaults();
    let file = args.config.file.as_deref();
    let text = ConfigText::read(file)?;
    let (config, warnings) = text.config(&defaults)?;
    if user::am_root() {
        let folders = std::env::var_os("STATE_DIRECTORY").unwrap_or_default();
        let folders: Vec<PathBuf> = std::env::split_paths(&folders).collect();
        if let Some(path) = folders.into_iter().find(|path| is_roots(path)) {
            let user = config.slave.user;
            return Err(Error::RootsFolder { path, user });
        }
        if let Some(user) = user::lookup(&config.slave.user) {
            cgroup::delegate(&user);
            let as_user = Defaults {
                home: user.dir.clone(),
                ..defaults
            };
            let (config, _) = text.config(&as_user)?;
            make_default_home(&config, &user)?;
        }
        privileges::become_builder(&config.slave.user)?;
    }
    for warning in warnings {
        log::warn!("{warning}");
    }
    serve(&config, Reload::new(config::Daemon::Slave, file, text))
}

fn is_roots(path: &Path) -> bool {
    path.metadata().is_ok_and(|about| about.uid() == 0)
}

fn serve(config: &Config, reload: Reload) -> Result<(), Error> {
    let slave = &config.slave;
    prepare_folders(config)?;
    let _journal = claim("journal", &slave.journal)?;
    // Before anything is removed: a downgraded daemon must not end the build of a newer one.
    check_formats(&slave.journal).map_err(|(path, source)| Error::Newer { path, source })?;
    let mut folders = vec![
        ("home", slave.home.clone()),
        ("filecache", slave.filecache.clone()),
        ("journal", slave.journal.clone()),
    ];
    if slave.isolation == Isolation::Unshare && config.programs.mount.is_none() {
        folders.push(("chroots", slave.chroots.clone()));
        folders.push(("sessions", slave.sessions.clone()));
        let ids = launch::check_host()?;
        store_owner::discard_all_unusable(&slave.chroots, ids);
        store::sweep(&slave.chroots, ids)?;
        if slave.network == Network::Always {
            outside::check_host()?;
        }
    }
    let journal = slave.journal.clone();
    let rules = Rules {
        limit: config.limits.cache_size,
        reserve: config.limits.reserve,
        pinned: Box::new(move || pinned(&journal)),
        ..Rules::none()
    };
    let cache = Arc::new(Store::open(&slave.filecache, rules)?);
    let _cache = claim("file cache", &slave.filecache)?;
    let fetcher = Fetcher::new(
        fetch_limits(&config.limits),
        slave.fetch_from.clone(),
        Arc::clone(&cache),
    );
    let settings = handler_settings(config, fetcher);
    let resource_control = ResourceControl::find();
    let level = match resource_control.enforcers().are_groups() {
        true => log::Level::Info,
        false => log::Level::Warn,
    };
    log::log!(level, "limits of builds: {resource_control}");
    show::count_enforcers(resource_control.enforcers());
    let daemon = Daemon::start(
        Settings::of(config),
        slave.journal.clone(),
        Arc::clone(&cache),
        resource_control,
    )
    .map_err(Error::Journal)?;
    let handler = Arc::new(Handler {
        daemon,
        store: cache,
        folders,
        arch: slave.architecturetag.clone(),
        emulated: emulated(config)?,
        settings: Mutex::new(Arc::new(settings)),
        tail: Mutex::default(),
    });
    listen(config, &handler, reload)
}

/// Creates the absent folders that may be created, and closes all to other users.
fn prepare_folders(config: &Config) -> Result<(), Error> {
    for folder in config_file::folders(config) {
        let was_open = folder.prepare().map_err(|source| Error::Folder {
            path: folder.path.clone(),
            user: config.slave.user.clone(),
            source,
        })?;
        if was_open {
            log::info!(
                "other users could read the folder {}; its mode is 0700 now",
                folder.path.display()
            );
        }
    }
    Ok(())
}

/// As root, creates the home of `[slave] user` if it is absent and the configuration names no
/// other home.
fn make_default_home(config: &Config, user: &User) -> Result<(), Error> {
    if config.slave.home != user.dir || user.dir.exists() {
        return Ok(());
    }
    log::info!("creating {}", user.dir.display());
    let made = DirBuilder::new().mode(0o755).create(&user.dir);
    let (uid, gid) = (user.uid.as_raw(), user.gid.as_raw());
    made.and_then(|()| chown(&user.dir, Some(uid), Some(gid)))
        .map_err(|source| Error::Folder {
            path: user.dir.clone(),
            user: user.name.clone(),
            source: sys::fs::Error::at("create", &user.dir)(source),
        })
}

/// Returns the architectures of `[slave] emulate` that this host can emulate, and logs the others.
fn emulated(config: &Config) -> Result<Vec<String>, Error> {
    let slave = &config.slave;
    if slave.emulate.is_empty() || slave.isolation == Isolation::None {
        return Ok(slave.emulate.clone());
    }
    let mut able = Vec::new();
    for (arch, way) in bootstrap::emulation(launch::check_host()?, &slave.emulate)? {
        match way {
            Way::Lacking(lack) => log::warn!(
                "this host cannot emulate {arch} and builds nothing for it: {lack}; try: \
                 {FIX}, and restart this daemon"
            ),
            Way::Own(_) | Way::Host => able.push(arch),
        }
    }
    Ok(able)
}

/// Binds every address, then serves all of them until a signal stops the daemon.
fn listen(config: &Config, handler: &Arc<Handler>, reload: Reload) -> Result<(), Error> {
    let mut servers = Group::default();
    let mut clients = Vec::new();
    // Logged when every address listens: a client may connect to any of them at the first line.
    let mut addresses = Vec::new();
    for host in &config.slave.bindhost {
        let address = server::address(host, config.slave.bindport);
        let server = Server::bind(address, config.limits.http(), access(config))?;
        addresses.push(server.local_addr()?);
        clients.push(server.access());
        let protocol = server.http(Arc::clone(handler) as Arc<dyn server::Handler>);
        servers.add(server, protocol);
    }
    let reloader = Reloader::new(reload, config.clone(), Arc::clone(handler), clients);
    for address in addresses {
        log::info!("daemon ready! listening at http://{address}/");
    }
    servers.run_until_signal(Events {
        ready: Box::new(server::report_ready),
        reload: Box::new(move || reloader.run()),
        stop: Box::new(|| {
            service_manager::stopping();
            log::info!("stopping");
        }),
    })?;
    end(&handler.daemon);
    Ok(())
}

/// Leaves a running build to the next daemon, unless the host stops: then the build would be
/// killed, so it ends now.
fn end(daemon: &Daemon) {
    let Some(id) = daemon.state().running().cloned() else {
        return;
    };
    if !service_manager::host_is_stopping() {
        log::info!("build {id} continues without the daemon");
        return;
    }
    log::info!("the host is shutting down: build {id} ends, and its master may dispatch it again");
    if !daemon.interrupt(SHUTDOWN_TIMEOUT) {
        log::warn!(
            "build {id} has not ended in {} s",
            SHUTDOWN_TIMEOUT.as_secs()
        );
    }
}

/// Locks a folder, so that no other daemon can use it.
fn claim(what: &'static str, folder: &Path) -> Result<File, Error> {
    sys::claim::claim(folder).map_err(|error| match error {
        sys::claim::Error::Taken { pid } => Error::Taken {
            what,
            path: folder.to_owned(),
            pid,
        },
        sys::claim::Error::Disk(source) => Error::Disk(source),
    })
}
