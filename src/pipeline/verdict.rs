//! Pure: what does the end of the build program mean for the build?
//!
//! Weighs the exit code, sbuild's own account of the failing stage, and the log's signs. Exit 0
//! alone proves nothing: sbuild also skips packages with it. Signs that a package's own build
//! could print are only believed when sbuild stopped before it ran the package. Called by the
//! shim, which looks at the disk, asks `depwait` after `DepCheck`, and knows of aborts itself.

use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;

use super::logscan::{Certainty, Findings, Sign};
use super::scrub::scrub_always;

/// How much of a line of the log a reason quotes.
const MAX_SHOWN_CHARS: usize = 300;

/// How the build program ended.
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

/// What becomes of the build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    Ok,
    PackageFail,
    GivenBack,
    ChrootFail,
    BuilderFail,
    /// Waits for what `relations`, a Debian relation string, names.
    DepFail {
        relations: String,
    },
    /// A dependency may be missing: a dep-wait if the package lists lack it, else a package
    /// failure, as a wrong dep-wait loops for ever (docs/wire.md §3.7).
    DepCheck,
}

/// A verdict and one plain sentence for the log.
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

/// Judges the end of sbuild.
///
/// Whether a .changes was made is for the caller to see; and so is whether the build came up against
/// what it may use.
pub(crate) fn classify(exit: Exit, findings: &Findings) -> Classification {
    let begun = findings.sign(Sign::Begun).is_some();
    let code = match (package_exit_code(exit, "sbuild"), exit) {
        (Ok(code), _) => code,
        // What a package leaves behind can make it stumble.
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
        Some(
            stage @ ("create-session"
            | "create-build-dir"
            | "lock-session"
            | "chroot-arch"
            | "run-chroot-setup-commands"
            | "resolver setup"),
        ) => classified(
            Verdict::ChrootFail,
            format!("The chroot could not be used ({stage})."),
        ),
        Some(stage) if stage.starts_with("apt-get-") => classify_update(stage, findings),
        // Also where it names a stage that is long over.
        Some(stage @ ("fetch-src" | "check-space" | "init" | "abort")) if !begun => classified(
            Verdict::BuilderFail,
            format!("sbuild failed before the build ({stage})."),
        ),
        None if code == 3 && findings.sign(Sign::ForceYes).is_some() => classified(
            Verdict::GivenBack,
            "apt met problems it would not ignore unasked.",
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

/// Judges the end of a site's own `sbuildpath` program by the exit codes of 2008: 0 built,
/// 1 dep-wait candidate, 2 give back, 3 package failure, others the builder (docs/wire.md §3.5).
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

/// Returns the exit code if it is one that tells something of the package.
fn package_exit_code(exit: Exit, program: &str) -> Result<i32, Classification> {
    let reason = match exit {
        Exit::Code(code @ 0..=3) => return Ok(code),
        Exit::Code(code) => format!("{program} failed with exit code {code}."),
        Exit::Signal(signal) => format!("{program} was killed by signal {signal}."),
    };
    Err(classified(Verdict::BuilderFail, reason))
}

/// Judges a failure to update the chroot's package lists: the archive's fault, or the disk's.
fn classify_update(stage: &str, findings: &Findings) -> Classification {
    match (
        findings.sign(Sign::NoSpace),
        findings.sign(Sign::FetchFailed),
    ) {
        (Some(line), _) => classified(
            Verdict::BuilderFail,
            with_line("The builder's disk is full", Some(line)),
        ),
        (None, line) => {
            let reason = format!("apt could not bring the chroot up to date ({stage})");
            classified(Verdict::GivenBack, with_line(&reason, line))
        }
    }
}

/// Judges a failure to install the build dependencies; nothing of the package has run yet.
///
/// An archive that cannot be reached looks like one without the packages, so that it comes first.
fn classify_install(code: i32, findings: &Findings) -> Classification {
    if let Some(line) = findings.sign(Sign::NoSpace) {
        return classified(
            Verdict::BuilderFail,
            with_line("The builder's disk is full", Some(line)),
        );
    }
    if let Some(line) = findings.sign(Sign::FetchFailed) {
        return classified(
            Verdict::GivenBack,
            with_line("The archive failed", Some(line)),
        );
    }
    if let (3, Some(line)) = (code, findings.sign(Sign::ForceYes)) {
        return classified(
            Verdict::GivenBack,
            with_line("apt would not go on", Some(line)),
        );
    }
    if findings
        .unmet
        .iter()
        .any(|unmet| unmet.certainty == Certainty::Dubious)
    {
        return classified(
            Verdict::DepCheck,
            "The build dependencies cannot be installed together.",
        );
    }
    let mut definite: Vec<&str> = Vec::new();
    for unmet in &findings.unmet {
        if !definite.contains(&unmet.relation.as_str()) {
            definite.push(&unmet.relation);
        }
    }
    if !definite.is_empty() {
        return dep_wait(definite.join(", "));
    }
    if let Some(relation) = findings.old_dependency() {
        return dep_wait(relation.to_owned());
    }
    // A dependency whose own scripts fail would fail again: neither a wait nor a retry helps.
    let reason = "The build dependencies could not be installed";
    classified(
        Verdict::PackageFail,
        with_line(reason, findings.sign(Sign::DpkgFailed)),
    )
}

/// Judges a failure of the package itself, with what the log tells of it.
fn classify_package(code: i32, findings: &Findings) -> Classification {
    let signs = [Sign::Inactive, Sign::Killed, Sign::NoSpace];
    let line = signs.iter().find_map(|sign| findings.sign(*sign));
    let reason = match findings.fail_stage.as_deref() {
        Some(stage) => format!("The package failed to build (stage {stage})"),
        None => format!("The package failed to build (exit code {code})"),
    };
    classified(Verdict::PackageFail, with_line(&reason, line))
}

/// Returns a sentence of `reason` and the log's `line` that shows it, without credentials.
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
