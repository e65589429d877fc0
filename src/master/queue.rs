//! What is put right in the queue from time to time: scores, and builds whose dependencies have
//! appeared?
//!
//! In parts, each read and decided on first and written in one short transaction, so that the
//! scanners are not kept waiting. Every part checks again as it writes: any number of processes
//! may do the same at once, it is merely a waste.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};

use crate::db::{Db, Error, Tx};
use crate::master::model::ArchivePurpose;
use crate::master::policy::dependencies::{self, Known};
use crate::master::policy::pockets::{self, Components};
use crate::master::policy::score::{self, Rules, UnknownComponent};
use crate::master::rows::builds::{self, Build};
use crate::master::rows::depwaits::{self, Wanted};
use crate::master::rows::scores::{self, ScorableJob};

/// Rows in a batch.
const BATCH: i64 = 500;

/// Scores all waiting jobs that nobody scored by hand (docs/farm.md §2.2, §2.5); returns how many
/// have got another score.
pub(crate) fn rescore(db: &Db, rules: Rules, now: i64) -> Result<u64, Error> {
    let mut after = 0;
    let mut changed = 0;
    let mut unknown = BTreeSet::new();
    loop {
        let jobs = db.read(|tx| scores::to_score(tx, now, after, BATCH))?;
        let Some(last) = jobs.last() else { break };
        after = last.queue;
        let mut new_scores = Vec::new();
        for job in &jobs {
            match rescored(rules, job) {
                Ok(score) => new_scores.extend(score.map(|score| (job.queue, score))),
                Err(error) => {
                    unknown.insert(error.to_string());
                }
            }
        }
        if !new_scores.is_empty() {
            db.write(|tx| scores::set_scores(tx, &new_scores))?;
        }
        changed += new_scores.len() as u64;
    }
    for problem in unknown {
        log::warn!("{problem}");
    }
    Ok(changed)
}

/// Scores the job of one build, if it waits and nobody scored it by hand. A component without a
/// score leaves the one it has.
pub(crate) fn score_job(tx: &mut Tx<'_>, rules: Rules, now: i64, build: i64) -> Result<(), Error> {
    if let Some(job) = scores::of_build(tx, now, build)?
        && let Ok(Some(score)) = rescored(rules, &job)
    {
        scores::set_scores(tx, &[(job.queue, score)])?;
    }
    Ok(())
}

/// Returns the score a job should have, if it is another than it has.
fn rescored(rules: Rules, job: &ScorableJob) -> Result<Option<i64>, UnknownComponent> {
    let score = score::score(rules, &job.scored)?;
    Ok((score != job.score).then_some(score))
}

/// What was found of the builds that wait for dependencies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct DepwaitReport {
    /// Builds that went back to the queue, and their titles.
    pub(crate) retried: Vec<(i64, String)>,
    /// How many still wait, with the unreadable ones.
    pub(crate) still: u64,
    /// Builds whose dependencies nobody can read: only an operator can retry them.
    pub(crate) unreadable: Vec<i64>,
}

/// Sends builds whose dependencies have been published to the queue again, scored, and notes of
/// the others what they still wait for (docs/farm.md §2.15).
pub(crate) fn retry_depwaits(db: &Db, rules: Rules, now: i64) -> Result<DepwaitReport, Error> {
    for_each_batch(db, |found| {
        db.write(|tx| {
            let mut retried = Vec::new();
            for one in found {
                if apply(tx, one, rules, now)? {
                    retried.push(one.titled());
                }
            }
            Ok(retried)
        })
    })
}

/// Tells what [`retry_depwaits`] would do, and does nothing.
pub(crate) fn preview_depwaits(db: &Db) -> Result<DepwaitReport, Error> {
    for_each_batch(db, |found| {
        let ready = found.iter().filter(|one| one.is_ready());
        Ok(ready.map(|one| one.titled()).collect())
    })
}

/// One build and what it still waits for: nothing if `""`, unreadable if none.
struct Depwait {
    build: Build,
    missing: Option<String>,
}

/// Has `apply` deal with the builds there is something to be done about; it returns those retried.
fn for_each_batch(
    db: &Db,
    apply: impl Fn(&[&Depwait]) -> Result<Vec<(i64, String)>, Error>,
) -> Result<DepwaitReport, Error> {
    let mut report = DepwaitReport::default();
    let mut after = 0;
    loop {
        let batch = db.read(|tx| read_batch(tx, after))?;
        let Some(last) = batch.last() else {
            return Ok(report);
        };
        after = last.build.id;
        let changed: Vec<&Depwait> = batch.iter().filter(|found| found.has_changed()).collect();
        let retried = if changed.is_empty() {
            Vec::new()
        } else {
            apply(&changed)?
        };
        let unreadable = batch.iter().filter(|found| found.missing.is_none());
        report
            .unreadable
            .extend(unreadable.map(|found| found.build.id));
        report.still += (batch.len() - retried.len()) as u64;
        report.retried.extend(retried);
    }
}

impl Depwait {
    /// Whether it differs from what is stored.
    fn has_changed(&self) -> bool {
        self.missing.is_some() && self.missing != self.build.dependencies
    }

    /// Whether nothing keeps it from being built any more.
    fn is_ready(&self) -> bool {
        let (build, pocket) = (&self.build, self.build.name.pocket);
        self.missing.as_deref() == Some("")
            && pockets::accepts(build.archive_purpose, build.series_status, pocket)
    }

    fn titled(&self) -> (i64, String) {
        (self.build.id, self.build.name.to_string())
    }
}

/// Reads one part and decides on it.
fn read_batch(tx: &mut Tx<'_>, after: i64) -> Result<Vec<Depwait>, Error> {
    let builds = depwaits::waiting(tx, after, BATCH)?;
    let wanted: BTreeSet<Wanted> = builds.iter().flat_map(wanted).collect();
    let mut known: HashMap<Wanted, Vec<Known>> = HashMap::new();
    for (wanted, binary) in depwaits::published(tx, wanted)? {
        known.entry(wanted).or_default().push(binary);
    }
    let found = |build: Build| {
        let of_name = |name: &str| {
            let wanted = (build.arch_series, build.archive, name.to_owned());
            known.get(&wanted).cloned().unwrap_or_default()
        };
        let missing = missing(&build, &of_name);
        Depwait { build, missing }
    };
    Ok(builds.into_iter().map(found).collect())
}

/// Returns every package that the line of a build names: those asked for while nothing is known.
fn wanted(build: &Build) -> Vec<Wanted> {
    let names = RefCell::new(Vec::new());
    let nothing_known = |name: &str| {
        names
            .borrow_mut()
            .push((build.arch_series, build.archive, name.to_owned()));
        Vec::new()
    };
    missing(build, &nothing_known);
    names.into_inner()
}

/// Returns what a build still waits for; none if that cannot be read. Primary archives bind it to
/// the components its own may use.
fn missing(build: &Build, known: &dyn Fn(&str) -> Vec<Known>) -> Option<String> {
    let ogre = (build.archive_purpose == ArchivePurpose::Primary).then(|| {
        let component = build.component.as_deref().unwrap_or("main");
        Components::of(&build.name.distribution).ogre(component, build.name.pocket)
    });
    let line = build.dependencies.as_deref().unwrap_or_default();
    dependencies::unmet(line, known, ogre.as_deref()).ok()
}

/// Retries a build that is ready, and tells whether it was one still; else notes what it misses.
fn apply(tx: &mut Tx<'_>, found: &Depwait, rules: Rules, now: i64) -> Result<bool, Error> {
    let build = &found.build;
    if found.is_ready() {
        let retried = builds::retry(tx, build, now)?.is_some();
        if retried {
            score_job(tx, rules, now, build.id)?;
        }
        return Ok(retried);
    }
    if let Some(missing) = found
        .missing
        .as_deref()
        .filter(|missing| !missing.is_empty())
    {
        depwaits::set_dependencies(tx, build.id, missing)?;
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::params;
    use crate::db::tests::both;
    use crate::master::model::BuildState;
    use crate::master::rows::tests::farm::{Farm, NOW, change, farm, state};

    fn scores(db: &Db) -> Vec<i64> {
        let rows = db.read(|tx| tx.query("SELECT lastscore FROM build_queue ORDER BY id", &[]));
        let rows = rows.unwrap();
        rows.iter().map(|row| row.get(0).unwrap()).collect()
    }

    #[test]
    fn jobs_that_wait_or_are_suspended_are_scored_by_their_publication() {
        both(|db| {
            let farm = farm(db);
            farm.job(db, "hello", 0, 1);
            farm.job(db, "by-hand", 0, 2);
            change(
                db,
                "UPDATE build_queue SET manual = TRUE WHERE lastscore = 2",
            );
            farm.job(db, "running", 0, 3);
            change(db, "UPDATE build_queue SET status = 1 WHERE lastscore = 3");
            change(db, "UPDATE build_queue SET status = 3 WHERE lastscore = 1");
            change(db, "UPDATE source SET urgency = 3");
            // RELEASE, universe, HIGH, five seconds old.
            assert_eq!(rescore(db, Rules::Y2008, NOW).unwrap(), 1);
            assert_eq!(scores(db), [3265, 2, 3]);
            assert_eq!(rescore(db, Rules::Y2008, NOW).unwrap(), 0);
            // A thousand seconds later.
            assert_eq!(rescore(db, Rules::Y2008, NOW + 1_000_000).unwrap(), 1);
            assert_eq!(scores(db), [3275, 2, 3]);
            assert_eq!(rescore(db, Rules::Modern, NOW).unwrap(), 1);
            assert_eq!(scores(db), [1765, 2, 3]);
            change(
                db,
                "UPDATE archive SET relative_score = 2147483647, private = TRUE",
            );
            rescore(db, Rules::Modern, NOW).unwrap();
            assert_eq!(scores(db)[0], i64::from(i32::MAX), "what the column holds");
            change(db, "UPDATE publication SET component = 'nobody-knows'");
            assert_eq!(rescore(db, Rules::Y2008, NOW).unwrap(), 0);
        });
    }

    #[test]
    fn every_part_is_scored() {
        both(|db| {
            let farm = farm(db);
            farm.jobs(db, 1200);
            assert_eq!(rescore(db, Rules::Modern, NOW).unwrap(), 1200);
            assert!(scores(db).iter().all(|&score| score == 2505));
        });
    }

    fn depwait(db: &Db, farm: &Farm, name: &str, line: &str) -> i64 {
        let (build, queue) = farm.job(db, name, 0, 7);
        db.write(|tx| {
            tx.execute("DELETE FROM build_queue WHERE id = $1", &params![queue])?;
            let sql = "UPDATE build SET state = 3, dependencies = $2, finished_at = 5,
                failure_count = 2 WHERE id = $1";
            tx.execute(sql, &params![build, line])
        })
        .unwrap();
        build
    }

    fn publish(db: &Db, farm: &Farm, name: &str, version: &str, component: &str) {
        db.write(|tx| {
            tx.execute(
                "INSERT INTO published_binary (arch_series_id, archive_id, name, version,
                     component, source_name, published_at) VALUES ($1, $2, $3, $4, $5, 'x', 0)",
                &params![farm.arch_series[0], farm.archive, name, version, component],
            )
        })
        .unwrap();
    }

    #[test]
    fn builds_go_on_when_what_they_wait_for_is_published() {
        both(|db| {
            let farm = farm(db);
            let ready = depwait(db, &farm, "ready", "libfoo-dev (>= 2), a | b");
            let partly = depwait(db, &farm, "partly", "libfoo-dev, libbar-dev (>> 1)");
            let component = depwait(db, &farm, "component", "libnonfree-dev");
            let unreadable = depwait(db, &farm, "unreadable", "(((");
            publish(db, &farm, "libfoo-dev", "1", "main");
            publish(db, &farm, "libfoo-dev", "2.1", "universe");
            publish(db, &farm, "b", "1", "main");
            publish(db, &farm, "libbar-dev", "1", "main");
            publish(db, &farm, "libnonfree-dev", "1", "multiverse");
            let run = || retry_depwaits(db, Rules::Y2008, NOW).unwrap();
            assert_eq!(run(), DepwaitReport::default(), "no chroot");
            db.write(|tx| {
                let sql = "INSERT INTO chroot (arch_series_id, alias_id, updated_at)
                    VALUES ($1, $2, 0)";
                tx.execute(sql, &params![farm.arch_series[0], farm.alias])
            })
            .unwrap();

            let title = "i386 build of ready 0.9 in ubuntu hoary RELEASE".to_owned();
            let expected = DepwaitReport {
                retried: vec![(ready, title)],
                still: 3,
                unreadable: vec![unreadable],
            };
            assert_eq!(preview_depwaits(db).unwrap(), expected);
            assert_eq!(state(db, ready), BuildState::ManualDepWait);
            assert_eq!(run(), expected);
            assert_eq!(state(db, ready), BuildState::NeedsBuild);
            assert_eq!(scores(db), [3255], "scored at once");
            let sql = "SELECT dependencies, finished_at IS NULL, failure_count = 0 FROM build
                ORDER BY id";
            let rows = db.read(|tx| tx.query(sql, &[])).unwrap();
            let lines: Vec<Option<String>> = rows.iter().map(|row| row.get(0).unwrap()).collect();
            let lines: Vec<Option<&str>> = lines.iter().map(Option::as_deref).collect();
            let left = [
                None,
                Some("libbar-dev (>> 1)"),
                Some("libnonfree-dev"),
                Some("((("),
            ];
            assert_eq!(lines, left);
            assert!(rows[0].get::<bool>(1).unwrap() && rows[0].get::<bool>(2).unwrap());

            change(db, "UPDATE archive SET purpose = 2");
            // Components bind primary archives only; the PPA's own binaries count.
            assert_eq!(run().retried.len(), 1);
            assert_eq!(state(db, component), BuildState::NeedsBuild);
            publish(db, &farm, "libbar-dev", "1.1", "main");
            change(db, "UPDATE series SET status = 6");
            assert_eq!(run(), DepwaitReport::default(), "obsolete");
            change(db, "UPDATE series SET status = 4");
            change(db, "UPDATE archive SET purpose = 1");
            assert_eq!(run().retried, [], "a stable series takes no RELEASE");
            change(db, "UPDATE series SET status = 2");
            assert_eq!(run().retried.len(), 1);
            assert_eq!(state(db, partly), BuildState::NeedsBuild);
        });
    }
}
