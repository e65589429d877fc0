//! Rules about the Rust version: one number everywhere, and no crate that needs a newer one.

use std::fs;
use std::process::Command;

use crate::sources::{check_in, root};

/// The version that `Cargo.toml` states, as `1.85`.
fn stated() -> String {
    let text = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let line = text.lines().find(|line| line.starts_with("rust-version"));
    line.unwrap().split('"').nth(1).unwrap().to_owned()
}

fn numbers(version: &str) -> Vec<u32> {
    let parts = version.split('.').take(2);
    parts.map(|part| part.parse().unwrap()).collect()
}

#[test]
fn all_files_state_the_same_rust_version() {
    let version = stated();
    for (file, sentence) in [
        (".clippy.toml", format!("msrv = \"{version}\"\n")),
        ("README.md", format!("Rust {version} or newer")),
        ("CONTRIBUTING.md", format!("Rust {version} or newer")),
    ] {
        let text = fs::read_to_string(root().join(file)).unwrap();
        assert!(text.contains(&sentence), "{file} lacks: {sentence}");
    }
}

#[test]
fn no_crate_needs_a_newer_rust() {
    let mut cargo = Command::new(env!("CARGO"));
    // Without a platform, Cargo would download the crates of all others too.
    let platform = "--filter-platform=x86_64-unknown-linux-gnu";
    cargo.args(["metadata", "--format-version=1", "--locked", platform]);
    let output = cargo.current_dir(root()).output().unwrap();
    let problem = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{problem}");
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    assert!(packages.len() > 100, "{}", packages.len());
    let limit = numbers(&stated());
    let newer: Vec<String> = packages
        .iter()
        .filter_map(|package| Some((package, package["rust_version"].as_str()?)))
        .filter(|(_, version)| numbers(version) > limit)
        .map(|(package, version)| format!("{} needs Rust {version}", package["name"]))
        .collect();
    assert!(newer.is_empty(), "\n{}\n", newer.join("\n"));
}

/// Returns the lines that continue a `let` condition, or continue a condition by `let`. rustfmt has
/// formatted them.
fn let_chains<'a>(lines: impl Iterator<Item = (usize, &'a str)>) -> Vec<usize> {
    // Put together, so that this file contains none.
    let (by_let, more) = (concat!("&& ", "let "), concat!("&", "& "));
    let mut found = Vec::new();
    let mut open = None;
    for (line, code) in lines {
        let text = code.trim_start();
        let indent = code.len() - text.len();
        if code.contains(by_let) || (open == Some(indent) && text.starts_with(more)) {
            found.push(line);
        }
        let begins = ["if let ", "while let "].iter().any(|it| text.contains(it));
        match text.trim_end().ends_with('{') {
            true => open = None,
            false if begins => open = Some(indent + 4),
            false => {}
        }
    }
    found
}

/// Clippy knows the version of each function, but not that of `let` in a chain of conditions.
#[test]
fn no_condition_is_a_let_chain() {
    assert_eq!(stated(), "1.85", "let chains came with Rust 1.88");
    for folder in ["src", "tests"] {
        check_in(folder, |file, offence| {
            for line in let_chains(file.code()) {
                offence(line, "a let chain needs Rust 1.88".to_owned());
            }
        });
    }
}

#[test]
fn finds_let_chains_and_nothing_else() {
    let found = |code: &str| let_chains(code.lines().enumerate()).len();
    let chain = "if let Some(a) = b\n    XX a > 1\n{\n}\nif a XX let Some(b) = c {\n}\n";
    assert_eq!(found(&chain.replace("XX", "&&")), 2);
    let none = "if let Some(a) = b\n    .filter(|c| {\n        c > 1\n            XX c < 3\n    })\n\
        {\n    let d = e\n        XX f;\n}\nif a\n    XX b\n{\n}\n";
    assert_eq!(found(&none.replace("XX", "&&")), 0);
}
