//! Pure: the enumerations of docs/farm.md §1.1, and the strings derived from names (§1.3).
//!
//! The stored numbers are Launchpad's. All times in `master` are milliseconds since 1970, UTC.

use std::fmt;
use std::str::FromStr;

use crate::protocol::BuildStatus;

/// An enumeration that is stored as a small number and shown as a word.
macro_rules! stored {
    ($(#[$doc:meta])* $name:ident {
        $($(#[$vdoc:meta])* $variant:ident = $number:literal, $word:literal;)*
    }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub(crate) enum $name { $($(#[$vdoc])* $variant = $number,)* }

        #[allow(dead_code, reason = "each enumeration uses what it needs")]
        impl $name {
            pub(crate) const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Returns the number in the database.
            pub(crate) const fn number(self) -> i64 {
                self as i64
            }

            /// Returns the value stored as `number`, if it is valid.
            pub(crate) fn from_number(number: i64) -> Option<Self> {
                Self::ALL.iter().copied().find(|one| one.number() == number)
            }

            /// Returns the word for output, arguments and JSON.
            pub(crate) fn word(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.word())
            }
        }

        impl FromStr for $name {
            type Err = String;

            /// Parses a word, in any case.
            fn from_str(text: &str) -> Result<Self, String> {
                let found = Self::ALL.iter().find(|one| one.word().eq_ignore_ascii_case(text));
                found.copied().ok_or_else(|| {
                    let words: Vec<&str> = Self::ALL.iter().map(|one| one.word()).collect();
                    format!("{text:?} is none of {}", words.join(", "))
                })
            }
        }
    };
}

stored! {
    /// The state of a build. It outlives the build's job.
    BuildState {
        NeedsBuild = 0, "NEEDSBUILD";
        FullyBuilt = 1, "FULLYBUILT";
        FailedToBuild = 2, "FAILEDTOBUILD";
        ManualDepWait = 3, "MANUALDEPWAIT";
        ChrootWait = 4, "CHROOTWAIT";
        Superseded = 5, "SUPERSEDED";
        Building = 6, "BUILDING";
        FailedToUpload = 7, "FAILEDTOUPLOAD";
        Uploading = 8, "UPLOADING";
        Cancelling = 9, "CANCELLING";
        Cancelled = 10, "CANCELLED";
        Gathering = 11, "GATHERING";
    }
}

stored! {
    /// The status of a job. A build has a job only while it waits or runs.
    JobStatus {
        Waiting = 0, "WAITING";
        Running = 1, "RUNNING";
        Cancelling = 2, "CANCELLING";
        Suspended = 3, "SUSPENDED";
    }
}

stored! {
    /// The end of an attempt: the slave's verdict, or what the master found instead.
    AttemptVerdict {
        Ok = 0, "OK";
        PackageFail = 1, "PACKAGEFAIL";
        DepFail = 2, "DEPFAIL";
        ChrootFail = 3, "CHROOTFAIL";
        GivenBack = 4, "GIVENBACK";
        BuilderFail = 5, "BUILDERFAIL";
        Aborted = 6, "ABORTED";
        /// An operator cancelled the build.
        Cancelled = 7, "CANCELLED";
        /// The slave no longer had the build.
        Lost = 8, "LOST";
        /// The dispatch failed, or the slave stopped answering.
        Failed = 9, "FAILED";
        /// The master took the job back, because its builder was disabled.
        Withdrawn = 10, "WITHDRAWN";
    }
}

stored! {
    /// The clean status of a builder. Only a CLEAN one gets a job; one with a job is DIRTY.
    CleanStatus {
        Clean = 0, "CLEAN";
        Dirty = 1, "DIRTY";
        Cleaning = 2, "CLEANING";
    }
}

stored! {
    /// The protocol by which a virtual builder is reset (docs/farm.md §3.4).
    ResetProtocol {
        /// The slave is up when the command exits.
        Synchronous = 11, "1.1";
        /// The command only accepts the request. `master builder clean` reports its end.
        Asynchronous = 20, "2.0";
    }
}

stored! {
    /// The part of a series that a package belongs to.
    Pocket {
        Release = 0, "RELEASE";
        Security = 10, "SECURITY";
        Updates = 20, "UPDATES";
        Proposed = 30, "PROPOSED";
        Backports = 40, "BACKPORTS";
    }
}

stored! {
    /// The status of a series.
    SeriesStatus {
        Experimental = 1, "EXPERIMENTAL";
        Development = 2, "DEVELOPMENT";
        Frozen = 3, "FROZEN";
        Current = 4, "CURRENT";
        Supported = 5, "SUPPORTED";
        Obsolete = 6, "OBSOLETE";
    }
}

stored! {
    /// The status of a source in an archive.
    PublishingStatus {
        Pending = 1, "PENDING";
        Published = 2, "PUBLISHED";
        Superseded = 3, "SUPERSEDED";
        Deleted = 4, "DELETED";
        Obsolete = 5, "OBSOLETE";
    }
}

stored! {
    /// The purpose of an archive.
    ArchivePurpose {
        Primary = 1, "PRIMARY";
        Ppa = 2, "PPA";
        Embargoed = 3, "EMBARGOED";
        Partner = 4, "PARTNER";
        Obsolete = 5, "OBSOLETE";
        /// A rebuild of another archive.
        Copy = 6, "COPY";
    }
}

stored! {
    /// The urgency of a version, from its changelog.
    Urgency {
        Low = 1, "LOW";
        Medium = 2, "MEDIUM";
        High = 3, "HIGH";
        Emergency = 4, "EMERGENCY";
    }
}

stored! {
    /// The type of a file of a source package.
    SourceFileType {
        Dsc = 3, "DSC";
        Orig = 4, "ORIG";
        Diff = 5, "DIFF";
        Tarball = 6, "TARBALL";
    }
}

impl BuildState {
    /// Returns whether `retry` accepts a build in this state (docs/farm.md §1.1).
    pub(crate) fn is_retriable(self) -> bool {
        match self {
            Self::FailedToBuild
            | Self::ManualDepWait
            | Self::ChrootWait
            | Self::FailedToUpload
            | Self::Superseded
            | Self::Cancelled => true,
            Self::NeedsBuild
            | Self::FullyBuilt
            | Self::Building
            | Self::Uploading
            | Self::Cancelling
            | Self::Gathering => false,
        }
    }
}

impl From<BuildStatus> for AttemptVerdict {
    fn from(status: BuildStatus) -> Self {
        match status {
            BuildStatus::Ok => Self::Ok,
            BuildStatus::PackageFail => Self::PackageFail,
            BuildStatus::DepFail => Self::DepFail,
            BuildStatus::ChrootFail => Self::ChrootFail,
            BuildStatus::GivenBack => Self::GivenBack,
            BuildStatus::BuilderFail => Self::BuilderFail,
            BuildStatus::Aborted => Self::Aborted,
        }
    }
}

impl SourceFileType {
    /// Returns the type of a file, by its name.
    pub(crate) fn of(name: &str) -> Self {
        if name.ends_with(".dsc") {
            Self::Dsc
        } else if name.contains(".orig") {
            Self::Orig
        } else if name.contains(".diff.") || name.contains(".debian.tar.") {
            Self::Diff
        } else {
            Self::Tarball
        }
    }
}

/// An archive, without its secret.
#[derive(Clone, Debug)]
pub(crate) struct Archive {
    pub(crate) id: i64,
    pub(crate) distribution_id: i64,
    pub(crate) distribution: String,
    pub(crate) owner: String,
    pub(crate) name: String,
    pub(crate) purpose: ArchivePurpose,
    pub(crate) private: bool,
    pub(crate) virtualized: bool,
    pub(crate) enabled: bool,
    pub(crate) relative_score: i64,
    /// The URL for apt; if empty, builds use the apt sources of the chroot.
    pub(crate) base_url: String,
    pub(crate) has_secret: bool,
    /// Whether its builds also make packages with debug symbols.
    pub(crate) debug_symbols: bool,
    /// The active build profiles of its builds, separated by blanks.
    pub(crate) profiles: String,
    pub(crate) retention: Retention,
}

/// The past that an archive keeps (docs/farm.md §3.12). 0 keeps everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Retention {
    /// Attempts of a build that has ended.
    pub(crate) attempts: u32,
    /// Days that everything is kept at least.
    pub(crate) days: u32,
    /// Versions of a source package and of a binary package.
    pub(crate) versions: u32,
}

/// The defaults of the schema.
impl Default for Retention {
    fn default() -> Self {
        Self {
            attempts: 3,
            days: 90,
            versions: 3,
        }
    }
}

impl Archive {
    /// Returns the archive's name within its distribution: `primary`, or `OWNER/NAME`.
    pub(crate) fn short_name(&self) -> String {
        match self.owner.as_str() {
            "" => self.name.clone(),
            owner => format!("{owner}/{}", self.name),
        }
    }
}

/// The names that make up a build's title and file names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BuildName {
    pub(crate) source: String,
    pub(crate) version: String,
    pub(crate) distribution: String,
    pub(crate) series: String,
    pub(crate) arch_tag: String,
    pub(crate) pocket: Pocket,
}

impl BuildName {
    pub(crate) fn suite(&self) -> String {
        suite(&self.series, self.pocket)
    }

    /// Returns the name of the build's log in the librarian, without `.gz` (docs/farm.md §1.3).
    /// `state` is the build's state when the log is stored.
    pub(crate) fn log_name(&self, state: BuildState) -> String {
        format!(
            "buildlog_{}-{}-{}.{}_{}_{state}.txt",
            self.distribution, self.series, self.arch_tag, self.source, self.version
        )
    }
}

/// Shows the title, `i386 build of mozilla-firefox 0.9 in ubuntu hoary RELEASE`.
impl fmt::Display for BuildName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} build of {} {} in {} {} {}",
            self.arch_tag, self.source, self.version, self.distribution, self.series, self.pocket
        )
    }
}

/// Returns the suite of a pocket of a series, `hoary` or `hoary-security`.
pub(crate) fn suite(series: &str, pocket: Pocket) -> String {
    match pocket {
        Pocket::Release => series.to_owned(),
        other => format!("{series}-{}", other.word().to_lowercase()),
    }
}

/// Returns a build's id on the slave (docs/farm.md §6.4). Attempt 0, as in the rows of 2008, has no
/// suffix. An attempt that an older version dispatched has no nonce.
pub(crate) fn cookie(build: i64, queue: i64, attempt: i64, nonce: Option<&str>) -> String {
    match (attempt, nonce) {
        (0, _) => format!("{build}-{queue}"),
        (attempt, None) => format!("{build}-{queue}.{attempt}"),
        (attempt, Some(nonce)) => format!("{build}-{queue}.{attempt}-{nonce}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_numbers_and_words_read_back() {
        for state in BuildState::ALL {
            assert_eq!(BuildState::from_number(state.number()), Some(*state));
            assert_eq!(state.word().to_lowercase().parse(), Ok(*state));
        }
        assert_eq!(BuildState::from_number(12), None);
        assert_eq!(
            "x".parse::<ResetProtocol>(),
            Err("\"x\" is none of 1.1, 2.0".to_owned())
        );
    }

    #[test]
    fn a_build_name_gives_its_title_suite_log_name_and_cookie() {
        let mut name = BuildName {
            source: "mozilla-firefox".into(),
            version: "0.9".into(),
            distribution: "ubuntu".into(),
            series: "hoary".into(),
            arch_tag: "i386".into(),
            pocket: Pocket::Release,
        };
        let title = "i386 build of mozilla-firefox 0.9 in ubuntu hoary RELEASE";
        assert_eq!(name.to_string(), title);
        assert_eq!(name.suite(), "hoary");
        name.pocket = Pocket::Security;
        assert_eq!(name.suite(), "hoary-security");
        assert_eq!(
            name.log_name(BuildState::Building),
            "buildlog_ubuntu-hoary-i386.mozilla-firefox_0.9_BUILDING.txt"
        );
        assert_eq!(
            (cookie(8, 1, 0, None), cookie(8, 1, 2, None)),
            ("8-1".into(), "8-1.2".into())
        );
        assert_eq!(cookie(8, 1, 2, Some("c0ffee")), "8-1.2-c0ffee");
    }

    #[test]
    fn the_name_of_a_source_file_gives_its_type() {
        for (name, kind) in [
            ("hello_2.10-3.dsc", SourceFileType::Dsc),
            ("hello_2.10.orig.tar.gz", SourceFileType::Orig),
            ("hello_2.10-3.debian.tar.xz", SourceFileType::Diff),
            ("hello_2.10-3.diff.gz", SourceFileType::Diff),
            ("hello_2.10.tar.xz", SourceFileType::Tarball),
        ] {
            assert_eq!(SourceFileType::of(name), kind, "{name}");
        }
    }
}
