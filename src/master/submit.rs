//! Turns a source package into builds.
//!
//! One transaction records the source and its files, publishes it instead of older versions, and
//! adds a scored job for each of its architectures. Existing rows stay. A source may be submitted
//! again, which adds the builds of new architectures.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use debversion::Version;

use crate::db::{Error, Tx};
use crate::master::model::{Archive, ArchivePurpose, BuildState, Pocket, SeriesStatus};
use crate::master::policy::arch_specific::ArchSpecific;
use crate::master::policy::architectures::{Choice, Chosen, choose};
use crate::master::policy::estimate;
use crate::master::policy::pockets;
use crate::master::policy::score::Rules;
use crate::master::queue;
use crate::master::rows::builds::{self, Build, Retry};
use crate::master::rows::events::{self, NewEvent};
use crate::master::rows::files::File;
use crate::master::rows::published;
use crate::master::rows::queue::enqueue;
use crate::master::rows::series::{self, ArchSeries, Series};
use crate::master::rows::sources::{self, Destination, Source};
use crate::master::rows::unbuildable;

/// A source package to be submitted.
#[derive(Debug)]
pub(crate) struct Submission {
    pub(crate) source: Source,
    /// The names of its binary packages.
    pub(crate) binaries: Vec<String>,
    pub(crate) files: Vec<SourceFile>,
    pub(crate) series: Series,
    pub(crate) archive: Archive,
    pub(crate) pocket: Pocket,
    /// Packages-arch-specific; `None` restricts no source.
    pub(crate) restrictions: Option<ArchSpecific>,
}

/// A file of a source package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SourceFile {
    pub(crate) name: String,
    pub(crate) sha1: String,
    /// In bytes.
    pub(crate) size: i64,
    /// The file in the librarian, if it is there.
    pub(crate) alias: Option<i64>,
}

/// An architecture that gets no build, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LeftOut {
    pub(crate) tag: String,
    pub(crate) reason: String,
}

/// An architecture that gets a build, and whether it makes architecture-independent packages.
type Target = (ArchSeries, bool);

/// The result of a submission.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Whether the source was already known, with the same files.
    pub(crate) known: bool,
    /// The versions that it supersedes.
    pub(crate) superseded: Vec<String>,
    /// All builds of the source in this series and archive, by architecture.
    pub(crate) builds: Vec<Build>,
    /// The ids of the new builds.
    pub(crate) new: Vec<i64>,
    pub(crate) left_out: Vec<LeftOut>,
}

impl Submission {
    fn destination(&self) -> Destination {
        Destination {
            series: self.series.id,
            archive: self.archive.id,
            pocket: self.pocket,
        }
    }

    fn refuse(&self, reason: &str) -> Error {
        let Source { name, version, .. } = &self.source;
        Error::Refused(format!("{name} {version}: {reason}"))
    }

    /// Checks that the source can be submitted, without any change in the database. Sets the alias
    /// of each file that the librarian has.
    pub(crate) fn check(&mut self, tx: &mut Tx<'_>) -> Result<(), Error> {
        self.check_pocket()?;
        self.choose(tx)?;
        if let Some(id) = self.find(tx)? {
            for file in sources::files(tx, id)? {
                let part = self.files.iter_mut().find(|part| part.name == file.name);
                if let Some(part) = part {
                    part.alias = Some(file.alias);
                }
            }
        }
        for published in sources::published(tx, self.destination(), &self.source.name)? {
            self.compare(&published.version)?;
        }
        let restricted = self.archive.private;
        for part in self.files.iter_mut().filter(|part| part.alias.is_none()) {
            part.alias = sources::known_file(tx, &part.name, &part.sha1, part.size, restricted)?;
        }
        Ok(())
    }

    fn check_pocket(&self) -> Result<(), Error> {
        let (purpose, status) = (self.archive.purpose, self.series.status);
        if pockets::accepts(purpose, status, self.pocket) {
            return Ok(());
        }
        let open: Vec<&str> = Pocket::ALL
            .iter()
            .filter(|pocket| pockets::accepts(purpose, status, **pocket))
            .map(|pocket| pocket.word())
            .collect();
        let (series, pocket) = (self.series.full_name(), self.pocket);
        let open = match open.is_empty() {
            true => "none".to_owned(),
            false => open.join(", "),
        };
        if status == SeriesStatus::Obsolete {
            return Err(self.refuse(&format!(
                "{series} is OBSOLETE and accepts no builds; submit to another series, or reopen \
                 it with `master series set {series} --status SUPPORTED`"
            )));
        }
        let hint = match self.pocket {
            Pocket::Release => {
                format!(", or `master series set {series} --status DEVELOPMENT`")
            }
            _ => format!(", or `master series set {series} --status CURRENT`"),
        };
        Err(self.refuse(&format!(
            "{series} is {status} and accepts no builds for {pocket} (open: {open}); give another \
             --pocket{hint}"
        )))
    }

    /// Compares a published version with the source's; a newer one is an error.
    fn compare(&self, published: &str) -> Result<Ordering, Error> {
        let parse = |version: &str| {
            let wrong = |_| self.refuse(&format!("{version:?} is not a valid version"));
            version.parse::<Version>().map_err(wrong)
        };
        let order = parse(published)?.cmp(&parse(&self.source.version)?);
        if order == Ordering::Greater {
            let suite = &self.series.name;
            return Err(self.refuse(&format!(
                "the newer {published} is already published in {suite} {}",
                self.pocket
            )));
        }
        Ok(order)
    }

    /// Returns the source's id if it is known with the same files; other files are an error.
    fn find(&self, tx: &mut Tx<'_>) -> Result<Option<i64>, Error> {
        let source = &self.source;
        let id = sources::find(tx, self.archive.id, &source.name, &source.version)?;
        let Some(id) = id else {
            return Ok(None);
        };
        let known = sources::files(tx, id)?;
        let same = |part: &SourceFile, file: &File| {
            let sha1 = file.content.as_ref().map(|content| &content.sha1);
            part.name == file.name && sha1 == Some(&part.sha1)
        };
        let differs = |part: &&SourceFile| !known.iter().any(|file| same(part, file));
        let archive = self.archive.short_name();
        match self.files.iter().find(differs) {
            Some(part) => Err(self.refuse(&format!(
                "{archive} already has this version, with a different {}; use a new version",
                part.name
            ))),
            None if known.len() > self.files.len() => Err(self.refuse(&format!(
                "{archive} already has this version, with more files; use a new version"
            ))),
            None => Ok(Some(id)),
        }
    }

    /// Returns the architectures to build on, and those left out. Having none to build on is an
    /// error.
    fn choose(&self, tx: &mut Tx<'_>) -> Result<(Vec<Target>, Vec<LeftOut>), Error> {
        let mut all = series::architectures(tx)?;
        all.retain(|arch| arch.series_id == self.series.id);
        let mut left_out = Vec::new();
        let (legal, illegal): (Vec<ArchSeries>, Vec<ArchSeries>) = all
            .into_iter()
            .partition(|arch| self.obstacle(arch).is_none());
        for arch in &illegal {
            left_out.extend(self.obstacle(arch).map(|reason| LeftOut {
                tag: arch.tag.clone(),
                reason,
            }));
        }
        let tags: Vec<&str> = legal.iter().map(|arch| arch.tag.as_str()).collect();
        let allowed = self.allowed(tx, &tags)?;
        let choice = Choice {
            hint: &self.source.arch_hint,
            tags: &tags,
            nominated: self.series.nominated.as_deref(),
            indep_hint: self.source.indep_hint.as_deref(),
            allowed: allowed.as_ref(),
        };
        let chosen = choose(&choice).map_err(|error| self.refuse(&error.to_string()))?;
        let of = |tag: &str| chosen.iter().find(|one| one.tag == tag);
        let mut builds = Vec::new();
        for arch in legal {
            match of(&arch.tag) {
                Some(Chosen { arch_indep, .. }) => builds.push((arch, *arch_indep)),
                None => left_out.push(LeftOut {
                    reason: match &allowed {
                        Some(allowed) if !allowed.contains(&arch.tag) => {
                            "Packages-arch-specific excludes it".to_owned()
                        }
                        _ => format!("the source is for {}", self.source.arch_hint),
                    },
                    tag: arch.tag,
                }),
            }
        }
        left_out.sort_by(|a, b| a.tag.cmp(&b.tag));
        if builds.is_empty() {
            return Err(self.refuse(&no_architecture(&self.series, &left_out)));
        }
        Ok((builds, left_out))
    }

    /// Returns why an architecture cannot build this submission.
    fn obstacle(&self, arch: &ArchSeries) -> Option<String> {
        let pocket = self.pocket;
        let mut chroots = pockets::chroot_pockets(pocket);
        if !arch.enabled {
            Some("it is disabled".to_owned())
        } else if self.archive.virtualized && !arch.virtualized {
            Some("it has no virtual builders, which the archive requires".to_owned())
        } else if !chroots.any(|pocket| arch.chroots.contains(&pocket)) {
            Some(format!("it has no chroot for {pocket}"))
        } else {
            None
        }
    }

    /// Returns the tags that Packages-arch-specific allows; `None` allows all. The file does not
    /// apply to PPAs.
    fn allowed(&self, tx: &mut Tx<'_>, tags: &[&str]) -> Result<Option<BTreeSet<String>>, Error> {
        let Some(file) = &self.restrictions else {
            return Ok(None);
        };
        if self.archive.purpose == ArchivePurpose::Ppa {
            return Ok(None);
        }
        let name = &self.source.name;
        let nominated = self.series.nominated.as_deref();
        let mut own = self.binaries.clone();
        if let Some(tag) = nominated {
            own.extend(published::binaries_of(tx, self.series.id, tag, name)?);
        }
        let source_of = |binary: &str| own.iter().any(|one| one == binary).then(|| name.clone());
        let mut all = file.restrictions(tags, nominated, source_of);
        Ok(all.remove(name))
    }

    /// Records the source and adds its builds. All files must be in the librarian.
    pub(crate) fn submit(
        &self,
        tx: &mut Tx<'_>,
        rules: Rules,
        submitter: &str,
        now: i64,
    ) -> Result<Outcome, Error> {
        self.check_pocket()?;
        let found = self.find(tx)?;
        let known = found.is_some();
        let source = match found {
            Some(id) => id,
            None => self.add_source(tx, now)?,
        };
        let superseded = self.publish(tx, source, now)?;
        let (chosen, left_out) = self.choose(tx)?;
        let existing = builds::of_source(tx, source, self.archive.id, self.series.id)?;
        let has_indep = existing.iter().any(|build| build.arch_indep);
        let mut new = Vec::new();
        for (arch, arch_indep) in chosen {
            if let Some(build) = existing.iter().find(|build| build.arch_series == arch.id) {
                new.extend(self.revive(tx, rules, build, submitter, now)?);
                continue;
            }
            let build = builds::New {
                source,
                arch_series: arch.id,
                archive: self.archive.id,
                pocket: self.pocket,
                processor: arch.processor_id,
                // An existing build makes them, even if another architecture is nominated now.
                arch_indep: arch_indep && !has_indep,
                estimated_ms: self.estimate(tx, arch.id)?,
            };
            let id = builds::add(tx, &build, now)?;
            enqueue(tx, id, now)?;
            queue::score_job(tx, rules, now, id)?;
            add_event(tx, id, submitter, now)?;
            new.push(id);
        }
        Ok(Outcome {
            known,
            superseded,
            builds: builds::of_source(tx, source, self.archive.id, self.series.id)?,
            new,
            left_out,
        })
    }

    /// Returns a SUPERSEDED build of the source to the queue: the source is published again. `None`
    /// if the build is in another state, or of a pocket that is closed.
    fn revive(
        &self,
        tx: &mut Tx<'_>,
        rules: Rules,
        build: &Build,
        submitter: &str,
        now: i64,
    ) -> Result<Option<i64>, Error> {
        let (purpose, status) = (self.archive.purpose, self.series.status);
        if build.state != BuildState::Superseded
            || !pockets::accepts(purpose, status, build.name.pocket)
            || builds::retry(tx, build, Retry::Operator, now)?.is_none()
        {
            return Ok(None);
        }
        queue::score_job(tx, rules, now, build.id)?;
        add_event(tx, build.id, submitter, now)?;
        Ok(Some(build.id))
    }

    fn add_source(&self, tx: &mut Tx<'_>, now: i64) -> Result<i64, Error> {
        let id = sources::add(tx, &self.source, now)?;
        for part in &self.files {
            let missing = || self.refuse(&format!("{} is not in the librarian", part.name));
            let alias = part.alias.ok_or_else(missing)?;
            if !sources::add_file(tx, id, alias, &part.name)? {
                return Err(self.refuse(&format!(
                    "{} has just left the librarian: run the command again",
                    part.name
                )));
            }
        }
        Ok(id)
    }

    /// Publishes the source, unless it is published already; returns the superseded versions.
    fn publish(&self, tx: &mut Tx<'_>, source: i64, now: i64) -> Result<Vec<String>, Error> {
        let component = &self.source.component;
        let mut is_published = false;
        let mut superseded = Vec::new();
        for one in sources::published(tx, self.destination(), &self.source.name)? {
            let order = self.compare(&one.version)?;
            if one.source == source && one.component == *component {
                is_published = true;
                continue;
            }
            sources::supersede(tx, one.id, now)?;
            let (series, archive) = (self.series.id, self.archive.id);
            for waiting in unbuildable::of_source(tx, one.source, series, archive)? {
                if one.source != source {
                    unbuildable::end(tx, &waiting, now)?;
                }
            }
            if order == Ordering::Less {
                superseded.push(one.version);
            }
        }
        if !is_published {
            sources::publish(tx, self.destination(), source, component, now)?;
        }
        Ok(superseded)
    }

    fn estimate(&self, tx: &mut Tx<'_>, arch_series: i64) -> Result<i64, Error> {
        let name = &self.source.name;
        let last = builds::last_duration(tx, name, arch_series, self.archive.id)?;
        let bytes = self.files.iter().map(|part| part.size).sum();
        Ok(estimate::duration_ms(last, Some(bytes)))
    }
}

fn add_event(tx: &mut Tx<'_>, build: i64, submitter: &str, now: i64) -> Result<(), Error> {
    let message = format!("submitted by {submitter}");
    let event = NewEvent {
        build: Some(build),
        ..NewEvent::info(now, "submitted", &message)
    };
    events::add(tx, &event)
}

/// Returns the message for a source that no architecture can build.
fn no_architecture(series: &Series, left_out: &[LeftOut]) -> String {
    let full = series.full_name();
    if left_out.is_empty() {
        return format!("{full} has no architectures; `master arch add {full} ARCH` adds one");
    }
    let reasons: Vec<String> = left_out
        .iter()
        .map(|LeftOut { tag, reason }| format!("{tag}: {reason}"))
        .collect();
    format!(
        "no architecture of {full} can build it ({})",
        reasons.join("; ")
    )
}

#[cfg(test)]
mod tests;
