//! Pure: what are the farm's things called, and which numbers are they stored under?
//!
//! The enumerations of docs/farm.md §1.1 with the numbers of the sources, and the strings derived
//! from names (§1.3). Decides nothing. Times everywhere are milliseconds since 1970, UTC.

use std::fmt;
use std::str::FromStr;

/// An enumeration that is stored as a small number and shown as a word.
macro_rules! stored {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $number:literal, $word:literal;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub(crate) enum $name { $($(#[$vdoc])* $variant = $number,)* }

        #[allow(dead_code, reason = "each enumeration uses what it needs")]
        impl $name {
            pub(crate) const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Returns the number it is stored under.
            pub(crate) const fn number(self) -> i64 {
                self as i64
            }

            /// Returns what a stored number means.
            pub(crate) fn from_number(number: i64) -> Option<Self> {
                Self::ALL.iter().copied().find(|one| one.number() == number)
            }

            /// Returns the word it is shown and typed as.
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

            /// Reads a word in any case.
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
    /// How far a build is, for ever.
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
    /// What a queue row is doing; there is one only while its build waits or runs.
    JobStatus {
        Waiting = 0, "WAITING";
        Running = 1, "RUNNING";
        Cancelling = 2, "CANCELLING";
        Suspended = 3, "SUSPENDED";
    }
}

stored! {
    /// Whether a builder may be given a job. One with a job is DIRTY.
    CleanStatus {
        Clean = 0, "CLEAN";
        Dirty = 1, "DIRTY";
        Cleaning = 2, "CLEANING";
    }
}

stored! {
    /// How a virtual builder is put back to its first state (docs/farm.md §3.4).
    ResetProtocol {
        /// The command ends with the slave up.
        Synchronous = 11, "1.1";
        /// The command only accepts the request; somebody else says when it is done.
        Asynchronous = 20, "2.0";
    }
}

stored! {
    /// What part of a series a package is for.
    Pocket {
        Release = 0, "RELEASE";
        Security = 10, "SECURITY";
        Updates = 20, "UPDATES";
        Proposed = 30, "PROPOSED";
        Backports = 40, "BACKPORTS";
    }
}

stored! {
    /// The life of a series.
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
    /// Whether a source is to be had from an archive.
    PublishingStatus {
        Pending = 1, "PENDING";
        Published = 2, "PUBLISHED";
        Superseded = 3, "SUPERSEDED";
        Deleted = 4, "DELETED";
        Obsolete = 5, "OBSOLETE";
    }
}

stored! {
    /// What an archive is for.
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
    /// What the changelog says of a version.
    Urgency {
        Low = 1, "LOW";
        Medium = 2, "MEDIUM";
        High = 3, "HIGH";
        Emergency = 4, "EMERGENCY";
    }
}

stored! {
    /// What a file of a source package is.
    SourceFileType {
        Dsc = 3, "DSC";
        Orig = 4, "ORIG";
        Diff = 5, "DIFF";
        Tarball = 6, "TARBALL";
    }
}

impl BuildState {
    /// Tells whether `retry` may send a build in this state to the queue again (docs/farm.md §1.1).
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

impl SourceFileType {
    /// Returns what a file of a source package is, by its name.
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

/// An archive. Its secret is kept apart, for the few who may read it.
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
    /// The URL in apt's sources; if empty, the chroot's own sources are used.
    pub(crate) base_url: String,
    pub(crate) has_secret: bool,
}

impl Archive {
    /// Returns its name within its distribution: `primary`, or `OWNER/NAME`.
    pub(crate) fn short_name(&self) -> String {
        match self.owner.as_str() {
            "" => self.name.clone(),
            owner => format!("{owner}/{}", self.name),
        }
    }
}

/// What a build is of, in the words people know: enough for its title and its file names.
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
    /// Returns the suite, `hoary` or `hoary-security`.
    pub(crate) fn suite(&self) -> String {
        suite(&self.series, self.pocket)
    }

    /// Returns the name its log has in the librarian, before `.gz` (docs/farm.md §1.3). `state` is
    /// the build's at the moment the log is stored.
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

/// Returns the suite of a pocket of a series.
pub(crate) fn suite(series: &str, pocket: Pocket) -> String {
    match pocket {
        Pocket::Release => series.to_owned(),
        other => format!("{series}-{}", other.word().to_lowercase()),
    }
}

/// Returns the name a slave is given for a try at a build (docs/farm.md §6.4). Rows that no try of
/// ours has touched have the form of 2008.
pub(crate) fn cookie(build: i64, queue: i64, attempt: i64) -> String {
    match attempt {
        0 => format!("{build}-{queue}"),
        attempt => format!("{build}-{queue}.{attempt}"),
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
    fn derived_strings() {
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
            (cookie(8, 1, 0), cookie(8, 1, 2)),
            ("8-1".into(), "8-1.2".into())
        );
    }

    #[test]
    fn files_of_a_source_package() {
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
