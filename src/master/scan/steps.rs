//! Looks at one builder: reads its row, calls its slave, and does the step that follows.
//!
//! `policy::next_step` decides on the step. Only this file calls the other steps of the folder.

use std::time::Instant;

use crate::db::Tx;
use crate::master::farm::millis;
use crate::master::model::{AttemptVerdict, BuildState, CleanStatus};
use crate::master::policy::blame::Kind;
use crate::master::policy::next_step::{self, Before, Step};
use crate::master::rows::{builders, queue};
use crate::sys::clock::now_ms as now;

use super::dispatch::{self, Dispatched};
use super::look::{LookError, Next, Scanner, View, add_event, check_fence, holds_lease};
use super::return_job::{Returned, return_job};
use super::{failure, finish, reset};

/// Looks once and does the step that follows. Handles every failure.
pub(crate) fn scan(scanner: &mut Scanner<'_>) -> Next {
    let view = match scanner.view() {
        Ok(Some(view)) => view,
        Ok(None) => return Next::Gone,
        Err(error) => {
            let builder = scanner.fence.builder;
            log::warn!("cannot read builder {builder}: {error}; retrying at its next look");
            return Next::Turn;
        }
    };
    let result = look(scanner, &view);
    let next = settle(scanner, &view, result);
    scanner.memory.last_builder = Some(view.builder);
    next
}

/// Handles the failure of a look, if any; returns when to look again.
pub(crate) fn settle(
    scanner: &mut Scanner<'_>,
    view: &View,
    result: Result<Next, LookError>,
) -> Next {
    let logger = view.logger();
    match result {
        Ok(next) => {
            scanner.memory.consecutive = 0;
            next
        }
        Err(LookError::Changed) => {
            log::debug!(target: &logger, "{}: its rows changed during the look", view.url());
            Next::Soon
        }
        Err(LookError::Internal(why)) => {
            log::warn!(target: &logger, "{}: {why}; retrying at the next look", view.url());
            Next::Turn
        }
        Err(LookError::Failure { kind, why }) => failure::handle(scanner, view, kind, &why),
    }
}

fn look(scanner: &mut Scanner<'_>, view: &View) -> Result<Next, LookError> {
    let facts = view.facts();
    match next_step::before(scanner.mode, &facts) {
        Before::Leave => Ok(Next::Parked),
        Before::ResetJob { why } => reset_job(scanner, view, AttemptVerdict::Withdrawn, &why),
        Before::CancelJob { why } => cancelled(scanner, view, &why),
        Before::Broken { why } => Err(LookError::Failure {
            kind: Kind::Isolation,
            why,
        }),
        Before::ResetMachine => reset::reset_machine(scanner, view),
        Before::Ask => {
            let status = scanner.ask(view)?;
            let step = next_step::step(scanner.mode, &facts, &status.record, now());
            act(scanner, view, step)
        }
    }
}

pub(crate) fn act(scanner: &mut Scanner<'_>, view: &View, step: Step) -> Result<Next, LookError> {
    match step {
        Step::Nothing => Ok(Next::Turn),
        Step::KeepTail { logtail } => {
            if let (Some(raw), Some(job)) = (logtail, &view.job) {
                let text = next_step::logtail_text(&raw);
                scanner
                    .farm
                    .keep_tail(job.queue, scanner.fence.builder, text);
            }
            let aborting = view.job.as_ref().is_some_and(|job| job.cancel_by.is_some());
            Ok(if aborting { Next::Soon } else { Next::Turn })
        }
        Step::SendAbort { first_deadline } => send_abort(scanner, view, first_deadline),
        Step::CancelOverdue => Err(LookError::Failure {
            kind: Kind::Cancel,
            why: "the build did not stop within [master] cancel_timeout".to_owned(),
        }),
        Step::Cancelled => cancelled(scanner, view, "the slave no longer has it"),
        Step::Collect {
            status,
            files,
            dependencies,
        } => finish::finish(scanner, view, status, &files, &dependencies),
        Step::Forgotten => reset_job(scanner, view, AttemptVerdict::Lost, &forgotten(view)),
        Step::Lost { expected, got } => {
            let got = got.map_or_else(|| "none".to_owned(), |got| format!("'{got}'"));
            let why = format!("lost: expected '{expected}', got {got}");
            reset_job(scanner, view, AttemptVerdict::Lost, &why)
        }
        Step::Rescue { cookie, abort } => rescue(scanner, view, &cookie, abort),
        Step::Clean => {
            scanner.memory.unwanted_build = None;
            let write =
                |tx: &mut Tx<'_>| builders::set_clean(tx, scanner.fence, CleanStatus::Clean, now());
            check_fence(scanner.farm.db.write(write)?)?;
            Ok(Next::Now)
        }
        Step::WaitForAbort => wait_for_release(scanner, "its last build").map(|_| Next::Soon),
        Step::Dispatch => {
            let view = scanner.with_emulation(view)?;
            match dispatch::dispatch(scanner, &view)? {
                Dispatched::Nothing(next) => Ok(next),
                Dispatched::Job { view, sent } => Ok(settle(scanner, &view, sent)),
            }
        }
        Step::Broken { why } => Err(LookError::Failure {
            kind: Kind::Isolation,
            why,
        }),
    }
}

/// Aborts the job's build. The first call sets the deadline.
fn send_abort(
    scanner: &mut Scanner<'_>,
    view: &View,
    first_deadline: bool,
) -> Result<Next, LookError> {
    scanner.slave(view)?.abort()?;
    if let (true, Some(job)) = (first_deadline, &view.job) {
        let logger = view.logger();
        log::info!(target: &logger, "{}: aborting {}", view.url(), job.cookie());
        let by = now() + millis(scanner.farm.config().cancel_timeout);
        let write = |tx: &mut Tx<'_>| queue::set_cancel_by(tx, scanner.fence, job.queue, by);
        check_fence(scanner.farm.db.write(write)?)?;
    }
    Ok(Next::Soon)
}

/// The exact sentence of the 2008 master. Scripts match it.
fn forgotten(view: &View) -> String {
    let name = view.job.as_ref().map(|job| job.name.to_string());
    format!(
        "Builder {} forgot about build {} -- resetting buildqueue record",
        view.url(),
        name.unwrap_or_default()
    )
}

/// Aborts or cleans a build for which the builder has no job. A slave that keeps the build beyond
/// the timeout has failed.
fn rescue(
    scanner: &mut Scanner<'_>,
    view: &View,
    cookie: &str,
    abort: bool,
) -> Result<Next, LookError> {
    let is_new = wait_for_release(scanner, cookie)?;
    if !holds_lease(scanner.farm, scanner.fence) {
        return Err(LookError::Changed);
    }
    let slave = scanner.slave(view)?;
    if abort {
        slave.abort()?;
    } else {
        slave.clean()?;
    }
    if is_new {
        let why = format!(
            "Builder '{}' rescued from '{cookie}: it has no job'",
            view.builder.name
        );
        log::warn!(target: &view.logger(), "{why}");
        let write = |tx: &mut Tx<'_>| add_event(tx, log::Level::Warn, "rescued", view, &why);
        scanner.farm.db.write(write)?;
    }
    Ok(Next::Soon)
}

/// Waits up to `[master] cancel_timeout` for a slave to drop a build; returns whether the wait has
/// just begun.
fn wait_for_release(scanner: &mut Scanner<'_>, cookie: &str) -> Result<bool, LookError> {
    let limit = scanner.farm.config().cancel_timeout;
    match &scanner.memory.unwanted_build {
        Some((known, since)) if known == cookie && since.elapsed() > limit => {
            let why = format!("the slave still has {cookie} after [master] cancel_timeout");
            scanner.memory.unwanted_build = None;
            Err(LookError::Failure {
                kind: Kind::Dispatch,
                why,
            })
        }
        Some((known, _)) if known == cookie => Ok(false),
        _ => {
            scanner.memory.unwanted_build = Some((cookie.to_owned(), Instant::now()));
            Ok(true)
        }
    }
}

/// Returns the job to the queue.
fn reset_job(
    scanner: &mut Scanner<'_>,
    view: &View,
    verdict: AttemptVerdict,
    why: &str,
) -> Result<Next, LookError> {
    let Some(job) = &view.job else {
        return Ok(Next::Turn);
    };
    return_job(scanner, view, job, &Returned::without_log(verdict, why))?;
    Ok(Next::Soon)
}

fn cancelled(scanner: &mut Scanner<'_>, view: &View, why: &str) -> Result<Next, LookError> {
    let write = |tx: &mut Tx<'_>| failure::end_job(scanner, tx, view, BuildState::Cancelled, why);
    check_fence(scanner.farm.db.write(write)?)?;
    scanner.log(view, log::Level::Info, &format!("cancelled: {why}"));
    Ok(Next::Soon)
}
