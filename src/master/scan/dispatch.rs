//! How does an idle builder get a job?
//!
//! The best one it can run is claimed, in one transaction, before the slave hears of it; then the
//! slave is sent the chroot and the sources and told to build, and its answer is looked at. What
//! cannot be built is taken out on the way, or put back for a while. No failure of the librarian's
//! is blamed on a builder or a job.

use std::time::Duration;

use crate::db::Tx;
use crate::librarian::{self, alias_url, issue_token};
use crate::protocol::Sha1Hex;
use crate::xmlrpc::Value;

use super::failure::note;
use super::steps::{Next, Scanner, Trouble, View, held, still_held};
use crate::master::farm::millis;
use crate::master::model::{BuildState, CleanStatus, SeriesStatus, cookie};
use crate::master::policy::blame::Kind;
use crate::master::policy::build_args::{Dispatch, build_args, build_type};
use crate::master::policy::pockets::{
    AptArchive, AptSources, Components, accepts, archive_lines, chroot_pockets,
};
use crate::master::rows::builders;
use crate::master::rows::candidate::{self, ArchiveRow, Candidate, FileRef};
use crate::master::rows::queue::{self, Claim};
use crate::sys::clock::now_ms as now;

/// Jobs looked at for one dispatch that turn out not to be for building (docs/farm.md §3.1).
const TRIES: u32 = 10;
/// How long a job that lacks something of ours, its chroot say, keeps away from the queue.
const SET_ASIDE: Duration = Duration::from_secs(60);

/// What to do with a claimed job.
enum Fit {
    Build(FileRef),
    /// It is never to be built.
    Discard(BuildState, &'static str),
    /// Something is missing that may come.
    SetAside(String),
}

impl Scanner<'_> {
    /// Finds the builder, which is idle and clean, something to do.
    pub(crate) fn dispatch(&mut self, view: &View) -> Result<Next, Trouble> {
        for _ in 0..TRIES {
            let claim = |tx: &mut Tx<'_>| queue::claim(tx, self.fence, &view.builder, now());
            let Some(claim) = self.farm.db.write(claim)? else {
                return Ok(Next::Idle);
            };
            let candidate = self
                .farm
                .db
                .read(|tx| candidate::candidate(tx, claim.build))?;
            match fit(&candidate) {
                Fit::Build(chroot) => return self.send(&claim, &candidate, &chroot),
                Fit::Discard(state, why) => {
                    let write =
                        |tx: &mut Tx<'_>| queue::discard(tx, self.fence, claim.queue, state, now());
                    held(self.farm.db.write(write)?)?;
                    self.say(
                        view,
                        log::Level::Info,
                        &format!("{}: {state}: {why}", candidate.name),
                    );
                }
                Fit::SetAside(why) => self.set_aside(view, &claim, &candidate, &why)?,
            }
        }
        Ok(Next::Soon)
    }

    /// Puts a job back for a while; the builder, of which nothing was asked, is clean.
    fn set_aside(
        &self,
        view: &View,
        claim: &Claim,
        candidate: &Candidate,
        why: &str,
    ) -> Result<(), Trouble> {
        let until = now() + millis(SET_ASIDE);
        let write = |tx: &mut Tx<'_>| {
            let reset = queue::reset(tx, self.fence, claim.queue, until)?;
            let clean = CleanStatus::Clean;
            Ok(reset && builders::set_clean(tx, self.fence, clean, now())?)
        };
        held(self.farm.db.write(write)?)?;
        self.say(
            view,
            log::Level::Warn,
            &format!("{}: put aside: {why}", candidate.name),
        );
        Ok(())
    }

    /// Sends the slave what it needs and has it build. From here on the job is in the view: a
    /// failure is judged like any other of a builder with a job, but at once.
    fn send(
        &mut self,
        claim: &Claim,
        candidate: &Candidate,
        chroot: &FileRef,
    ) -> Result<Next, Trouble> {
        let Some(view) = self.view()? else {
            return Err(Trouble::Changed);
        };
        let sent = self.try_send(&view, claim, candidate, chroot);
        let looked = match sent {
            Err(Trouble::Failure { why, .. }) => Err(Trouble::Failure {
                kind: Kind::Dispatch,
                why,
            }),
            Err(Trouble::Ours(why)) => {
                let until = now() + millis(SET_ASIDE);
                let write = |tx: &mut Tx<'_>| queue::reset(tx, self.fence, claim.queue, until);
                held(self.farm.db.write(write)?)?;
                Err(Trouble::Ours(why))
            }
            other => other,
        };
        Ok(self.settle(&view, looked))
    }

    fn try_send(
        &mut self,
        view: &View,
        claim: &Claim,
        candidate: &Candidate,
        chroot: &FileRef,
    ) -> Result<Next, Trouble> {
        for file in std::iter::once(chroot).chain(&candidate.files) {
            self.send_file(view, file)?;
        }
        let form = Self::form(view);
        let cookie = cookie(claim.build, claim.queue, claim.attempt);
        let files = candidate.files.iter();
        let files = files.map(|file| (file.name.clone(), Value::from(&*file.sha1)));
        let params = [
            Value::from(&*cookie),
            Value::from(build_type(form)),
            Value::from(&*chroot.sha1),
            Value::Struct(files.collect()),
            build_args(&Self::arguments(view, candidate)),
        ];
        // The files took their time.
        if !still_held(self.farm, self.fence) {
            return Err(Trouble::Changed);
        }
        if let Some(complaint) = self.slave(view)?.build(&params)? {
            return Err(Trouble::Failure {
                kind: Kind::Dispatch,
                why: format!("the slave will not build it: {complaint}"),
            });
        }
        self.say(view, log::Level::Info, &format!("builds it as {cookie}"));
        let write = |tx: &mut Tx<'_>| {
            let message = format!("{} builds it as {cookie}", view.builder.name);
            note(tx, log::Level::Info, "dispatched", view, message)
        };
        // It builds, whether or not that can be noted.
        if let Err(error) = self.farm.db.write(write) {
            self.say(view, log::Level::Warn, &error.to_string());
        }
        Ok(Next::Turn)
    }

    /// Has the slave fetch a file from the librarian. If it cannot, the librarian is asked for it
    /// from here: what nobody can have is no fault of the builder's.
    fn send_file(&mut self, view: &View, file: &FileRef) -> Result<(), Trouble> {
        let sum = Sha1Hex::parse(&file.sha1).map_err(|error| Trouble::Ours(error.to_string()))?;
        let url = alias_url(&self.farm.library_url, file.alias, &file.name);
        let token = match file.restricted {
            true => self
                .farm
                .db
                .write(|tx| issue_token(tx, file.alias, now()))?,
            false => String::new(),
        };
        if self
            .slave(view)?
            .ensure_present(&sum, &url, &token)?
            .is_none()
        {
            return Ok(());
        }
        librarian::check(&url, &token).map_err(|error| {
            let name = &file.name;
            Trouble::Ours(format!(
                "{name} is not to be had from the librarian: {error}"
            ))
        })?;
        // It may have been starting again, a moment ago.
        match self.slave(view)?.ensure_present(&sum, &url, &token)? {
            None => Ok(()),
            Some(complaint) => Err(Trouble::Failure {
                kind: Kind::Dispatch,
                why: format!("the slave cannot fetch {url}: {complaint}"),
            }),
        }
    }

    /// Returns what the slave is told about the build.
    fn arguments(view: &View, candidate: &Candidate) -> Dispatch {
        let name = &candidate.name;
        let component = candidate.component.clone().unwrap_or_default();
        let archives = archive_lines(&AptSources {
            own: apt(&candidate.archive),
            others: Vec::new(),
            primary: candidate.primary.as_ref().map(apt),
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
            purpose: candidate.archive.purpose,
            private: candidate.archive.private,
            archives,
            trusted_keys: Vec::new(),
            virtualized: view.builder.virtualized,
            build_url: None,
            component,
        }
    }
}

fn apt(archive: &ArchiveRow) -> AptArchive<'_> {
    AptArchive {
        purpose: archive.purpose,
        base_url: &archive.base_url,
        secret: archive.secret.as_deref(),
        private: archive.private,
        has_binaries: archive.has_binaries,
    }
}

/// Tells what to do with a claimed job (docs/farm.md §2.12, §3.7).
fn fit(candidate: &Candidate) -> Fit {
    let purpose = candidate.archive.purpose;
    if candidate.series_status == SeriesStatus::Obsolete
        || !accepts(purpose, candidate.series_status, candidate.name.pocket)
    {
        let why = "the series takes nothing more for this pocket";
        return Fit::Discard(BuildState::FailedToBuild, why);
    }
    if candidate.component.is_none() {
        return Fit::Discard(BuildState::Superseded, "the source is no longer published");
    }
    if candidate.archive.private && !candidate.published_in_private {
        return Fit::SetAside("the source is not published yet".to_owned());
    }
    let name = &candidate.name;
    if !candidate
        .files
        .iter()
        .any(|file| file.name.ends_with(".dsc"))
    {
        return Fit::Discard(
            BuildState::FailedToBuild,
            "its .dsc is no longer in the librarian",
        );
    }
    let chroot = chroot_pockets(name.pocket).find_map(|wanted| {
        candidate
            .chroots
            .iter()
            .find(|(pocket, _)| *pocket == wanted)
    });
    match chroot {
        Some((_, file)) => Fit::Build(file.clone()),
        None => Fit::SetAside(format!("no chroot for {} {}", name.suite(), name.arch_tag)),
    }
}
