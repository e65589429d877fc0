//! Sessions: where a package is built, without root and without a setuid program of ours.
//!
//! A chroot tarball is unpacked once into the [`store`]; a build gets a session over it:
//! namespaces, an overlay, its own `/proc`, `/dev` and `/dev/pts`. The session lives as long as
//! its init ([`init`]), and everything in it, mounts included, ends with that process.
//!
//! ```text
//! shim ── outer (user, mount, ipc, uts namespace; mounts the overlay)
//!          └── init (pid namespace; pivots; reaps)
//!                └── … what `enter` runs: apt, sbuild's commands, the build
//! ```

pub(crate) mod enter;
pub(crate) mod files;
pub(crate) mod idmap;
pub(crate) mod init;
pub(crate) mod launch;
pub(crate) mod live;
pub(crate) mod netlink;
pub(crate) mod outer;
pub(crate) mod store;
pub(crate) mod virt;

use std::io;
use std::path::PathBuf;

use crate::cache_eviction::Shortage;

/// Why a session or the chroot below it could not be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(
        "no range of 65536 ids for user {user} in {file}; as root: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}"
    )]
    NoSubIds { user: String, file: &'static str },
    #[error(
        "{0} is not installed, so no build can have a session; as root: apt-get install uidmap"
    )]
    NoMapper(&'static str),
    #[error("cannot start {what}: {source}")]
    Start { what: String, source: io::Error },
    #[error("{program} refused: {message}")]
    Map {
        program: &'static str,
        message: String,
    },
    #[error("user namespaces are refused here: {0}; `buildd-slave doctor` names the mend")]
    Unshare(String),
    #[error("{0}")]
    Child(String),
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("the unpacked chroot has {0}")]
    NoRoom(#[from] Shortage),
    #[error("chroot tarball {path}: {reason}")]
    Tarball { path: PathBuf, reason: String },
}

/// Puts the path of an I/O error in front of it.
pub(crate) fn at(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Error {
    let path = path.into();
    move |source| Error::Io { path, source }
}
