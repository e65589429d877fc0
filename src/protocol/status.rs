//! Pure: how are the states of a builder and the verdicts on a build spelled on the wire?
//!
//! Knows the words of docs/wire.md §1.5, not what leads from one to another. Used by everything that
//! holds a state; nobody else compares a status string.

use serde::{Deserialize, Serialize};

/// What a builder is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BuilderStatus {
    Idle,
    Building,
    /// The build is over and its results wait to be collected.
    Waiting,
    Aborting,
}

/// First item of the tuple form for an aborted build that waits to be cleaned. It is a state of its
/// own in the protocol of 2008 only (docs/wire.md §2.1).
pub(super) const BUILDER_ABORTED: &str = "BuilderStatus.ABORTED";

impl BuilderStatus {
    /// Every one of them.
    pub(crate) const ALL: [Self; 4] = [Self::Idle, Self::Building, Self::Waiting, Self::Aborting];

    /// Returns the wire string.
    pub(crate) fn wire(self) -> &'static str {
        match self {
            Self::Idle => "BuilderStatus.IDLE",
            Self::Building => "BuilderStatus.BUILDING",
            Self::Waiting => "BuilderStatus.WAITING",
            Self::Aborting => "BuilderStatus.ABORTING",
        }
    }

    /// Returns the status a wire string means.
    pub(crate) fn parse(wire: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.wire() == wire)
    }
}

/// Shows the bare word, `IDLE`.
impl std::fmt::Display for BuilderStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.wire().trim_start_matches("BuilderStatus."))
    }
}

/// How a build ended. Stored by its bare word, `OK`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) enum BuildStatus {
    Ok,
    /// A build dependency is missing: try again when it is there.
    DepFail,
    /// Nothing said about the package: try again later.
    GivenBack,
    PackageFail,
    ChrootFail,
    BuilderFail,
    Aborted,
}

impl BuildStatus {
    pub(crate) const ALL: [Self; 7] = [
        Self::Ok,
        Self::DepFail,
        Self::GivenBack,
        Self::PackageFail,
        Self::ChrootFail,
        Self::BuilderFail,
        Self::Aborted,
    ];

    /// Returns the wire string.
    pub(crate) fn wire(self) -> &'static str {
        match self {
            Self::Ok => "BuildStatus.OK",
            Self::DepFail => "BuildStatus.DEPFAIL",
            Self::GivenBack => "BuildStatus.GIVENBACK",
            Self::PackageFail => "BuildStatus.PACKAGEFAIL",
            Self::ChrootFail => "BuildStatus.CHROOTFAIL",
            Self::BuilderFail => "BuildStatus.BUILDERFAIL",
            Self::Aborted => "BuildStatus.ABORTED",
        }
    }

    /// Returns the status a wire string means.
    pub(crate) fn parse(wire: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.wire() == wire)
    }

    /// Tells whether a build that ended so reports files and dependencies (docs/wire.md §1.5).
    pub(crate) fn has_results(self) -> bool {
        matches!(self, Self::Ok | Self::PackageFail | Self::DepFail)
    }
}

/// Shows the bare word, `OK`.
impl std::fmt::Display for BuildStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.wire().trim_start_matches("BuildStatus."))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wire_strings_read_back() {
        for status in BuilderStatus::ALL {
            assert_eq!(BuilderStatus::parse(status.wire()), Some(status));
        }
        for status in BuildStatus::ALL {
            assert_eq!(BuildStatus::parse(status.wire()), Some(status));
        }
        for unknown in [
            "",
            "IDLE",
            "BuilderStatus.idle",
            "BuilderStatus.OK",
            BUILDER_ABORTED,
        ] {
            assert_eq!(BuilderStatus::parse(unknown), None);
            assert_eq!(BuildStatus::parse(unknown), None);
        }
    }

    #[test]
    fn a_build_status_is_stored_as_it_is_shown() {
        for status in BuildStatus::ALL {
            let stored = serde_json::to_string(&status).unwrap();
            assert_eq!(stored, format!("\"{status}\""));
            assert_eq!(
                serde_json::from_str::<BuildStatus>(&stored).unwrap(),
                status
            );
        }
        assert_eq!(BuildStatus::PackageFail.to_string(), "PACKAGEFAIL");
        assert_eq!(BuilderStatus::Idle.to_string(), "IDLE");
    }
}
