//! Finds and reads the configuration file. `paths` checks the paths in it against the host.
//!
//! The parsing itself is in `config`.

mod paths;

use std::ffi::OsString;
use std::fmt::Display;
use std::fs;
use std::io;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::thread;

use crate::config::{self, Changes, Config, Daemon, Defaults, Farm, Warning};
use crate::sys::lock::lock;
use crate::sys::{host, service_manager, user};

pub(crate) use paths::{PathProblem, Wrong, check_paths, folders, programs};

const VARIABLE: &str = "BUILDD_SLAVE_CONFIG";
/// Read when neither `--config` nor the environment names a file; need not exist.
pub(crate) const DEFAULT_PATH: &str = "/etc/buildd-slave/buildd-slave.conf";

/// An error in loading the configuration.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("cannot read configuration {}: {source}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    /// One message per line.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Invalid(Vec<config::Error>),
}

/// The option `--config`, shared by all commands.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct ConfigOption {
    /// Configuration file [default: $BUILDD_SLAVE_CONFIG, else
    /// /etc/buildd-slave/buildd-slave.conf]
    #[arg(long = "config", value_name = "FILE", global = true)]
    pub(crate) file: Option<PathBuf>,
}

/// Reads the configuration from `given` (`--config`), else from the file that
/// `$BUILDD_SLAVE_CONFIG` names, else from [`DEFAULT_PATH`]. An empty variable counts as unset.
/// Only the default file may be absent: then every key has its default.
pub(crate) fn load(
    given: Option<&Path>,
    defaults: &Defaults,
) -> Result<(Config, Vec<Warning>), Error> {
    ConfigText::read(given)?.config(defaults)
}

/// Reads the farm's configuration from the same file as [`load`]. For root, default paths are below
/// the home of `[slave] user`, where the farm's daemons look.
pub(crate) fn load_farm(given: Option<&Path>) -> Result<(Farm, Vec<Warning>), Error> {
    ConfigText::read(given)?.farm()
}

/// The text of a configuration file.
pub(crate) struct ConfigText {
    /// The name of the file in messages.
    file: String,
    text: String,
}

impl ConfigText {
    /// Reads the file that [`load`] reads.
    pub(crate) fn read(given: Option<&Path>) -> Result<Self, Error> {
        let (file, text) = read(chosen(given))?;
        Ok(Self { file, text })
    }

    pub(crate) fn config(&self, defaults: &Defaults) -> Result<(Config, Vec<Warning>), Error> {
        Config::parse(&self.file, &self.text, defaults).map_err(Error::Invalid)
    }

    pub(crate) fn farm(&self) -> Result<(Farm, Vec<Warning>), Error> {
        let defaults = host_defaults();
        let parse = |defaults: &Defaults| {
            Farm::parse(&self.file, &self.text, defaults).map_err(Error::Invalid)
        };
        let (farm, warnings) = parse(&defaults)?;
        match user::lookup(&farm.user).filter(|_| user::am_root()) {
            Some(found) => parse(&Defaults {
                home: found.dir,
                ..defaults
            }),
            None => Ok((farm, warnings)),
        }
    }
}

/// The configuration of a running daemon, which reads it again when asked to.
pub(crate) struct Reload {
    daemon: Daemon,
    given: Option<PathBuf>,
    /// The text at the start.
    started: String,
    /// The text of the last reload.
    current: Mutex<String>,
}

impl Reload {
    /// `given` and `text`: the file of the running `daemon`, and its text at the start.
    pub(crate) fn new(daemon: Daemon, given: Option<&Path>, text: ConfigText) -> Self {
        Self {
            daemon,
            given: given.map(Path::to_owned),
            started: text.text.clone(),
            current: Mutex::new(text.text),
        }
    }

    /// Reads the file again and lets `apply` put it in force; logs the changes. After an error,
    /// which is logged too, nothing has changed.
    pub(crate) fn run<E: Display>(
        &self,
        apply: impl FnOnce(&ConfigText) -> Result<Vec<Warning>, E>,
    ) {
        service_manager::reloading();
        match self.try_run(apply) {
            Ok(changes) => {
                log::info!("read the configuration again: {changes}");
                if !changes.need_restart.is_empty() {
                    let keys = changes.need_restart.join(", ");
                    log::warn!("a restart is needed for {keys}, changed since the start");
                }
            }
            Err(error) => {
                error.lines().for_each(|line| log::error!("{line}"));
                log::error!("the configuration in force stays, because of these errors");
            }
        }
        service_manager::ready();
    }

    fn try_run<E: Display>(
        &self,
        apply: impl FnOnce(&ConfigText) -> Result<Vec<Warning>, E>,
    ) -> Result<Changes, String> {
        let read = ConfigText::read(self.given.as_deref()).map_err(|error| error.to_string())?;
        let warnings = apply(&read).map_err(|error| error.to_string())?;
        warnings.iter().for_each(|warning| log::warn!("{warning}"));
        let mut current = lock(&self.current);
        let changes = Changes::of(self.daemon, &self.started, &current, &read.text);
        *current = read.text;
        Ok(changes)
    }
}

/// Returns the file that must exist; `None` means the default file, which may be absent.
pub(crate) fn chosen(given: Option<&Path>) -> Option<PathBuf> {
    choose(given, std::env::var_os(VARIABLE))
}

fn choose(given: Option<&Path>, named: Option<OsString>) -> Option<PathBuf> {
    let named = || named.filter(|path| !path.is_empty()).map(PathBuf::from);
    given.map(Path::to_owned).or_else(named)
}

/// Reads the defaults that depend on the host; starts no process.
pub(crate) fn host_defaults() -> Defaults {
    let home = std::env::var_os("HOME")
        .filter(|home| !home.is_empty())
        .map(PathBuf::from)
        .or_else(|| user::effective().map(|user| user.dir))
        .unwrap_or_else(|| PathBuf::from("/"));
    let cpus = thread::available_parallelism().map_or(1, NonZero::get);
    Defaults {
        host_arch: host::debian_arch().to_owned(),
        home,
        cpus: u32::try_from(cpus).unwrap_or(u32::MAX),
    }
}

/// Returns the name and the text of the configuration file.
fn read(required: Option<PathBuf>) -> Result<(String, String), Error> {
    match required {
        Some(path) => read_from(&path, true),
        None => read_from(Path::new(DEFAULT_PATH), false),
    }
}

fn read_from(path: &Path, required: bool) -> Result<(String, String), Error> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound && !required => String::new(),
        Err(source) => {
            return Err(Error::Unreadable {
                path: path.to_path_buf(),
                source,
            });
        }
    };
    Ok((path.display().to_string(), text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn defaults(home: &Path) -> Defaults {
        Defaults {
            host_arch: "amd64".to_owned(),
            home: home.to_path_buf(),
            cpus: 1,
        }
    }

    #[test]
    fn the_command_line_overrides_the_environment() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, port: u16| {
            let path = dir.path().join(name);
            fs::write(&path, format!("[slave]\nbindport = {port}\n")).unwrap();
            path
        };
        let (given, named) = (write("given", 1), write("named", 2));
        let port = |given: Option<&Path>, named| {
            let chosen = choose(given, named);
            let (config, _) = load(chosen.as_deref(), &defaults(dir.path())).unwrap();
            config.slave.bindport
        };
        assert_eq!(port(Some(&given), Some(named.clone().into())), 1);
        assert_eq!(port(None, Some(named.into())), 2);
        assert_eq!(port(Some(&given), Some(OsString::new())), 1);
        assert_eq!(choose(None, Some(OsString::new())), None);
    }

    #[test]
    fn only_the_default_file_may_be_absent() {
        let dir = tempfile::tempdir().unwrap();
        let absent = dir.path().join("absent");
        assert_eq!(read_from(&absent, false).unwrap().1, "");
        for (given, named) in [
            (Some(absent.as_path()), None),
            (None, Some(absent.clone().into())),
        ] {
            let chosen = choose(given, named);
            let error = load(chosen.as_deref(), &defaults(dir.path()))
                .unwrap_err()
                .to_string();
            assert!(error.starts_with("cannot read configuration "), "{error}");
        }
    }

    #[test]
    fn every_error_is_one_line_that_names_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bad.conf");
        fs::write(&path, "[slave]\nbindport = x\nnosuchkey = y\n").unwrap();
        let error = load(Some(&path), &defaults(dir.path()))
            .unwrap_err()
            .to_string();
        assert_eq!(error.lines().count(), 2);
        assert!(
            error
                .lines()
                .all(|line| line.starts_with(path.to_str().unwrap())),
            "{error}"
        );
    }
}
