//! Pure: which subordinate ids may a user map, and what is `newuidmap` told?

use std::fmt::Write as _;

/// How many ids a session sees: 0 to 65535, as Debian has them.
pub(crate) const COUNT: u32 = 65_536;

/// The first host id of the range that becomes 0 to 65535 in a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct SubIds {
    pub(crate) first_uid: u32,
    pub(crate) first_gid: u32,
}

/// Which ids a namespace knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Map {
    /// The subordinate range only: what a build may be.
    Session,
    /// The range, and the caller itself as id 65536: for making and removing trees in a folder
    /// of the caller's.
    Wide,
}

/// Finds the first range of at least [`COUNT`] ids for a user in the text of `/etc/subuid` or
/// `/etc/subgid` (lines of `NAME-OR-UID:FIRST:COUNT`).
pub(crate) fn first_of_range(text: &str, user: &str, uid: u32) -> Option<u32> {
    text.lines().find_map(|line| {
        let mut fields = line.trim().split(':');
        let owner = fields.next()?;
        let first = fields.next()?.parse().ok()?;
        let count: u32 = fields.next()?.parse().ok()?;
        let ours = owner == user || owner.parse() == Ok(uid);
        (ours && count >= COUNT).then_some(first)
    })
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
    fn ranges_by_name_and_by_number() {
        let text =
            "root:1:5\nbuildd:5000:100\nbuildd:100000:65536\n\n1001:300000:70000\nbad line\n";
        assert_eq!(first_of_range(text, "buildd", 7), Some(100_000));
        assert_eq!(first_of_range(text, "other", 1001), Some(300_000));
        assert_eq!(first_of_range(text, "nobody", 3), None);
    }

    #[test]
    fn the_wide_map_adds_the_caller() {
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
