//! Pure: explains why a build is not running, for `master queue why`.
//!
//! The answer is one sentence that an operator can act on, then details. Obstacles come in the
//! order in which to remove them: first those that forbid the build, then those that it lacks.
//! Without an obstacle, the sentence names the builder or the jobs ahead.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt;

use crate::master::model::{BuildState, JobStatus, Pocket};

/// A build, its place in the queue, and its builders. Times are milliseconds since 1970.
#[derive(Clone, Debug)]
pub(crate) struct BuildFacts {
    pub(crate) now: i64,
    pub(crate) state: BuildState,
    /// The status of its job; `None` if it has none.
    pub(crate) job: Option<JobStatus>,
    /// The present builder of the build, or its last one.
    pub(crate) builder: Option<String>,
    pub(crate) not_before: i64,
    pub(crate) archive: String,
    pub(crate) archive_enabled: bool,
    pub(crate) series: String,
    pub(crate) arch_tag: String,
    pub(crate) arch_enabled: bool,
    pub(crate) pocket: Pocket,
    /// Whether the series accepts builds of this pocket ([`super::pockets::accepts`]).
    pub(crate) pocket_accepted: bool,
    /// Whether there is a chroot for the pocket, or for one that it depends on.
    pub(crate) has_chroot: bool,
    /// Whether the source is still published in the archive.
    pub(crate) published: bool,
    pub(crate) processor: String,
    pub(crate) virtualized: bool,
    /// The builders with this processor and virtualization.
    pub(crate) builders: Vec<EligibleBuilder>,
    pub(crate) score: i64,
    /// When it has waited long enough for builders that need no emulation.
    pub(crate) emulate_at: i64,
    /// The number of jobs for these builders that are ahead of it.
    pub(crate) ahead: usize,
    /// Title and score of the first jobs ahead, best first.
    pub(crate) best_ahead: Vec<(String, i64)>,
    pub(crate) starts_at: Option<i64>,
}

/// A builder with the build's processor and virtualization.
#[derive(Clone, Debug)]
pub(crate) struct EligibleBuilder {
    pub(crate) name: String,
    /// It runs the processor by emulation.
    pub(crate) emulates: bool,
    pub(crate) availability: Availability,
}

impl EligibleBuilder {
    /// Returns whether it gets jobs, now or when it is done with another.
    fn is_in_service(&self) -> bool {
        match self.availability {
            Availability::Idle | Availability::Building(_) | Availability::Cleaning => true,
            Availability::Manual
            | Availability::Draining(_)
            | Availability::KeptOff
            | Availability::Disabled(_) => false,
        }
    }
}

impl BuildFacts {
    /// Returns whether the job is left to builders that need no emulation, for now.
    fn prefers_native(&self) -> bool {
        let serves = |emulates: bool| {
            let mut builders = self.builders.iter();
            builders.any(|one| one.is_in_service() && one.emulates == emulates)
        };
        self.now < self.emulate_at && serves(true) && serves(false)
    }

    /// Returns the builders that may take the job now.
    fn usable(&self) -> impl Iterator<Item = &EligibleBuilder> {
        let native_only = self.prefers_native();
        let usable = move |one: &&EligibleBuilder| !(native_only && one.emulates);
        self.builders.iter().filter(usable)
    }
}

/// The state of a builder that decides whether it gets a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Availability {
    Idle,
    /// It has a job with this title.
    Building(String),
    /// It is not CLEAN yet.
    Cleaning,
    /// It is manual, and gets no jobs.
    Manual,
    /// It is manual, and has a last job with this title.
    Draining(String),
    /// It ended this build with BUILDERFAIL, and another builder can take the job.
    KeptOff,
    /// It has failed or was disabled, for this reason.
    Disabled(Option<String>),
}

/// One sentence, and details.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) sentence: String,
    pub(crate) facts: Vec<String>,
}

/// Shows the sentence, and the details indented below.
impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence)?;
        self.facts
            .iter()
            .try_for_each(|fact| write!(f, "\n  {fact}"))
    }
}

/// Returns why a build is not running.
pub(crate) fn why(facts: &BuildFacts) -> Answer {
    if let Some(sentence) = not_waiting(facts) {
        return Answer {
            sentence,
            facts: Vec::new(),
        };
    }
    let mut obstacles = forbidden(facts);
    obstacles.extend(lacking(facts));
    let mut known: Vec<String> = Vec::new();
    known.extend(obstacles.iter().skip(1).map(|text| format!("also: {text}")));
    known.extend(builder_lines(facts));
    known.push(format!(
        "score {}, {} ahead in the queue",
        facts.score, facts.ahead
    ));
    let ahead = facts.best_ahead.iter();
    known.extend(ahead.map(|(title, score)| format!("ahead: {title} ({score})")));
    // With an obstacle, a start cannot be estimated.
    if obstacles.is_empty() {
        let start = facts
            .starts_at
            .map(|at| format!("in {}", span(at - facts.now)));
        let start = start.unwrap_or_else(|| "unknown".to_owned());
        known.push(format!("estimated start: {start}"));
    }
    let first = obstacles.into_iter().next();
    Answer {
        sentence: first.unwrap_or_else(|| waits_for(facts)),
        facts: known,
    }
}

/// Returns the sentence for a build that does not wait in the queue.
fn not_waiting(facts: &BuildFacts) -> Option<String> {
    let on = facts
        .builder
        .as_deref()
        .map(|name| format!(" on {name}"))
        .unwrap_or_default();
    Some(match facts.state {
        BuildState::NeedsBuild => match facts.job {
            Some(JobStatus::Waiting | JobStatus::Suspended) => return None,
            Some(JobStatus::Running | JobStatus::Cancelling) => {
                let to = facts.builder.as_deref().unwrap_or("a builder");
                format!("It is being dispatched to {to}.")
            }
            None => "It is not in the queue; `master run` adds it within a minute.".to_owned(),
        },
        BuildState::Building => format!("It is running{on}."),
        BuildState::Cancelling => format!("It is being cancelled{on}."),
        BuildState::Gathering => format!("It has finished{on}; its results are being downloaded."),
        BuildState::Uploading => "It has finished; its results are being uploaded.".to_owned(),
        BuildState::FullyBuilt => "It is built.".to_owned(),
        state if state.is_retriable() => {
            format!("It ended as {state}; build it again with `master retry`.")
        }
        state => format!("It ended as {state}."),
    })
}

/// Returns the obstacles that forbid the build on every builder.
fn forbidden(facts: &BuildFacts) -> Vec<String> {
    let suspended = facts.job == Some(JobStatus::Suspended) && facts.archive_enabled;
    [
        (
            !facts.archive_enabled,
            format!("The archive {} is disabled.", facts.archive),
        ),
        (suspended, "Its job is suspended.".to_owned()),
        (
            !facts.arch_enabled,
            format!("{} is disabled in {}.", facts.arch_tag, facts.series),
        ),
        (
            !facts.pocket_accepted,
            format!("{} accepts no builds for {}.", facts.series, facts.pocket),
        ),
        (
            !facts.published,
            format!("Its source is no longer published in {}.", facts.archive),
        ),
    ]
    .into_iter()
    .filter_map(|(holds, text)| holds.then_some(text))
    .collect()
}

/// Returns the sentences for a missing chroot, missing builders, and a wait before a retry.
fn lacking(facts: &BuildFacts) -> Vec<String> {
    let mut lacking = Vec::new();
    if !facts.has_chroot {
        let (series, tag, pocket) = (&facts.series, &facts.arch_tag, facts.pocket);
        lacking.push(format!("{series} {tag} has no chroot for {pocket}."));
    }
    let count = |wanted: fn(&Availability) -> bool| {
        let builders = facts.builders.iter();
        builders
            .filter(|builder| wanted(&builder.availability))
            .count()
    };
    let disabled = count(|one| matches!(one, Availability::Disabled(_)));
    let manual = count(|one| matches!(one, Availability::Manual | Availability::Draining(_)));
    let (all, kind) = (facts.builders.len(), kind(facts));
    if all == 0 {
        lacking.push(format!(
            "There is no {kind} builder for {}.",
            facts.processor
        ));
    } else if disabled == all {
        lacking.push(format!("{} disabled.", all_builders(facts, &kind, all)));
    } else if disabled + manual == all {
        let state = match disabled {
            0 => "manual",
            _ => "disabled or manual",
        };
        lacking.push(format!("{} {state}.", all_builders(facts, &kind, all)));
    }
    if facts.now < facts.not_before {
        let left = span(facts.not_before - facts.now);
        lacking.push(format!(
            "It was returned to the queue, and is not dispatched for {left}."
        ));
    }
    lacking
}

fn kind(facts: &BuildFacts) -> String {
    match facts.virtualized {
        true => "virtual",
        false => "non-virtual",
    }
    .to_owned()
}

fn all_builders(facts: &BuildFacts, kind: &str, all: usize) -> String {
    match all {
        1 => format!("The only {kind} builder for {} is", facts.processor),
        _ => format!("All {all} {kind} builders for {} are", facts.processor),
    }
}

/// Returns the sentence for a build without obstacles.
fn waits_for(facts: &BuildFacts) -> String {
    let free = facts
        .usable()
        .filter(|builder| builder.availability == Availability::Idle);
    let free: Vec<&str> = free.map(|builder| builder.name.as_str()).collect();
    let automatic = facts.usable().filter(|one| one.is_in_service()).count();
    let jobs = match facts.ahead {
        1 => "1 job is".to_owned(),
        ahead => format!("{ahead} jobs are"),
    };
    let could = match facts.prefers_native() {
        true => "could run it without emulation",
        false => "could run it",
    };
    let busy = match automatic {
        1 => format!("the only builder that {could} is busy"),
        all => format!("all {all} builders that {could} are busy"),
    };
    match (free.first(), facts.ahead) {
        (Some(name), ahead) if ahead < free.len() => {
            format!("It can start: {name} is idle and takes it at its next look.")
        }
        (Some(_), _) => format!("It waits for its turn: {jobs} ahead of it."),
        (None, 0) => format!("It is next in the queue: {busy}."),
        (None, _) => format!("It waits for its turn: {jobs} ahead of it, and {busy}."),
    }
}

/// If there are more builders, they are counted instead of listed.
const LISTED_BUILDERS: usize = 8;
/// The number of builders, and of reasons, that a count names.
const NAMED: usize = 3;

/// Returns a line for each builder. If they are many, a line for each group of them, with a few
/// names.
fn builder_lines(facts: &BuildFacts) -> Vec<String> {
    if facts.builders.len() <= LISTED_BUILDERS {
        let builders = facts.builders.iter();
        return builders.map(|one| builder_line(facts, one)).collect();
    }
    let mut groups: BTreeMap<(bool, usize), Vec<&EligibleBuilder>> = BTreeMap::new();
    for builder in &facts.builders {
        let group = (builder.emulates, group(&builder.availability).0);
        groups.entry(group).or_default().push(builder);
    }
    let lines = groups.values().filter_map(|group| group_line(facts, group));
    lines.collect()
}

/// Returns the place of a builder's group in the list, and its name.
fn group(availability: &Availability) -> (usize, &'static str) {
    match availability {
        Availability::Idle => (0, "idle"),
        Availability::Building(_) => (1, "building"),
        Availability::Cleaning => (2, "cleaning"),
        Availability::Draining(_) => (3, "manual with a last job"),
        Availability::Manual => (4, "manual"),
        Availability::KeptOff => (5, "kept off"),
        Availability::Disabled(_) => (6, "disabled"),
    }
}

/// Returns the line of builders of one group: `13 builders disabled: no answer (9), no disk (4)`.
fn group_line(facts: &BuildFacts, builders: &[&EligibleBuilder]) -> Option<String> {
    let first = builders.first()?;
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    for builder in builders {
        if let Availability::Disabled(Some(why)) = &builder.availability {
            *reasons.entry(why).or_default() += 1;
        }
    }
    let mut reasons: Vec<(&str, usize)> = reasons.into_iter().collect();
    reasons.sort_by_key(|(_, count)| Reverse(*count));
    let mut named: Vec<String> = match reasons.is_empty() {
        true => builders.iter().map(|one| one.name.clone()).collect(),
        false => reasons
            .iter()
            .map(|(why, count)| format!("{why} ({count})"))
            .collect(),
    };
    if named.len() > NAMED {
        named.truncate(NAMED);
        named.push("…".to_owned());
    }
    let noun = match builders.len() {
        1 => "builder",
        _ => "builders",
    };
    let (count, state) = (builders.len(), group(&first.availability).1);
    let named = named.join(", ");
    let emulates = emulation(facts, first);
    Some(format!("{count} {noun} {state}: {named}{emulates}"))
}

fn builder_line(facts: &BuildFacts, builder: &EligibleBuilder) -> String {
    let shown = match &builder.availability {
        Availability::Idle => "idle".to_owned(),
        Availability::Building(title) => format!("building {title}"),
        Availability::Cleaning => "cleaning".to_owned(),
        Availability::Manual => "manual, gets no jobs".to_owned(),
        Availability::Draining(title) => format!("manual, gets no jobs after {title}"),
        Availability::KeptOff => "ended it with BUILDERFAIL; left to the other builders".to_owned(),
        Availability::Disabled(None) => "disabled".to_owned(),
        Availability::Disabled(Some(why)) => format!("disabled: {why}"),
    };
    let emulates = emulation(facts, builder);
    format!("builder {}: {shown}{emulates}", builder.name)
}

/// Returns the end of a line about a builder that emulates the processor.
fn emulation(facts: &BuildFacts, builder: &EligibleBuilder) -> String {
    match (builder.emulates, facts.prefers_native()) {
        (false, _) => String::new(),
        (true, false) => format!("; emulates {}", facts.processor),
        (true, true) => {
            let left = span(facts.emulate_at - facts.now);
            let processor = &facts.processor;
            format!("; emulates {processor}, and leaves it to the others for {left}")
        }
    }
}

/// Returns a duration as text, rounded up: `40 s`, `12 min`, `3 h 5 min`.
pub(crate) fn span(ms: i64) -> String {
    let up = |what: i64, unit: i64| what / unit + i64::from(what % unit > 0);
    let secs = up(ms.max(0), 1000);
    let minutes = up(secs, 60);
    match (secs, minutes / 60, minutes % 60) {
        (..=90, ..) => format!("{secs} s"),
        (_, 0, minutes) => format!("{minutes} min"),
        (_, hours, 0) => format!("{hours} h"),
        (_, hours, minutes) => format!("{hours} h {minutes} min"),
    }
}

#[cfg(test)]
mod tests;
