//! Pure: the mend of a problem that `doctor` found.

use std::fmt;

/// The mend of a problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Mend {
    /// Only the operator can decide; the reason, and what to do.
    Operator(String),
    /// The mend of the named finding mends this one too.
    With(String),
    /// Debian packages to install.
    Packages(Vec<String>),
    /// Commands and changes of files, in order.
    Steps(Vec<Step>),
}

/// One command, or one change of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Runs as root.
    Run(Vec<String>),
    /// Runs as this user, so that no link in a folder of that user misleads root.
    RunAs { user: String, argv: Vec<String> },
    /// Appends a line to a file, or creates the file.
    AddLine { path: String, line: String },
    /// Gives a file this content.
    Write { path: String, text: String },
}

impl Mend {
    pub(super) fn operator(advice: impl Into<String>) -> Self {
        Self::Operator(advice.into())
    }

    pub(super) fn with(subject: impl Into<String>) -> Self {
        Self::With(subject.into())
    }

    pub(super) fn package(name: impl Into<String>) -> Self {
        Self::Packages(vec![name.into()])
    }

    /// One command for root.
    pub(super) fn command(words: &[&str]) -> Self {
        Self::Steps(vec![Step::run(words)])
    }
}

impl Step {
    pub(super) fn run(words: &[&str]) -> Self {
        Self::Run(owned(words))
    }

    pub(super) fn run_as(user: &str, words: &[&str]) -> Self {
        Self::RunAs {
            user: user.to_owned(),
            argv: owned(words),
        }
    }

    /// Returns the command line of a step that is a command. `as_root`: root runs it.
    pub(super) fn argv(&self, as_root: bool) -> Option<Vec<String>> {
        match self {
            Self::Run(argv) => Some(argv.clone()),
            Self::RunAs { argv, .. } if !as_root => Some(argv.clone()),
            Self::RunAs { user, argv } => {
                let prefix = ["runuser", "-u", user, "--"].map(str::to_owned);
                Some(prefix.into_iter().chain(argv.iter().cloned()).collect())
            }
            Self::AddLine { .. } | Self::Write { .. } => None,
        }
    }

    /// Whether only root can do it. `user` runs `doctor`.
    pub(super) fn needs_root(&self, user: &str) -> bool {
        !matches!(self, Self::RunAs { user: builder, .. } if builder == user)
    }
}

pub(super) fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

impl fmt::Display for Mend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Operator(advice) => f.write_str(advice),
            Self::With(subject) => write!(f, "the mend of `{subject}`"),
            Self::Packages(names) => write!(f, "apt-get install {}", names.join(" ")),
            Self::Steps(steps) => {
                let shown: Vec<String> = steps.iter().map(ToString::to_string).collect();
                f.write_str(&shown.join(" && "))
            }
        }
    }
}

/// Shown as root would type it.
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Run(_) | Self::RunAs { .. } => {
                f.write_str(&shown(&self.argv(true).unwrap_or_default()))
            }
            Self::AddLine { path, line } => write!(f, "echo {} >>{path}", quoted(line)),
            Self::Write { path, .. } => write!(f, "write {path} (buildd-slave doctor --fix does)"),
        }
    }
}

/// Returns a command line as a shell reads it.
pub(super) fn shown(argv: &[String]) -> String {
    let words: Vec<String> = argv.iter().map(|word| quoted(word)).collect();
    words.join(" ")
}

fn quoted(word: &str) -> String {
    let harmless = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:=+,@%".contains(&byte);
    if !word.is_empty() && word.bytes().all(harmless) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_shown_as_a_shell_reads_them() {
        let add = Step::AddLine {
            path: "/etc/x".into(),
            line: "a = 1".into(),
        };
        let steps = Mend::Steps(vec![add, Step::run(&["sysctl", "-p", "it's"])]);
        let shown = r"echo 'a = 1' >>/etc/x && sysctl -p 'it'\''s'";
        assert_eq!(steps.to_string(), shown);
    }
}
