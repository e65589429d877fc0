//! Pure: what does one look at a builder lead to?
//!
//! Two tables (docs/farm.md §3.2, §3.4, §3.5): what its row says before anybody asks the slave, and
//! what the slave's own status says then. Nothing is done here; whoever scans does it and writes
//! it down.
//!
//! The pass of 2008 is the same but for this: it asks disabled builders about their jobs, calls a
//! slave that is IDLE despite one forgetful, and knows no CLEAN, so that a slave that is busy for
//! nobody is rescued, not failed (§2.6-§2.9). Unlike the sources it compares the cookie each time.

use crate::master::model::{CleanStatus, ResetProtocol};
use crate::protocol::{BuildId, BuildStatus, FileName, Sha1Hex, StatusRecord};

/// What the database says of a builder.
#[derive(Clone, Debug)]
pub(crate) struct BuilderFacts {
    pub(crate) ok: bool,
    pub(crate) manual: bool,
    pub(crate) clean: CleanStatus,
    pub(crate) virtualized: bool,
    pub(crate) reset: Option<ResetProtocol>,
    pub(crate) job: Option<JobFacts>,
}

/// What the database says of the job on it.
#[derive(Clone, Debug)]
pub(crate) struct JobFacts {
    /// The name the slave knows it by.
    pub(crate) cookie: String,
    /// Somebody wants it stopped.
    pub(crate) cancelling: bool,
    /// Until when it has to have stopped, in milliseconds; none: the slave was not yet told.
    pub(crate) cancel_by: Option<i64>,
}

/// Who looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ScanMode {
    /// The pass of 2008.
    Pass,
    /// The daemon of today.
    Daemon,
}

/// What to do before the slave is asked anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Before {
    /// Ask it, then see [`step`].
    Ask,
    Leave,
    /// Take its job back to the queue.
    ResetJob {
        why: String,
    },
    /// Its job was being cancelled, and is CANCELLED.
    CancelJob {
        why: String,
    },
    /// It must not go on as it is: an isolation error, or nothing that more scans would mend.
    Broken {
        why: String,
    },
    /// Run the command that resets its machine, the way its protocol wants.
    ResetMachine,
}

/// What to do about what the slave says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Nothing,
    /// It is at its job. None: the tail is what it was.
    KeepTail {
        logtail: Option<Vec<u8>>,
    },
    /// Call `abort`; with the first one the time starts in which the job has to stop.
    SendAbort {
        first_deadline: bool,
    },
    /// The job had to have stopped by now: a failure.
    CancelOverdue,
    /// The job was being cancelled, and the slave no longer has it: CANCELLED.
    Cancelled,
    /// The job is over.
    Collect {
        status: BuildStatus,
        files: Vec<(FileName, Sha1Hex)>,
        dependencies: String,
    },
    /// In the pass: the slave is idle and its job goes back to the queue, with a warning.
    Forgotten,
    /// The slave has not got its job, and perhaps another: the job goes back to the queue. Not a
    /// failure. What the slave has is seen to at the next look, when the builder has no job.
    Lost {
        expected: String,
        got: Option<String>,
    },
    /// It has a build nobody wants: call `abort`, or else `clean`.
    Rescue {
        cookie: String,
        abort: bool,
    },
    /// It is fit for jobs: mark it CLEAN.
    Clean,
    /// What it has is not over yet.
    WaitForAbort,
    /// Find it a job.
    Dispatch,
    /// It must not go on as it is: an isolation error.
    Broken {
        why: String,
    },
}

/// What is shown while a slave stops a build.
const ABORTING_TAIL: &[u8] = b"Waiting for the slave to end the build.";
/// Longest log tail kept, in bytes.
const TAIL_BYTES: usize = 2048;

/// Returns what to do before the slave is asked.
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
        // A reset that was interrupted is begun again: the command ends with the slave up.
        (Some(ResetProtocol::Synchronous), _) => Before::ResetMachine,
        (Some(ResetProtocol::Asynchronous), CleanStatus::Cleaning) => Before::Leave,
        (Some(ResetProtocol::Asynchronous), _) => Before::ResetMachine,
        // In 2008 no protocol was named; the slave can be asked all the same.
        (None, _) if mode == ScanMode::Pass => Before::Ask,
        (None, _) => Before::Broken {
            why: "a virtual builder without a reset protocol: give it 1.1 or 2.0".to_owned(),
        },
    }
}

/// Returns what to do about the status of a slave that was to be asked. `now` is in milliseconds.
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
        // It still builds although the deadline runs: it was not told.
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

/// Returns a log tail as text that every database takes: its last 2,048 bytes or less, with what is
/// not UTF-8 replaced and NUL left out.
pub(crate) fn logtail_text(raw: &[u8]) -> String {
    let mut end = &raw[raw.len().saturating_sub(TAIL_BYTES)..];
    if end.len() < raw.len() {
        // Not half a character; those have three bytes after the first at most.
        let halves = end.iter().take(3).take_while(|byte| **byte & 0xC0 == 0x80);
        end = &end[halves.count()..];
    }
    let text = String::from_utf8_lossy(end).replace('\0', "");
    // Replacements are longer than what they replace.
    let mut start = text.len().saturating_sub(TAIL_BYTES);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    text[start..].to_owned()
}

#[cfg(test)]
mod tests;
