//! The session of a build: its storage, its network and its files.

use std::io;
use std::path::Path;
use std::process::Command;

use crate::config::{Network, Overlay};
use crate::protocol::BuildStatus;
use crate::session::files::{self, Task};
use crate::session::idmap::SubIds;
use crate::session::live::{Session, remove_folder};
use crate::session::outer::{Layer, SessionSpec};
use crate::session::{enter, launch, machine, outside, store};
use crate::sys::host;
use crate::sys::pipe::pipe;

use super::network::BuildNetwork;
use super::running::{Build, StageError};
use super::stage::Failure;

/// The least available memory, in bytes, for a layer in memory.
const MEMORY_LAYER_BYTES: u64 = 4 << 30;

impl Build {
    pub(super) fn sub_ids(&self) -> Result<SubIds, StageError> {
        launch::own_sub_ids()
            .map_err(|error| Failure::new(BuildStatus::BuilderFail, error.to_string()).into())
    }

    /// Starts the session, with its writable layer in memory if configured and possible.
    pub(super) fn start_session(&mut self, ids: SubIds, dir: &Path) -> Result<Session, String> {
        let base = store::tree(
            &self.spec.settings.chroots,
            self.spec.request.chroot.as_str(),
        );
        // A 32-bit program may be unable to read the inode numbers of an overlay in memory.
        let fits_memory = !machine::is_32_bit(&base);
        let mut spec = SessionSpec {
            base,
            dir: dir.to_owned(),
            layer: Layer::Disk,
            resolver: match self.spec.settings.network {
                Network::Always => outside::resolver(),
                Network::BuildDeps | Network::Never => String::new(),
            },
            emulate: self.platform.emulated.iter().cloned().collect(),
        };
        let memory_limit = self
            .limits
            .as_ref()
            .map_or(u64::MAX, |limits| limits.memory_bytes);
        // The layer counts as the build's memory as well: half is for its processes.
        let available = host::available_memory_bytes().min(memory_limit);
        let use_memory = match self.spec.settings.overlay {
            _ if self.memory_is_too_small || self.needs_copy || !fits_memory => false,
            Overlay::Disk | Overlay::Copy => false,
            Overlay::Tmpfs => true,
            Overlay::Auto => host::memory_layer_works() && available >= MEMORY_LAYER_BYTES,
        };
        if use_memory {
            let limit = self.spec.settings.memory_layer_bytes.unwrap_or(u64::MAX);
            spec.layer = Layer::Memory(limit.min(available / 2));
            match start(ids, &spec) {
                Ok(session) => {
                    self.in_memory = true;
                    return Ok(session);
                }
                Err(reason) if self.spec.settings.overlay == Overlay::Tmpfs => return Err(reason),
                Err(reason) => self.log.line(&format!(
                    "Cannot keep the writable layer in memory ({reason}); it is on disk."
                )),
            }
            spec.layer = Layer::Disk;
            remove_folder(dir, ids).map_err(|error| error.to_string())?;
        }
        self.in_memory = false;
        if self.needs_copy || self.spec.settings.overlay == Overlay::Copy {
            spec.layer = Layer::Copy;
        }
        start(ids, &spec)
    }

    pub(super) fn session_pid(&self) -> i32 {
        self.session.as_ref().map_or(0, Session::init_pid)
    }

    /// The network of the session's commands, or of sbuild with `until_build`.
    pub(super) fn network_of_commands(&self, until_build: bool) -> enter::Network {
        let Some(session) = self.session.as_ref().filter(|_| self.network.is_some()) else {
            return enter::Network::Alone;
        };
        let namespace = session.gate_network();
        if until_build && self.spec.settings.network == Network::BuildDeps {
            let folder = self.entry.path().to_owned();
            return enter::Network::GateUntilBuild { namespace, folder };
        }
        enter::Network::Gate(namespace)
    }

    /// Starts the gate of a new session, unless builds have no network. Returns its URL for apt.
    pub(super) fn start_network(&mut self) -> Result<Option<String>, String> {
        let private = self.spec.request.args.archive_private;
        let settings = self.spec.settings.gate.as_ref();
        let (Some(session), Some(settings)) = (&mut self.session, settings) else {
            return Ok(None);
        };
        if self.spec.settings.network == Network::Never {
            return Ok(None);
        }
        let socket = session.take_gate().expect("a new session has a gate");
        let started = BuildNetwork::start(socket, settings, private).and_then(|network| {
            network.close_on_request(self.entry.path())?;
            Ok(network)
        });
        let network = started.map_err(|error| format!("The gate could not start: {error}"))?;
        if self.spec.settings.network == Network::Always {
            session
                .connect_outside()
                .map_err(|error| error.to_string())?;
        }
        let url = network.url();
        self.network = Some(network);
        Ok(Some(url))
    }

    /// Lets the session reach the archives of its sources. No program of a package has run yet.
    pub(super) fn allow_sources(&self) -> io::Result<()> {
        if let Some(network) = &self.network {
            network.allow(&files::change(self.session_pid(), &Task::ReadSources)?);
        }
        Ok(())
    }

    /// Blames what the gate refused, rather than the archive: a retry would not help.
    pub(super) fn blame_network(&self, failure: Failure) -> Failure {
        let refusals = self.network.as_ref().map(BuildNetwork::refusals);
        match refusals.unwrap_or_default().first() {
            Some(refusal) if failure.status == BuildStatus::GivenBack => {
                let reason = format!("{refusal} {}", failure.reason);
                Failure::new(BuildStatus::ChrootFail, reason)
            }
            _ => failure,
        }
    }

    /// Changes files in the session, and logs the messages.
    pub(super) fn change_files(&mut self, task: &Task) -> io::Result<()> {
        if self.session.is_none() {
            return Err(io::Error::other(
                "the site's mountpath made the chroot, so this stage needs a site program as well",
            ));
        }
        let messages = files::change(self.session_pid(), task)?;
        if !messages.is_empty() {
            self.log.line(&messages);
        }
        Ok(())
    }

    /// Returns a command that runs inside the session.
    pub(super) fn session_command(&self, words: &[&str]) -> Command {
        let (program, rest) = words.split_first().expect("a command has a name");
        let network = self.network_of_commands(false);
        let mut command = enter::command(self.session_pid(), &network, program);
        command.args(rest);
        command
    }
}

/// Starts a session. The error is the last line that its processes printed.
fn start(ids: SubIds, spec: &SessionSpec) -> Result<Session, String> {
    let (mut messages, log) = pipe().map_err(|error| error.to_string())?;
    Session::start(ids, spec, log).map_err(|error| {
        let mut text = String::new();
        let _ = io::Read::read_to_string(&mut messages, &mut text);
        let last = text.trim().lines().last().map(str::to_owned);
        last.unwrap_or_else(|| error.to_string())
    })
}
