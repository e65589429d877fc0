//! Tries what a build does to its host: unpack a chroot, start sessions over it, remove all again.
//!
//! The chroot is four empty folders, the processes and mounts are the real ones. It works where
//! the builds will, since file systems differ in what they allow.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::checks::Trial;
use crate::session::idmap::SubIds;
use crate::session::launch::own_sub_ids;
use crate::session::live::{Session, remove_folder};
use crate::session::outer::SessionSpec;
use crate::session::store::{self, StoreLimits};
use crate::sys::host;

/// Bytes of a layer in memory; nothing is written to it.
const LAYER_BYTES: u64 = 16 << 20;

/// Tries sessions, with the chroot at `chroots` and writable layers at `sessions`.
pub(super) fn run(chroots: &Path, sessions: &Path) -> Trial {
    let ids = match own_sub_ids() {
        Ok(ids) => ids,
        Err(_) => return Trial::NotTried("the user has no subordinate ids"),
    };
    // The name of what a sweep of the store may remove, should this process be killed.
    let name = format!(".tmp-doctor-{}", std::process::id());
    let work = existing(chroots).join(&name);
    let layers = existing(sessions).join(format!("{name}-layer"));
    let trial = match prepare(&work, ids) {
        Ok(base) => Trial::Sessions {
            in_memory: if host::memory_layer_works() {
                session(&base, &layers, &work, Some(LAYER_BYTES), ids)
            } else {
                Err("tmpfs lacks user attributes before Linux 6.6".to_owned())
            },
            on_disk: session(&base, &layers, &work, None, ids),
        },
        Err(reason) => Trial::NoNamespace(reason),
    };
    // Part of it belongs to subordinate ids only where namespaces work.
    if store::remove(&work, ids).is_err() {
        let _ = fs::remove_dir_all(&work);
    }
    trial
}

/// Returns `path` or, of those above it, the nearest that exists: the file system it will be on.
fn existing(path: &Path) -> &Path {
    path.ancestors()
        .find(|folder| folder.is_dir())
        .unwrap_or_else(|| Path::new("/"))
}

/// Makes a chroot tarball and unpacks it, which takes a namespace of all ids.
fn prepare(work: &Path, ids: SubIds) -> Result<PathBuf, String> {
    let tarball = make_tarball(work).map_err(|error| format!("{}: {error}", work.display()))?;
    store::unpack(work, "store", &tarball, "doctor", ids, StoreLimits::NONE)
        .map_err(|error| error.to_string())
}

fn make_tarball(work: &Path) -> io::Result<PathBuf> {
    let tree = work.join("tree");
    for folder in ["bin", "etc", "usr", "var"] {
        fs::create_dir_all(tree.join(folder))?;
    }
    let tarball = work.join("chroot.tar");
    let output = Command::new("tar")
        .arg("--create")
        .arg("--file")
        .arg(&tarball)
        .arg("--directory")
        .arg(&tree)
        .arg(".")
        .stdin(Stdio::null())
        .output()?;
    if output.status.success() {
        return Ok(tarball);
    }
    Err(io::Error::other(
        String::from_utf8_lossy(&output.stderr).into_owned(),
    ))
}

/// Starts a session and ends it; the reason of a failure is the last thing its processes said.
fn session(
    base: &Path,
    dir: &Path,
    work: &Path,
    memory_bytes: Option<u64>,
    ids: SubIds,
) -> Result<(), String> {
    let log = work.join("log");
    let file = File::create(&log).map_err(|error| error.to_string())?;
    let spec = SessionSpec {
        base: base.to_owned(),
        dir: dir.to_owned(),
        memory_bytes,
        network: true,
    };
    match Session::start(ids, &spec, file) {
        Ok(session) => session.remove().map_err(|error| error.to_string()),
        Err(error) => {
            // A started session's folder is gone already, another's may be half made.
            let _ = remove_folder(dir, ids);
            let output = fs::read_to_string(&log).unwrap_or_default();
            let last = output.lines().last().map(str::to_owned);
            Err(last.unwrap_or_else(|| error.to_string()))
        }
    }
}
