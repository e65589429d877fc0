//! Pure: parses `/etc/subuid` and `/etc/subgid`, which give users ranges of subordinate ids.

use std::ops::Range;

/// Returns the ranges of a user, in the order of `text` (lines of `NAME-OR-UID:FIRST:COUNT`).
pub(crate) fn ranges(text: &str, user: &str, uid: u32) -> Vec<Range<u32>> {
    let range = |line: &str| {
        let mut fields = line.trim().split(':');
        let owner = fields.next()?;
        let first: u32 = fields.next()?.parse().ok()?;
        let count: u32 = fields.next()?.parse().ok()?;
        let matches = owner == user || owner.parse() == Ok(uid);
        matches.then_some(first..first.saturating_add(count))
    };
    text.lines().filter_map(range).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_found_by_name_and_by_number() {
        let text = "root:1:5\nbuildd:5000:100\n7:4294967295:9\n\nbad line\nbuildd:x:1\n";
        assert_eq!(ranges(text, "buildd", 7), [5000..5100, u32::MAX..u32::MAX]);
        assert!(ranges(text, "nobody", 3).is_empty());
    }
}
