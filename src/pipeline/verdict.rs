//! Pure: derives the verdict from the exit of the build program and the findings in its log.
//!
//! The exit code, the failing stage that sbuild reports, and the signs in the log count. Exit 0
//! alone proves nothing: sbuild also skips packages with it. Signs that a package could print
//! itself count only if sbuild stopped before it ran the package. The shim checks the disk, asks
//! `depwait` after `DepCheck`, and handles aborts.

use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;

use super::depwait::Named;
use super::logscan::{Findings, Sign};
use super::scrub::scrub_always;
use crate::dpkg::relations::{Group, Spelling};

/// The most characters of a log line that a reason quotes.
const MAX_SHOWN_CHARS: usize = 300;
/// The beginning of a reason that blames the disk.
pub(super) const DISK_IS_FULL: &str = "The builder's disk is full";

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    Code(i32),
    Signal(i32),
}

impl From<ExitStatus> for Exit {
    fn from(status: ExitStatus) -> Self {
        match (status.code(), status.signal()) {
            (Some(code), _) => Self::Code(code),
            (None, Some(signal)) => Self::Signal(signal),
            (None, None) => Self::Code(125),
        }
    }
}

/// The verdict that follows from exit and log; [`DepCheck`](Self::DepCheck) leaves it open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    Ok,
    PackageFail,
    GivenBack,
    ChrootFail,
    BuilderFail,
    /// The build waits for `relations`, a Debian relation string.
    DepFail {
        relations: String,
    },
    /// apt calls dependencies unmet. If the package lists lack one, this is a dep-wait; else a
    /// package failure, since a wrong dep-wait loops forever (docs/wire.md §3.7).
    DepCheck {
        named: Vec<Named>,
    },
}

/// A verdict, and one sentence for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Classification {
    pub(crate) verdict: Verdict,
    pub(crate) reason: String,
}

fn classified(verdict: Verdict, reason: impl Into<String>) -> Classification {
    Classification {
        verdict,
        reason: reason.into(),
    }
}

fn dep_wait(relations: String) -> Classification {
    let reason = format!("The package waits for {relations}.");
    classified(Verdict::DepFail { relations }, reason)
}

/// Classifies the exit of sbuild.
///
/// The caller checks whether there is a .changes, and whether the build hit its limits.
pub(crate) fn classify(exit: Exit, findings: &Findings) -> Classification {
    let begun = findings.sign(Sign::Begun).is_some();
    let code = match (package_exit_code(exit, "sbuild"), exit) {
        (Ok(code), _) => code,
        // Leftovers of the package can make sbuild fail.
        (Err(_), Exit::Code(code)) if begun => return classify_package(code, findings),
        (Err(classification), _) => return classification,
    };
    let status = findings.status.as_deref();
    if code == 0 && status == Some("successful") {
        return classified(Verdict::Ok, "The package was built.");
    }
    if status == Some("skipped") {
        let reason = "The package does not build for this architecture";
        return classified(
            Verdict::PackageFail,
            with_line(reason, findings.sign(Sign::ArchSkipped)),
        );
    }
    if code == 0 {
        return classified(
            Verdict::PackageFail,
            "sbuild ended without an error and without success.",
        );
    }
    classify_stage(code, begun, findings)
}

/// Classifies a failure by the stage of sbuild; `begun` if the package's own build has started.
fn classify_stage(code: i32, begun: bool, findings: &Findings) -> Classification {
    match findings.fail_stage.as_deref() {
        Some("install-deps" | "install-deps-env" | "explain-bd-uninstallable") => {
            classify_install(code, findings)
        }
        Some(stage) if is_of_chroot(stage) => classify_chroot(stage, findings),
        Some(stage) if stage.starts_with("apt-get-") => classify_update(stage, findings),
        // Only before `begun`: after it, sbuild may still name an earlier stage.
        Some(stage @ ("fetch-src" | "check-space" | "init" | "abort")) if !begun => classified(
            Verdict::BuilderFail,
            format!("sbuild failed before the build ({stage})."),
        ),
        None if code == 3 && findings.sign(Sign::ForceYes).is_some() => classified(
            Verdict::GivenBack,
            "apt met problems that it does not ignore without --force-yes.",
        ),
        None if code == 3 && findings.sign(Sign::SourceMissing).is_some() => {
            classified(Verdict::BuilderFail, "sbuild was given no source package.")
        }
        Some("unpack") => {
            let reason = "The source package could not be unpacked";
            classified(
                Verdict::PackageFail,
                with_line(reason, findings.sign(Sign::SourceDamaged)),
            )
        }
        Some(_) | None => classify_package(code, findings),
    }
}

/// sbuild's stages that fail if the chroot cannot be used: the failure, and how to find its cause.
const CHROOT_STAGES: [(&str, &str, &str); 6] = [
    (
        "create-session",
        "sbuild could not use the session of the chroot",
        "check that sh and dpkg run in it: buildd-slave chroot shell TAR",
    ),
    (
        "create-build-dir",
        "sbuild could not create the folder of the build in the chroot",
        "check that its /build and /tmp are folders: buildd-slave chroot shell TAR",
    ),
    (
        "lock-session",
        "sbuild could not lock the chroot",
        "check that perl and a writable /var/lock are in it: buildd-slave chroot shell TAR",
    ),
    (
        "chroot-arch",
        "sbuild could not find out the architecture of the chroot",
        "check that dpkg --print-architecture works in it: buildd-slave chroot shell TAR",
    ),
    (
        "run-chroot-setup-commands",
        "A set-up command of sbuild failed in the chroot",
        "the log shows the command",
    ),
    (
        "resolver setup",
        "sbuild could not prepare apt in the chroot",
        "check that apt works in it: buildd-slave chroot update TAR",
    ),
];

fn is_of_chroot(stage: &str) -> bool {
    CHROOT_STAGES.iter().any(|(name, _, _)| *name == stage)
}

/// Classifies a failure in one of [`CHROOT_STAGES`].
fn classify_chroot(stage: &str, findings: &Findings) -> Classification {
    if let Some(classification) = classify_session(findings) {
        return classification;
    }
    let known = CHROOT_STAGES.iter().find(|(name, _, _)| *name == stage);
    let (_, problem, mend) = known.unwrap_or(&CHROOT_STAGES[0]);
    let problem = format!("{problem} ({stage})");
    let shown = with_line(&problem, findings.sign(Sign::Error));
    let shown = shown.trim_end_matches('.');
    classified(Verdict::ChrootFail, format!("{shown}; {mend}"))
}

/// Classifies a failure of the session itself; `None` if the log shows none.
pub(super) fn classify_session(findings: &Findings) -> Option<Classification> {
    if let Some(line) = findings.sign(Sign::CannotRun) {
        let problem = with_line("The chroot cannot run a program", Some(line));
        let mend = if line.contains("groupadd") || line.contains("useradd") {
            "sbuild needs the package passwd in the chroot, which is added by: buildd-slave chroot \
             update TAR"
        } else {
            "install its package in the chroot: buildd-slave chroot shell TAR --save"
        };
        return Some(classified(
            Verdict::ChrootFail,
            format!("{problem}; {mend}"),
        ));
    }
    let line = findings.sign(Sign::SessionFailed)?;
    let problem = with_line("The session failed", Some(line));
    let mend = "`buildd-slave doctor` on the builder shows whether sessions work there";
    Some(classified(
        Verdict::BuilderFail,
        format!("{problem}; {mend}"),
    ))
}

/// Classifies the exit of a site's `sbuildpath` program by the exit codes of 2008, which are: 0
/// built, 1 dep-wait candidate, 2 give-back, 3 package failure, others builder failure
/// (docs/wire.md §3.5).
pub(crate) fn classify_site(exit: Exit, findings: &Findings) -> Classification {
    let code = match package_exit_code(exit, "The build program") {
        Ok(code) => code,
        Err(classification) => return classification,
    };
    let transient = [Sign::ForceYes, Sign::IllegalInstruction];
    let transient = transient.iter().find_map(|sign| findings.sign(*sign));
    match (code, transient, findings.old_dependency()) {
        (0, _, _) => classified(Verdict::Ok, "The package was built."),
        (1 | 3, Some(line), _) => classified(
            Verdict::GivenBack,
            with_line("The build is given back", Some(line)),
        ),
        (1, None, Some(relation)) => dep_wait(relation.to_owned()),
        (2, _, _) => classified(Verdict::GivenBack, "The build program gave the build back."),
        _ => classify_package(code, findings),
    }
}

/// Returns the exit code if it can be about the package: 0 to 3.
fn package_exit_code(exit: Exit, program: &str) -> Result<i32, Classification> {
    let reason = match exit {
        Exit::Code(code @ 0..=3) => return Ok(code),
        Exit::Code(code) => format!("{program} failed with exit code {code}."),
        Exit::Signal(signal) => format!("{program} was killed by signal {signal}."),
    };
    Err(classified(Verdict::BuilderFail, reason))
}

/// Classifies a failed update of the package lists: the archive's fault, or a full disk.
fn classify_update(stage: &str, findings: &Findings) -> Classification {
    match (
        findings.sign(Sign::NoSpace),
        findings.sign(Sign::FetchFailed),
    ) {
        (Some(line), _) => classified(Verdict::BuilderFail, with_line(DISK_IS_FULL, Some(line))),
        (None, line) => {
            let reason = format!("apt could not bring the chroot up to date ({stage})");
            classified(Verdict::GivenBack, with_line(&reason, line))
        }
    }
}

/// Classifies a failed install of the build dependencies; no program of the package has run yet.
///
/// An unreachable archive looks like one without the packages, so it is checked first.
fn classify_install(code: i32, findings: &Findings) -> Classification {
    if let Some(line) = findings.sign(Sign::NoSpace) {
        return classified(Verdict::BuilderFail, with_line(DISK_IS_FULL, Some(line)));
    }
    if let Some(line) = findings.sign(Sign::FetchFailed) {
        return classified(
            Verdict::GivenBack,
            with_line("The archive failed", Some(line)),
        );
    }
    if let (3, Some(line)) = (code, findings.sign(Sign::ForceYes)) {
        return classified(Verdict::GivenBack, with_line("apt stopped", Some(line)));
    }
    if let Some(classification) = check_dependencies(findings) {
        return classification;
    }
    // The scripts of a dependency failed and would fail again: neither a wait nor a retry helps.
    let reason = "The build dependencies could not be installed";
    classified(
        Verdict::PackageFail,
        with_line(reason, findings.sign(Sign::DpkgFailed)),
    )
}

/// Has the package lists searched for what apt calls unmet; `None` if it names nothing.
fn check_dependencies(findings: &Findings) -> Option<Classification> {
    let mut named = findings.unmet.clone();
    let mut quoted = findings.unmet_lines.join("; ");
    if let (true, Some(relation)) = (quoted.is_empty(), findings.old_dependency()) {
        quoted = format!("no package {relation}");
        let group = Group::parse(relation, Spelling::Message).ok();
        named.extend(group.map(|group| Named {
            package: String::new(),
            group,
        }));
    }
    let reason = "The build dependencies cannot be installed";
    (!quoted.is_empty()).then(|| {
        let verdict = Verdict::DepCheck { named };
        classified(verdict, with_line(reason, Some(&quoted)))
    })
}

/// Returns a failure of the package, with the line of the log that explains it.
fn classify_package(code: i32, findings: &Findings) -> Classification {
    let signs = [Sign::Inactive, Sign::Killed, Sign::NoSpace];
    let line = signs.iter().find_map(|sign| findings.sign(*sign));
    let reason = match findings.fail_stage.as_deref() {
        Some(stage) => format!("The package failed to build (stage {stage})"),
        None => format!("The package failed to build (exit code {code})"),
    };
    classified(Verdict::PackageFail, with_line(&reason, line))
}

/// Returns a sentence of `reason` and the `line` of the log that shows it, without credentials.
fn with_line(reason: &str, line: Option<&str>) -> String {
    let Some(line) = line else {
        return format!("{reason}.");
    };
    let shown: String = scrub_always(line.trim())
        .chars()
        .take(MAX_SHOWN_CHARS)
        .collect();
    format!("{reason}: {shown}")
}

#[cfg(test)]
mod tests;
