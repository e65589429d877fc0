//! Pure: decides which versions are too old to keep, and reads the names of result folders.

use std::cmp::Reverse;

use debversion::Version;

/// Returns the positions of the versions that are not among the newest `keep` ones; 0 keeps all. A
/// version that cannot be parsed is kept, and does not count.
pub(crate) fn surplus(versions: &[String], keep: u32) -> Vec<usize> {
    if keep == 0 || versions.len() <= keep as usize {
        return Vec::new();
    }
    let parsed = versions.iter().enumerate();
    let parsed = parsed.filter_map(|(at, text)| Some((text.parse::<Version>().ok()?, at)));
    let mut parsed: Vec<(Version, usize)> = parsed.collect();
    parsed.sort_by_cached_key(|(version, at)| Reverse((version.clone(), *at)));
    let surplus = parsed.into_iter().skip(keep as usize);
    surplus.map(|(_, at)| at).collect()
}

/// The folder below `[master] results` in which each master notes its host (docs/farm.md §2.11).
pub(crate) const HOSTS: &str = "uploading/.hosts";

/// The folders below `[master] results`, by what their entries are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Folder {
    /// Downloads in progress: `COOKIE@EPOCH.files`, `COOKIE@EPOCH.log`.
    Grabbing,
    /// Complete results: `COOKIE`.
    Incoming,
    /// Uploads in progress: `COOKIE`.
    Uploading,
}

impl Folder {
    pub(crate) const ALL: [Self; 3] = [Self::Grabbing, Self::Incoming, Self::Uploading];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Grabbing => "grabbing",
            Self::Incoming => "incoming",
            Self::Uploading => "uploading",
        }
    }

    /// Returns the build and the cookie of an entry. `None` if no master made it: such an entry
    /// stays.
    pub(crate) fn owner(self, entry: &str) -> Option<(i64, &str)> {
        let cookie = match self {
            Self::Grabbing => entry.split_once('@')?.0,
            Self::Incoming | Self::Uploading => entry,
        };
        Some((build_of(cookie)?, cookie))
    }
}

/// Returns the build of a cookie, `BUILD-JOB.ATTEMPT-NONCE` or an older form.
fn build_of(cookie: &str) -> Option<i64> {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let (build, rest) = cookie.split_once('-')?;
    let (job, attempt) = match rest.split_once('.') {
        Some((job, rest)) => match rest.split_once('-') {
            Some((attempt, nonce)) if is_nonce(nonce) => (job, attempt),
            Some(_) => return None,
            None => (job, rest),
        },
        None => (rest, "0"),
    };
    let is_cookie = [build, job, attempt].into_iter().all(is_number);
    is_cookie.then(|| build.parse().ok()).flatten()
}

fn is_nonce(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_versions_are_kept_by_debians_order() {
        let versions = ["1.10-1", "1.9-1", "1:0.1", "not a version", "1.9~rc1"].map(str::to_owned);
        let of = |keep| {
            let mut found = surplus(&versions, keep);
            found.sort_unstable();
            found
        };
        assert_eq!(of(0), [0_usize; 0]);
        assert_eq!(of(1), [0, 1, 4]);
        assert_eq!(of(2), [1, 4]);
        assert_eq!(of(3), [4]);
        assert_eq!(of(4), [0_usize; 0]);
        assert_eq!(surplus(&versions[..1], 1), [0_usize; 0]);
    }

    #[test]
    fn only_names_that_a_master_makes_have_an_owner() {
        for (folder, entry, expect) in [
            (Folder::Incoming, "12-34.5-0a1b", Some((12, "12-34.5-0a1b"))),
            (Folder::Incoming, "12-34.5", Some((12, "12-34.5"))),
            (Folder::Incoming, "8-1", Some((8, "8-1"))),
            (Folder::Uploading, "8-1.2-ff", Some((8, "8-1.2-ff"))),
            (Folder::Grabbing, "8-1.2-ff@7.files", Some((8, "8-1.2-ff"))),
            (Folder::Grabbing, "8-1.2-ff", None),
            (Folder::Uploading, ".lock", None),
            (Folder::Incoming, "lost+found", None),
            (Folder::Incoming, "2024-01.02-03.old", None),
            (Folder::Incoming, "8-1.", None),
            (Folder::Incoming, "-1", None),
            (Folder::Incoming, "8", None),
            (Folder::Incoming, "99999999999999999999-1", None),
        ] {
            assert_eq!(folder.owner(entry), expect, "{entry}");
        }
    }
}
