//! Pure: which stage comes next, and what does a failed stage make of the build?
//!
//! The table of docs/wire.md §3.1. A failure never ends a build by itself: the closing stages
//! always run, and the first failure keeps the verdict ([`Record`]).
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
    /// The stage's name in logs.
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

    /// Tells whether the stage runs even after a failure or an abort.
    pub(crate) const fn closes(self) -> bool {
        matches!(self, Self::Reap | Self::Umount | Self::Cleanup)
    }

    /// The verdict when this stage fails for a reason nobody knows better; a failed REAP is
    /// ignored, as in the reference.
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

    /// Tells whether a build with these arguments has this stage at all.
    fn wanted(self, args: &BuildArgs) -> bool {
        match self {
            Self::Ogre => args.ogrecomponent.is_some(),
            Self::Sources => !args.archives.is_empty(),
            Self::Keys => !args.trusted_keys.is_empty(),
            // The machine will be thrown away.
            Self::Umount | Self::Cleanup => !args.fast_cleanup,
            Self::Init | Self::Unpack | Self::Mount | Self::Update | Self::Sbuild | Self::Reap => {
                true
            }
        }
    }

    /// Returns the stage after this one, given that it went well or not; none is the end.
    pub(crate) fn next(self, went_well: bool, args: &BuildArgs) -> Option<Self> {
        let candidate = match (self, went_well) {
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

/// What became of the build so far: the first failure wins, an abort outweighs it, and only an
/// abort that could not be carried out outweighs that.
#[derive(Debug, Clone, Default)]
pub(crate) struct Record {
    failure: Option<Failure>,
    aborted: bool,
    stuck: bool,
}

/// A verdict other than OK, with the sentence that says why.
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
    /// Notes a failure; one that came before it stays.
    pub(crate) fn fail(&mut self, failure: Failure) {
        self.failure.get_or_insert(failure);
    }

    /// Notes that somebody asked for an abort.
    pub(crate) fn abort(&mut self) {
        self.aborted = true;
    }

    /// Notes that processes outlived an abort.
    pub(crate) fn stuck(&mut self) {
        self.stuck = true;
    }

    /// Returns the verdict, the sentence for it and the missing relations.
    pub(crate) fn verdict(&self) -> Failure {
        if self.stuck {
            return Failure::new(
                BuildStatus::BuilderFail,
                "processes of the build outlived its end",
            );
        }
        if self.aborted {
            return Failure::new(BuildStatus::Aborted, "aborted on request");
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
    fn stages_nobody_asked_for_are_left_out() {
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
    fn the_first_failure_wins_and_an_abort_outweighs_it() {
        let mut record = Record::default();
        assert_eq!(record.verdict().status, BuildStatus::Ok);
        record.fail(Failure::new(BuildStatus::ChrootFail, "first"));
        record.fail(Failure::new(BuildStatus::BuilderFail, "second"));
        assert_eq!(record.verdict().reason, "first");
        record.abort();
        assert_eq!(record.verdict().status, BuildStatus::Aborted);
        record.stuck();
        assert_eq!(record.verdict().status, BuildStatus::BuilderFail);
    }
}
