//! Pure: reads stages and verdict from the last lines of a slave's log (docs/wire.md §3.10).
//!
//! Only slaves of this program write these lines, as the last two of a log. A package cannot write
//! after them.

/// The bytes at the end of a log that contain its last two lines.
pub(crate) const TAIL_BYTES: usize = 16 << 10;
/// Longest reason kept, in bytes.
const REASON_BYTES: usize = 2000;

/// The last lines of a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LogEnd {
    /// `UNPACK 1.3 s, MOUNT 0.1 s`; `None` in logs of other slaves.
    pub(crate) stages: Option<String>,
    /// The sentence about the verdict.
    pub(crate) reason: Option<String>,
}

/// Reads the end of a log. `verdict` is the word of the slave's verdict.
pub(crate) fn read(tail: &[u8], verdict: &str) -> LogEnd {
    let text = String::from_utf8_lossy(tail).replace('\0', "");
    let mut lines = text.trim_end().lines().rev();
    let Some(reason) = lines
        .next()
        .and_then(|line| line.strip_prefix("Verdict: "))
        .and_then(|rest| rest.strip_prefix(verdict))
        .and_then(|rest| rest.strip_prefix(": "))
    else {
        return LogEnd::default();
    };
    // A time in brackets comes first.
    let stages = lines
        .next()
        .and_then(|line| line.split_once("] Stages: "))
        .map(|(_, stages)| stages.to_owned());
    LogEnd {
        stages,
        reason: Some(truncated(reason)),
    }
}

fn truncated(reason: &str) -> String {
    let mut end = reason.len().min(REASON_BYTES);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    reason[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "dpkg-buildpackage: error\n\
        [2026-11-28 04:00:00 UTC] Stages: INIT 0.0 s, UNPACK 1.3 s\n\
        Verdict: PACKAGEFAIL: the tests fail\n";

    #[test]
    fn the_last_two_lines_give_stages_and_reason() {
        let end = read(LOG.as_bytes(), "PACKAGEFAIL");
        assert_eq!(end.stages.as_deref(), Some("INIT 0.0 s, UNPACK 1.3 s"));
        assert_eq!(end.reason.as_deref(), Some("the tests fail"));
    }

    #[test]
    fn lines_of_a_package_are_not_read() {
        for log in [
            "",
            "Verdict: PACKAGEFAIL: forged\nmore\n",
            "Verdict: OK: forged\n",
        ] {
            assert_eq!(
                read(log.as_bytes(), "PACKAGEFAIL"),
                LogEnd::default(),
                "{log}"
            );
        }
        let long = format!("Verdict: OK: {}", "é".repeat(REASON_BYTES));
        let reason = read(long.as_bytes(), "OK").reason.unwrap();
        assert!(reason.len() <= REASON_BYTES && reason.ends_with('é'));
    }
}
