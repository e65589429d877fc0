//! Pure: maps a slave's verdict to the outcome of the build (docs/farm.md §2.10, §3.8).
//!
//! The caller stores the log first, except for [`Outcome::Unexpected`]. `blame` decides about the
//! builder if a failure is counted. Otherwise the next look finds the builder DIRTY and cleans it.

use crate::master::model::BuildState;
use crate::protocol::BuildStatus;

/// The consequence of a verdict for the build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The build succeeded: download its results.
    Built,
    /// The build ends in this state, and its job is removed.
    Ended {
        state: BuildState,
        /// Whether to store the slave's dependency line.
        keeps_dependencies: bool,
        /// Whether to add a notification.
        notify: bool,
    },
    /// Return the job to the queue for a while.
    GiveBack,
    /// Count a failure against the builder only, and return the job to the queue.
    BuilderAtFault,
    /// The build cannot have this verdict: count a failure.
    Unexpected,
}

/// Returns the outcome for a verdict. Under every verdict, a build that was being cancelled is
/// CANCELLED, and its results are ignored.
pub(crate) fn outcome(status: BuildStatus, cancelling: bool) -> Outcome {
    let ended = |state, keeps_dependencies, notify| Outcome::Ended {
        state,
        keeps_dependencies,
        notify,
    };
    if cancelling {
        return ended(BuildState::Cancelled, false, false);
    }
    match status {
        BuildStatus::Ok => Outcome::Built,
        BuildStatus::PackageFail => ended(BuildState::FailedToBuild, false, true),
        BuildStatus::DepFail => ended(BuildState::ManualDepWait, true, false),
        BuildStatus::ChrootFail => ended(BuildState::ChrootWait, false, true),
        BuildStatus::GivenBack => Outcome::GiveBack,
        BuildStatus::BuilderFail => Outcome::BuilderAtFault,
        // The master did not abort the build.
        BuildStatus::Aborted => Outcome::Unexpected,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [BuildStatus; 7] = [
        BuildStatus::Ok,
        BuildStatus::PackageFail,
        BuildStatus::DepFail,
        BuildStatus::ChrootFail,
        BuildStatus::GivenBack,
        BuildStatus::BuilderFail,
        BuildStatus::Aborted,
    ];

    fn ended(state: BuildState, keeps_dependencies: bool, notify: bool) -> Outcome {
        Outcome::Ended {
            state,
            keeps_dependencies,
            notify,
        }
    }

    #[test]
    fn each_verdict_has_its_outcome() {
        let expected = [
            Outcome::Built,
            ended(BuildState::FailedToBuild, false, true),
            ended(BuildState::ManualDepWait, true, false),
            ended(BuildState::ChrootWait, false, true),
            Outcome::GiveBack,
            Outcome::BuilderAtFault,
            Outcome::Unexpected,
        ];
        for (status, expect) in ALL.into_iter().zip(expected) {
            assert_eq!(outcome(status, false), expect, "{status}");
        }
    }

    #[test]
    fn a_build_being_cancelled_is_cancelled_under_every_verdict() {
        for status in ALL {
            let cancelled = ended(BuildState::Cancelled, false, false);
            assert_eq!(outcome(status, true), cancelled, "{status}");
        }
    }
}
