//! Returns a job without a result to the queue, or ends its build when it has been tried enough.
//!
//! `policy::limits` decides, in the transaction that ends the attempt.

use crate::db::{self, Tx};
use crate::sys::clock::now_ms as now;

use super::failure::notification;
use super::look::{LookError, Scanner, View, add_event, check_fence};
use crate::master::farm::millis;
use crate::master::model::{AttemptVerdict, BuildState};
use crate::master::policy::limits::{self, Blame, BuilderFail, Ended, Limit};
use crate::master::policy::why_waiting::span;
use crate::master::rows::attempts::{self, AttemptEnd};
use crate::master::rows::builders::{self, Job};
use crate::master::rows::outbox;
use crate::master::rows::queue::{self, End};

/// The end of an attempt without a result.
pub(super) struct Returned<'a> {
    /// GIVENBACK, BUILDERFAIL, LOST or WITHDRAWN.
    pub(super) verdict: AttemptVerdict,
    /// The slave's reason, or what the master found.
    pub(super) why: Option<&'a str>,
    pub(super) stages: Option<&'a str>,
    pub(super) log_alias: Option<i64>,
    pub(super) log_url: Option<&'a str>,
}

impl<'a> Returned<'a> {
    /// Returns an end without a log.
    pub(super) fn without_log(verdict: AttemptVerdict, why: &'a str) -> Self {
        Self {
            verdict,
            why: Some(why),
            stages: None,
            log_alias: None,
            log_url: None,
        }
    }
}

/// The consequence for the job and its builder.
struct Decision {
    /// The state in which the build ends; `None`: it returns to the queue.
    end: Option<BuildState>,
    /// How long the job stays off the builders, in ms.
    delay: i64,
    fails_builder: bool,
    /// The reason, with the consequence.
    why: String,
}

impl Decision {
    fn retry(why: String, delay: i64) -> Self {
        let why = match delay {
            0 => why,
            delay => format!("{why}; the next attempt is in {}", span(delay)),
        };
        Self {
            end: None,
            delay,
            fails_builder: false,
            why,
        }
    }

    fn end(state: BuildState, why: String) -> Self {
        Self {
            end: Some(state),
            delay: 0,
            fails_builder: false,
            why,
        }
    }
}

/// Ends the attempt of a job, and returns the job to the queue or ends its build.
pub(super) fn return_job(
    scanner: &Scanner<'_>,
    view: &View,
    job: &Job,
    returned: &Returned<'_>,
) -> Result<(), LookError> {
    let write = |tx: &mut Tx<'_>| {
        let decision = decide(scanner, tx, view, job, returned)?;
        let written = write(scanner, tx, view, job, returned, &decision)?;
        Ok(written.then_some(decision))
    };
    let decision = scanner.farm.db.write(write)?;
    check_fence(decision.is_some())?;
    if let Some(decision) = decision {
        scanner.log(view, log::Level::Warn, &decision.why);
    }
    Ok(())
}

fn decide(
    scanner: &Scanner<'_>,
    tx: &mut Tx<'_>,
    view: &View,
    job: &Job,
    returned: &Returned<'_>,
) -> Result<Decision, db::Error> {
    let this = Ended {
        build: job.build,
        builder: view.builder.id,
        verdict: returned.verdict,
    };
    let mut ended = vec![this];
    ended.extend(attempts::counted(tx, job.build)?);
    let config = scanner.farm.config();
    let first_delay = millis(config.give_back_delay);
    let name = &view.builder.name;
    let what = returned.why.unwrap_or_default();
    Ok(match returned.verdict {
        AttemptVerdict::GivenBack => {
            let why = with_reason(
                &format!("***** {} is GIVENBACK by {name} *****", job.cookie()),
                returned.why,
            );
            match limits::given_back(&ended, first_delay, config.give_back_limit as usize) {
                Limit::Retry { delay } => Decision::retry(why, delay),
                Limit::Reached { attempts } => {
                    let why = format!("given back {attempts} times, the last time by {name}");
                    let why = with_reason(&why, returned.why);
                    Decision::end(BuildState::ChrootWait, why)
                }
            }
        }
        AttemptVerdict::BuilderFail => {
            let blame = blame(tx, this, &ended, job, first_delay)?;
            builder_fail(tx, view, job, returned, blame)?
        }
        AttemptVerdict::Lost => match limits::lost(&ended, first_delay) {
            Limit::Retry { delay } => Decision::retry(what.to_owned(), delay),
            Limit::Reached { attempts } => {
                let why = format!("{attempts} slaves have lost the build, the last one {name}");
                Decision::end(BuildState::FailedToBuild, with_reason(&why, returned.why))
            }
        },
        _ => Decision::retry(what.to_owned(), 0),
    })
}

fn with_reason(what: &str, reason: Option<&str>) -> String {
    match reason {
        Some(reason) => format!("{what}: {reason}"),
        None => what.to_owned(),
    }
}

/// Decides whether builder or job is at fault for a BUILDERFAIL.
fn blame(
    tx: &mut Tx<'_>,
    this: Ended,
    of_build: &[Ended],
    job: &Job,
    first_delay: i64,
) -> Result<Blame, db::Error> {
    let mut ids = attempts::candidates(tx, job.queue)?;
    if !ids.contains(&this.builder) {
        ids.push(this.builder);
    }
    let mut builders = Vec::new();
    for id in ids {
        let mut last = attempts::of_builder(tx, id)?;
        if id == this.builder {
            last.insert(0, this);
        }
        builders.push((id, last));
    }
    let facts = BuilderFail {
        build: this.build,
        builder: this.builder,
        of_build,
        builders: &builders,
        has_other: attempts::has_other_builder(tx, job.queue, this.builder)?,
    };
    Ok(facts.blame(first_delay))
}

fn builder_fail(
    tx: &mut Tx<'_>,
    view: &View,
    job: &Job,
    returned: &Returned<'_>,
    blame: Blame,
) -> Result<Decision, db::Error> {
    let name = &view.builder.name;
    let failed = with_reason(&format!("***** {name} has failed *****"), returned.why);
    Ok(match blame {
        Blame::Nobody { delay } => Decision::retry(failed, delay),
        Blame::Outage { delay } => {
            let why = format!("{failed}; all builders fail, so neither it nor the job is blamed");
            Decision::retry(why, delay)
        }
        Blame::Builder => Decision {
            fails_builder: true,
            ..Decision::retry(
                format!("{failed}; it fails with several jobs, so it is disabled"),
                0,
            )
        },
        Blame::Job { builders, attempts } => {
            let mut names = attempts::failed_on(tx, job.build)?;
            if !names.contains(name) {
                names.push(name.clone());
            }
            names.sort_unstable();
            let names = names.join(", ");
            let why = match builders {
                1 => format!("BUILDERFAIL in all {attempts} attempts, on {names}"),
                _ => format!("BUILDERFAIL on {names}, which do not fail with other builds"),
            };
            Decision::end(BuildState::FailedToBuild, with_reason(&why, returned.why))
        }
    })
}

/// Carries out a decision; false if another process has taken the builder over.
fn write(
    scanner: &Scanner<'_>,
    tx: &mut Tx<'_>,
    view: &View,
    job: &Job,
    returned: &Returned<'_>,
    decision: &Decision,
) -> Result<bool, db::Error> {
    let fence = scanner.fence;
    let why = &*decision.why;
    let attempt = AttemptEnd {
        stages: returned.stages,
        log_alias: returned.log_alias,
        ..AttemptEnd::new(returned.verdict, returned.why.unwrap_or(why), now())
    };
    let is_kept = match decision.end {
        // A job that was cancelled since the last look is ended below.
        None => {
            let until = now() + decision.delay;
            let until = if decision.delay == 0 { 0 } else { until };
            queue::reset(tx, fence, job.queue, until, Some(&attempt))?
        }
        Some(_) => false,
    };
    if is_kept {
        let kind = match returned.verdict {
            AttemptVerdict::GivenBack => "given back",
            _ => "reset",
        };
        add_event(tx, log::Level::Warn, kind, view, why)?;
    } else {
        let state = decision.end.unwrap_or(BuildState::Cancelled);
        let attempt = AttemptEnd {
            reason: Some(why),
            ..attempt
        };
        if !queue::finish(tx, fence, job.queue, &End { state, attempt })? {
            return Ok(false);
        }
        let message = format!("{state}: {why}");
        add_event(tx, log::Level::Warn, "ended", view, message)?;
        if state != BuildState::Cancelled {
            let document = notification(view, job, state, returned.log_url, Some(why));
            outbox::put(tx, job.build, now(), &document)?;
        }
    }
    count_failure(scanner, tx, view, returned, decision)
}

/// Counts a BUILDERFAIL against the builder, unless the job is at fault.
fn count_failure(
    scanner: &Scanner<'_>,
    tx: &mut Tx<'_>,
    view: &View,
    returned: &Returned<'_>,
    decision: &Decision,
) -> Result<bool, db::Error> {
    let fence = scanner.fence;
    if returned.verdict == AttemptVerdict::BuilderFail {
        let count = match decision.end {
            Some(_) => 0,
            None => view.builder.failure_count + 1,
        };
        builders::set_failure_count(tx, fence, count)?;
    }
    if decision.fails_builder {
        builders::fail(tx, fence, &decision.why)?;
        let why = &decision.why;
        add_event(tx, log::Level::Error, "builder failed", view, why)?;
    }
    Ok(true)
}
