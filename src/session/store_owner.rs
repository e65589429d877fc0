//! Finds and discards unpacked chroots that no session can use, because their owner has changed.
//!
//! `chown -R` of the daemon's home, or new subordinate ids, leave trees whose files do not belong
//! to the ids of a session. Every build in such a tree fails, and only unpacking it again helps.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::idmap::{COUNT, SubIds};
use super::store::{remove, tree, trees, try_lock, use_file};
use super::{Error, at};

/// Files whose owner tells whether the owner of the whole tree has changed.
const TELLING: [&str; 5] = [
    "etc/passwd",
    "usr/bin/dpkg",
    "usr/bin/apt-get",
    "var/lib/dpkg",
    "var/lib/dpkg/status",
];

/// Returns a sentence about a tree that a session cannot use; `None` if there is no such problem.
pub(crate) fn problem(store: &Path, sha1: &str, ids: SubIds) -> Option<String> {
    let root = tree(store, sha1);
    let below = fs::read_dir(&root).into_iter().flatten().flatten();
    let telling = TELLING.iter().map(|path| root.join(path));
    let mut entries = std::iter::once(root.clone())
        .chain(below.map(|entry| entry.path()))
        .chain(telling);
    let (path, about) = entries.find_map(|path| {
        let about = fs::symlink_metadata(&path).ok()?;
        (!belongs(&about, ids)).then_some((path, about))
    })?;
    let (uid, gid) = (about.uid(), about.gid());
    let last = |first: u32| first.saturating_add(COUNT - 1);
    Some(format!(
        "{} belongs to {uid}:{gid}, not to the subordinate ids {}-{}:{}-{}",
        path.display(),
        ids.first_uid,
        last(ids.first_uid),
        ids.first_gid,
        last(ids.first_gid)
    ))
}

fn belongs(about: &Metadata, ids: SubIds) -> bool {
    let within = |id: u32, first: u32| id >= first && id - first < COUNT;
    within(about.uid(), ids.first_uid) && within(about.gid(), ids.first_gid)
}

/// Discards the tree of `sha1` if no session can use it. Returns the sentence about it.
pub(crate) fn discard_unusable(
    store: &Path,
    sha1: &str,
    ids: SubIds,
) -> Result<Option<String>, Error> {
    let Some(problem) = problem(store, sha1, ids) else {
        return Ok(None);
    };
    let path = use_file(store, sha1);
    let Some(_lock) = try_lock(&path).map_err(at(&path))? else {
        return Err(Error::Unusable(format!(
            "{problem}; another process uses it, so it cannot be unpacked again now"
        )));
    };
    let home = store.join(sha1);
    let doomed = free_name(store, sha1);
    fs::rename(&home, &doomed).map_err(at(&home))?;
    let left = match remove(&doomed, ids) {
        Ok(()) => String::new(),
        // Other ids than this user's own: only root can remove them.
        Err(_) => format!("; as root, remove {}", doomed.display()),
    };
    Ok(Some(format!(
        "Discarding an unpacked chroot: {problem}{left}"
    )))
}

/// Discards all trees that no session can use. Errors are logged.
pub(crate) fn discard_all_unusable(store: &Path, ids: SubIds) {
    for sha1 in trees(store) {
        match discard_unusable(store, &sha1, ids) {
            Ok(None) => {}
            Ok(Some(sentence)) => log::warn!("{sentence}"),
            Err(error) => log::error!("{error}"),
        }
    }
}

/// Returns a name for a tree that is being removed. The store's sweep takes it for an unfinished
/// tree, and tries again to remove it.
fn free_name(store: &Path, sha1: &str) -> PathBuf {
    let name = |number: u32| store.join(format!(".tmp-{sha1}-owner-{number}"));
    (0..)
        .map(name)
        .find(|path| fs::symlink_metadata(path).is_err())
        .unwrap_or_else(|| name(0))
}
