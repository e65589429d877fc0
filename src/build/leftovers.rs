//! Removes what a build has outside its journal entry: its session, a chroot it was unpacking,
//! its work tree. Used by CLEANUP, and by the daemon for a build whose shim died.

use std::fs;

use crate::session::{self, launch, live, store};
use crate::sys;

use super::spec::Spec;

/// Removes the session's folder and a half-unpacked chroot; absent ones are no error.
pub(super) fn remove_session(spec: &Spec) -> Result<(), session::Error> {
    let settings = &spec.settings;
    let (sum, id) = (spec.request.chroot.as_str(), spec.request.build_id.as_str());
    let half_made = store::half_made(&settings.chroots, sum, id);
    let session = spec.session_dir();
    if [&session, &half_made]
        .iter()
        .all(|path| fs::symlink_metadata(path).is_err())
    {
        // Nor is there a need for subordinate ids then.
        return Ok(());
    }
    let ids = launch::own_sub_ids()?;
    live::remove_folder(&session, ids)?;
    store::remove(&half_made, ids)
}

/// Removes everything; returns what could not be, a sentence each.
pub(crate) fn remove_all(spec: &Spec) -> Vec<String> {
    let session = remove_session(spec).map_err(|error| error.to_string());
    let tree = sys::fs::remove_tree(&spec.work_tree()).map_err(|error| error.to_string());
    [session, tree]
        .into_iter()
        .filter_map(Result::err)
        .collect()
}
