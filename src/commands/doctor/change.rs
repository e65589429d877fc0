//! Pure: the new content of a file that `doctor --fix` changes, and the change as a unified diff.

use super::mend::Step;

/// Lines of context around a change.
const CONTEXT: usize = 3;

/// Returns the path and the new content of a step that changes a file; `old` is the present content
/// of a path, empty if there is no file. `None` for a command.
pub(super) fn apply(step: &Step, old: impl Fn(&str) -> String) -> Option<(String, String)> {
    match step {
        Step::Run(_) | Step::RunAs { .. } => None,
        Step::Write { path, text } => Some((path.clone(), text.clone())),
        Step::AddLine { path, line } => {
            let mut text = old(path);
            if text.lines().any(|found| found.trim() == line) {
                return Some((path.clone(), text));
            }
            if !text.is_empty() && !text.ends_with('\n') {
                text.push('\n');
            }
            text.push_str(line);
            text.push('\n');
            Some((path.clone(), text))
        }
    }
}

/// Returns the unified diff of a file, with one hunk; empty if nothing changes.
pub(super) fn diff(path: &str, old: &str, new: &str) -> String {
    if old == new {
        return String::new();
    }
    let (before, after): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    let same = before
        .iter()
        .zip(&after)
        .take_while(|(a, b)| a == b)
        .count();
    let least = before.len().min(after.len()) - same;
    let ends = before.iter().rev().zip(after.iter().rev());
    let same_end = ends.take(least).take_while(|(a, b)| a == b).count();
    let first = same.saturating_sub(CONTEXT);
    let end_of = |lines: &[&str]| (lines.len() - same_end + CONTEXT).min(lines.len());
    let range = |lines: &[&str]| {
        let count = end_of(lines) - first;
        // An empty range names the line before it.
        format!("{},{count}", if count == 0 { first } else { first + 1 })
    };
    let from = if old.is_empty() { "/dev/null" } else { path };
    let mut text = format!(
        "--- {from}\n+++ {path}\n@@ -{} +{} @@\n",
        range(&before),
        range(&after)
    );
    let mut add = |sign: char, lines: &[&str]| {
        for line in lines {
            text.push(sign);
            text.push_str(line);
            text.push('\n');
        }
    };
    add(' ', &before[first..same]);
    add('-', &before[same..before.len() - same_end]);
    add('+', &after[same..after.len() - same_end]);
    add(' ', &before[before.len() - same_end..end_of(&before)]);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_added_once_and_shown_with_its_surroundings() {
        let step = Step::AddLine {
            path: "/etc/x".into(),
            line: "new".into(),
        };
        let apply = |old: &str| apply(&step, |_| old.to_owned()).unwrap().1;
        assert_eq!(apply(""), "new\n");
        assert_eq!(apply("a\nb"), "a\nb\nnew\n");
        assert_eq!(apply("new\nb\n"), "new\nb\n");
        let expect = "--- /etc/x\n+++ /etc/x\n@@ -3,3 +3,4 @@\n 3\n 4\n 5\n+new\n";
        assert_eq!(
            diff("/etc/x", "1\n2\n3\n4\n5\n", "1\n2\n3\n4\n5\nnew\n"),
            expect
        );
    }

    #[test]
    fn a_new_file_and_a_changed_line_are_shown() {
        let new = diff("/x", "", "a\nb\n");
        assert_eq!(new, "--- /dev/null\n+++ /x\n@@ -0,0 +1,2 @@\n+a\n+b\n");
        let changed = diff("/x", "a\nb\nc\n", "a\nB\nc\n");
        assert_eq!(changed, "--- /x\n+++ /x\n@@ -1,3 +1,3 @@\n a\n-b\n+B\n c\n");
        assert_eq!(diff("/x", "a\n", "a\n"), "");
    }
}
