//! Collects the facts that `doctor` grades. Everything created for a trial is removed.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::utsname::uname;
use nix::unistd::User;

use super::checks::{PROFILE_FILE, PROGRAMS, SYSCTLS};
use super::facts::{
    AppArmor, Builder, Chroots, DiskOf, Free, Host, NoOutside, OverlayModule, Port, Seen, Trial,
};
use super::finding::Finding;
use super::mend::{Mend, Step};
use super::{daemon, trial};
use crate::config::{Config, Defaults, Isolation, Network};
use crate::config_file::{self, ConfigOption};
use crate::privileges;
use crate::server::{self, Access, Limits, Server};
use crate::session::idmap::SubIds;
use crate::session::launch::own_sub_ids;
use crate::session::{self, bootstrap, outside, seccomp, store, store_owner};
use crate::sys::{exe, host, user};

/// The program of groupadd and useradd in a chroot, one of which tells for both.
const GROUPADD: &str = "usr/sbin/groupadd";

/// Returns what every user can find out about this host.
pub(super) fn host(config: &Config) -> Host {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let status = read("/proc/self/status");
    Host {
        builder: builder(&config.slave.user),
        sub_ids: [read("/etc/subuid"), read("/etc/subgid")],
        mappers: ["newuidmap", "newgidmap"].map(|program| {
            let path = exe::find_program(program)?;
            let is_setuid = |about: fs::Metadata| about.uid() == 0 && about.mode() & 0o4000 != 0;
            let setuid = path.metadata().is_ok_and(is_setuid);
            Some((path.display().to_string(), setuid))
        }),
        no_new_privileges: status
            .lines()
            .filter_map(|line| line.strip_prefix("NoNewPrivs:"))
            .any(|value| value.trim() != "0"),
        sysctls: SYSCTLS
            .iter()
            .map(|(name, _, _)| {
                let path = format!("/proc/sys/{}", name.replace('.', "/"));
                fs::read_to_string(path).ok()
            })
            .collect(),
        overlay: overlay_module(),
        apparmor: AppArmor {
            profile: fs::read_to_string(PROFILE_FILE).ok(),
            program: std::env::current_exe()
                .map(|path| path.display().to_string())
                .unwrap_or_default(),
            has_parser: Path::new("/usr/sbin/apparmor_parser").exists()
                || exe::find_program("apparmor_parser").is_some(),
        },
        sbuild: host::package_version("sbuild"),
        programs: PROGRAMS
            .iter()
            .map(|(name, _, _)| exe::find_program(name).map(|path| path.display().to_string()))
            .collect(),
        forecast: daemon::forecast(),
        unit_runs: unit_runs(),
        knows_system_calls: seccomp::is_known(),
        processor: std::env::consts::ARCH,
    }
}

fn builder(name: &str) -> Builder {
    match privileges::builder(name) {
        Err(privileges::Error::NoUser(name)) => Builder::Missing(format!("/var/lib/{name}")),
        Err(error) => Builder::Wrong(error.to_string()),
        Ok(found) if user::am_root() => Builder::Known(found.uid.as_raw()),
        Ok(found) => match privileges::become_builder(name) {
            Ok(()) => Builder::Known(found.uid.as_raw()),
            Err(error) => Builder::NotMe(error.to_string()),
        },
    }
}

fn overlay_module() -> OverlayModule {
    let systems = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if systems.split_whitespace().any(|word| word == "overlay") {
        return OverlayModule::Known;
    }
    let release = uname()
        .map(|name| name.release().to_string_lossy().into_owned())
        .unwrap_or_default();
    let list = format!("/lib/modules/{release}/modules.dep");
    let modules = fs::read_to_string(list).unwrap_or_default();
    match modules.contains("/overlay.ko") {
        true => OverlayModule::Loadable,
        false => OverlayModule::Absent(release),
    }
}

/// Whether systemd runs the unit of the slave.
fn unit_runs() -> bool {
    let state = Command::new("systemctl")
        .args(["is-active", "--quiet", "buildd-slave"])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .status();
    state.is_ok_and(|status| status.success())
}

/// Has a process of the user that builds collect what that user sees; root calls it.
pub(super) fn seen_by(user: &User, config: &ConfigOption) -> Result<Seen, Finding> {
    let mut command = exe::this_program(["doctor", "--collect"]);
    if let Some(file) = &config.file {
        command.arg("--config").arg(file);
    }
    user::become_user(&mut command, user);
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit());
    let failed = |reason: String| {
        let found = format!("cannot collect facts as {}: {reason}", user.name);
        Finding::fail("trial", found)
    };
    let output = output.output().map_err(|error| failed(error.to_string()))?;
    let answer: Result<Seen, String> = serde_json::from_slice(&output.stdout)
        .map_err(|error| failed(format!("{}, {error}", output.status)))?;
    answer.map_err(|reason| unreadable(&user.name, config, &reason))
}

/// Returns the failure of a configuration that root can read and the user that builds cannot.
fn unreadable(user: &str, config: &ConfigOption, reason: &str) -> Finding {
    let file = config_file::chosen(config.file.as_deref());
    let file = file.map_or_else(
        || config_file::DEFAULT_PATH.to_owned(),
        |path| path.display().to_string(),
    );
    let found = format!("{user} cannot use it: {reason}");
    Finding::fail("configuration", found).mend(Mend::Steps(vec![
        Step::run(&["chgrp", user, &file]),
        Step::run(&["chmod", "g+r", &file]),
    ]))
}

/// Prints [`Seen`] as JSON; the process of [`seen_by`].
pub(super) fn print(config: &ConfigOption) -> Result<String, serde_json::Error> {
    let loaded = config_file::load(config.file.as_deref(), &config_file::host_defaults());
    let answer: Result<Seen, String> = match loaded {
        Ok((config, _)) => Ok(seen(&config, true)),
        Err(error) => Err(error.to_string()),
    };
    serde_json::to_string(&answer)
}

/// Returns what this process sees; `as_builder`: it is of the user that builds.
pub(super) fn seen(config: &Config, as_builder: bool) -> Seen {
    let slave = &config.slave;
    let is_unshare = slave.isolation == Isolation::Unshare;
    let paths = match as_builder {
        true => config_file::check_paths(config),
        false => Vec::new(),
    };
    let needed = ["[slave] home", "[slave] chroots", "[slave] sessions"];
    let trial = if !is_unshare {
        Trial::NotTried("[slave] isolation = none".to_owned())
    } else if !as_builder {
        Trial::NotTried("doctor runs neither as root nor as the user that builds".to_owned())
    } else if paths.iter().any(|it| needed.contains(&it.key.as_str())) {
        Trial::NotTried("a session needs the folders above".to_owned())
    } else {
        trial::run(&slave.chroots, &slave.sessions)
    };
    let ids = own_sub_ids();
    let emulates = matches!(trial, Trial::Sessions { .. }) && !slave.emulate.is_empty();
    let label = ["apparmor/current", "current"]
        .iter()
        .find_map(|name| fs::read_to_string(format!("/proc/self/attr/{name}")).ok());
    Seen {
        paths,
        disks: match as_builder {
            true => disks(config),
            false => Vec::new(),
        },
        chroots: match &ids {
            Ok(ids) if as_builder && is_unshare => chroots(&slave.chroots, *ids),
            _ => Chroots::default(),
        },
        outside: (is_unshare && slave.network == Network::Always)
            .then(|| outside::check_host().map_err(no_outside)),
        emulation: match ids {
            Ok(ids) if emulates => {
                bootstrap::emulation(ids, &slave.emulate).map_err(|error| error.to_string())
            }
            _ => Ok(Vec::new()),
        },
        ports: slave
            .bindhost
            .iter()
            .map(|host| (server::address(host, slave.bindport), port(config, host)))
            .collect(),
        running: daemon::ask(config),
        healthy: daemon::is_healthy(config),
        label,
        trial,
    }
}

fn no_outside(error: session::Error) -> NoOutside {
    let text = error.to_string();
    match error {
        session::Error::NoPasta => NoOutside::Pasta(text),
        session::Error::NoTun { .. } => NoOutside::Tun(text),
        _ => NoOutside::Other(text),
    }
}

/// Returns the file systems of the folders, each once, as `/healthz` judges them.
fn disks(config: &Config) -> Vec<DiskOf> {
    let mut devices = Vec::new();
    let mut disks = Vec::new();
    for folder in config_file::folders(config) {
        let Ok(about) = folder.path.metadata() else {
            continue;
        };
        if devices.contains(&about.dev()) {
            continue;
        }
        devices.push(about.dev());
        let disk = host::disk_of(&folder.path).ok();
        disks.push(DiskOf {
            path: folder.path.display().to_string(),
            read_only: disk.is_some_and(|disk| disk.read_only),
            free: disk.map(|disk| Free {
                bytes: disk.free_bytes,
                inodes: disk.free_inodes,
            }),
        });
    }
    disks
}

fn chroots(folder: &Path, ids: SubIds) -> Chroots {
    let trees = store::trees(folder);
    let problem = |sha1: &String| store_owner::problem(folder, sha1, ids);
    let lacks = |sha1: &&String| {
        let tree = store::tree(folder, sha1);
        // A tree without dpkg is of no build by sbuild.
        let has = |path: &str| fs::symlink_metadata(tree.join(path)).is_ok();
        has("usr/bin/dpkg") && !has(GROUPADD)
    };
    Chroots {
        count: trees.len(),
        unusable: trees.iter().filter_map(problem).collect(),
        without_passwd: trees.iter().filter(lacks).cloned().collect(),
    }
}

/// Tries to listen on an address of the daemon.
fn port(config: &Config, host: &str) -> Port {
    let address = server::address(host, config.slave.bindport);
    match Server::bind(address, Limits::default(), Access::default()) {
        Ok(_) => Port::Free,
        Err(server::Error::Listen { source, .. })
            if source.kind() == std::io::ErrorKind::AddrInUse =>
        {
            match daemon::listens(config, host) {
                true => Port::Own,
                false => Port::InUse,
            }
        }
        Err(error) => Port::Failed(error.to_string()),
    }
}

/// Reads the configuration as [`super::check`] needs it: for root, with the home of the user that
/// builds.
pub(super) fn load(option: &ConfigOption) -> Result<Config, config_file::Error> {
    let defaults = config_file::host_defaults();
    let (config, _) = config_file::load(option.file.as_deref(), &defaults)?;
    let builder = user::lookup(&config.slave.user).filter(|_| user::am_root());
    let home = match (builder, user::am_root()) {
        (Some(found), _) => found.dir,
        // The home that the missing user gets.
        (None, true) => format!("/var/lib/{}", config.slave.user).into(),
        (None, false) => return Ok(config),
    };
    let defaults = Defaults { home, ..defaults };
    Ok(config_file::load(option.file.as_deref(), &defaults)?.0)
}
