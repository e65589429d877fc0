//! Pure: what happens next to a build, and how an operator gets it out of its state.

use crate::master::model::{BuildState, JobStatus, Pocket, SeriesStatus};

/// The facts about a build that decide what happens next.
#[derive(Clone, Debug)]
pub(crate) struct Facts<'a> {
    pub(crate) build: i64,
    pub(crate) state: BuildState,
    pub(crate) job: Option<JobStatus>,
    /// Its archive, as DISTRIBUTION and NAME of `master archive set`.
    pub(crate) archive: &'a str,
    pub(crate) archive_enabled: bool,
    pub(crate) series: &'a str,
    pub(crate) series_status: SeriesStatus,
    pub(crate) pocket: Pocket,
    /// The series accepts builds for the pocket.
    pub(crate) pocket_accepted: bool,
    pub(crate) arch_tag: &'a str,
    pub(crate) arch_enabled: bool,
    /// The builder of its job.
    pub(crate) builder: Option<Worker<'a>>,
    /// A `master run` lives, on any host.
    pub(crate) has_master: bool,
    /// `None` without results.
    pub(crate) results: Option<Results<'a>>,
}

/// The builder of a running job.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Worker<'a> {
    pub(crate) name: &'a str,
    /// It is neither disabled nor removed.
    pub(crate) is_ok: bool,
}

/// The results of a build, in a folder of `incoming/`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Results<'a> {
    pub(crate) folder: &'a str,
    /// The host that has them; `None` in attempts of older versions.
    pub(crate) host: Option<&'a str>,
    /// A `master run` lives on that host.
    pub(crate) host_is_alive: bool,
    /// The uploader has been started.
    pub(crate) upload_started: bool,
}

const NO_MASTER: &str = "no master is running: start one with `buildd-slave master run`";

/// Returns what happens next, or what to do. There is a sentence for each state.
pub(crate) fn next(facts: &Facts<'_>) -> String {
    let id = facts.build;
    match facts.state {
        BuildState::NeedsBuild => waiting(facts),
        BuildState::Building | BuildState::Gathering | BuildState::Cancelling => running(facts),
        BuildState::Uploading => uploading(facts),
        BuildState::FullyBuilt => {
            format!("nothing; `master retry --force {id}` builds it again")
        }
        BuildState::FailedToUpload if facts.results.is_some() => format!(
            "remove the cause, then upload the results again with `master retry --upload-only \
             {id}`{}",
            or_build_again(facts)
        ),
        BuildState::ManualDepWait => format!(
            "it returns to the queue when its dependencies are published (`master published \
             add`){}",
            or_build_again(facts)
        ),
        BuildState::ChrootWait => ended(
            facts,
            "remove the cause (`master chroot set` replaces a chroot)",
        ),
        BuildState::Superseded => ended(facts, "publish the source (`master submit`)"),
        BuildState::FailedToBuild => ended(facts, &format!("read `master log {id}`")),
        BuildState::FailedToUpload | BuildState::Cancelled => {
            again(facts).unwrap_or_else(|why| format!("nothing: {why}"))
        }
    }
}

/// Returns how the build is built again; else why it cannot be.
fn again(facts: &Facts<'_>) -> Result<String, String> {
    let (series, status, pocket) = (facts.series, facts.series_status, facts.pocket);
    match facts.pocket_accepted {
        true => Ok(format!("build again with `master retry {}`", facts.build)),
        false => Err(format!(
            "{series} is {status} and accepts no builds for {pocket}"
        )),
    }
}

fn or_build_again(facts: &Facts<'_>) -> String {
    again(facts).map_or_else(|_| String::new(), |how| format!(", or {how}"))
}

fn ended(facts: &Facts<'_>, first: &str) -> String {
    match again(facts) {
        Ok(how) => format!("{first}, then {how}"),
        Err(why) => format!("nothing: {why}"),
    }
}

fn waiting(facts: &Facts<'_>) -> String {
    let id = facts.build;
    let cancel = format!("`master cancel {id}` gives it up");
    if !facts.has_master {
        return format!("{NO_MASTER}; {cancel}");
    }
    match facts.job {
        None => "`master run` adds it to the queue within a minute".to_owned(),
        Some(JobStatus::Suspended) if !facts.archive_enabled => format!(
            "`master archive set {} --enabled yes` resumes it within a minute; {cancel}",
            facts.archive
        ),
        Some(JobStatus::Suspended) if !facts.arch_enabled => format!(
            "`master arch enable {} {}` resumes it within a minute; {cancel}",
            facts.series, facts.arch_tag
        ),
        Some(JobStatus::Suspended) => {
            format!("`master run` resumes it within a minute; {cancel}")
        }
        Some(JobStatus::Waiting) => {
            format!("`master queue why {id}` tells why it is not running; {cancel}")
        }
        Some(JobStatus::Running | JobStatus::Cancelling) => running(facts),
    }
}

fn running(facts: &Facts<'_>) -> String {
    let id = facts.build;
    let cancelling =
        facts.state == BuildState::Cancelling || facts.job == Some(JobStatus::Cancelling);
    let Some(job) = facts.job else {
        return format!("it has no job: `master cancel {id}` ends it");
    };
    let Some(builder) = facts.builder.filter(|_| job != JobStatus::Waiting) else {
        return format!("no builder has it: `master cancel {id}` ends it");
    };
    let name = builder.name;
    if !facts.has_master {
        return NO_MASTER.to_owned();
    }
    match (builder.is_ok, cancelling) {
        (false, true) => format!("{name} is disabled: the next look at it ends the build"),
        (false, false) => {
            format!("{name} is disabled: the next look at it returns the build to the queue")
        }
        (true, true) => format!(
            "wait: {name} aborts it, or the master gives up on it after `[master] \
             cancel_timeout`; `master builder disable {name}` ends it at once"
        ),
        (true, false) if facts.state == BuildState::Gathering => format!(
            "wait for the download; `master builder disable {name}` returns it to the queue"
        ),
        (true, false) => format!("wait; `master cancel {id}` aborts it"),
    }
}

fn uploading(facts: &Facts<'_>) -> String {
    let id = facts.build;
    let cancel = format!("`master cancel {id}` gives it up");
    let Some(results) = facts.results else {
        return format!("it has no results: {cancel}");
    };
    let folder = results.folder;
    match (results.host, results.host_is_alive, results.upload_started) {
        (None, ..) => format!(
            "a host that has incoming/{folder} and runs `master run` uploads it; if none has, \
             {cancel}"
        ),
        (Some(host), true, true) => format!(
            "wait: its uploader runs on {host}, for an hour at most; `master cancel --force {id}` \
             kills it"
        ),
        (Some(host), true, false) => {
            format!("wait: {host} uploads it when its other uploads have ended; {cancel}")
        }
        (Some(host), false, _) => format!(
            "{host} has the results, and no master runs there: start `master run` there, or set \
             `[master] host = {host}` where incoming/{folder} is now; {cancel}"
        ),
    }
}

#[cfg(test)]
mod tests;
