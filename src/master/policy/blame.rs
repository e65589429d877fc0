//! Pure: whose fault was it, the builder's or the job's?
//!
//! Counts tell (docs/farm.md §3.3): failures that follow a builder from job to job are its own,
//! failures that follow a job from builder to builder are the job's, and while the two counts are
//! equal nobody knows, so the job gets another builder. Counts are added up by the caller, who
//! also carries out the verdict; both in one transaction.

/// Failed scans in a row that make one failure.
pub(crate) const SCANS_PER_FAILURE: u32 = 5;
/// Equal counts at which the job is taken to another builder.
const JOB_RESET_FAILURES: i64 = 3;
/// The count at which a builder is out.
const BUILDER_FAILURES: i64 = 5;

/// How often it went wrong, the present time included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Failed scans of the builder in a row. In memory only; back to 0 once they make a failure,
    /// after it has been decided, and by every scan that succeeds.
    pub(crate) consecutive: u32,
    /// Failures of the builder since it last brought a build to its end.
    pub(crate) builder: i64,
    /// Failures of the build on it since it was last retried; none: the builder has no job.
    pub(crate) build: Option<i64>,
}

/// What sort of failure it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Perhaps it is over by the next scan: the network, a slow answer.
    Passing,
    /// The job has to be freed, or the step tried, at once: a dispatch, a machine's reset.
    Dispatch,
    /// Builder and master disagree about what may not be in doubt.
    Isolation,
    /// What was to be cancelled cannot be; also any failure that counts while a job is being
    /// cancelled.
    Cancel,
}

/// What becomes of both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) builder: BuilderVerdict,
    pub(crate) job: JobVerdict,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BuilderVerdict {
    Leave,
    /// To be cleaned before its next job; a virtual one is reset.
    MarkDirty,
    /// Not its fault: the count goes back to 0.
    ClearCount,
    /// No more jobs until an operator says so.
    Fail,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum JobVerdict {
    /// It stays where it is, or there is none.
    Leave,
    /// Back to the queue.
    Reset,
    /// FAILEDTOBUILD, unless it is FULLYBUILT already: then it only leaves the queue.
    Fail,
    Cancelled,
}

const NO_CHANGE: Verdict = Verdict {
    builder: BuilderVerdict::Leave,
    job: JobVerdict::Leave,
};

/// Tells whether a failure is to be counted, against the builder and its build if it has one.
/// `consecutive` counts failed scans, this one included.
pub(crate) fn is_counted(kind: Kind, consecutive: u32) -> bool {
    match kind {
        Kind::Passing => consecutive >= SCANS_PER_FAILURE,
        Kind::Dispatch | Kind::Isolation | Kind::Cancel => true,
    }
}

/// Returns what becomes of builder and job after a failure. One that does not count changes
/// nothing.
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
        // Also where nobody knows whose fault it is: with one builder nobody ever would.
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
    fn each_row_of_the_table() {
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
    fn only_a_row_of_passing_failures_counts() {
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

    /// A builder every scan of which fails, on a clock of its own.
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

        /// Scans until a verdict falls on somebody; `build` is the count of its job.
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

        fn until_out(&mut self) -> u32 {
            while self.until_verdict(None).builder != Fail {}
            self.clock_secs
        }
    }

    #[test]
    fn a_dead_idle_builder_is_out_after_six_minutes_and_a_quarter() {
        assert_eq!(Failing::new(Kind::Passing).until_out(), 6 * 60 + 15);
    }

    #[test]
    fn a_machine_that_cannot_be_reset_is_out_after_75_seconds() {
        assert_eq!(Failing::new(Kind::Dispatch).until_out(), 75);
    }

    #[test]
    fn a_job_that_kills_builders_is_failed_by_the_second() {
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
