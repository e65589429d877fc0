//! Pure: decides which pockets and components a build may use, and which pockets a series accepts.
//!
//! Holds the tables of docs/farm.md §2.12 and §2.13, and makes apt sources from them. Launchpad
//! knows Ubuntu's components only; Debian's are added here.

use std::fmt;

use crate::master::model::{Archive, ArchivePurpose, Pocket, SeriesStatus, suite};

/// Returns the pockets a build of `pocket` may use, RELEASE first, its own last.
pub(crate) fn dependencies(pocket: Pocket) -> &'static [Pocket] {
    use Pocket::{Backports, Proposed, Release, Security, Updates};
    match pocket {
        Release => &[Release],
        Security => &[Release, Security],
        Updates => &[Release, Security, Updates],
        Proposed => &[Release, Security, Updates, Proposed],
        Backports => &[Release, Security, Updates, Backports],
    }
}

/// Returns the pockets whose chroot can be used for a build of `pocket`, best first.
pub(crate) fn chroot_pockets(pocket: Pocket) -> impl Iterator<Item = Pocket> {
    dependencies(pocket).iter().rev().copied()
}

/// Returns whether an archive with this purpose and a series with this status accept builds of
/// `pocket`. PPA, partner and copy archives accept every pocket. Nothing accepts builds for an
/// OBSOLETE series.
pub(crate) fn accepts(purpose: ArchivePurpose, status: SeriesStatus, pocket: Pocket) -> bool {
    match purpose {
        _ if status == SeriesStatus::Obsolete => false,
        ArchivePurpose::Ppa | ArchivePurpose::Partner | ArchivePurpose::Copy => true,
        ArchivePurpose::Primary | ArchivePurpose::Embargoed | ArchivePurpose::Obsolete => {
            series_accepts(status, pocket)
        }
    }
}

/// Returns whether a series accepts builds of `pocket` in its primary archive.
pub(crate) fn series_accepts(status: SeriesStatus, pocket: Pocket) -> bool {
    match status {
        SeriesStatus::Frozen => true,
        SeriesStatus::Current | SeriesStatus::Supported => pocket != Pocket::Release,
        SeriesStatus::Experimental | SeriesStatus::Development => pocket == Pocket::Release,
        SeriesStatus::Obsolete => false,
    }
}

/// The distribution whose component names an archive uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Components {
    Debian,
    Ubuntu,
}

impl Components {
    /// Returns the components of a distribution: Debian's for `debian` and `debian-…`, else
    /// Ubuntu's.
    pub(crate) fn of(distribution: &str) -> Self {
        if distribution == "debian" || distribution.starts_with("debian-") {
            Self::Debian
        } else {
            Self::Ubuntu
        }
    }

    /// Returns all components, without Debian's `non-free-firmware`: older suites do not have it.
    pub(crate) fn all(self) -> &'static [&'static str] {
        match self {
            Self::Debian => &["main", "contrib", "non-free"],
            Self::Ubuntu => &["main", "restricted", "universe", "multiverse"],
        }
    }

    /// Returns the components that a build of a package in `component` may use. Backports may use
    /// all; an unknown component may use `main` and itself.
    pub(crate) fn ogre(self, component: &str, pocket: Pocket) -> Vec<&str> {
        match (self, component) {
            _ if pocket == Pocket::Backports => self.all().to_vec(),
            (_, "main") => vec!["main"],
            (_, "partner") => vec!["partner"],
            (Self::Ubuntu, "restricted") => vec!["main", "restricted"],
            (Self::Ubuntu, "universe") => vec!["main", "restricted", "universe"],
            (Self::Ubuntu, "multiverse") => self.all().to_vec(),
            // Debian's policy lets both depend on each other.
            (Self::Debian, "contrib" | "non-free") => self.all().to_vec(),
            (Self::Debian, "non-free-firmware") => [self.all(), &[component]].concat(),
            (_, unknown) => vec!["main", unknown],
        }
    }
}

/// An archive as apt sees it.
#[derive(Clone)]
pub(crate) struct AptArchive {
    pub(crate) archive: Archive,
    /// The password with which builders read a private archive as user `buildd`.
    pub(crate) secret: Option<String>,
    /// Whether the archive has published binaries for the build's architecture. apt fails on a
    /// suite without an index.
    pub(crate) has_binaries: bool,
}

/// Leaves out the secret.
impl fmt::Debug for AptArchive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AptArchive")
            .field("archive", &self.archive)
            .field("has_binaries", &self.has_binaries)
            .finish_non_exhaustive()
    }
}

/// The archives that a build may use.
#[derive(Clone)]
pub(crate) struct AptSources<'a> {
    /// The archive of the build.
    pub(crate) own: &'a AptArchive,
    /// Archives on which `own` depends.
    pub(crate) others: Vec<&'a AptArchive>,
    /// The primary archive of the distribution, unless it is `own`.
    pub(crate) primary: Option<&'a AptArchive>,
    pub(crate) components: Components,
    pub(crate) series: &'a str,
    pub(crate) pocket: Pocket,
    /// The component of the current publication.
    pub(crate) component: &'a str,
}

/// Returns the lines for apt, `deb <url> <suite> <components>`, those of `own` first. They may
/// contain passwords.
///
/// A PPA has one suite. It uses all components of the primary archive, up to UPDATES, or up to
/// SECURITY if it is private. Without any line, the chroot keeps its own apt sources.
pub(crate) fn archive_lines(sources: &AptSources<'_>) -> Vec<String> {
    let ogre = sources.components.ogre(sources.component, sources.pocket);
    let suites = |archive: &AptArchive, pocket, components: &[&str]| -> Vec<String> {
        let suite_of = |pocket: &Pocket| suite(sources.series, *pocket);
        let suites = dependencies(pocket).iter().map(suite_of);
        let lines = suites.map(|suite| line(archive, &suite, components));
        lines.flatten().collect()
    };
    match sources.own.archive.purpose {
        ArchivePurpose::Primary | ArchivePurpose::Embargoed | ArchivePurpose::Obsolete => {
            suites(sources.own, sources.pocket, &ogre)
        }
        ArchivePurpose::Ppa | ArchivePurpose::Partner | ArchivePurpose::Copy => {
            let below = match sources.own.archive.private {
                true => Pocket::Security,
                false => Pocket::Updates,
            };
            let archives = [sources.own]
                .into_iter()
                .chain(sources.others.iter().copied());
            let archives = archives.filter(|archive| archive.has_binaries);
            let mut lines: Vec<String> = archives
                .filter_map(|archive| line(archive, sources.series, &ogre))
                .collect();
            if let Some(primary) = sources.primary {
                lines.extend(suites(primary, below, sources.components.all()));
            }
            lines
        }
    }
}

fn line(archive: &AptArchive, suite: &str, components: &[&str]) -> Option<String> {
    let url = url(archive)?;
    Some(format!("deb {url} {suite} {}", components.join(" ")))
}

fn url(archive: &AptArchive) -> Option<String> {
    let base_url = &archive.archive.base_url;
    if base_url.is_empty() {
        return None;
    }
    let secret = archive.secret.as_deref();
    let secret = secret.filter(|_| archive.archive.private);
    Some(match (base_url.split_once("://"), secret) {
        (Some((scheme, rest)), Some(secret)) => {
            format!("{scheme}://buildd:{}@{rest}", percent_encoded(secret))
        }
        _ => base_url.clone(),
    })
}

/// Percent-encodes a password for a URL.
fn percent_encoded(text: &str) -> String {
    let quote = |byte: u8| match byte {
        b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        byte if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    text.bytes().map(quote).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::master::model::Retention;
    use Pocket::{Backports, Proposed, Release, Security, Updates};

    #[test]
    fn the_chroot_of_the_builds_own_pocket_comes_first() {
        for (pocket, expect) in [
            (Release, &[Release][..]),
            (Security, &[Security, Release]),
            (Updates, &[Updates, Security, Release]),
            (Proposed, &[Proposed, Updates, Security, Release]),
            (Backports, &[Backports, Updates, Security, Release]),
        ] {
            assert_eq!(chroot_pockets(pocket).collect::<Vec<_>>(), expect);
        }
    }

    #[test]
    fn a_series_accepts_pockets_by_its_status() {
        for status in SeriesStatus::ALL {
            let (release, others) = match status {
                SeriesStatus::Frozen => (true, true),
                SeriesStatus::Current | SeriesStatus::Supported => (false, true),
                SeriesStatus::Experimental | SeriesStatus::Development => (true, false),
                SeriesStatus::Obsolete => (false, false),
            };
            for pocket in Pocket::ALL {
                let expect = if *pocket == Release { release } else { others };
                assert_eq!(series_accepts(*status, *pocket), expect);
                let primary = accepts(ArchivePurpose::Primary, *status, *pocket);
                assert_eq!(primary, expect, "{status} {pocket}");
                let ppa = accepts(ArchivePurpose::Ppa, *status, *pocket);
                assert_eq!(ppa, *status != SeriesStatus::Obsolete);
            }
        }
    }

    #[test]
    fn a_build_may_use_components_by_its_own_component_and_pocket() {
        let everything = "main restricted universe multiverse";
        for (distribution, component, pocket, expect) in [
            ("ubuntu", "main", Release, "main"),
            ("ubuntu", "restricted", Security, "main restricted"),
            ("ubuntu", "universe", Release, "main restricted universe"),
            ("ubuntu", "multiverse", Release, everything),
            ("ubuntu", "partner", Release, "partner"),
            ("ubuntutest", "main", Backports, everything),
            ("ubuntu", "experiments", Release, "main experiments"),
            ("debian", "main", Release, "main"),
            ("debian", "contrib", Release, "main contrib non-free"),
            ("debian-ports", "non-free", Release, "main contrib non-free"),
            (
                "debian",
                "non-free-firmware",
                Release,
                "main contrib non-free non-free-firmware",
            ),
            ("debian", "main", Backports, "main contrib non-free"),
        ] {
            let components = Components::of(distribution).ogre(component, pocket);
            assert_eq!(components.join(" "), expect, "{distribution} {component}");
        }
    }

    fn archive(purpose: ArchivePurpose, base_url: &str) -> AptArchive {
        AptArchive {
            archive: Archive {
                id: 1,
                distribution_id: 1,
                distribution: "ubuntu".into(),
                owner: String::new(),
                name: "any".into(),
                purpose,
                private: false,
                virtualized: false,
                enabled: true,
                relative_score: 0,
                base_url: base_url.into(),
                has_secret: false,
                debug_symbols: false,
                profiles: String::new(),
                retention: Retention::default(),
            },
            secret: None,
            has_binaries: true,
        }
    }

    fn ubuntu<'a>(
        own: &'a AptArchive,
        primary: Option<&'a AptArchive>,
        pocket: Pocket,
    ) -> AptSources<'a> {
        AptSources {
            own,
            others: Vec::new(),
            primary,
            components: Components::Ubuntu,
            series: "hoary",
            pocket,
            component: "universe",
        }
    }

    #[test]
    fn the_primary_archive_has_a_line_for_each_suite_of_the_pocket() {
        let primary = archive(ArchivePurpose::Primary, "http://p/ubuntu");
        let lines = |own, pocket| archive_lines(&ubuntu(own, Some(&primary), pocket));
        let check = |pocket, suites: &[&str]| {
            let line = |suite| format!("deb http://p/ubuntu {suite} main restricted universe");
            let expect: Vec<String> = suites.iter().map(line).collect();
            assert_eq!(lines(&primary, pocket), expect);
        };
        check(Release, &["hoary"]);
        check(Security, &["hoary", "hoary-security"]);
        let updates = ["hoary", "hoary-security", "hoary-updates"];
        check(Updates, &updates);
        check(Proposed, &[&updates[..], &["hoary-proposed"]].concat());
        assert_eq!(
            lines(&primary, Backports)[3],
            "deb http://p/ubuntu hoary-backports main restricted universe multiverse"
        );
        let nowhere = archive(ArchivePurpose::Primary, "");
        assert!(lines(&nowhere, Release).is_empty());
    }

    #[test]
    fn a_ppa_has_one_suite_and_uses_the_primary_archive() {
        let all = "main restricted universe multiverse";
        let below = |suite| format!("deb http://p/ubuntu {suite} {all}");
        let primary = archive(ArchivePurpose::Primary, "http://p/ubuntu");
        let mut ppa = archive(ArchivePurpose::Ppa, "https://ppa/bob/ubuntu");

        let other = archive(ArchivePurpose::Ppa, "https://ppa/eve/ubuntu");
        let nothing = AptArchive {
            has_binaries: false,
            ..archive(ArchivePurpose::Ppa, "https://ppa/nothing/ubuntu")
        };
        let mut sources = ubuntu(&ppa, Some(&primary), Release);
        sources.others = vec![&other, &nothing];
        let expect = [
            "deb https://ppa/bob/ubuntu hoary main restricted universe".to_owned(),
            "deb https://ppa/eve/ubuntu hoary main restricted universe".to_owned(),
            below("hoary"),
            below("hoary-security"),
            below("hoary-updates"),
        ];
        assert_eq!(archive_lines(&sources), expect);

        ppa.archive.private = true;
        ppa.secret = Some("s3c/r@t".into());
        let expect = [
            "deb https://buildd:s3c%2Fr%40t@ppa/bob/ubuntu hoary main restricted universe"
                .to_owned(),
            below("hoary"),
            below("hoary-security"),
        ];
        assert_eq!(
            archive_lines(&ubuntu(&ppa, Some(&primary), Release)),
            expect
        );

        // The PPA has no binaries and there is no primary archive: the chroot keeps its sources.
        ppa.has_binaries = false;
        assert!(archive_lines(&ubuntu(&ppa, None, Release)).is_empty());
    }

    #[test]
    fn a_secret_goes_into_urls_of_private_archives_with_a_host_only() {
        for (base_url, private, expect) in [
            ("http://h/x", true, "http://buildd:k@h/x"),
            ("http://h/x", false, "http://h/x"),
            ("file:/srv/x", true, "file:/srv/x"),
        ] {
            let mut one = archive(ArchivePurpose::Ppa, base_url);
            one.secret = Some("k".into());
            one.archive.private = private;
            assert_eq!(url(&one).as_deref(), Some(expect));
        }
    }
}
