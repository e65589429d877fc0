//! `internal manual` writes a page for each command of `--help`, and completions that work.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::support::mounts::not_run;

const PROGRAM: &str = env!("CARGO_BIN_EXE_buildd-slave");

/// Returns what a command prints, if it succeeds.
fn printed(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

/// Writes the pages and completions to a new folder.
fn manual() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(PROGRAM);
    command.args(["internal", "manual"]).arg(folder.path());
    printed(command.env("SOURCE_DATE_EPOCH", "1795772443"));
    folder
}

/// Returns all commands that `--help` lists, as words and with their help.
fn commands() -> Vec<(Vec<String>, String)> {
    let mut found = Vec::new();
    let mut open = vec![Vec::new()];
    while let Some(words) = open.pop() {
        let help = printed(Command::new(PROGRAM).args(&words).arg("--help"));
        for name in listed(&help).filter(|name| *name != "help") {
            let mut below: Vec<String> = words.clone();
            below.push(name.to_owned());
            open.push(below);
        }
        found.push((words, help));
    }
    assert!(found.len() > 50, "{found:?}");
    found
}

/// Returns the names in the list of commands of a help.
fn listed(help: &str) -> impl Iterator<Item = &str> {
    let list = help
        .lines()
        .skip_while(|line| !matches!(*line, "Commands:" | "Methods:"))
        .skip(1)
        .take_while(|line| !line.is_empty());
    // A line that continues a description is indented further.
    list.filter_map(|line| line.strip_prefix("  ")?.split(' ').next())
        .filter(|name| !name.is_empty())
}

fn page(folder: &Path, words: &[String]) -> PathBuf {
    let name: Vec<&str> = std::iter::once("buildd-slave")
        .chain(words.iter().map(String::as_str))
        .collect();
    folder.join("man1").join(format!("{}.1", name.join("-")))
}

/// Returns the lines below `Examples` in a help.
fn examples(help: &str) -> Vec<&str> {
    help.lines()
        .skip_while(|line| !line.starts_with("Examples"))
        .skip(1)
        .take_while(|line| line.starts_with("  "))
        .map(str::trim)
        .collect()
}

/// Returns a page without the escapes of roff.
fn unescaped(page: &Path) -> String {
    let text = fs::read_to_string(page).unwrap_or_else(|_| panic!("no {}", page.display()));
    text.replace("\\-", "-")
        .replace("\\*(Aq", "'")
        .replace("\\&", "")
        .replace("\\\\", "\\")
}

#[test]
fn each_command_of_help_has_a_page_and_no_other_has() {
    let folder = manual();
    let expected: BTreeSet<PathBuf> = commands()
        .iter()
        .map(|(words, _)| page(folder.path(), words))
        .collect();
    let entries = fs::read_dir(folder.path().join("man1")).unwrap();
    let written: BTreeSet<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    assert_eq!(written, expected);
}

#[test]
fn examples_and_exit_codes_of_each_help_are_in_its_page() {
    let folder = manual();
    for (words, help) in commands() {
        let page = unescaped(&page(folder.path(), &words));
        let examples = examples(&help);
        assert!(!examples.is_empty(), "{words:?} has no examples:\n{help}");
        let exit = help.lines().find(|line| line.starts_with("Exit"));
        if let Some(codes) = exit {
            let codes = codes
                .strip_prefix("Exit code: ")
                .expect("the form of a page");
            let section = format!(".SH \"EXIT STATUS\"\n{codes}");
            assert!(page.contains(&section), "{section}\nis not in\n{page}");
        }
        for example in examples {
            let shown = page.lines().any(|line| line.trim() == example);
            assert!(shown, "{words:?}: {example:?} is not in\n{page}");
        }
    }
}

#[test]
fn mandoc_has_no_warning_about_any_page() {
    let folder = manual();
    let mut command = Command::new("mandoc");
    command.args(["-T", "lint", "-W", "warning"]);
    for section in ["man1", "man5"] {
        let entries = fs::read_dir(folder.path().join(section)).unwrap();
        command.args(entries.map(|entry| entry.unwrap().path()));
    }
    let output = command.output().expect("install mandoc: .ci/setup tests");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.is_empty(), "{said}");
}

/// Returns what bash offers for the last of `words`.
fn completed(folder: &Path, words: &[&str]) -> Vec<String> {
    let script = r#"
        source "$1"; shift
        COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
        _buildd__slave "$1" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
        echo "${COMPREPLY[@]}""#;
    let file = folder.join("completions/bash/buildd-slave");
    let mut command = Command::new("bash");
    command.args(["-c", script, "bash"]).arg(file).args(words);
    let offered = printed(&mut command);
    offered.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn bash_completes_commands_and_options() {
    let folder = manual();
    let offered = |words: &[&str]| completed(folder.path(), words);
    assert_eq!(offered(&["buildd-slave", "lib"]), ["librarian"]);
    let master = ["buildd-slave", "master"];
    assert_eq!(offered(&[&master[..], &["resc"]].concat()), ["rescore"]);
    let long = ["master", "archive", "set", "a", "b", "--keep-d"];
    assert_eq!(
        offered(&[&["buildd-slave"], &long[..]].concat()),
        ["--keep-days"]
    );
    let create = offered(&["buildd-slave", "chroot", "create", "--"]);
    assert!(create.contains(&"--suite".to_owned()), "{create:?}");
    assert!(!create.contains(&"--shown-as".to_owned()), "{create:?}");
    assert!(offered(&["buildd-slave", "int"]).is_empty());
    let state = ["buildd-slave", "master", "builds", "--state", "FULL"];
    assert_eq!(offered(&state), ["FULLYBUILT"]);
}

#[test]
fn other_shells_parse_their_completions() {
    let folder = manual();
    for (shell, file) in [
        ("zsh", "zsh/_buildd-slave"),
        ("fish", "fish/buildd-slave.fish"),
    ] {
        let file = folder.path().join("completions").join(file);
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.contains("retry-depwait"), "{}", file.display());
        assert!(!text.contains("shown-as"), "{}", file.display());
        match Command::new(shell).arg("-n").arg(&file).output() {
            Ok(output) => assert!(output.status.success(), "{output:?}"),
            Err(_) => not_run("the syntax of a completion", shell),
        }
    }
}

#[test]
fn fish_completes_options_of_the_third_level() {
    let folder = manual();
    let file = folder.path().join("completions/fish/buildd-slave.fish");
    let script = "source $argv[1]; complete -C $argv[2]";
    let offered = |line: &str| {
        let mut command = Command::new("fish");
        command.args(["-c", script]).arg(&file).arg(line);
        let output = command.output().ok()?;
        assert!(output.status.success(), "{output:?}");
        Some(String::from_utf8(output.stdout).unwrap())
    };
    let Some(option) = offered("buildd-slave master archive set a b --keep-d") else {
        return not_run("completion in fish", "fish");
    };
    assert!(option.starts_with("--keep-days\t"), "{option}");
    let verb = offered("buildd-slave master archive sh").unwrap();
    assert!(verb.starts_with("show\t"), "{verb}");
    let word = offered("buildd-slave master chroot set a b --pocket UPD").unwrap();
    assert_eq!(word.trim(), "UPDATES");
}

#[test]
fn a_wrong_folder_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let mut command = Command::new(PROGRAM);
    let output = command.args(["internal", "manual"]).arg(&file).output();
    let output = output.unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(
        said.contains("cannot write") && said.contains("file/man1"),
        "{said}"
    );
}
