//! Unpacks a tiny chroot and starts real sessions over it, to check whether this host can.
//!
//! The chroot consists of four empty folders. The trial uses the configured folders, since file
//! systems differ in what they allow. All files are removed afterwards.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::facts::Trial;
use crate::session::idmap::SubIds;
use crate::session::launch::own_sub_ids;
use crate::session::live::{Session, remove_folder};
use crate::session::outer::{Layer, SessionSpec};
use crate::session::store::{self, StoreLimits};
use crate::sys::host;

/// Size of a layer in memory; nothing is written to it.
const LAYER_BYTES: u64 = 16 << 20;

/// Tries sessions with the chroot below `chroots` and the writable layers below `sessions`.
pub(super) fn run(chroots: &Path, sessions: &Path) -> Trial {
    let ids = match own_sub_ids() {
        Ok(ids) => ids,
        Err(_) => return Trial::NotTried("the user has no subordinate ids".to_owned()),
    };
    // With this prefix, the store's sweep removes the folder if this process is killed.
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
    // Without working namespaces, all files belong to this user.
    if store::remove(&work, ids).is_err() {
        let _ = fs::remove_dir_all(&work);
    }
    trial
}

/// Returns `path` or its nearest existing ancestor, which is on the same file system.
fn existing(path: &Path) -> &Path {
    path.ancestors()
        .find(|folder| folder.is_dir())
        .unwrap_or_else(|| Path::new("/"))
}

/// Creates a chroot tarball and unpacks it, in a namespace with all subordinate ids.
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

/// Starts and removes a session. The error is the last line that its processes printed.
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
        layer: memory_bytes.map_or(Layer::Disk, Layer::Memory),
        resolver: String::new(),
        emulate: Vec::new(),
    };
    match Session::start(ids, &spec, file) {
        Ok(session) => session.remove().map_err(|error| error.to_string()),
        Err(error) => {
            // The folder may exist in part.
            let _ = remove_folder(dir, ids);
            let output = fs::read_to_string(&log).unwrap_or_default();
            let last = output.lines().last().map(str::to_owned);
            Err(last.unwrap_or_else(|| error.to_string()))
        }
    }
}
