//! `master show`, `log`, `retry`, `rescore` and `cancel`: commands for single builds.
//!
//! `retry` and `cancel` take several builds. If one of them is refused, the others still change.

use clap::Subcommand;
use serde_json::{Value, json};

use super::lookup::{find_build, refuse};
use super::open::Site;
use super::screen::{Screen, stderr_line};
use super::{Error, build_log, build_show, status, upload};
use crate::db;
use crate::master::model::BuildState;
use crate::master::policy::pockets;
use crate::master::queue;
use crate::master::rows::builds::{self, Build, Retry};
use crate::master::rows::events::{self, NewEvent};
use crate::sys::clock::now_ms;

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Show a build, with its files and events
    #[command(
        after_help = "Examples:\n  buildd-slave master show 8\n  buildd-slave master show 8 --json"
    )]
    Show {
        /// Build number, as listed by `master builds`
        build: i64,
    },
    /// Print the log of a build; of a running build, only the end
    #[command(
        after_help = "Examples:\n  buildd-slave master log 8\n  buildd-slave master log 8 -f\n  buildd-slave master log 8 --attempt 2"
    )]
    Log {
        /// Build number, as listed by `master builds`
        build: i64,
        /// Print the whole log, and follow it until the build is finished
        #[arg(short, long, conflicts_with = "attempt")]
        follow: bool,
        /// Print the log of this attempt, as listed by `master show`
        #[arg(long, value_name = "N")]
        attempt: Option<i64>,
    },
    /// Retry builds that have ended; their attempts keep logs and results
    #[command(after_help = "\
Examples:
  buildd-slave master retry 8 9 10
  buildd-slave master retry --force 8         # also if it is FULLYBUILT
  buildd-slave master retry --upload-only 8   # upload its results again")]
    Retry {
        /// Build numbers
        #[arg(required = true)]
        build: Vec<i64>,
        /// Build FULLYBUILT builds again
        #[arg(long)]
        force: bool,
        /// Upload the results of FAILEDTOUPLOAD builds again instead of building again
        #[arg(long, conflicts_with = "force")]
        upload_only: bool,
    },
    /// Set a build's queue score
    #[command(after_help = "\
Examples:
  buildd-slave master rescore 8 5000
  buildd-slave master rescore 8 --auto")]
    Rescore {
        /// Build number, as listed by `master builds`
        build: i64,
        /// New score, kept until `--auto`; builds with a higher score are dispatched first
        #[arg(required_unless_present = "auto", allow_hyphen_values = true)]
        score: Option<i32>,
        /// Compute the score by the rules again
        #[arg(long, conflicts_with = "score")]
        auto: bool,
    },
    /// Cancel builds that wait, run or are being uploaded
    #[command(
        after_help = "Examples:\n  buildd-slave master cancel 8 9\n  buildd-slave master cancel --force 8   # also if its uploader runs"
    )]
    Cancel {
        /// Build numbers
        #[arg(required = true)]
        build: Vec<i64>,
        /// Kill a running uploader; the archive may have the results
        #[arg(long)]
        force: bool,
    },
}

pub(super) fn run(verb: Verb, site: &Site, screen: Screen) -> Result<bool, Error> {
    match verb {
        Verb::Show { build } => build_show::run(site, screen, build).map(|()| true),
        Verb::Log {
            build,
            follow,
            attempt,
        } => build_log::run(site, screen, build, follow, attempt),
        Verb::Retry {
            build,
            upload_only: true,
            ..
        } => for_all(screen, &build, |id| upload::again(site, id)),
        Verb::Retry { build, force, .. } => {
            let why = if force {
                Retry::Forced
            } else {
                Retry::Operator
            };
            for_all(screen, &build, |id| retry(site, id, why))
        }
        Verb::Rescore { build, score, .. } => {
            let (sentence, json) = rescore(site, build, score)?;
            screen.done(sentence, &json).map(|()| true)
        }
        Verb::Cancel { build, force } => for_all(screen, &build, |id| cancel(site, id, force)),
    }
}

/// Applies `act` to each build and prints the results. Returns false if a build was refused.
fn for_all(
    screen: Screen,
    ids: &[i64],
    act: impl Fn(i64) -> Result<(String, Value), Error>,
) -> Result<bool, Error> {
    let mut all_well = true;
    let mut results = Vec::new();
    for &id in ids {
        match act(id) {
            Ok((sentence, json)) => {
                screen.line(sentence)?;
                results.push(json);
            }
            Err(Error::Db(db::Error::Refused(reason))) => {
                all_well = false;
                stderr_line(format_args!("buildd-slave: {reason}"));
                results.push(json!({"build": id, "error": reason}));
            }
            Err(error) => return Err(error),
        }
    }
    if screen.json {
        screen.done("", &results.into())?;
    }
    Ok(all_well)
}

fn retry(site: &Site, id: i64, why: Retry) -> Result<(String, Value), Error> {
    let rules = site.rules();
    let (build, old) = site.db.write(|tx| {
        let build = find_build(tx, id)?;
        let old = build.state;
        if let Some(reason) = why_not_retry(&build, why) {
            return Err(refuse(format!("build {id} cannot be retried: {reason}")));
        }
        let now = now_ms();
        if builds::retry(tx, &build, why, now)?.is_none() {
            return Err(refuse(format!(
                "build {id} has just changed state: run the command again"
            )));
        }
        queue::score_job(tx, rules, now, id)?;
        let message = format!("retried by {}; was {old}", status::operator());
        events::add(
            tx,
            &NewEvent {
                build: Some(id),
                ..NewEvent::info(now, "retried", &message)
            },
        )?;
        Ok((find_build(tx, id)?, old))
    })?;
    let score = build.job.as_ref().map(|job| job.score).unwrap_or_default();
    let mut sentence = format!(
        "build {id} ({}) was {old}, and is queued again with score {score}",
        build.name
    );
    if build.component.is_none() {
        sentence.push_str("; its source is no longer published, so it will become SUPERSEDED");
    }
    let json = json!({"build": id, "was": old.word(), "state": build.state.word(), "score": score});
    Ok((sentence, json))
}

/// Returns why a build cannot be retried; `None` if it can (docs/farm.md §2.15).
fn why_not_retry(build: &Build, why: Retry) -> Option<String> {
    let state = build.state;
    let (name, pocket) = (&build.name, build.name.pocket);
    let forced = why == Retry::Forced && state == BuildState::FullyBuilt;
    if !state.is_retriable() && !forced {
        return Some(match state {
            BuildState::FullyBuilt => {
                "it is FULLYBUILT; submit a new version, or build it again with --force".to_owned()
            }
            BuildState::NeedsBuild => "it is already in the queue".to_owned(),
            BuildState::Building => {
                format!("it is BUILDING; `master cancel {}` cancels it", build.id)
            }
            _ => format!("it is {state}; wait until it has ended"),
        });
    }
    if !pockets::accepts(build.archive_purpose, build.series_status, pocket) {
        let status = build.series_status;
        let series = &name.series;
        return Some(format!(
            "{series} is {status} and accepts no builds for {pocket}"
        ));
    }
    None
}

fn rescore(site: &Site, id: i64, score: Option<i32>) -> Result<(String, Value), Error> {
    let rules = site.rules();
    let build = site.db.write(|tx| {
        let build = find_build(tx, id)?;
        let refused = |build: &Build| {
            refuse(format!(
                "build {id} is {}: only waiting builds can be rescored",
                build.state
            ))
        };
        let Some(job) = &build.job else {
            return Err(refused(&build));
        };
        let now = now_ms();
        let (new, manual) = match score {
            Some(score) => (score.into(), true),
            None => (job.score, false),
        };
        if !builds::set_score(tx, id, new, manual)? {
            return Err(refused(&build));
        }
        let operator = status::operator();
        let message = match score {
            Some(score) => format!("score set to {score} by {operator}; was {}", job.score),
            None => {
                queue::score_job(tx, rules, now, id)?;
                format!("score reset to the rules by {operator}; was {}", job.score)
            }
        };
        events::add(
            tx,
            &NewEvent {
                build: Some(id),
                ..NewEvent::info(now, "rescored", &message)
            },
        )?;
        find_build(tx, id)
    })?;
    let (score, manual) = build
        .job
        .as_ref()
        .map_or((0, false), |job| (job.score, job.manual));
    let rest = match manual {
        true => format!("; `master rescore {id} --auto` returns to the rules"),
        false => ", computed by the rules".to_owned(),
    };
    let sentence = format!("build {id} ({}) has score {score}{rest}", build.name);
    Ok((
        sentence,
        json!({"build": id, "score": score, "manual": manual}),
    ))
}

fn cancel(site: &Site, id: i64, force: bool) -> Result<(String, Value), Error> {
    let (build, is_master_alive) = site.db.write(|tx| {
        let build = find_build(tx, id)?;
        let now = now_ms();
        if build.state == BuildState::Uploading {
            upload::cancel(tx, &build, force)?;
            return Ok((find_build(tx, id)?, true));
        }
        if build.state == BuildState::Gathering && build.job.is_some() {
            return Err(refuse(format!(
                "build {id} has finished, and its results are being downloaded: nothing to cancel"
            )));
        }
        if !builds::cancel_waiting(tx, id, now)?
            && !builds::cancel_running(tx, id)?
            && !builds::cancel_without_job(tx, id, now)?
        {
            return Err(refuse(match build.state {
                BuildState::Cancelling => format!("build {id} is already being cancelled"),
                state => format!(
                    "build {id} is {state}: only waiting or running builds can be cancelled"
                ),
            }));
        }
        let message = format!("cancelled by {}", status::operator());
        events::add(
            tx,
            &NewEvent {
                build: Some(id),
                ..NewEvent::info(now, "cancelled", &message)
            },
        )?;
        Ok((find_build(tx, id)?, status::is_master_alive(tx)?))
    })?;
    let rest = match (build.state, &build.builder) {
        (BuildState::Cancelling, Some((builder, _))) => format!(" on {builder}"),
        _ => String::new(),
    };
    if build.state == BuildState::Cancelling && !is_master_alive {
        stderr_line(status::NO_MASTER);
    }
    let sentence = format!("build {id} ({}) is {}{rest}", build.name, build.state);
    Ok((sentence, json!({"build": id, "state": build.state.word()})))
}
