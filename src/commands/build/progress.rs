//! Pure: formats the progress of a running build.

use std::time::Duration;

/// The stage of a running build.
#[derive(Debug, Clone, Copy)]
pub(super) struct Step<'a> {
    pub(super) name: &'a str,
    /// Position of the stage, from 1.
    pub(super) number: usize,
    /// Number of stages of a successful build.
    pub(super) total: usize,
}

/// Returns the permanent line of a stage: `  1:05 [6/8] SBUILD`, with the time since the start.
pub(super) fn stage_line(since: Duration, step: Step<'_>) -> String {
    let Step {
        name,
        number,
        total,
    } = step;
    format!(
        "{:>7} [{number}/{}] {name}",
        clock(since),
        total.max(number)
    )
}

/// Returns the status line: the stage with the last line of the log, cut to `width` characters.
pub(super) fn status_line(since: Duration, step: Step<'_>, log: &str, width: usize) -> String {
    fit(&format!("{}  {log}", stage_line(since, step)), width)
}

/// Returns `0:07`, `12:34` or `1:02:03`.
pub(super) fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match hours {
        0 => format!("{minutes}:{seconds:02}"),
        _ => format!("{hours}:{minutes:02}:{seconds:02}"),
    }
}

/// Returns the last line of `log` that has a letter or a digit.
pub(super) fn last_line(log: &str) -> &str {
    let mut lines = log.lines().rev();
    lines
        .find(|line| line.chars().any(char::is_alphanumeric))
        .unwrap_or_default()
        .trim()
}

/// Returns the text without control characters, cut to `width` characters.
fn fit(text: &str, width: usize) -> String {
    let mut shown: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(width + 1)
        .collect();
    if shown.chars().count() > width {
        let kept = shown.char_indices().nth(width.saturating_sub(1));
        shown.truncate(kept.map_or(0, |(at, _)| at));
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Step<'static> = Step {
        name: "SBUILD",
        number: 5,
        total: 8,
    };

    #[test]
    fn a_line_fits_and_has_no_control_characters() {
        let since = Duration::from_secs(65);
        assert_eq!(stage_line(since, STEP), "   1:05 [5/8] SBUILD");
        let line = |log, width| status_line(since, STEP, log, width);
        assert_eq!(line("cc\x1b[2J\tx", 40), "   1:05 [5/8] SBUILD  cc [2J x");
        assert_eq!(
            line("gr\u{fc}\u{df}e", 25),
            "   1:05 [5/8] SBUILD  gr\u{2026}"
        );
        assert_eq!(line("grü", 25), "   1:05 [5/8] SBUILD  grü");
        assert_eq!(line("x", 1), "…");
    }

    #[test]
    fn a_stage_done_twice_does_not_exceed_the_total() {
        let step = Step { number: 9, ..STEP };
        assert!(stage_line(Duration::ZERO, step).contains("[9/9]"));
    }

    #[test]
    fn times_show_hours_only_from_one_hour_on() {
        for (seconds, shown) in [(7, "0:07"), (754, "12:34"), (3723, "1:02:03")] {
            assert_eq!(clock(Duration::from_secs(seconds)), shown);
        }
    }

    #[test]
    fn rules_and_blank_lines_are_skipped() {
        assert_eq!(last_line("a\n| Build   |\n+-----+\n\n"), "| Build   |");
        assert_eq!(last_line(""), "");
    }
}
