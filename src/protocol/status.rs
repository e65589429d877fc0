//! Pure: the states of a builder and the verdicts of a build, with their wire strings.
//!
//! docs/wire.md §1.5 lists them. Other code never compares a status string. The slave decides the
//! transitions between states.

use serde::{Deserialize, Serialize};

/// The state of a builder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BuilderStatus {
    Idle,
    Building,
    /// The build has ended and its results wait for the master.
    Waiting,
    Aborting,
}

/// First item of the tuple form for an aborted build that waits for `clean`. Only the protocol of
/// 2008 has this separate state (docs/wire.md §2.1).
pub(super) const BUILDER_ABORTED: &str = "BuilderStatus.ABORTED";

impl BuilderStatus {
    pub(crate) const ALL: [Self; 4] = [Self::Idle, Self::Building, Self::Waiting, Self::Aborting];

    pub(crate) fn wire(self) -> &'static str {
        match self {
            Self::Idle => "BuilderStatus.IDLE",
            Self::Building => "BuilderStatus.BUILDING",
            Self::Waiting => "BuilderStatus.WAITING",
            Self::Aborting => "BuilderStatus.ABORTING",
        }
    }

    /// Parses a wire string.
    pub(crate) fn parse(wire: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.wire() == wire)
    }
}

/// Shows the word without its prefix, `IDLE`.
impl std::fmt::Display for BuilderStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.wire().trim_start_matches("BuilderStatus."))
    }
}

/// The build statuses that a master is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdicts {
    /// Each verdict as it is.
    Exact,
    /// Only verdicts that today's Launchpad does not count against the builder wrongly.
    Launchpad,
}

/// How a build ended. Stored as the word without its prefix, `OK`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) enum BuildStatus {
    Ok,
    /// A build dependency is missing; retry when it is available (dep-wait).
    DepFail,
    /// The failure says nothing about the package; retry later (give-back).
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

    /// Parses a wire string.
    pub(crate) fn parse(wire: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.wire() == wire)
    }

    /// Returns the status that a master is told for a build that ended with this one.
    ///
    /// Today's Launchpad counts GIVENBACK and BUILDERFAIL as failures of the builder, and disables
    /// a builder after five (docs/wire.md §1.8). GIVENBACK says that the archive failed, for which
    /// launchpad-buildd answers CHROOTFAIL. BUILDERFAIL stays: it says that this builder failed.
    pub(crate) fn told(self, verdicts: Verdicts) -> Self {
        match (verdicts, self) {
            (Verdicts::Launchpad, Self::GivenBack) => Self::ChrootFail,
            (
                Verdicts::Exact | Verdicts::Launchpad,
                Self::Ok
                | Self::DepFail
                | Self::GivenBack
                | Self::PackageFail
                | Self::ChrootFail
                | Self::BuilderFail
                | Self::Aborted,
            ) => self,
        }
    }

    /// Returns whether a build with this status reports files and dependencies
    /// (docs/wire.md §1.5).
    pub(crate) fn has_results(self) -> bool {
        matches!(self, Self::Ok | Self::PackageFail | Self::DepFail)
    }
}

/// Shows the word without its prefix, `OK`.
impl std::fmt::Display for BuildStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.wire().trim_start_matches("BuildStatus."))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wire_strings_round_trip() {
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
    fn only_a_failed_archive_is_told_differently_to_launchpad() {
        use BuildStatus::{Aborted, BuilderFail, ChrootFail, DepFail, GivenBack, Ok, PackageFail};
        let table = [
            (Ok, Ok),
            (DepFail, DepFail),
            (GivenBack, ChrootFail),
            (PackageFail, PackageFail),
            (ChrootFail, ChrootFail),
            (BuilderFail, BuilderFail),
            (Aborted, Aborted),
        ];
        assert_eq!(
            table.map(|(status, _)| status).len(),
            BuildStatus::ALL.len()
        );
        for (status, told) in table {
            assert_eq!(status.told(Verdicts::Exact), status);
            assert_eq!(status.told(Verdicts::Launchpad), told, "{status}");
        }
    }

    #[test]
    fn a_build_status_is_stored_as_its_display_form() {
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
