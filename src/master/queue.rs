//! Rescores and repairs the queue, and returns dep-waits to it whose dependencies have been
//! published.
//!
//! The work goes in batches: each is read and decided first, then written in one short transaction,
//! so that scans wait little for the database. Writes check the rows again, so any number of
//! processes may run this at once.

use std::collections::{BTreeSet, HashMap};

use crate::db::{Db, Error, Pace, Tx};
use crate::master::model::ArchivePurpose;
use crate::master::policy::dependencies::{self, Checked, Known, Usable};
use crate::master::policy::limits::dep_wait_delay;
use crate::master::policy::pockets::{self, Components};
use crate::master::policy::score::{self, Rules, UnknownComponent};
use crate::master::rows::attempts;
use crate::master::rows::builds::{self, Build, Retry};
use crate::master::rows::depwaits::{self, Wanted};
use crate::master::rows::entries;
use crate::master::rows::events::{self, NewEvent};
use crate::master::rows::scores::{self, ScorableJob};

/// Rows per batch.
const BATCH: i64 = 500;

/// Scores all waiting jobs without a manual score (docs/farm.md §2.2, §2.5); returns how many
/// scores have changed.
pub(crate) fn rescore(db: &Db, rules: Rules, now: i64) -> Result<u64, Error> {
    let mut after = 0;
    let mut changed = 0;
    let mut unknown = BTreeSet::new();
    let mut pace = Pace::default();
    while let Some((jobs, last)) = db.read(|tx| scores::window(tx, now, after))? {
        after = last;
        let mut new_scores = Vec::new();
        for job in &jobs {
            match rescored(rules, job) {
                Ok(score) => new_scores.extend(score.map(|score| (job.queue, score))),
                Err(error) => {
                    unknown.insert(error.to_string());
                }
            }
        }
        pace.each(db, &new_scores, scores::set_scores)?;
        changed += new_scores.len() as u64;
    }
    for problem in unknown {
        log::warn!("{problem}");
    }
    Ok(changed)
}

/// Adds the missing queue rows of builds in NEEDSBUILD, unscored; returns their number.
pub(crate) fn add_missing_entries(db: &Db, now: i64) -> Result<u64, Error> {
    let mut added = 0;
    loop {
        let builds = db.read(|tx| entries::missing(tx, BATCH))?;
        if builds.is_empty() {
            return Ok(added);
        }
        let new = db.write(|tx| entries::add(tx, &builds, now))?;
        added += new;
        // Other processes added all of them, or changed the builds.
        if new == 0 {
            return Ok(added);
        }
    }
}

/// Suspends the waiting jobs of disabled architectures and archives, and resumes the suspended jobs
/// of enabled ones. Returns the number of changed jobs.
pub(crate) fn suspend(db: &Db) -> Result<u64, Error> {
    let mut changed = 0;
    for suspended in [true, false] {
        loop {
            let jobs = db.read(|tx| match suspended {
                true => entries::to_suspend(tx, BATCH),
                false => entries::to_resume(tx, BATCH),
            })?;
            let new = match jobs.is_empty() {
                true => 0,
                false => db.write(|tx| entries::set_suspended(tx, &jobs, suspended))?,
            };
            changed += new;
            if new == 0 {
                break;
            }
        }
    }
    Ok(changed)
}

/// Scores the job of one build, if it waits and has no manual score. An unknown component leaves
/// the score unchanged.
pub(crate) fn score_job(tx: &mut Tx<'_>, rules: Rules, now: i64, build: i64) -> Result<(), Error> {
    let Some(job) = scores::of_build(tx, now, build)? else {
        return Ok(());
    };
    if let Ok(Some(score)) = rescored(rules, &job) {
        scores::set_scores(tx, &[(job.queue, score)])?;
    }
    Ok(())
}

/// Returns the new score of a job, if it differs from the present one.
fn rescored(rules: Rules, job: &ScorableJob) -> Result<Option<i64>, UnknownComponent> {
    let score = score::score(rules, &job.scored)?;
    Ok((score != job.score).then_some(score))
}

/// A dep-wait whose dependencies are published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Freed {
    pub(crate) build: i64,
    pub(crate) title: String,
    /// The dependencies, each with the binary that meets it.
    pub(crate) met: String,
}

/// The result of a search for dep-waits that can be retried.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct DepwaitReport {
    /// The builds returned to the queue.
    pub(crate) retried: Vec<Freed>,
    /// The number of builds that still wait, including the unreadable ones.
    pub(crate) still: u64,
    /// Builds whose dependency line cannot be parsed. Only an operator can retry them.
    pub(crate) unreadable: Vec<i64>,
    /// Builds that were retried in vain too often. Only an operator can retry them.
    pub(crate) fruitless: Vec<i64>,
}

/// Returns builds whose dependencies are published to the queue and scores them; adds an event that
/// says what freed them (docs/farm.md §2.15).
pub(crate) fn retry_depwaits(db: &Db, rules: Rules, now: i64) -> Result<DepwaitReport, Error> {
    let mut pace = Pace::default();
    for_each_batch(db, now, |ready| {
        let retried = pace.each(db, ready, |tx, part| {
            let mut freed = Vec::new();
            for (build, reason) in part {
                if free(tx, build, reason, rules, now)? {
                    freed.push(reason.clone());
                }
            }
            Ok(freed)
        })?;
        Ok(retried.concat())
    })
}

/// Reports what [`retry_depwaits`] would do, without any change.
pub(crate) fn preview_depwaits(db: &Db, now: i64) -> Result<DepwaitReport, Error> {
    for_each_batch(db, now, |ready| {
        Ok(ready.iter().map(|(_, freed)| freed.clone()).collect())
    })
}

/// A build in MANUALDEPWAIT.
struct Depwait {
    build: Build,
    /// The state of its dependencies; `None` if the line cannot be parsed.
    checked: Option<Checked>,
    /// How many of its last attempts missed the same dependencies, and when the last one ended.
    /// Zeros while dependencies are missing.
    same: (usize, i64),
}

/// Calls `free` on the dep-waits of each batch that can end; `free` returns those retried.
fn for_each_batch(
    db: &Db,
    now: i64,
    mut free: impl FnMut(&[(Build, Freed)]) -> Result<Vec<Freed>, Error>,
) -> Result<DepwaitReport, Error> {
    let mut report = DepwaitReport::default();
    let mut after = 0;
    loop {
        let batch = db.read(|tx| read_batch(tx, after))?;
        let Some(last) = batch.last() else {
            return Ok(report);
        };
        after = last.build.id;
        let unreadable = batch.iter().filter(|depwait| depwait.checked.is_none());
        report
            .unreadable
            .extend(unreadable.map(|depwait| depwait.build.id));
        let fruitless = batch.iter().filter(|depwait| depwait.is_fruitless());
        report
            .fruitless
            .extend(fruitless.map(|depwait| depwait.build.id));
        let waiting = batch.len();
        let ready = batch.into_iter().filter_map(|depwait| depwait.ready(now));
        let ready: Vec<(Build, Freed)> = ready.collect();
        let retried = free(&ready)?;
        report.still += (waiting - retried.len()) as u64;
        report.retried.extend(retried);
    }
}

impl Depwait {
    /// Whether it was retried in vain too often.
    fn is_fruitless(&self) -> bool {
        dep_wait_delay(self.same.0).is_none()
    }

    /// Returns the build with what frees it, if it can return to the queue.
    fn ready(self, now: i64) -> Option<(Build, Freed)> {
        let (same, ended_at) = self.same;
        if ended_at + dep_wait_delay(same)? > now {
            return None;
        }
        let Self { build, checked, .. } = self;
        let checked = checked.filter(|checked| checked.unmet.is_empty())?;
        let pocket = build.name.pocket;
        if !pockets::accepts(build.archive_purpose, build.series_status, pocket) {
            return None;
        }
        let freed = Freed {
            build: build.id,
            title: build.name.to_string(),
            met: checked.met.join(", "),
        };
        Some((build, freed))
    }
}

/// Reads one batch of dep-waits, and compares their dependencies with what is published.
fn read_batch(tx: &mut Tx<'_>, after: i64) -> Result<Vec<Depwait>, Error> {
    let builds = depwaits::waiting(tx, after, BATCH)?;
    let wanted = builds.iter().flat_map(|build| {
        let names = dependencies::names(line(build)).into_iter();
        names.map(|name| (build.arch_series, build.archive, name))
    });
    let mut known: HashMap<Wanted, Vec<Known>> = HashMap::new();
    for (wanted, binary) in depwaits::published(tx, wanted.collect::<Vec<_>>())? {
        known.entry(wanted).or_default().push(binary);
    }
    let depwait = |build: Build| {
        let of_name = |name: &str| {
            let wanted = (build.arch_series, build.archive, name.to_owned());
            known.get(&wanted).cloned().unwrap_or_default()
        };
        let checked = check(&build, &of_name);
        Depwait {
            build,
            checked,
            same: (0, 0),
        }
    };
    let mut depwaits: Vec<Depwait> = builds.into_iter().map(depwait).collect();
    for depwait in &mut depwaits {
        let checked = depwait.checked.as_ref();
        if checked.is_some_and(|checked| checked.unmet.is_empty()) {
            depwait.same = attempts::same_dep_waits(tx, depwait.build.id)?;
        }
    }
    Ok(depwaits)
}

fn line(build: &Build) -> &str {
    build.dependencies.as_deref().unwrap_or_default()
}

/// Compares the dependencies of a build with the published binaries; `None` if its line cannot be
/// parsed. In a primary archive, only components that the build may use count.
fn check(build: &Build, known: &dyn Fn(&str) -> Vec<Known>) -> Option<Checked> {
    let ogre = (build.archive_purpose == ArchivePurpose::Primary).then(|| {
        let component = build.component.as_deref().unwrap_or("main");
        Components::of(&build.name.distribution).ogre(component, build.name.pocket)
    });
    let usable = Usable {
        known,
        components: ogre.as_deref(),
        arch: &build.name.arch_tag,
    };
    dependencies::check(line(build), usable).ok()
}

/// Retries a build, unless its state has changed; returns whether it was retried.
fn free(
    tx: &mut Tx<'_>,
    build: &Build,
    freed: &Freed,
    rules: Rules,
    now: i64,
) -> Result<bool, Error> {
    if builds::retry(tx, build, Retry::DepWait, now)?.is_none() {
        return Ok(false);
    }
    score_job(tx, rules, now, build.id)?;
    let message = format!(
        "its dependencies are published: {}; returned to the queue",
        freed.met
    );
    events::add(
        tx,
        &NewEvent {
            build: Some(build.id),
            ..NewEvent::info(now, "freed", &message)
        },
    )?;
    Ok(true)
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
    fn waiting_and_suspended_jobs_are_scored_by_their_publication() {
        both(|db| {
            let farm = farm(db);
            farm.job(db, "hello", 0, 1);
            farm.job(db, "manual", 0, 2);
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
            change(db, "UPDATE publication SET component = 'unknown'");
            assert_eq!(rescore(db, Rules::Y2008, NOW).unwrap(), 0);
        });
    }

    #[test]
    fn every_batch_is_scored() {
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

    /// A farm with four dep-waits, without a chroot yet.
    struct Depwaits<'a> {
        db: &'a Db,
        farm: Farm,
        ready: i64,
        partly: i64,
        component: i64,
        unreadable: i64,
    }

    impl<'a> Depwaits<'a> {
        fn new(db: &'a Db) -> Self {
            let farm = farm(db);
            let depwaits = Self {
                db,
                ready: depwait(db, &farm, "ready", "libfoo-dev (>= 2), a | b"),
                partly: depwait(db, &farm, "partly", "libfoo-dev, libbar-dev (>> 1)"),
                component: depwait(db, &farm, "component", "libnonfree-dev"),
                unreadable: depwait(db, &farm, "unreadable", "((("),
                farm,
            };
            let publish = |name, version, component| {
                publish(db, &depwaits.farm, name, version, component);
            };
            publish("libfoo-dev", "1", "main");
            publish("libfoo-dev", "2.1", "universe");
            publish("b", "1", "main");
            publish("libbar-dev", "1", "main");
            publish("libnonfree-dev", "1", "multiverse");
            depwaits
        }

        fn add_chroot(&self) {
            let (arch_series, alias) = (self.farm.arch_series[0], self.farm.alias);
            let sql = "INSERT INTO chroot (arch_series_id, alias_id, updated_at)
                VALUES ($1, $2, 0)";
            let added = self
                .db
                .write(|tx| tx.execute(sql, &params![arch_series, alias]));
            added.unwrap();
        }

        fn retry(&self) -> DepwaitReport {
            retry_depwaits(self.db, Rules::Y2008, NOW).unwrap()
        }
    }

    #[test]
    fn dep_waits_return_to_the_queue_when_their_dependencies_are_published() {
        both(|db| {
            let depwaits = Depwaits::new(db);
            let ready = depwaits.ready;
            assert_eq!(depwaits.retry(), DepwaitReport::default(), "no chroot");
            depwaits.add_chroot();

            let met = "libfoo-dev (>= 2) by libfoo-dev 2.1 in primary, a | b by b 1 in primary";
            let freed = Freed {
                build: ready,
                title: "i386 build of ready 0.9 in ubuntu hoary RELEASE".to_owned(),
                met: met.to_owned(),
            };
            let expected = DepwaitReport {
                retried: vec![freed],
                still: 3,
                unreadable: vec![depwaits.unreadable],
                fruitless: vec![],
            };
            assert_eq!(preview_depwaits(db, NOW).unwrap(), expected);
            assert_eq!(state(db, ready), BuildState::ManualDepWait);
            assert_eq!(depwaits.retry(), expected);
            assert_eq!(state(db, ready), BuildState::NeedsBuild);
            assert_eq!(scores(db), [3255], "scored at once");
            let sql = "SELECT dependencies, finished_at IS NULL, failure_count = 0 FROM build
                ORDER BY id";
            let rows = db.read(|tx| tx.query(sql, &[])).unwrap();
            let lines: Vec<Option<String>> = rows.iter().map(|row| row.get(0).unwrap()).collect();
            let lines: Vec<Option<&str>> = lines.iter().map(Option::as_deref).collect();
            let left = [
                None,
                // The whole line stays: what is met today may be gone tomorrow.
                Some("libfoo-dev, libbar-dev (>> 1)"),
                Some("libnonfree-dev"),
                Some("((("),
            ];
            assert_eq!(lines, left);
            assert!(rows[0].get::<bool>(1).unwrap() && rows[0].get::<bool>(2).unwrap());
            let events = db.read(|tx| events::of_build(tx, ready, 9)).unwrap();
            assert_eq!(
                (&*events[0].kind, &*events[0].message),
                (
                    "freed",
                    &*format!("its dependencies are published: {met}; returned to the queue")
                )
            );
        });
    }

    #[test]
    fn a_dep_wait_retried_in_vain_waits_longer_each_time_and_then_for_an_operator() {
        both(|db| {
            let depwaits = Depwaits::new(db);
            depwaits.add_chroot();
            let build = depwaits.ready;
            let fails = |number: i64, at: i64, line: &str| {
                let sql = "INSERT INTO attempt (build_id, number, cookie, started_at, ended_at,
                        verdict, dependencies) VALUES ($1, $2, '', $3, $3, 2, $4)";
                let added = db.write(|tx| tx.execute(sql, &params![build, number, at, line]));
                added.unwrap();
            };
            let retried_at = |now: i64| {
                let report = preview_depwaits(db, now).unwrap();
                (report.retried.len(), report.fruitless.len())
            };
            fails(1, NOW, "other");
            fails(2, NOW, "libfoo-dev (>= 2)");
            assert_eq!(retried_at(NOW), (1, 0), "the first time at once");
            fails(3, NOW, "libfoo-dev (>= 2)");
            assert_eq!(retried_at(NOW), (0, 0));
            assert_eq!(retried_at(NOW + 600_000), (1, 0));
            for number in 4..=6 {
                fails(number, NOW, "libfoo-dev (>= 2)");
            }
            assert_eq!(retried_at(i64::from(i32::MAX) * 1000), (0, 1));
            change(db, "UPDATE attempt SET counted = FALSE");
            assert_eq!(retried_at(NOW), (1, 0), "an operator has retried it");
        });
    }

    #[test]
    fn dep_waits_depend_on_the_archives_purpose_and_the_series_status() {
        both(|db| {
            let depwaits = Depwaits::new(db);
            depwaits.add_chroot();
            assert_eq!(depwaits.retry().retried.len(), 1);

            change(db, "UPDATE archive SET purpose = 2");
            // Only primary archives restrict components; the PPA's own binaries count.
            assert_eq!(depwaits.retry().retried.len(), 1);
            assert_eq!(state(db, depwaits.component), BuildState::NeedsBuild);
            publish(db, &depwaits.farm, "libbar-dev", "1.1", "main");
            change(db, "UPDATE series SET status = 6");
            assert_eq!(depwaits.retry(), DepwaitReport::default(), "obsolete");
            change(db, "UPDATE series SET status = 4");
            change(db, "UPDATE archive SET purpose = 1");
            let retried = depwaits.retry().retried;
            assert_eq!(retried, [], "a stable series accepts no RELEASE");
            change(db, "UPDATE series SET status = 2");
            assert_eq!(depwaits.retry().retried.len(), 1);
            assert_eq!(state(db, depwaits.partly), BuildState::NeedsBuild);
        });
    }
}
