//! Finds a user's subordinate ids and makes the arguments of `newuidmap`.

use std::fmt::Write as _;

use crate::sys::sub_ids;

/// The number of ids in a session: 0 to 65535, as on a Debian system.
pub(crate) const COUNT: u32 = 65_536;

/// The first host ids of the ranges that are mapped to 0 to 65535 in a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct SubIds {
    pub(crate) first_uid: u32,
    pub(crate) first_gid: u32,
}

/// The ids that are mapped into a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Map {
    /// Only the subordinate range: for builds.
    Session,
    /// The subordinate range, and the caller as id 65536: for trees in a folder of the caller.
    Wide,
}

/// Finds the first range of at least [`COUNT`] ids for a user in the text of `/etc/subuid` or
/// `/etc/subgid` (lines of `NAME-OR-UID:FIRST:COUNT`).
pub(crate) fn first_of_range(text: &str, user: &str, uid: u32) -> Option<u32> {
    let ranges = sub_ids::ranges(text, user, uid).into_iter();
    let mut large = ranges.filter(|range| range.end - range.start >= COUNT);
    large.next().map(|range| range.start)
}

/// Returns the arguments of `newuidmap` (or `newgidmap`) for process `pid`.
pub(crate) fn arguments(pid: u32, map: Map, first: u32, own: u32) -> Vec<String> {
    let mut text = format!("{pid} 0 {first} {COUNT}");
    if map == Map::Wide {
        let _ = write!(text, " {COUNT} {own} 1");
    }
    text.split(' ').map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_found_by_name_and_by_number() {
        let text =
            "root:1:5\nbuildd:5000:100\nbuildd:100000:65536\n\n1001:300000:70000\nbad line\n";
        assert_eq!(first_of_range(text, "buildd", 7), Some(100_000));
        assert_eq!(first_of_range(text, "other", 1001), Some(300_000));
        assert_eq!(first_of_range(text, "nobody", 3), None);
    }

    #[test]
    fn the_wide_map_includes_the_caller() {
        assert_eq!(
            arguments(9, Map::Session, 100_000, 7).join(" "),
            "9 0 100000 65536"
        );
        assert_eq!(
            arguments(9, Map::Wide, 100_000, 7).join(" "),
            "9 0 100000 65536 65536 7 1"
        );
    }
}
