//! How does a source package become builds?
//!
//! In one transaction: the source and its files are noted, it is published in place of older
//! versions, and each architecture that it is for gets its build, in the queue and scored. What is
//! there already is left as it is, so that handing in a source twice does no harm and adds the
//! builds of architectures that are new since.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use debversion::Version;

use crate::db::{Error, Tx};
use crate::master::model::{Archive, ArchivePurpose, Pocket, SeriesStatus};
use crate::master::policy::arch_specific::ArchSpecific;
use crate::master::policy::architectures::{Choice, Chosen, choose};
use crate::master::policy::estimate;
use crate::master::policy::pockets;
use crate::master::policy::score::Rules;
use crate::master::queue;
use crate::master::rows::archives;
use crate::master::rows::builds::{self, Build};
use crate::master::rows::events::{self, NewEvent};
use crate::master::rows::files::File;
use crate::master::rows::queue::enqueue;
use crate::master::rows::series::{self, ArchSeries, Series};
use crate::master::rows::sources::{self, Destination, Source};

/// A source package on its way in.
#[derive(Debug)]
pub(crate) struct Submission {
    pub(crate) source: Source,
    /// Its binary packages.
    pub(crate) binaries: Vec<String>,
    pub(crate) files: Vec<SourceFile>,
    pub(crate) series: Series,
    pub(crate) archive: Archive,
    pub(crate) pocket: Pocket,
    /// Packages-arch-specific; none: every source is for every architecture.
    pub(crate) restrictions: Option<ArchSpecific>,
}

/// A file of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SourceFile {
    pub(crate) name: String,
    pub(crate) sha1: String,
    /// In bytes.
    pub(crate) size: i64,
    /// Where the librarian has it, if it is known.
    pub(crate) alias: Option<i64>,
}

/// An architecture that gets no build, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LeftOut {
    pub(crate) tag: String,
    pub(crate) reason: String,
}

/// An architecture that gets a build, and whether that makes packages for all.
type Target = (ArchSeries, bool);

/// What came of it.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// The source was known, with the same files.
    pub(crate) known: bool,
    /// Versions that made room for it.
    pub(crate) superseded: Vec<String>,
    /// All its builds in that series and archive, by architecture.
    pub(crate) builds: Vec<Build>,
    /// Those of them that are new.
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

    /// Checks that the source may be handed in, writes nothing, and says where the librarian has
    /// those of its files that need not be sent.
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
        // What would open it; a series that is over stays so.
        let hint = match (status, self.pocket) {
            (SeriesStatus::Obsolete, _) => String::new(),
            (_, Pocket::Release) => {
                format!(", or `master series set {series} --status DEVELOPMENT`")
            }
            _ => format!(", or `master series set {series} --status CURRENT`"),
        };
        Err(self.refuse(&format!(
            "{series} is {status} and takes nothing for {pocket} (open: {open}); give another \
             --pocket{hint}"
        )))
    }

    /// Orders the source and a version that is published in its place.
    fn compare(&self, published: &str) -> Result<Ordering, Error> {
        let parse = |version: &str| {
            let wrong = |_| self.refuse(&format!("{version:?} is not a version"));
            version.parse::<Version>().map_err(wrong)
        };
        let order = parse(published)?.cmp(&parse(&self.source.version)?);
        if order == Ordering::Greater {
            let suite = &self.series.name;
            return Err(self.refuse(&format!(
                "{published} is published in {suite} {} already, and is newer",
                self.pocket
            )));
        }
        Ok(order)
    }

    /// Returns the source if it was handed in before, with the same files.
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
                "{archive} has this version already, and {} is another file there; give it a new \
                 version",
                part.name
            ))),
            None if known.len() > self.files.len() => Err(self.refuse(&format!(
                "{archive} has this version already, and with more files; give it a new version"
            ))),
            None => Ok(Some(id)),
        }
    }

    /// Returns the architectures to build on, and those that are left out; none at all is an error.
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

    /// Returns why nothing of this submission can be built on an architecture.
    fn obstacle(&self, arch: &ArchSeries) -> Option<String> {
        let pocket = self.pocket;
        let mut chroots = pockets::chroot_pockets(pocket);
        if !arch.enabled {
            Some("it is disabled".to_owned())
        } else if self.archive.virtualized && !arch.virtualized {
            Some("it has no virtual builders, which the archive asks for".to_owned())
        } else if !chroots.any(|pocket| arch.chroots.contains(&pocket)) {
            Some(format!("it has no chroot for {pocket}"))
        } else {
            None
        }
    }

    /// Returns what Packages-arch-specific leaves of the tags; it has no say about PPAs.
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
            own.extend(archives::binaries_of(tx, self.series.id, tag, name)?);
        }
        let source_of = |binary: &str| own.iter().any(|one| one == binary).then(|| name.clone());
        let mut all = file.restrictions(tags, nominated, source_of);
        Ok(all.remove(name))
    }

    /// Writes it all. Every file has to be in the librarian by now.
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
            if existing.iter().any(|build| build.arch_series == arch.id) {
                continue;
            }
            let build = builds::New {
                source,
                arch_series: arch.id,
                archive: self.archive.id,
                pocket: self.pocket,
                processor: arch.processor_id,
                // Once is enough, though another architecture would be chosen today.
                arch_indep: arch_indep && !has_indep,
                estimated_ms: self.estimate(tx, arch.id)?,
            };
            let id = builds::add(tx, &build, now)?;
            enqueue(tx, id, now)?;
            queue::score_job(tx, rules, now, id)?;
            let message = format!("submitted by {submitter}");
            events::add(
                tx,
                &NewEvent {
                    build: Some(id),
                    ..NewEvent::info(now, "submitted", &message)
                },
            )?;
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

    fn add_source(&self, tx: &mut Tx<'_>, now: i64) -> Result<i64, Error> {
        let id = sources::add(tx, &self.source, now)?;
        for part in &self.files {
            let missing = || self.refuse(&format!("{} is not in the librarian", part.name));
            let alias = part.alias.ok_or_else(missing)?;
            sources::add_file(tx, id, alias, &part.name)?;
        }
        Ok(id)
    }

    /// Publishes the source unless it is; returns the versions that made room.
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
            sources::supersede(tx, one.id)?;
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

/// Says why there is no architecture to build on, and what to do.
fn no_architecture(series: &Series, left_out: &[LeftOut]) -> String {
    let full = series.full_name();
    if left_out.is_empty() {
        return format!("{full} has no architectures; `master arch add {full} ARCH` adds one");
    }
    let reasons: Vec<String> = left_out
        .iter()
        .map(|LeftOut { tag, reason }| format!("{tag}: {reason}"))
        .collect();
    format!("nowhere to build it in {full} ({})", reasons.join("; "))
}

#[cfg(test)]
mod tests;
