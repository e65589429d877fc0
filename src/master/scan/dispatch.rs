//! Dispatches a job to an idle builder.
//!
//! A read transaction searches the best jobs that the builder can run, and a short write
//! transaction claims the first one left. Then the slave fetches the chroot and the sources, and is
//! called to build. A job that cannot be built is ended or postponed. A failure of the librarian
//! counts against no builder and no job.

use std::time::Duration;

use crate::db::Tx;
use crate::librarian::{self, alias_url, issue_token};
use crate::protocol::Sha1Hex;
use crate::xmlrpc::Value;

use super::look::{LookError, Next, Scanner, View, add_event, check_fence, holds_lease};
use crate::master::farm::millis;
use crate::master::model::{BuildState, CleanStatus};
use crate::master::policy::blame::Kind;
use crate::master::policy::build_args::{Dispatch, build_args, build_type};
use crate::master::policy::pockets::{AptSources, Components, archive_lines, chroot_pockets};
use crate::master::policy::unbuildable::{Waiting, ending};
use crate::master::rows::builders;
use crate::master::rows::candidate::{self, Candidate};
use crate::master::rows::events::{self, NewEvent};
use crate::master::rows::files::File;
use crate::master::rows::queue::{self, Claim};
use crate::sys::clock::now_ms as now;

/// Jobs claimed for one dispatch until one can be built (docs/farm.md §3.1).
const TRIES: u32 = 10;
/// Delay of a job for which the farm lacks something, such as a chroot.
const POSTPONE: Duration = Duration::from_secs(60);

/// The outcome of a dispatch.
pub(super) enum Dispatched {
    /// No job was sent.
    Nothing(Next),
    /// A job was claimed. `view` includes it, so that a failure counts against it too.
    Job {
        view: Box<View>,
        sent: Result<Next, LookError>,
    },
}

/// The decision on a claimed job.
enum Decision {
    Build(File),
    /// End the build in this state, for this reason.
    Discard(BuildState, &'static str),
    /// Return the job to the queue for [`POSTPONE`], for this reason.
    Postpone(String),
}

/// Claims a job for an idle and clean builder, and sends it.
pub(super) fn dispatch(scanner: &mut Scanner<'_>, view: &View) -> Result<Dispatched, LookError> {
    for _ in 0..TRIES {
        let now_ms = now();
        let since = scanner.farm.emulate_since(now_ms);
        let db = &scanner.farm.db;
        let jobs = db.read(|tx| queue::best_jobs(tx, &view.builder, now_ms, since))?;
        if jobs.is_empty() {
            return Ok(Dispatched::Nothing(Next::Idle));
        }
        let claim = |tx: &mut Tx<'_>| queue::claim(tx, scanner.fence, &jobs, now_ms, since);
        // Without a claim, other builders have taken the jobs, or this one must not have any.
        let Some(claim) = db.write(claim)? else {
            continue;
        };
        let candidate = scanner
            .farm
            .db
            .read(|tx| candidate::candidate(tx, claim.build))?;
        match decide(&candidate) {
            Decision::Build(chroot) => return send(scanner, &claim, &candidate, &chroot),
            Decision::Discard(state, why) => {
                discard(scanner, view, &claim, state, why)?;
                let what = format!("{}: {state}: {why}", candidate.name);
                scanner.log(view, log::Level::Info, &what);
            }
            Decision::Postpone(why) => postpone(scanner, view, &claim, &candidate, &why)?,
        }
    }
    Ok(Dispatched::Nothing(Next::Soon))
}

/// Ends a claimed build that must not be built.
fn discard(
    scanner: &Scanner<'_>,
    view: &View,
    claim: &Claim,
    state: BuildState,
    why: &str,
) -> Result<(), LookError> {
    let write = |tx: &mut Tx<'_>| {
        if !queue::discard(tx, scanner.fence, claim.queue, state, why, now())? {
            return Ok(false);
        }
        let message = format!("{state}: {why}");
        let event = NewEvent {
            level: log::Level::Warn,
            builder: Some(view.builder.id),
            build: Some(claim.build),
            ..NewEvent::info(now(), "ended", &message)
        };
        events::add(tx, &event)?;
        Ok(true)
    };
    check_fence(scanner.farm.db.write(write)?)
}

/// Returns a claimed job to the queue for a while. The slave was not called, so the builder is
/// clean.
fn postpone(
    scanner: &Scanner<'_>,
    view: &View,
    claim: &Claim,
    candidate: &Candidate,
    why: &str,
) -> Result<(), LookError> {
    let until = now() + millis(POSTPONE);
    let write = |tx: &mut Tx<'_>| {
        let reset = queue::reset(tx, scanner.fence, claim.queue, until, None)?;
        let clean = CleanStatus::Clean;
        Ok(reset && builders::set_clean(tx, scanner.fence, clean, now())?)
    };
    check_fence(scanner.farm.db.write(write)?)?;
    scanner.log(
        view,
        log::Level::Warn,
        &format!("{}: postponed: {why}", candidate.name),
    );
    Ok(())
}

/// Sends the files of a claimed job to the slave and starts the build. A failure of the slave
/// counts at once; a failure of the farm postpones the job.
fn send(
    scanner: &mut Scanner<'_>,
    claim: &Claim,
    candidate: &Candidate,
    chroot: &File,
) -> Result<Dispatched, LookError> {
    let Some(view) = scanner.view()? else {
        return Err(LookError::Changed);
    };
    let sent = try_send(scanner, &view, claim, candidate, chroot);
    let sent = match sent {
        Err(LookError::Failure { why, .. }) => Err(LookError::Failure {
            kind: Kind::Dispatch,
            why,
        }),
        Err(LookError::Internal(why)) => {
            let until = now() + millis(POSTPONE);
            let write = |tx: &mut Tx<'_>| queue::reset(tx, scanner.fence, claim.queue, until, None);
            check_fence(scanner.farm.db.write(write)?)?;
            Err(LookError::Internal(why))
        }
        other => other,
    };
    Ok(Dispatched::Job {
        view: Box::new(view),
        sent,
    })
}

fn try_send(
    scanner: &mut Scanner<'_>,
    view: &View,
    claim: &Claim,
    candidate: &Candidate,
    chroot: &File,
) -> Result<Next, LookError> {
    for file in std::iter::once(chroot).chain(&candidate.files) {
        send_file(scanner, view, file)?;
    }
    let form = Scanner::form(view);
    let Some(job) = view.job.as_ref().filter(|job| job.queue == claim.queue) else {
        return Err(LookError::Changed);
    };
    let cookie = job.cookie();
    let files = candidate.files.iter();
    let files = files.map(|file| (file.name.clone(), Value::from(file.sha1())));
    let params = [
        Value::from(&*cookie),
        Value::from(build_type(form)),
        Value::from(chroot.sha1()),
        Value::Struct(files.collect()),
        build_args(&arguments(view, candidate)),
    ];
    // The lease may have ended while the slave fetched the files.
    if !holds_lease(scanner.farm, scanner.fence) {
        return Err(LookError::Changed);
    }
    if let Some(problem) = scanner.slave(view)?.build(&params)? {
        return Err(LookError::Failure {
            kind: Kind::Dispatch,
            why: format!("the slave refused the build: {problem}"),
        });
    }
    scanner.log(view, log::Level::Info, &format!("building as {cookie}"));
    let write = |tx: &mut Tx<'_>| {
        let message = format!("building on {} as {cookie}", view.builder.name);
        add_event(tx, log::Level::Info, "dispatched", view, message)
    };
    // The build has started, even if the event is lost.
    if let Err(error) = scanner.farm.db.write(write) {
        let what = format!("cannot record the dispatch in the history: {error}");
        scanner.log(view, log::Level::Warn, &what);
    }
    Ok(Next::Turn)
}

/// Calls the slave to fetch a file from the librarian. If the slave fails, this process asks the
/// librarian for the file: if that fails too, the builder is not at fault.
fn send_file(scanner: &mut Scanner<'_>, view: &View, file: &File) -> Result<(), LookError> {
    let sha1 =
        Sha1Hex::parse(file.sha1()).map_err(|error| LookError::Internal(error.to_string()))?;
    let url = alias_url(&scanner.farm.library_url, file.alias, &file.name);
    let token = match file.restricted {
        true => scanner
            .farm
            .db
            .write(|tx| issue_token(tx, file.alias, now()))?,
        false => String::new(),
    };
    if scanner
        .slave(view)?
        .ensure_present(&sha1, &url, &token)?
        .is_none()
    {
        return Ok(());
    }
    librarian::check(&url, &token).map_err(|error| {
        let name = &file.name;
        LookError::Internal(format!("cannot read {name} from the librarian: {error}"))
    })?;
    // The librarian may have been restarting.
    match scanner.slave(view)?.ensure_present(&sha1, &url, &token)? {
        None => Ok(()),
        Some(problem) => Err(LookError::Failure {
            kind: Kind::Dispatch,
            why: format!("the slave cannot fetch {url}: {problem}"),
        }),
    }
}

/// Returns the values for the arguments of `build`.
fn arguments(view: &View, candidate: &Candidate) -> Dispatch {
    let name = &candidate.name;
    let component = candidate.component.clone().unwrap_or_default();
    let own_profiles = candidate.archive.archive.profiles.split_whitespace();
    let archives = archive_lines(&AptSources {
        own: &candidate.archive,
        others: Vec::new(),
        primary: candidate.primary.as_ref(),
        components: Components::of(&name.distribution),
        series: &name.series,
        pocket: name.pocket,
        component: &component,
    });
    Dispatch {
        arch_tag: name.arch_tag.clone(),
        arch_indep: candidate.arch_indep,
        series: name.series.clone(),
        suite: name.suite(),
        purpose: candidate.archive.archive.purpose,
        private: candidate.archive.archive.private,
        archives,
        trusted_keys: Vec::new(),
        debug_symbols: candidate.archive.archive.debug_symbols,
        profiles: own_profiles.map(str::to_owned).collect(),
        virtualized: view.builder.virtualized,
        build_url: None,
        component,
    }
}

/// Returns what to do with a claimed job (docs/farm.md §2.12, §3.7).
fn decide(candidate: &Candidate) -> Decision {
    let waiting = Waiting {
        series: candidate.series_status,
        archive: candidate.archive.archive.purpose,
        pocket: candidate.name.pocket,
        is_published: candidate.component.is_some(),
    };
    if let Some((state, why)) = ending(waiting) {
        return Decision::Discard(state, why);
    }
    if candidate.archive.archive.private && !candidate.published_in_private {
        return Decision::Postpone("the source is not published yet".to_owned());
    }
    let name = &candidate.name;
    if !candidate
        .files
        .iter()
        .any(|file| file.name.ends_with(".dsc"))
    {
        return Decision::Discard(
            BuildState::FailedToBuild,
            "its .dsc is no longer in the librarian",
        );
    }
    let chroot = chroot_pockets(name.pocket).find_map(|usable| {
        candidate
            .chroots
            .iter()
            .find(|(pocket, _)| *pocket == usable)
    });
    match chroot {
        Some((_, file)) => Decision::Build(file.clone()),
        None => Decision::Postpone(format!("no chroot for {} {}", name.suite(), name.arch_tag)),
    }
}
