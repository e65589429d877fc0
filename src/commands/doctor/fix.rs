//! `doctor --fix`: asks, carries out the mends of one round, and checks again.
//!
//! Findings go to stdout. Questions, commands and their output go to stderr.

use std::fs;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use super::mend::{Step, shown};
use super::plan::{Plan, Proposal, plan};
use super::{change, check, exit_code, print};
use crate::config_file::ConfigOption;
use crate::sys::{self, output, stderr, user};

/// Mends show problems that were hidden before: a new user has no subordinate ids.
const ROUNDS: usize = 5;
/// Root's folders of programs, which `su` leaves out of `PATH`.
const ROOT_PATH: &str = "/usr/local/sbin:/usr/sbin:/sbin";

/// Why a mend failed.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("cannot run {0}: {1}")]
    Start(String, io::Error),
    #[error("{0} failed ({1}); its output is above")]
    Failed(String, String),
    #[error(transparent)]
    File(#[from] sys::fs::Error),
}

/// Mends and checks until nothing is left to propose. `yes` answers all questions.
pub(super) fn run(option: &ConfigOption, yes: bool) -> ExitCode {
    if !yes && !io::stdin().is_terminal() {
        stderr::line(
            "buildd-slave: doctor --fix asks before it changes anything, and stdin is no terminal; \
             --yes answers every question with yes. Nothing was changed.",
        );
        return ExitCode::FAILURE;
    }
    let me = match user::am_root() {
        true => None,
        false => Some(user::effective().map_or_else(String::new, |user| user.name)),
    };
    let mut tried: Vec<Proposal> = Vec::new();
    let mut findings = check(option);
    let mut printed = print(&findings);
    for _ in 0..ROUNDS {
        let planned = plan(&findings, &tried, me.as_deref());
        if planned.proposals.is_empty() {
            break;
        }
        let mut any = false;
        for proposal in planned.proposals {
            match mend(&proposal, yes) {
                Ok(done) => any |= done,
                Err(error) => {
                    stderr::line(format_args!(
                        "buildd-slave: {error}. Nothing further was changed."
                    ));
                    return ExitCode::FAILURE;
                }
            }
            tried.push(proposal);
        }
        if !any {
            break;
        }
        stderr::line("Checking again:");
        findings = check(option);
        printed = print(&findings);
    }
    say_rest(&plan(&findings, &tried, me.as_deref()), &tried);
    exit_code(&findings, printed)
}

/// Says what was not mended.
fn say_rest(rest: &Plan, tried: &[Proposal]) {
    for (subject, advice) in &rest.for_operator {
        stderr::line(format_args!("Only you can mend `{subject}`: {advice}"));
    }
    if !rest.for_root.is_empty() {
        stderr::line(format_args!(
            "These need root (sudo buildd-slave doctor --fix): {}",
            rest.for_root.join(", ")
        ));
    }
    if tried.is_empty() && rest.for_operator.is_empty() && rest.for_root.is_empty() {
        stderr::line("Nothing to mend.");
    }
}

/// Shows a mend, asks, and carries it out. Returns false if the answer is no.
fn mend(proposal: &Proposal, yes: bool) -> Result<bool, Error> {
    stderr::line(format_args!(
        "To mend `{}`:",
        proposal.subjects.join("`, `")
    ));
    for step in &proposal.steps {
        stderr::line(format_args!("{}", description(step).trim_end()));
    }
    if !yes && !confirmed() {
        stderr::line("Not mended.");
        return Ok(false);
    }
    for step in &proposal.steps {
        carry_out(step)?;
    }
    Ok(true)
}

/// Returns the command, or the change as a diff.
fn description(step: &Step) -> String {
    if let Some(argv) = step.argv(user::am_root()) {
        return format!("  {}", shown(&argv));
    }
    let Some((path, new)) = change::apply(step, content) else {
        return String::new();
    };
    let diff = change::diff(&path, &content(&path), &new);
    let lines = diff.lines().map(|line| format!("  {line}\n"));
    lines.collect()
}

fn content(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// Asks on the terminal; only `y` and `yes` agree.
fn confirmed() -> bool {
    let mut err = output::stderr();
    let _ = write!(err, "Do this? [y/N] ").and_then(|()| err.flush());
    drop(err);
    let mut answer = String::new();
    let read = io::stdin().read_line(&mut answer);
    read.is_ok() && ["y", "yes"].contains(&answer.trim().to_ascii_lowercase().as_str())
}

fn carry_out(step: &Step) -> Result<(), Error> {
    if let Some(argv) = step.argv(user::am_root()) {
        stderr::line(format_args!("+ {}", shown(&argv)));
        return run_command(&argv);
    }
    if let Some((path, new)) = change::apply(step, content) {
        stderr::line(format_args!("+ change {path}"));
        let folder = Path::new(&path).parent().unwrap_or_else(|| Path::new("/"));
        fs::create_dir_all(folder).map_err(sys::fs::Error::at("create", folder))?;
        sys::fs::atomic_write(Path::new(&path), new.as_bytes())?;
    }
    Ok(())
}

fn run_command(argv: &[String]) -> Result<(), Error> {
    let Some((program, arguments)) = argv.split_first() else {
        return Ok(());
    };
    let path = std::env::var("PATH").unwrap_or_default();
    let status = Command::new(program)
        .args(arguments)
        .env("PATH", format!("{path}:{ROOT_PATH}"))
        .stdin(Stdio::null())
        // stdout is for findings.
        .stdout(io::stderr())
        .status()
        .map_err(|error| Error::Start(program.clone(), error))?;
    match status.success() {
        true => Ok(()),
        false => Err(Error::Failed(shown(argv), status.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_change_files_and_run_commands_until_one_fails() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        let (config, marker) = (path("new/x.conf"), path("marker"));
        let add = Step::AddLine {
            path: config.clone(),
            line: "a = 1".into(),
        };
        let proposal = |steps| Proposal {
            subjects: vec!["x".into()],
            steps,
        };
        let touch = Step::run(&["touch", &marker]);
        assert!(
            mend(
                &proposal(vec![add.clone(), add.clone(), touch.clone()]),
                true
            )
            .unwrap()
        );
        assert_eq!(content(&config), "a = 1\n");
        assert!(Path::new(&marker).exists());

        fs::remove_file(&marker).unwrap();
        let write = Step::Write {
            path: config.clone(),
            text: "b\n".into(),
        };
        let failing = Step::run(&["false"]);
        let error = mend(&proposal(vec![write, failing, touch]), true).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("false failed (exit status: 1)")
        );
        assert_eq!(content(&config), "b\n");
        assert!(!Path::new(&marker).exists(), "nothing runs after a failure");
        let absent = Step::run(&["/nonexistent/program"]);
        assert!(matches!(carry_out(&absent), Err(Error::Start(..))));
    }
}
