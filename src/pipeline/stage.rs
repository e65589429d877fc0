//! Pure: decides which stage comes next, and the verdict after a failure.
//!
//! This is the table of docs/wire.md §3.1. A failure does not end a build: the closing stages
//! always run. The first failure decides the verdict ([`Record`]).
//!
//! ```text
//! INIT ─ UNPACK ─ MOUNT ─ [OGRE] ─ [SOURCES] ─ [KEYS] ─ UPDATE ─ SBUILD
//!   │       │       │        └────────┴───────────┴────────┴────────┴── REAP
//!   └───────┴───┐   └───────────────────────────────────────────────── UMOUNT
//!               └───────────────────────────────────────────────────── CLEANUP ─ end
//! ```

use serde::{Deserialize, Serialize};

use crate::protocol::{BuildArgs, BuildStatus};

/// One step of a build.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) enum Stage {
    Init,
    Unpack,
    Mount,
    Ogre,
    Sources,
    Keys,
    Update,
    Sbuild,
    Reap,
    Umount,
    Cleanup,
}

impl Stage {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Init => "INIT",
            Self::Unpack => "UNPACK",
            Self::Mount => "MOUNT",
            Self::Ogre => "OGRE",
            Self::Sources => "SOURCES",
            Self::Keys => "KEYS",
            Self::Update => "UPDATE",
            Self::Sbuild => "SBUILD",
            Self::Reap => "REAP",
            Self::Umount => "UMOUNT",
            Self::Cleanup => "CLEANUP",
        }
    }

    /// True for the stages that run even after a failure or an abort.
    pub(crate) const fn closes(self) -> bool {
        matches!(self, Self::Reap | Self::Umount | Self::Cleanup)
    }

    /// The verdict when this stage fails without a more specific one. A failed REAP is ignored, as
    /// in launchpad-buildd.
    pub(crate) const fn failure_status(self) -> Option<BuildStatus> {
        match self {
            Self::Init | Self::Umount | Self::Cleanup => Some(BuildStatus::BuilderFail),
            Self::Unpack | Self::Mount | Self::Ogre | Self::Sources | Self::Keys | Self::Update => {
                Some(BuildStatus::ChrootFail)
            }
            Self::Sbuild => Some(BuildStatus::PackageFail),
            Self::Reap => None,
        }
    }

    /// True if a build with these arguments has this stage.
    fn wanted(self, args: &BuildArgs) -> bool {
        match self {
            Self::Ogre => args.ogrecomponent.is_some(),
            Self::Sources => !args.archives.is_empty(),
            Self::Keys => !args.trusted_keys.is_empty(),
            // The machine is discarded after the build.
            Self::Umount | Self::Cleanup => !args.fast_cleanup,
            Self::Init | Self::Unpack | Self::Mount | Self::Update | Self::Sbuild | Self::Reap => {
                true
            }
        }
    }

    /// Returns the stage after this one; `None` at the end of the build.
    pub(crate) fn next(self, succeeded: bool, args: &BuildArgs) -> Option<Self> {
        let candidate = match (self, succeeded) {
            (Self::Init | Self::Unpack, false) => Self::Cleanup,
            (Self::Mount, false) => Self::Umount,
            (Self::Ogre | Self::Sources | Self::Keys | Self::Update, false) | (Self::Sbuild, _) => {
                Self::Reap
            }
            (Self::Init, true) => Self::Unpack,
            (Self::Unpack, true) => Self::Mount,
            (Self::Mount, true) => Self::Ogre,
            (Self::Ogre, true) => Self::Sources,
            (Self::Sources, true) => Self::Keys,
            (Self::Keys, true) => Self::Update,
            (Self::Update, true) => Self::Sbuild,
            (Self::Reap, _) => Self::Umount,
            (Self::Umount, _) => Self::Cleanup,
            (Self::Cleanup, _) => return None,
        };
        if candidate.wanted(args) {
            Some(candidate)
        } else {
            candidate.next(true, args)
        }
    }
}

/// The reason of a build whose shim got SIGTERM, but not from its master.
const INTERRUPTED: &str = "interrupted by SIGTERM without an abort, as by a shutdown of the host";

/// The failures of a build so far. The first failure counts; an interruption overrides it, an abort
/// overrides both, and processes that could not be killed override all.
#[derive(Debug, Clone, Default)]
pub(crate) struct Record {
    failure: Option<Failure>,
    interrupted: bool,
    aborted: bool,
    stuck: bool,
}

/// A verdict, with one sentence that explains it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) status: BuildStatus,
    pub(crate) reason: String,
    /// The missing relations of a dep-wait, else empty.
    pub(crate) dependencies: String,
}

impl Failure {
    pub(crate) fn new(status: BuildStatus, reason: impl Into<String>) -> Self {
        Self {
            status,
            reason: reason.into(),
            dependencies: String::new(),
        }
    }
}

impl Record {
    /// Records a failure, unless there is an earlier one.
    pub(crate) fn fail(&mut self, failure: Failure) {
        self.failure.get_or_insert(failure);
    }

    /// Records that an abort was requested.
    pub(crate) fn abort(&mut self) {
        self.aborted = true;
    }

    /// Records that somebody other than the master ends the build. It counts only if the build has
    /// not succeeded: what fails may fail because its processes got the signal too.
    pub(crate) fn interrupt(&mut self) {
        self.interrupted = true;
    }

    /// Records that processes could not be killed.
    pub(crate) fn stuck(&mut self) {
        self.stuck = true;
    }

    pub(crate) fn verdict(&self) -> Failure {
        if self.stuck {
            return Failure::new(
                BuildStatus::BuilderFail,
                "processes of the build could not be killed",
            );
        }
        if self.aborted {
            return Failure::new(BuildStatus::Aborted, "aborted on request");
        }
        if self.interrupted && self.failure.is_some() {
            return Failure::new(BuildStatus::GivenBack, INTERRUPTED);
        }
        self.failure
            .clone()
            .unwrap_or_else(|| Failure::new(BuildStatus::Ok, "built"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk(args: &BuildArgs, failing: Option<Stage>) -> String {
        let mut names = Vec::new();
        let mut stage = Some(Stage::Init);
        while let Some(now) = stage {
            names.push(now.name());
            stage = now.next(failing != Some(now), args);
        }
        names.join(" ")
    }

    fn full() -> BuildArgs {
        BuildArgs {
            archives: vec!["deb http://a b c".into()],
            trusted_keys: vec!["AA==".into()],
            ogrecomponent: Some(crate::protocol::Suite::parse("main").unwrap()),
            ..BuildArgs::default()
        }
    }

    #[test]
    fn every_failing_stage_leads_to_its_closing_stages() {
        let table = [
            (
                None,
                "INIT UNPACK MOUNT OGRE SOURCES KEYS UPDATE SBUILD REAP UMOUNT CLEANUP",
            ),
            (Some(Stage::Init), "INIT CLEANUP"),
            (Some(Stage::Unpack), "INIT UNPACK CLEANUP"),
            (Some(Stage::Mount), "INIT UNPACK MOUNT UMOUNT CLEANUP"),
            (
                Some(Stage::Ogre),
                "INIT UNPACK MOUNT OGRE REAP UMOUNT CLEANUP",
            ),
            (
                Some(Stage::Sources),
                "INIT UNPACK MOUNT OGRE SOURCES REAP UMOUNT CLEANUP",
            ),
            (
                Some(Stage::Keys),
                "INIT UNPACK MOUNT OGRE SOURCES KEYS REAP UMOUNT CLEANUP",
            ),
            (
                Some(Stage::Update),
                "INIT UNPACK MOUNT OGRE SOURCES KEYS UPDATE REAP UMOUNT CLEANUP",
            ),
            (
                Some(Stage::Sbuild),
                "INIT UNPACK MOUNT OGRE SOURCES KEYS UPDATE SBUILD REAP UMOUNT CLEANUP",
            ),
            (
                Some(Stage::Umount),
                "INIT UNPACK MOUNT OGRE SOURCES KEYS UPDATE SBUILD REAP UMOUNT CLEANUP",
            ),
        ];
        for (failing, expect) in table {
            assert_eq!(walk(&full(), failing), expect, "{failing:?}");
        }
    }

    #[test]
    fn stages_that_the_arguments_do_not_need_are_left_out() {
        let plain = BuildArgs::default();
        assert_eq!(
            walk(&plain, None),
            "INIT UNPACK MOUNT UPDATE SBUILD REAP UMOUNT CLEANUP"
        );
        let fast = BuildArgs {
            fast_cleanup: true,
            ..BuildArgs::default()
        };
        assert_eq!(walk(&fast, None), "INIT UNPACK MOUNT UPDATE SBUILD REAP");
        assert_eq!(walk(&fast, Some(Stage::Unpack)), "INIT UNPACK");
    }

    #[test]
    fn an_interruption_after_the_build_has_succeeded_changes_nothing() {
        let mut record = Record::default();
        record.interrupt();
        assert_eq!(record.verdict().status, BuildStatus::Ok);
    }

    #[test]
    fn the_first_failure_counts_and_an_abort_overrides_it() {
        let mut record = Record::default();
        assert_eq!(record.verdict().status, BuildStatus::Ok);
        record.fail(Failure::new(BuildStatus::ChrootFail, "first"));
        record.fail(Failure::new(BuildStatus::BuilderFail, "second"));
        assert_eq!(record.verdict().reason, "first");
        record.interrupt();
        assert_eq!(record.verdict().status, BuildStatus::GivenBack);
        record.abort();
        assert_eq!(record.verdict().status, BuildStatus::Aborted);
        record.stuck();
        assert_eq!(record.verdict().status, BuildStatus::BuilderFail);
    }
}
