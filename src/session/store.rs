//! The chroot store: every chroot tarball unpacked once, by the SHA-1 of the tarball.
//!
//! `STORE/SHA1/root` is the tree, owned by the subordinate ids and never written to again.
//! It comes into being by a rename, so it is there whole or not at all; what a crash left
//! half-made is named `.tmp-…` and swept at start.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use super::idmap::{Map, SubIds};
use super::launch::{self, own_sub_ids};
use super::outer::eprint_line;
use super::{Error, at};

/// Returns where the tree of a tarball is or will be.
pub(crate) fn tree(store: &Path, sha1: &str) -> PathBuf {
    store.join(sha1).join("root")
}

/// Returns where `owner` (a build id, or another word nobody else uses) makes a tree.
pub(crate) fn half_made(store: &Path, sha1: &str, owner: &str) -> PathBuf {
    store.join(format!(".tmp-{sha1}-{owner}"))
}

/// Unpacks `tarball` into the store unless it is there; returns the tree.
pub(crate) fn unpack(
    store: &Path,
    sha1: &str,
    tarball: &Path,
    owner: &str,
    ids: SubIds,
) -> Result<PathBuf, Error> {
    let tree = tree(store, sha1);
    if tree.is_dir() {
        return Ok(tree);
    }
    let temporary = half_made(store, sha1, owner);
    remove(&temporary, ids)?;
    let result = unpack_into(&temporary, tarball, ids).and_then(|()| {
        let home = store.join(sha1);
        match fs::rename(&temporary, &home) {
            // Somebody else was faster: theirs is as good.
            Err(_) if tree.is_dir() => Ok(()),
            other => other.map_err(at(&home)),
        }
    });
    let removed = remove(&temporary, ids);
    // The first error is the one that explains.
    result.and(removed).map(|()| tree)
}

fn unpack_into(dir: &Path, tarball: &Path, ids: SubIds) -> Result<(), Error> {
    fs::create_dir(dir).map_err(at(dir))?;
    launch::run(ids, Map::Wide, &["hand-over".into(), dir.into()])?;
    let task = ["unpack".into(), tarball.into(), dir.into()];
    launch::run(ids, Map::Session, &task).map_err(|error| match error {
        Error::Child(reason) => Error::Tarball {
            path: tarball.to_owned(),
            reason,
        },
        other => other,
    })
}

/// The process of an UNPACK stage: `internal unpack STORE SHA1 TARBALL OWNER`. Fails with 1 for
/// the tarball's fault, otherwise as the host's.
pub(crate) fn run(args: &[OsString]) -> io::Result<ExitCode> {
    let [store, sha1, tarball, owner] = args else {
        return Err(io::Error::other("unpack: STORE SHA1 TARBALL OWNER"));
    };
    let (sha1, owner) = (sha1.to_string_lossy(), owner.to_string_lossy());
    let (store, tarball) = (Path::new(store), Path::new(tarball));
    match own_sub_ids().and_then(|ids| unpack(store, &sha1, tarball, &owner, ids)) {
        Ok(_) => Ok(ExitCode::SUCCESS),
        Err(error @ Error::Tarball { .. }) => {
            eprint_line(&error.to_string());
            Ok(ExitCode::FAILURE)
        }
        Err(error) => Err(io::Error::other(error)),
    }
}

/// Removes a tree of subordinate ids below a folder of the caller's; an absent one is no error.
pub(crate) fn remove(path: &Path, ids: SubIds) -> Result<(), Error> {
    if fs::symlink_metadata(path).is_err() {
        return Ok(());
    }
    launch::run(ids, Map::Wide, &["remove".into(), path.into()])
}

/// Removes what crashed unpackings left in the store, as far as it can. Those of the last hour may
/// still run.
pub(crate) fn sweep(store: &Path, ids: SubIds) -> Result<(), Error> {
    let hour_ago = SystemTime::now() - std::time::Duration::from_secs(3600);
    for entry in fs::read_dir(store).map_err(at(store))?.flatten() {
        let old = entry
            .metadata()
            .and_then(|meta| meta.modified())
            .is_ok_and(|time| time < hour_ago);
        if old && entry.file_name().as_encoded_bytes().starts_with(b".tmp-") {
            log::info!(
                "removing a half-unpacked chroot: {}",
                entry.path().display()
            );
            if let Err(error) = remove(&entry.path(), ids) {
                log::warn!("{error}");
            }
        }
    }
    Ok(())
}
