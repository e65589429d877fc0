//! Handles a failed look at a builder.
//!
//! Counts the failure, and applies the verdict of `policy::blame` in the same transaction: it fails
//! the builder, returns the job to the queue or ends it, and adds a notification.

use crate::db::{self, Tx};
use crate::sys::clock::now_ms as now;

use super::look::{Next, Scanner, View, add_event};
use crate::master::model::{AttemptVerdict, BuildState, CleanStatus};
use crate::master::policy::blame::{self, BuilderVerdict, Counts, JobVerdict, Kind};
use crate::master::policy::notification::Notification;
use crate::master::rows::attempts::AttemptEnd;
use crate::master::rows::builders::{self, Job};
use crate::master::rows::outbox;
use crate::master::rows::queue::{self, End};

/// Counts a failure, unless it may be passing, and applies the verdict on builder and job.
pub(crate) fn handle(scanner: &mut Scanner<'_>, view: &View, kind: Kind, why: &str) -> Next {
    scanner.memory.consecutive += 1;
    if !blame::is_counted(kind, scanner.memory.consecutive) {
        scanner.log(
            view,
            log::Level::Info,
            &format!(
                "{why}; failed look {} of {}",
                scanner.memory.consecutive,
                blame::SCANS_PER_FAILURE
            ),
        );
        return Next::Turn;
    }
    let cancelling = view.job.as_ref().is_some_and(Job::is_cancelling);
    let kind = if cancelling { Kind::Cancel } else { kind };
    let consecutive = std::mem::take(&mut scanner.memory.consecutive);
    let written = scanner.farm.db.write(|tx| {
        let Some((builder, build)) = queue::count_failure(tx, scanner.fence)? else {
            return Ok(None);
        };
        let counts = Counts {
            consecutive,
            builder,
            build,
        };
        let verdict = blame::decide(kind, &counts);
        apply(scanner, tx, view, verdict, why)?;
        Ok(Some((counts, verdict)))
    });
    match written {
        Ok(Some((counts, verdict))) => {
            scanner.log(
                view,
                log::Level::Warn,
                &format!("{why}: {}", consequences(counts, verdict)),
            );
            Next::Turn
        }
        Ok(None) => Next::Gone,
        Err(error) => {
            scanner.log(view, log::Level::Warn, &error.to_string());
            Next::Turn
        }
    }
}

/// Applies a verdict to the builder and to its job.
pub(crate) fn apply(
    scanner: &Scanner<'_>,
    tx: &mut Tx<'_>,
    view: &View,
    verdict: blame::Verdict,
    why: &str,
) -> Result<(), db::Error> {
    match verdict.builder {
        BuilderVerdict::Leave => {}
        BuilderVerdict::MarkDirty => {
            builders::set_clean(tx, scanner.fence, CleanStatus::Dirty, now())?;
        }
        BuilderVerdict::ClearCount => {
            builders::set_failure_count(tx, scanner.fence, 0)?;
        }
        BuilderVerdict::Fail => {
            builders::fail(tx, scanner.fence, why)?;
            add_event(tx, log::Level::Error, "builder failed", view, why)?;
        }
    }
    let Some(job) = &view.job else {
        return Ok(());
    };
    match verdict.job {
        JobVerdict::Leave => {}
        JobVerdict::Reset => {
            let end = AttemptEnd::new(AttemptVerdict::Failed, why, now());
            if queue::reset(tx, scanner.fence, job.queue, 0, Some(&end))? {
                add_event(tx, log::Level::Warn, "reset", view, why)?;
            } else {
                // It was cancelled since the last look.
                end_job(scanner, tx, view, BuildState::Cancelled, why)?;
            }
        }
        JobVerdict::Fail => {
            end_job(scanner, tx, view, BuildState::FailedToBuild, why)?;
            let document = notification(view, job, BuildState::FailedToBuild, None, Some(why));
            outbox::put(tx, job.build, now(), &document)?;
        }
        JobVerdict::Cancelled => {
            end_job(scanner, tx, view, BuildState::Cancelled, why)?;
        }
    }
    Ok(())
}

/// Ends the job without a log.
pub(crate) fn end_job(
    scanner: &Scanner<'_>,
    tx: &mut Tx<'_>,
    view: &View,
    state: BuildState,
    why: &str,
) -> Result<bool, db::Error> {
    let Some(job) = &view.job else {
        return Ok(true);
    };
    let verdict = match state {
        BuildState::Cancelled => AttemptVerdict::Cancelled,
        _ => AttemptVerdict::Failed,
    };
    let attempt = AttemptEnd::new(verdict, why, now());
    let end = End { state, attempt };
    let ended = queue::finish(tx, scanner.fence, job.queue, &end)?;
    if ended {
        add_event(
            tx,
            log::Level::Warn,
            "ended",
            view,
            format!("{state}: {why}"),
        )?;
    }
    Ok(ended)
}

/// Returns the notification about a build that did not succeed.
pub(crate) fn notification(
    view: &View,
    job: &Job,
    state: BuildState,
    log_url: Option<&str>,
    reason: Option<&str>,
) -> String {
    Notification {
        build: job.build,
        name: &job.name,
        state,
        builder: &view.builder.name,
        took_ms: now() - job.started_at,
        log_url,
        reason,
    }
    .document()
}

/// Describes for the log what a failure led to.
fn consequences(counts: Counts, verdict: blame::Verdict) -> String {
    let builder = match verdict.builder {
        BuilderVerdict::Leave => "",
        BuilderVerdict::MarkDirty => ", now DIRTY",
        BuilderVerdict::ClearCount => ", not its fault, count reset",
        BuilderVerdict::Fail => ", now disabled; enable it with `master builder enable`",
    };
    let job = match (verdict.job, counts.build) {
        (_, None) => String::new(),
        (JobVerdict::Leave, Some(n)) => format!("; failure {n} of the build, it keeps its builder"),
        (JobVerdict::Reset, Some(n)) => {
            format!("; failure {n} of the build, returned to the queue")
        }
        (JobVerdict::Fail, Some(n)) => format!("; failure {n} of the build, now FAILEDTOBUILD"),
        (JobVerdict::Cancelled, Some(_)) => "; the build is CANCELLED".to_owned(),
    };
    format!("failure {} of the builder{builder}{job}", counts.builder)
}
