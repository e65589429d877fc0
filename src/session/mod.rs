//! Sessions: isolated systems in which packages are built, without root or a new setuid program.
//!
//! A chroot tarball is unpacked once into the [`store`]. A build gets a session over it: namespaces
//! and an overlay, with its own `/proc`, `/dev` and `/dev/pts`. When the session's [`init`] ends,
//! all processes and mounts of the session end too.
//!
//! ```text
//! shim ── outer (user, mount, ipc, uts, cgroup namespaces; mounts the overlay; the gate's network)
//!          └── init (pid namespace; pivots; reaps; a network without a gate)
//! enter ── a command inside: apt, sbuild's commands, the build
//! ```
//! `enter` stays outside and joins the namespaces. In a session runs nothing of this program but
//! init, which was loaded before the session had a root.

pub(crate) mod binfmt;
pub(crate) mod bootstrap;
pub(crate) mod enter;
pub(crate) mod files;
pub(crate) mod idmap;
pub(crate) mod init;
pub(crate) mod launch;
pub(crate) mod live;
pub(crate) mod machine;
mod namespace;
pub(crate) mod netlink;
pub(crate) mod outer;
pub(crate) mod outside;
pub(crate) mod seccomp;
mod secrets;
pub(crate) mod store;
pub(crate) mod store_owner;
pub(crate) mod terminal;
pub(crate) mod tree;
pub(crate) mod virt;

use std::io;
use std::path::PathBuf;

use crate::cache_eviction::Shortage;

/// Why a session or its chroot could not be set up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(
        "no range of 65536 ids for user {user} in {file}; as root: usermod \
         --add-subuids 100000-165535 --add-subgids 100000-165535 {user}"
    )]
    NoSubIds { user: String, file: &'static str },
    #[error("{0} is not installed, so no session can start; as root: apt-get install uidmap")]
    NoMapper(&'static str),
    #[error(
        "[slave] network = always needs pasta, which is not installed; as root: apt-get install \
         passt"
    )]
    NoPasta,
    #[error(
        "[slave] network = always needs {device}: {source}; as root: modprobe tun && chmod 0666 \
         {device}"
    )]
    NoTun { device: String, source: io::Error },
    #[error("cannot start {what}: {source}")]
    Start { what: String, source: io::Error },
    #[error("{program} refused: {message}")]
    Map {
        program: &'static str,
        message: String,
    },
    #[error(
        "user namespaces are refused on this host: {0}; `buildd-slave doctor` shows how to fix it"
    )]
    Unshare(String),
    #[error("{0}")]
    Child(String),
    #[error("unpacked chroot: {0}")]
    Unusable(String),
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("unpacked chroot: {0}")]
    NoRoom(#[from] Shortage),
    #[error("chroot tarball {path}: {reason}")]
    Tarball { path: PathBuf, reason: String },
}

/// Returns a closure for `map_err` that adds the path to an I/O error.
pub(crate) fn at(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Error {
    let path = path.into();
    move |source| Error::Io { path, source }
}
