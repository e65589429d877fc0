//! Pure: decides whether a failure is the builder's fault or the job's (docs/farm.md §3.3).
//!
//! A builder that fails with several jobs is at fault; so is a job that fails on several builders.
//! If both have failed equally often, the job tries another builder. The caller counts the failures
//! and applies the verdict in one transaction.

/// Failed looks in a row that count as one failure.
pub(crate) const SCANS_PER_FAILURE: u32 = 5;
/// Equal counts at which the job returns to the queue.
const JOB_RESET_FAILURES: i64 = 3;
/// The count at which a builder is disabled.
const BUILDER_FAILURES: i64 = 5;

/// Failure counts, including the present failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Failed looks at the builder in a row, in memory only. A successful look resets it, and so
    /// does a counted failure.
    pub(crate) consecutive: u32,
    /// Failures of the builder since it last finished a build.
    pub(crate) builder: i64,
    /// Failures of its build since the last retry; `None` if the builder has no job.
    pub(crate) build: Option<i64>,
}

/// The kind of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It may be over by the next look, such as a network error or a slow answer.
    Passing,
    /// It counts at once, such as a failed dispatch or a failed reset of a machine.
    Dispatch,
    /// Builder and master disagree about the builder's state.
    Isolation,
    /// Cancelling a job failed. Also any counted failure while a job is being cancelled.
    Cancel,
}

/// The consequences of a failure for the builder and the job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) builder: BuilderVerdict,
    pub(crate) job: JobVerdict,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BuilderVerdict {
    Leave,
    /// Clean the builder before its next job; reset a virtual one.
    MarkDirty,
    /// The builder is not at fault: set its count to 0.
    ClearCount,
    /// Disable the builder until an operator enables it.
    Fail,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum JobVerdict {
    /// The job stays on its builder, or there is none.
    Leave,
    /// Return the job to the queue.
    Reset,
    /// End the build as FAILEDTOBUILD.
    Fail,
    Cancelled,
}

const NO_CHANGE: Verdict = Verdict {
    builder: BuilderVerdict::Leave,
    job: JobVerdict::Leave,
};

/// Returns whether to count a failure against the builder and its build. `consecutive` is the
/// number of failed looks in a row, including this one.
pub(crate) fn is_counted(kind: Kind, consecutive: u32) -> bool {
    match kind {
        Kind::Passing => consecutive >= SCANS_PER_FAILURE,
        Kind::Dispatch | Kind::Isolation | Kind::Cancel => true,
    }
}

/// Returns what to do with builder and job after a failure: nothing if it is not counted.
pub(crate) fn decide(kind: Kind, counts: &Counts) -> Verdict {
    if !is_counted(kind, counts.consecutive) {
        return NO_CHANGE;
    }
    let verdict = match kind {
        Kind::Isolation => Verdict {
            builder: BuilderVerdict::Fail,
            job: JobVerdict::Fail,
        },
        Kind::Passing => compare_counts(counts, true),
        Kind::Dispatch => compare_counts(counts, false),
        Kind::Cancel => Verdict {
            job: JobVerdict::Cancelled,
            ..compare_counts(counts, false)
        },
    };
    match counts.build {
        Some(_) => verdict,
        None => Verdict {
            job: JobVerdict::Leave,
            ..verdict
        },
    }
}

fn compare_counts(counts: &Counts, may_retry: bool) -> Verdict {
    let (builder, build) = (counts.builder, counts.build.unwrap_or(0));
    let verdict = |builder, job| Verdict { builder, job };
    if builder < build {
        verdict(BuilderVerdict::ClearCount, JobVerdict::Fail)
    } else if builder >= BUILDER_FAILURES {
        // Also for equal counts: with a single builder, the counts stay equal forever.
        verdict(BuilderVerdict::Fail, JobVerdict::Reset)
    } else if builder > build {
        verdict(BuilderVerdict::MarkDirty, JobVerdict::Reset)
    } else if may_retry && builder < JOB_RESET_FAILURES {
        NO_CHANGE
    } else {
        verdict(BuilderVerdict::Leave, JobVerdict::Reset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use BuilderVerdict::{ClearCount, Fail, Leave, MarkDirty};

    fn decided(kind: Kind, builder: i64, build: Option<i64>) -> (BuilderVerdict, JobVerdict) {
        let counts = Counts {
            consecutive: SCANS_PER_FAILURE,
            builder,
            build,
        };
        let verdict = decide(kind, &counts);
        (verdict.builder, verdict.job)
    }

    #[test]
    fn the_verdict_follows_from_kind_and_counts() {
        for (kind, builder, build, expect) in [
            (Kind::Isolation, 1, Some(9), (Fail, JobVerdict::Fail)),
            (Kind::Isolation, 1, None, (Fail, JobVerdict::Leave)),
            (Kind::Passing, 1, Some(1), (Leave, JobVerdict::Leave)),
            (Kind::Passing, 2, Some(2), (Leave, JobVerdict::Leave)),
            (Kind::Passing, 3, Some(3), (Leave, JobVerdict::Reset)),
            (Kind::Passing, 4, Some(4), (Leave, JobVerdict::Reset)),
            (Kind::Dispatch, 1, Some(1), (Leave, JobVerdict::Reset)),
            (Kind::Passing, 2, Some(1), (MarkDirty, JobVerdict::Reset)),
            (Kind::Passing, 4, Some(3), (MarkDirty, JobVerdict::Reset)),
            (Kind::Passing, 5, Some(4), (Fail, JobVerdict::Reset)),
            (Kind::Passing, 5, Some(5), (Fail, JobVerdict::Reset)),
            (Kind::Passing, 1, None, (MarkDirty, JobVerdict::Leave)),
            (Kind::Passing, 5, None, (Fail, JobVerdict::Leave)),
            (Kind::Dispatch, 4, None, (MarkDirty, JobVerdict::Leave)),
            (Kind::Passing, 1, Some(2), (ClearCount, JobVerdict::Fail)),
            (Kind::Dispatch, 4, Some(5), (ClearCount, JobVerdict::Fail)),
            (Kind::Cancel, 1, Some(1), (Leave, JobVerdict::Cancelled)),
            (Kind::Cancel, 2, Some(1), (MarkDirty, JobVerdict::Cancelled)),
            (Kind::Cancel, 5, Some(1), (Fail, JobVerdict::Cancelled)),
            (
                Kind::Cancel,
                1,
                Some(2),
                (ClearCount, JobVerdict::Cancelled),
            ),
        ] {
            let given = format!("{kind:?} {builder} {build:?}");
            assert_eq!(decided(kind, builder, build), expect, "{given}");
        }
    }

    #[test]
    fn passing_failures_count_only_after_several_in_a_row() {
        for consecutive in 1..SCANS_PER_FAILURE {
            let counts = Counts {
                consecutive,
                builder: 9,
                build: Some(1),
            };
            assert!(!is_counted(Kind::Passing, consecutive));
            assert_eq!(decide(Kind::Passing, &counts), NO_CHANGE);
            assert!(is_counted(Kind::Dispatch, consecutive));
        }
        assert!(is_counted(Kind::Passing, SCANS_PER_FAILURE));
    }

    /// A builder whose looks all fail, with a simulated clock.
    struct Failing {
        kind: Kind,
        clock_secs: u32,
        consecutive: u32,
        builder: i64,
    }

    impl Failing {
        const SCAN_SECS: u32 = 15;

        fn new(kind: Kind) -> Self {
            Self {
                kind,
                clock_secs: 0,
                consecutive: 0,
                builder: 0,
            }
        }

        /// Fails looks until a verdict changes something; `build` is the failure count of its job.
        fn until_verdict(&mut self, mut build: Option<&mut i64>) -> Verdict {
            loop {
                self.clock_secs += Self::SCAN_SECS;
                self.consecutive += 1;
                let counts = is_counted(self.kind, self.consecutive);
                if counts {
                    self.builder += 1;
                    build.iter_mut().for_each(|build| **build += 1);
                }
                let given = Counts {
                    consecutive: self.consecutive,
                    builder: self.builder,
                    build: build.as_deref().copied(),
                };
                let verdict = decide(self.kind, &given);
                if counts {
                    self.consecutive = 0;
                }
                if verdict != NO_CHANGE {
                    return verdict;
                }
            }
        }

        fn secs_until_disabled(&mut self) -> u32 {
            while self.until_verdict(None).builder != Fail {}
            self.clock_secs
        }
    }

    #[test]
    fn a_dead_idle_builder_is_disabled_after_six_minutes_and_a_quarter() {
        assert_eq!(
            Failing::new(Kind::Passing).secs_until_disabled(),
            6 * 60 + 15
        );
    }

    #[test]
    fn a_machine_that_cannot_be_reset_is_disabled_after_75_seconds() {
        assert_eq!(Failing::new(Kind::Dispatch).secs_until_disabled(), 75);
    }

    #[test]
    fn a_job_that_kills_builders_fails_on_the_second_builder() {
        let mut build = 0;
        let mut first = Failing::new(Kind::Passing);
        let verdict = first.until_verdict(Some(&mut build));
        assert_eq!((verdict.builder, verdict.job), (Leave, JobVerdict::Reset));
        assert_eq!((first.builder, build, first.clock_secs), (3, 3, 225));

        let mut second = Failing::new(Kind::Passing);
        let verdict = second.until_verdict(Some(&mut build));
        let expect = (ClearCount, JobVerdict::Fail);
        assert_eq!((verdict.builder, verdict.job), expect);
        assert_eq!((second.builder, build), (1, 4));
    }
}
