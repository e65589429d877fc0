//! Pure: the result of one check of `doctor`, printed as one line.
//!
//! The line has the grade, the subject, the finding, and what mends it.

use std::fmt;

use super::mend::Mend;

/// The result of a check, from best to worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Grade {
    Ok,
    /// Builds work, with restrictions.
    Warn,
    /// Some or all builds fail.
    Fail,
}

/// The result of one check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) grade: Grade,
    pub(super) subject: String,
    found: String,
    /// `None` if all is well, or if nothing mends it.
    pub(super) mend: Option<Mend>,
}

impl Finding {
    pub(super) fn ok(subject: &str, found: impl Into<String>) -> Self {
        Self::new(Grade::Ok, subject, found)
    }

    pub(super) fn warn(subject: &str, found: impl Into<String>) -> Self {
        Self::new(Grade::Warn, subject, found)
    }

    pub(super) fn fail(subject: &str, found: impl Into<String>) -> Self {
        Self::new(Grade::Fail, subject, found)
    }

    fn new(grade: Grade, subject: &str, found: impl Into<String>) -> Self {
        Self {
            grade,
            subject: subject.to_owned(),
            found: found.into(),
            mend: None,
        }
    }

    /// Returns the subject of a failure.
    pub(super) fn failed(&self) -> Option<&str> {
        (self.grade == Grade::Fail).then_some(self.subject.as_str())
    }

    /// Adds what mends the problem.
    pub(super) fn mend(mut self, mend: Mend) -> Self {
        self.mend = Some(mend);
        self
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let grade = match self.grade {
            Grade::Ok => "ok  ",
            Grade::Warn => "warn",
            Grade::Fail => "FAIL",
        };
        let found = self.found.trim().replace('\n', "; ");
        write!(f, "{grade}  {}: {found}", self.subject)?;
        match &self.mend {
            Some(mend) => write!(f, "; try: {mend}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_one_line() {
        let finding = Finding::fail("sbuild", "not\ninstalled\n").mend(Mend::package("sbuild"));
        let line = "FAIL  sbuild: not; installed; try: apt-get install sbuild";
        assert_eq!(finding.to_string(), line);
        assert_eq!(Finding::ok("a", "b").to_string(), "ok    a: b");
    }
}
