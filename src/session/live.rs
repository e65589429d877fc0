//! Starts and ends sessions.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::net::TcpListener;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::idmap::{Map, SubIds};
use super::launch::{self, Namespace, launch};
use super::outer::{Layer, SessionSpec};
use super::{Error, at, outside, store};

/// A running session; dropping it kills it.
#[derive(Debug)]
pub(crate) struct Session {
    namespace: Namespace,
    init: Pid,
    network: File,
    gate: Option<TcpListener>,
    /// The process that connects the network to the outside.
    outside: Option<Child>,
    dir: PathBuf,
    ids: SubIds,
}

impl Session {
    /// Starts the session that `spec` describes. Its folder must not exist yet. Errors of the
    /// session's own processes go to `log`.
    pub(crate) fn start(
        ids: SubIds,
        spec: &SessionSpec,
        log: impl Into<Stdio>,
    ) -> Result<Self, Error> {
        fs::create_dir_all(&spec.dir).map_err(at(&spec.dir))?;
        if !matches!(spec.layer, Layer::Memory(_)) {
            launch::run(ids, Map::Wide, &["chown".into(), spec.dir.clone().into()])?;
        }
        if spec.layer == Layer::Copy {
            let task = [
                "copy".into(),
                spec.base.clone().into(),
                spec.dir.clone().into(),
            ];
            launch::run(ids, Map::Session, &task)?;
        }
        let spec_text = serde_json::to_string(spec).expect("a session's spec is plain data");
        let mut namespace = launch(
            ids,
            Map::Session,
            &["session".into(), spec_text.into()],
            log,
        )?;
        let [network, gate] = namespace.receive_pair()?;
        let init = namespace
            .answer()?
            .strip_prefix("init ")
            .and_then(|pid| pid.parse().ok())
            .map(Pid::from_raw)
            .ok_or_else(|| Error::Child("the session did not name its init".into()))?;
        match namespace.answer()?.as_str() {
            "ready" => Ok(Self {
                namespace,
                init,
                network: network.into(),
                gate: Some(gate.into()),
                outside: None,
                dir: spec.dir.clone(),
                ids,
            }),
            other => Err(Error::Child(format!("the session did not start: {other}"))),
        }
    }

    /// The pid of the session's init, as the host counts.
    pub(crate) fn init_pid(&self) -> i32 {
        self.init.as_raw()
    }

    /// The session's gate, as a path of its namespace.
    pub(crate) fn gate_network(&self) -> PathBuf {
        format!(
            "/proc/{}/fd/{}",
            std::process::id(),
            self.network.as_raw_fd()
        )
        .into()
    }

    /// Connects the gate's network to the outside.
    pub(crate) fn connect_outside(&mut self) -> Result<(), Error> {
        let network = self.network.try_clone().map_err(at(self.gate_network()))?;
        self.outside = Some(outside::connect(self.init_pid(), network)?);
        Ok(())
    }

    /// Takes the socket that listens on the loopback of the session's gate.
    pub(crate) fn take_gate(&mut self) -> Option<TcpListener> {
        self.gate.take()
    }

    /// Kills all processes of the session. The kernel removes the mounts with the last of them.
    pub(crate) fn kill(&mut self) {
        if let Some(mut outside) = self.outside.take() {
            let _ = outside.kill();
            let _ = outside.wait();
        }
        if !self.namespace.has_ended() {
            let _ = kill(self.init, Signal::SIGKILL);
            self.namespace.kill();
        }
    }

    /// Kills the session and removes its folder.
    pub(crate) fn remove(mut self) -> Result<(), Error> {
        self.kill();
        remove_folder(&self.dir, self.ids)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Removes a session's folder. Its owner is the session's root, or the caller if the writable layer
/// was in memory; in that case the folder is empty.
pub(crate) fn remove_folder(dir: &Path, ids: SubIds) -> Result<(), Error> {
    match fs::remove_dir(dir) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(_) => store::remove(dir, ids),
    }
}

/// Returns whether a folder looks like a session's: it holds a writable layer, or it is empty.
pub(crate) fn is_session_folder(dir: &Path) -> bool {
    let has = |name| fs::symlink_metadata(dir.join(name)).is_ok_and(|about| about.is_dir());
    let is_empty = || fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_none());
    (has("upper") && has("work")) || is_empty()
}
