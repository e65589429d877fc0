//! Pure: limits the attempts of a build that end without a result (docs/farm.md §3.3).
//!
//! A job that is given back, lost or answered with BUILDERFAIL returns to the queue, later each
//! time, and ends after a number of attempts. BUILDERFAIL counts against the builder if it fails
//! with several jobs, and against the job if it fails on several builders that work otherwise. If
//! all builders fail with several jobs, neither is blamed.

use std::collections::BTreeSet;

use crate::master::model::AttemptVerdict;

/// Longest delay of a job, in ms, unless the first one is longer.
const LONGEST_DELAY: i64 = 3_600_000;
/// Attempts that may be lost. The first four return to the queue at once: the death of a master can
/// look like a loss.
const LOST_LIMIT: usize = 8;
/// Builders with BUILDERFAIL at which the job is at fault, if they build other packages.
const JOB_BUILDERS: usize = 3;
/// Attempts with BUILDERFAIL on the only builder at which the job is at fault.
const JOB_ATTEMPTS: usize = 5;
/// Attempts in a row with BUILDERFAIL, of several jobs, at which the builder is at fault.
const BUILDER_ATTEMPTS: usize = 5;

/// An attempt that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) build: i64,
    pub(crate) builder: i64,
    pub(crate) verdict: AttemptVerdict,
}

/// The consequence of one more attempt without a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limit {
    /// Return the job to the queue for this time, in ms.
    Retry { delay: i64 },
    /// End the build: it has had this many such attempts.
    Reached { attempts: usize },
}

/// Decides about a build that was given back. `ended` is its counted attempts, with this one;
/// `first_delay` is in ms.
pub(crate) fn given_back(ended: &[Ended], first_delay: i64, limit: usize) -> Limit {
    let attempts = count(ended, AttemptVerdict::GivenBack);
    match attempts >= limit {
        true => Limit::Reached { attempts },
        false => Limit::Retry {
            delay: growing(first_delay, attempts),
        },
    }
}

/// Decides about a build that its slave has lost. `ended` is its counted attempts, with this one.
pub(crate) fn lost(ended: &[Ended], first_delay: i64) -> Limit {
    let attempts = count(ended, AttemptVerdict::Lost);
    match attempts {
        LOST_LIMIT.. => Limit::Reached { attempts },
        0..=4 => Limit::Retry { delay: 0 },
        _ => Limit::Retry {
            delay: growing(first_delay, attempts - 4),
        },
    }
}

/// Attempts with the same missing dependencies after which a dep-wait stays until an operator
/// retries it.
pub(crate) const DEP_WAIT_LIMIT: usize = 5;
/// The delay of a dep-wait that was retried in vain once, in ms.
const DEP_WAIT_DELAY: i64 = 600_000;

/// Returns the time after the last attempt, in ms, at which a dep-wait may return to the queue if
/// its dependencies are published. `same` is the number of its last counted attempts that missed
/// the same dependencies. `None`: only an operator can retry it.
pub(crate) fn dep_wait_delay(same: usize) -> Option<i64> {
    (same < DEP_WAIT_LIMIT).then(|| match same {
        0 | 1 => 0,
        more => growing(DEP_WAIT_DELAY, more - 1),
    })
}

fn count(ended: &[Ended], verdict: AttemptVerdict) -> usize {
    ended.iter().filter(|one| one.verdict == verdict).count()
}

/// Returns the delay after the `n`th failure: twice the one before it, up to [`LONGEST_DELAY`].
fn growing(first: i64, n: usize) -> i64 {
    let doublings = u32::try_from(n.saturating_sub(1)).unwrap_or(u32::MAX);
    let factor = 2_i64.checked_pow(doublings).unwrap_or(i64::MAX);
    first.saturating_mul(factor).min(LONGEST_DELAY.max(first))
}

/// The facts about a BUILDERFAIL.
#[derive(Clone, Debug)]
pub(crate) struct BuilderFail<'a> {
    pub(crate) build: i64,
    pub(crate) builder: i64,
    /// The counted attempts of the build, with this one.
    pub(crate) of_build: &'a [Ended],
    /// Builders in service that could take the job, this one included, each with its last
    /// attempts, the newest first. Of a large farm, some of them.
    pub(crate) builders: &'a [(i64, Vec<Ended>)],
    /// Another builder in service could take the job and has not failed on it.
    pub(crate) has_other: bool,
}

/// The consequence of a BUILDERFAIL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blame {
    /// Unclear: the job returns to the queue for this time, in ms.
    Nobody { delay: i64 },
    /// All builders fail with several jobs: the job returns to the queue for this time, in ms.
    Outage { delay: i64 },
    /// The builder fails with several jobs: disable it.
    Builder,
    /// The job fails on this many builders that work otherwise: end the build.
    Job { builders: usize, attempts: usize },
}

impl BuilderFail<'_> {
    /// Decides on builder and job. `first_delay` is in ms.
    pub(crate) fn blame(&self, first_delay: i64) -> Blame {
        let run = self.run_of(self.builder);
        if self.is_outage() {
            let delay = growing(first_delay, run.len());
            return Blame::Outage { delay };
        }
        if run.len() >= BUILDER_ATTEMPTS && jobs(&run).len() > 1 {
            return Blame::Builder;
        }
        let attempts = count(self.of_build, AttemptVerdict::BuilderFail);
        let builders = self.working_builders();
        let enough = match (self.has_other, self.builders.len()) {
            (true, _) => builders >= JOB_BUILDERS,
            (false, 0 | 1) => builders == 1 && attempts >= JOB_ATTEMPTS,
            (false, all) => builders >= JOB_BUILDERS.min(all),
        };
        if enough {
            return Blame::Job { builders, attempts };
        }
        let delay = match self.has_other {
            true => 0,
            false => growing(first_delay, attempts),
        };
        Blame::Nobody { delay }
    }

    /// Whether every builder has failed last, and more than one job with them.
    fn is_outage(&self) -> bool {
        let runs = self.builders.iter().map(|(_, last)| failing_run(last));
        let runs: Vec<Vec<Ended>> = runs.collect();
        let all: Vec<Ended> = runs.concat();
        runs.len() > 1 && runs.iter().all(|run| !run.is_empty()) && jobs(&all).len() > 1
    }

    /// Counts the builders that the job has failed on, and that fail with no other job.
    fn working_builders(&self) -> usize {
        let failed = self.of_build.iter();
        let failed = failed.filter(|one| one.verdict == AttemptVerdict::BuilderFail);
        let failed: BTreeSet<i64> = failed.map(|one| one.builder).collect();
        let works = |(builder, last): &&(i64, Vec<Ended>)| {
            let run = failing_run(last);
            failed.contains(builder) && run.iter().all(|one| one.build == self.build)
        };
        self.builders.iter().filter(works).count()
    }

    fn run_of(&self, builder: i64) -> Vec<Ended> {
        let found = self.builders.iter().find(|(one, _)| *one == builder);
        found.map_or_else(Vec::new, |(_, last)| failing_run(last))
    }
}

/// Returns the attempts with BUILDERFAIL since the last one that shows a working builder. `last` is
/// a builder's attempts, the newest first.
fn failing_run(last: &[Ended]) -> Vec<Ended> {
    use AttemptVerdict::{ChrootFail, DepFail, Ok, PackageFail};
    let run = last
        .iter()
        .take_while(|one| !matches!(one.verdict, Ok | PackageFail | DepFail | ChrootFail));
    run.filter(|one| one.verdict == AttemptVerdict::BuilderFail)
        .copied()
        .collect()
}

fn jobs(run: &[Ended]) -> BTreeSet<i64> {
    run.iter().map(|one| one.build).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use AttemptVerdict::{BuilderFail as Fails, GivenBack, Lost, Ok as Works, Withdrawn};

    const MINUTE: i64 = 60_000;

    fn ended(build: i64, builder: i64, verdict: AttemptVerdict) -> Ended {
        Ended {
            build,
            builder,
            verdict,
        }
    }

    #[test]
    fn a_given_back_job_waits_longer_each_time_and_ends_at_the_limit() {
        let mut attempts = vec![ended(1, 9, Lost)];
        let mut delays = Vec::new();
        loop {
            attempts.push(ended(1, 9, GivenBack));
            match given_back(&attempts, 5 * MINUTE, 7) {
                Limit::Retry { delay } => delays.push(delay / MINUTE),
                Limit::Reached { attempts } => {
                    assert_eq!(attempts, 7);
                    break;
                }
            }
        }
        assert_eq!(delays, [5, 10, 20, 40, 60, 60]);
        let day = 24 * 60 * MINUTE;
        let retry = Limit::Retry { delay: day };
        assert_eq!(given_back(&attempts, day, 99), retry, "longer than an hour");
    }

    #[test]
    fn a_lost_job_returns_at_once_four_times_and_ends_after_eight_losses() {
        let mut attempts = Vec::new();
        let mut delays = Vec::new();
        for _ in 0..7 {
            attempts.push(ended(1, 9, Lost));
            let Limit::Retry { delay } = lost(&attempts, MINUTE) else {
                panic!("{attempts:?}");
            };
            delays.push(delay / MINUTE);
        }
        assert_eq!(delays, [0, 0, 0, 0, 1, 2, 4]);
        attempts.push(ended(1, 9, Lost));
        assert_eq!(lost(&attempts, MINUTE), Limit::Reached { attempts: 8 });
    }

    #[test]
    fn a_fruitless_dep_wait_is_retried_later_each_time_and_then_stays() {
        let delays: Vec<_> = (0..7).map(dep_wait_delay).collect();
        let minutes = |n: i64| Some(n * MINUTE);
        let expect = [0, 0, 10, 20, 40].map(minutes);
        assert_eq!(delays, [&expect[..], &[None, None]].concat());
    }

    /// A farm in which each job visits the builders in turn, and is kept off those it failed on.
    struct Simulation {
        builders: Vec<(i64, Vec<Ended>)>,
        of_build: Vec<Ended>,
    }

    impl Simulation {
        fn new(builders: i64) -> Self {
            Self {
                builders: (1..=builders).map(|id| (id, Vec::new())).collect(),
                of_build: Vec::new(),
            }
        }

        fn ends(&mut self, build: i64, builder: i64, verdict: AttemptVerdict) {
            let one = ended(build, builder, verdict);
            self.of_build.push(one);
            let index = usize::try_from(builder - 1).unwrap();
            self.builders[index].1.insert(0, one);
        }

        fn blame(&self, build: i64, builder: i64) -> Blame {
            let of_build = self.of_build.iter().filter(|one| one.build == build);
            let of_build: Vec<Ended> = of_build.copied().collect();
            let failed = |id: i64| of_build.iter().any(|one| one.builder == id);
            let has_other = self.builders.iter().any(|(id, _)| !failed(*id));
            let given = BuilderFail {
                build,
                builder,
                of_build: &of_build,
                builders: &self.builders,
                has_other,
            };
            given.blame(MINUTE)
        }

        fn fails(&mut self, build: i64, builder: i64) -> Blame {
            self.ends(build, builder, Fails);
            self.blame(build, builder)
        }
    }

    #[test]
    fn a_job_that_fails_on_three_working_builders_is_at_fault() {
        let mut farm = Simulation::new(4);
        for builder in 1..=4 {
            farm.ends(100 + builder, builder, Works);
        }
        assert_eq!(farm.fails(1, 1), Blame::Nobody { delay: 0 });
        farm.ends(200, 1, Withdrawn);
        assert_eq!(farm.fails(1, 2), Blame::Nobody { delay: 0 });
        let blame = Blame::Job {
            builders: 3,
            attempts: 3,
        };
        assert_eq!(farm.fails(1, 3), blame);
    }

    #[test]
    fn a_job_that_fails_on_both_of_two_builders_is_at_fault() {
        let mut farm = Simulation::new(2);
        assert_eq!(farm.fails(1, 1), Blame::Nobody { delay: 0 });
        let blame = Blame::Job {
            builders: 2,
            attempts: 2,
        };
        assert_eq!(farm.fails(1, 2), blame);
    }

    #[test]
    fn the_only_job_on_the_only_builder_fails_after_five_attempts() {
        let mut farm = Simulation::new(1);
        let delays = [1, 2, 4, 8].map(|n| Blame::Nobody { delay: n * MINUTE });
        assert_eq!([(); 4].map(|()| farm.fails(1, 1)), delays);
        let blame = Blame::Job {
            builders: 1,
            attempts: 5,
        };
        assert_eq!(farm.fails(1, 1), blame);
    }

    #[test]
    fn a_builder_that_fails_with_several_jobs_is_at_fault() {
        let mut farm = Simulation::new(3);
        farm.ends(100, 2, Works);
        for build in 1..=4 {
            assert_eq!(farm.fails(build, 1), Blame::Nobody { delay: 0 });
            farm.ends(build, 2, Works);
        }
        assert_eq!(farm.fails(5, 1), Blame::Builder);
        let mut alone = Simulation::new(1);
        let blames: Vec<Blame> = (1..=5).map(|build| alone.fails(build, 1)).collect();
        assert_eq!(blames[4], Blame::Builder, "{blames:?}");
        assert!(!blames[..4].contains(&Blame::Builder));
    }

    #[test]
    fn an_outage_of_all_builders_blames_no_builder_and_no_job() {
        let mut farm = Simulation::new(4);
        let mut blames = Vec::new();
        for round in 0..20_i64 {
            for builder in 1..=4 {
                // Eight jobs, each on another builder than before.
                let build = 1 + (builder + round * 3) % 8;
                blames.push(farm.fails(build, builder));
            }
        }
        let blamed = blames
            .iter()
            .any(|blame| matches!(blame, Blame::Job { .. } | Blame::Builder));
        assert!(!blamed, "{blames:?}");
        let last = Blame::Outage { delay: 60 * MINUTE };
        assert_eq!(blames.last(), Some(&last));
        // One builder works again: the others are at fault.
        farm.ends(300, 4, Works);
        assert_eq!(farm.fails(1, 1), Blame::Builder);
    }
}
