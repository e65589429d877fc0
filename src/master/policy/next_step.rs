//! Pure: decides what one look at a builder does next.
//!
//! There are two tables (docs/farm.md §3.2, §3.4, §3.5): [`before`] reads the builder's row,
//! [`step`] the slave's status. The files of `scan` do the step and record it.
//!
//! The pass of 2008 differs in three points (docs/farm.md §2.6-§2.9). It polls the jobs of disabled
//! builders. It resets the job of an IDLE slave with a warning that the builder forgot it. It
//! rescues a busy slave of a CLEAN builder instead of failing the builder.

use crate::master::model::{CleanStatus, ResetProtocol};
use crate::protocol::{BuildId, BuildStatus, FileName, Sha1Hex, StatusRecord};

/// A builder's row, as far as the decision needs it.
#[derive(Clone, Debug)]
pub(crate) struct BuilderFacts {
    pub(crate) ok: bool,
    pub(crate) manual: bool,
    pub(crate) clean: CleanStatus,
    pub(crate) virtualized: bool,
    pub(crate) reset: Option<ResetProtocol>,
    pub(crate) job: Option<JobFacts>,
}

/// The row of a builder's job, as far as the decision needs it.
#[derive(Clone, Debug)]
pub(crate) struct JobFacts {
    /// The build's id on the slave.
    pub(crate) cookie: String,
    /// Whether the job is being cancelled.
    pub(crate) cancelling: bool,
    /// The deadline of the abort, in milliseconds; `None` before `abort` is first called.
    pub(crate) cancel_by: Option<i64>,
}

/// The command that scans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ScanMode {
    /// `master scan`, a pass like that of 2008.
    Pass,
    /// `master run`.
    Daemon,
}

/// The step before the slave is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Before {
    /// Call `status`, then see [`step`].
    Ask,
    /// Do nothing.
    Leave,
    /// Return the job to the queue.
    ResetJob { why: String },
    /// The job was being cancelled: record it as CANCELLED.
    CancelJob { why: String },
    /// Fail the builder and its job: an isolation error, or a mistake in the configuration.
    Broken { why: String },
    /// Reset the builder's machine, as its protocol requires.
    ResetMachine,
}

/// The step that follows from a slave's status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Nothing,
    /// The slave builds the job: keep its log tail. `None`: the tail has not changed.
    KeepTail {
        logtail: Option<Vec<u8>>,
    },
    /// Call `abort`. The first call sets the deadline.
    SendAbort {
        first_deadline: bool,
    },
    /// The deadline of the abort has passed: a failure.
    CancelOverdue,
    /// The job was being cancelled, and the slave no longer has it: record it as CANCELLED.
    Cancelled,
    /// The build has finished.
    Collect {
        status: BuildStatus,
        files: Vec<(FileName, Sha1Hex)>,
        dependencies: String,
    },
    /// In a pass, the slave is IDLE: return the job to the queue, with a warning.
    Forgotten,
    /// The slave does not have the job: return it to the queue. This is not a failure. If the slave
    /// has another build, the next look rescues it.
    Lost {
        expected: String,
        got: Option<String>,
    },
    /// The slave has a build, but the builder has no job: call `abort`, or else `clean`.
    Rescue {
        cookie: String,
        abort: bool,
    },
    /// Mark the builder CLEAN.
    Clean,
    /// Wait until the slave has aborted its build.
    WaitForAbort,
    /// Dispatch a job to the builder.
    Dispatch,
    /// Fail the builder: an isolation error.
    Broken {
        why: String,
    },
}

/// The log tail shown while a slave aborts a build.
const ABORTING_TAIL: &[u8] = b"Waiting for the slave to abort the build.";
/// Largest log tail kept, in bytes.
const TAIL_BYTES: usize = 2048;

/// Returns what to do before the slave is called.
pub(crate) fn before(mode: ScanMode, facts: &BuilderFacts) -> Before {
    match &facts.job {
        Some(job) => before_with_job(mode, facts, job),
        None if !facts.ok => Before::Leave,
        None => match facts.clean {
            CleanStatus::Clean => Before::Ask,
            CleanStatus::Dirty | CleanStatus::Cleaning if facts.virtualized => {
                before_reset(mode, facts)
            }
            CleanStatus::Dirty | CleanStatus::Cleaning => Before::Ask,
        },
    }
}

fn before_with_job(mode: ScanMode, facts: &BuilderFacts, job: &JobFacts) -> Before {
    match (mode, facts.clean) {
        (ScanMode::Pass, _) => Before::Ask,
        (ScanMode::Daemon, CleanStatus::Clean | CleanStatus::Cleaning) => Before::Broken {
            why: format!("a builder with a job, {}, is {}", job.cookie, facts.clean),
        },
        (ScanMode::Daemon, CleanStatus::Dirty) if facts.ok => Before::Ask,
        (ScanMode::Daemon, CleanStatus::Dirty) => {
            let why = "the builder is disabled".to_owned();
            match job.cancelling {
                true => Before::CancelJob { why },
                false => Before::ResetJob { why },
            }
        }
    }
}

fn before_reset(mode: ScanMode, facts: &BuilderFacts) -> Before {
    match (facts.reset, facts.clean) {
        // An interrupted reset is repeated: the slave is up only when the command exits.
        (Some(ResetProtocol::Synchronous), _) => Before::ResetMachine,
        (Some(ResetProtocol::Asynchronous), CleanStatus::Cleaning) => Before::Leave,
        (Some(ResetProtocol::Asynchronous), _) => Before::ResetMachine,
        // In 2008, builders had no protocol. The slave can be called anyway.
        (None, _) if mode == ScanMode::Pass => Before::Ask,
        (None, _) => Before::Broken {
            why: "a virtual builder without a reset protocol: give it 1.1 or 2.0".to_owned(),
        },
    }
}

/// Returns what to do about a slave's status, after [`Before::Ask`]. `now` is in milliseconds.
pub(crate) fn step(mode: ScanMode, facts: &BuilderFacts, status: &StatusRecord, now: i64) -> Step {
    match &facts.job {
        Some(job) => with_job(mode, job, status, now),
        None if !facts.ok => Step::Nothing,
        None => without_job(mode, facts, status),
    }
}

fn with_job(mode: ScanMode, job: &JobFacts, status: &StatusRecord, now: i64) -> Step {
    match status {
        StatusRecord::Idle => without_its_job(mode, job, None),
        StatusRecord::Building { id, .. }
        | StatusRecord::Aborting { id }
        | StatusRecord::Waiting { id, .. }
            if id.as_str() != job.cookie =>
        {
            without_its_job(mode, job, Some(id))
        }
        StatusRecord::Waiting {
            status,
            files,
            dependencies,
            ..
        } => Step::Collect {
            status: *status,
            files: files.clone(),
            dependencies: dependencies.clone(),
        },
        StatusRecord::Building { .. } | StatusRecord::Aborting { .. }
            if job.cancelling && job.cancel_by.is_none() =>
        {
            Step::SendAbort {
                first_deadline: true,
            }
        }
        StatusRecord::Building { .. } | StatusRecord::Aborting { .. }
            if job.cancelling && job.cancel_by <= Some(now) =>
        {
            Step::CancelOverdue
        }
        // The slave still builds after the first `abort`: the call did not reach it.
        StatusRecord::Building { .. } if job.cancelling => Step::SendAbort {
            first_deadline: false,
        },
        StatusRecord::Building { logtail, .. } => Step::KeepTail {
            logtail: (!logtail.is_empty()).then(|| logtail.clone()),
        },
        StatusRecord::Aborting { .. } => Step::KeepTail {
            logtail: Some(ABORTING_TAIL.to_owned()),
        },
    }
}

fn without_its_job(mode: ScanMode, job: &JobFacts, got: Option<&BuildId>) -> Step {
    match (mode, got) {
        _ if job.cancelling => Step::Cancelled,
        (ScanMode::Pass, None) => Step::Forgotten,
        (ScanMode::Pass | ScanMode::Daemon, got) => Step::Lost {
            expected: job.cookie.clone(),
            got: got.map(ToString::to_string),
        },
    }
}

fn without_job(mode: ScanMode, facts: &BuilderFacts, status: &StatusRecord) -> Step {
    let clean = facts.clean == CleanStatus::Clean;
    match status {
        StatusRecord::Idle if !clean && facts.virtualized => Step::Nothing,
        StatusRecord::Idle if !clean => Step::Clean,
        StatusRecord::Idle if facts.manual => Step::Nothing,
        StatusRecord::Idle => Step::Dispatch,
        StatusRecord::Building { id, .. }
        | StatusRecord::Aborting { id }
        | StatusRecord::Waiting { id, .. }
            if clean && mode == ScanMode::Daemon =>
        {
            Step::Broken {
                why: format!("a CLEAN builder is {} {id}", status.builder_status()),
            }
        }
        StatusRecord::Building { id, .. } => rescue(id, true),
        StatusRecord::Waiting { id, .. } => rescue(id, false),
        StatusRecord::Aborting { .. } => Step::WaitForAbort,
    }
}

fn rescue(id: &BuildId, abort: bool) -> Step {
    Step::Rescue {
        cookie: id.to_string(),
        abort,
    }
}

/// Returns the last [`TAIL_BYTES`] of a log as text that every database accepts: invalid UTF-8 is
/// replaced and NUL removed.
pub(crate) fn logtail_text(raw: &[u8]) -> String {
    let mut end = &raw[raw.len().saturating_sub(TAIL_BYTES)..];
    if end.len() < raw.len() {
        // Skips the rest of a split character, at most three continuation bytes.
        let halves = end.iter().take(3).take_while(|byte| **byte & 0xC0 == 0x80);
        end = &end[halves.count()..];
    }
    let text = String::from_utf8_lossy(end).replace('\0', "");
    // A replacement character is longer than the byte it replaces.
    let mut start = text.len().saturating_sub(TAIL_BYTES);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    text[start..].to_owned()
}

#[cfg(test)]
mod tests;
