//! The numbers of enumerations, for SQL text.
//!
//! Most queries could use a parameter. A partial index serves only queries whose text contains the
//! number.

use crate::master::model::{
    ArchivePurpose, AttemptVerdict, BuildState, CleanStatus, JobStatus, PublishingStatus,
    ResetProtocol, SeriesStatus,
};

pub(super) const NEEDS_BUILD: i64 = BuildState::NeedsBuild.number();
pub(super) const BUILDING: i64 = BuildState::Building.number();
pub(super) const DEP_WAIT: i64 = BuildState::ManualDepWait.number();
pub(super) const UPLOADING: i64 = BuildState::Uploading.number();

/// The states of builds that have ended, which only an operator changes: FULLYBUILT,
/// FAILEDTOBUILD, CHROOTWAIT, SUPERSEDED, FAILEDTOUPLOAD and CANCELLED.
pub(super) const ENDED: &str = "1, 2, 4, 5, 7, 10";

pub(super) const WAITING: i64 = JobStatus::Waiting.number();
pub(super) const RUNNING: i64 = JobStatus::Running.number();
pub(super) const CANCELLING: i64 = JobStatus::Cancelling.number();
pub(super) const SUSPENDED: i64 = JobStatus::Suspended.number();

pub(super) const DEP_FAIL: i64 = AttemptVerdict::DepFail.number();
pub(super) const BUILDER_FAIL: i64 = AttemptVerdict::BuilderFail.number();

pub(super) const CLEAN: i64 = CleanStatus::Clean.number();
pub(super) const CLEANING: i64 = CleanStatus::Cleaning.number();

pub(super) const ASYNCHRONOUS: i64 = ResetProtocol::Asynchronous.number();
pub(super) const PRIMARY: i64 = ArchivePurpose::Primary.number();
pub(super) const OBSOLETE: i64 = SeriesStatus::Obsolete.number();
pub(super) const PENDING: i64 = PublishingStatus::Pending.number();
pub(super) const PUBLISHED: i64 = PublishingStatus::Published.number();
/// `chroot.image_type`; there is no other kind.
pub(super) const CHROOT_TARBALL: i64 = 0;
/// `builder.protocol` before the slave has answered.
pub(super) const UNKNOWN_FORM: i64 = 0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_builds_that_have_ended_neither_wait_nor_run() {
        let ended: Vec<BuildState> = ENDED
            .split(", ")
            .map(|number| BuildState::from_number(number.parse().unwrap()).unwrap())
            .collect();
        for state in BuildState::ALL {
            let wants_retry = state.is_retriable() && *state != BuildState::ManualDepWait;
            let expect = wants_retry || *state == BuildState::FullyBuilt;
            assert_eq!(ended.contains(state), expect, "{state}");
        }
    }
}
