//! Pure: what does a slave's verdict mean for the build?
//!
//! One row for each way a build ends (docs/farm.md §2.10, §3.8, with the two verdicts of 2008 that
//! §6.4 keeps). Fetches nothing: whatever comes out, the log is stored first, except where a
//! failure is judged. What becomes of the builder is `blame`'s, or the next scan's, which finds it
//! DIRTY.

use crate::master::model::BuildState;
use crate::protocol::BuildStatus;

/// What to do about a build that is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It was built: results are to be gathered.
    Built,
    /// It ends here: the state is its last, and the queue row goes.
    Ended {
        state: BuildState,
        /// The slave's line is what the build waits for.
        keeps_dependencies: bool,
        /// People are told.
        notify: bool,
    },
    /// Back to the queue, not to be tried again for a while.
    GiveBack,
    /// The builder has failed: counted against it alone, and the job is reset whatever is judged.
    BuilderAtFault,
    /// A verdict the build cannot have: a failure like any other, to be judged.
    Unexpected,
}

/// Returns what a verdict means. `cancelling` says that somebody wanted the build to stop: then it
/// has stopped, whatever it came to in the meantime, and its results are not wanted.
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
        // Nobody here asked for it.
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
    fn each_verdict() {
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
    fn what_was_to_stop_has_stopped() {
        for status in ALL {
            let cancelled = ended(BuildState::Cancelled, false, false);
            assert_eq!(outcome(status, true), cancelled, "{status}");
        }
    }
}
