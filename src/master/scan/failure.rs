//! What is done about a look at a builder that failed?
//!
//! Failures are counted and weighed by `blame`; its verdict is carried out here, in the same
//! transaction: builders are taken out, jobs go back to the queue or end, people are told.

use crate::db::{self, Tx};
use crate::sys::clock::now_ms as now;

use super::look::{Next, Scanner, View, add_event};
use crate::master::model::{BuildState, CleanStatus};
use crate::master::policy::blame::{self, BuilderVerdict, Counts, JobVerdict, Kind};
use crate::master::policy::notification::Notification;
use crate::master::rows::builders::{self, Job};
use crate::master::rows::outbox;
use crate::master::rows::queue::{self, End};

/// Counts a failure if it is one, and does what the counts say.
pub(crate) fn handle(scanner: &mut Scanner<'_>, view: &View, kind: Kind, why: &str) -> Next {
    scanner.consecutive += 1;
    if !blame::is_counted(kind, scanner.consecutive) {
        scanner.log(
            view,
            log::Level::Info,
            &format!("{why}; look {} of a few", scanner.consecutive),
        );
        return Next::Turn;
    }
    let cancelling = view.job.as_ref().is_some_and(Job::is_cancelling);
    let kind = if cancelling { Kind::Cancel } else { kind };
    let consecutive = std::mem::take(&mut scanner.consecutive);
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

/// Does what a verdict says, to the builder and to its job.
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
            if queue::reset(tx, scanner.fence, job.queue, 0)? {
                add_event(tx, log::Level::Warn, "reset", view, why)?;
            } else {
                // Somebody wants it stopped, since the last look.
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
    let end = End {
        state,
        dependencies: None,
        log_alias: None,
        leaf: None,
        finished_at: now(),
    };
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

/// Returns what people are told of a build that ended badly.
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

/// Says what a failure led to.
fn consequences(counts: Counts, verdict: blame::Verdict) -> String {
    let builder = match verdict.builder {
        BuilderVerdict::Leave => "",
        BuilderVerdict::MarkDirty => ", to be cleaned",
        BuilderVerdict::ClearCount => ", which is not to blame",
        BuilderVerdict::Fail => ", which is out until it is enabled again",
    };
    let job = match (verdict.job, counts.build) {
        (_, None) => String::new(),
        (JobVerdict::Leave, Some(n)) => format!("; failure {n} of the build, which stays"),
        (JobVerdict::Reset, Some(n)) => format!("; failure {n} of the build, back to the queue"),
        (JobVerdict::Fail, Some(n)) => {
            format!("; failure {n} of the build, which has FAILEDTOBUILD")
        }
        (JobVerdict::Cancelled, Some(_)) => "; the build is CANCELLED".to_owned(),
    };
    format!("failure {} of the builder{builder}{job}", counts.builder)
}
