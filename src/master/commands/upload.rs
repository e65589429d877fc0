//! `master cancel` and `master retry --upload-only`, for results that wait for the uploader.

use serde_json::{Value, json};

use super::lookup::{find_build, refuse};
use super::open::Site;
use super::{Error, status};
use crate::db::{self, Tx};
use crate::master::model::BuildState;
use crate::master::rows::builds::Build;
use crate::master::rows::events::{self, NewEvent};
use crate::master::rows::uploads::{self, Place};
use crate::sys::clock::now_ms;

/// Returns the place of a build's results; `None` if it has none.
pub(super) fn place(tx: &mut Tx<'_>, build: &Build) -> Result<Option<Place>, db::Error> {
    match &build.leaf {
        Some(leaf) => uploads::place(tx, build.id, leaf),
        None => Ok(None),
    }
}

/// Ends a build in UPLOADING. Refused if its uploader runs on a live host, unless `force` is set:
/// then the master of that host kills it.
pub(super) fn cancel(tx: &mut Tx<'_>, build: &Build, force: bool) -> Result<(), db::Error> {
    let id = build.id;
    let leaf = build.leaf.as_deref();
    // The uploader cannot start before this transaction ends.
    if let Some(leaf) = leaf {
        if !uploads::hold(tx, id, leaf)? {
            let why = format!("build {id} has just changed state: run the command again");
            return Err(refuse(why));
        }
    }
    let place = place(tx, build)?;
    let host = place.as_ref().and_then(|place| place.host.as_deref());
    let started = place.as_ref().and_then(|place| place.upload_started_at);
    let is_alive = match host {
        Some(host) => status::is_host_alive(tx, host)?,
        None => false,
    };
    let operator = status::operator();
    let mut reason = format!("cancelled by {operator}");
    if let (Some(host), true) = (host, started.is_some()) {
        if is_alive && !force {
            return Err(refuse(format!(
                "build {id} is UPLOADING, and its uploader runs on {host}: wait for it; `master \
                 cancel --force {id}` kills it, and the archive may then have the results"
            )));
        }
        reason.push_str(&format!(
            "; the uploader was started on {host}: the archive may have the results"
        ));
    }
    uploads::give_up(tx, id, leaf, &reason)?;
    let message = format!("{}: {reason}", BuildState::FailedToUpload);
    events::add(
        tx,
        &NewEvent {
            build: Some(id),
            ..NewEvent::info(now_ms(), "cancelled", &message)
        },
    )
}

/// Makes a FAILEDTOUPLOAD build wait for the uploader again.
pub(super) fn again(site: &Site, id: i64) -> Result<(String, Value), Error> {
    let (build, place, is_alive) = site.db.write(|tx| {
        let build = find_build(tx, id)?;
        if !uploads::again(tx, id)? {
            let state = build.state;
            return Err(refuse(match state {
                BuildState::FailedToUpload => format!(
                    "build {id} has no results that could be uploaded; `master retry {id}` builds \
                     it again"
                ),
                _ => format!(
                    "build {id} is {state}: only FAILEDTOUPLOAD builds can be uploaded \
                     again"
                ),
            }));
        }
        let message = format!("upload retried by {}", status::operator());
        events::add(
            tx,
            &NewEvent {
                build: Some(id),
                ..NewEvent::info(now_ms(), "retried", &message)
            },
        )?;
        let place = place(tx, &build)?;
        let host = place.as_ref().and_then(|place| place.host.as_deref());
        let is_alive = host.map_or(Ok(true), |host| status::is_host_alive(tx, host))?;
        Ok((find_build(tx, id)?, place, is_alive))
    })?;
    let host = place.and_then(|place| place.host);
    let rest = match (&host, is_alive) {
        (Some(host), true) => format!(" by {host}"),
        (Some(host), false) => format!(" by {host} as soon as a master runs there"),
        (None, _) => String::new(),
    };
    let (name, state) = (&build.name, build.state);
    let sentence = format!("build {id} ({name}) is {state}; its results are uploaded{rest}");
    let json = json!({"build": id, "state": state.word(), "host": host});
    Ok((sentence, json))
}
