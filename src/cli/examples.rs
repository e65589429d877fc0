//! Pure: gives the examples of a group of commands to the commands that they call.
//!
//! The help of a group, such as `master builder`, has examples for all commands below it. Each of
//! those shows its own, unless it has examples already.

use clap::Command;

/// Completes the help of all commands below `command`.
pub(super) fn inherit(command: Command) -> Command {
    let name = command.get_name().to_owned();
    below(command, &name, &[])
}

/// Completes a command with the full name `name`. `above`: the examples of the commands above it.
fn below(command: Command, name: &str, above: &[String]) -> Command {
    let mut help = command.get_after_help().map(ToString::to_string);
    let mut own = help.as_deref().map(examples).unwrap_or_default();
    let mut command = command;
    if own.is_empty() {
        own = above
            .iter()
            .filter(|one| calls(one, name))
            .cloned()
            .collect();
        if !own.is_empty() {
            let text = help.take().map(|text| text + "\n\n").unwrap_or_default();
            command = command.after_help(format!("{text}Examples:\n{}", own.concat().trim_end()));
        }
    }
    command.mut_subcommands(|one| {
        let name = format!("{name} {}", one.get_name());
        below(one, &name, &own)
    })
}

/// Returns the examples in a help, each with its line breaks.
fn examples(help: &str) -> Vec<String> {
    let lines = help
        .lines()
        .skip_while(|line| !(line.starts_with("Examples") && line.ends_with(':')))
        .skip(1)
        .take_while(|line| line.starts_with("  "));
    let mut examples: Vec<String> = Vec::new();
    for line in lines {
        match examples.last_mut() {
            Some(example) if line.starts_with("   ") => example.push_str(line),
            _ => examples.push(line.to_owned()),
        }
        examples.last_mut().expect("a line was added").push('\n');
    }
    examples
}

/// Returns whether an example calls the command with this full name.
fn calls(example: &str, name: &str) -> bool {
    example.match_indices(name).any(|(at, _)| {
        let rest = &example[at + name.len()..];
        rest.is_empty() || rest.starts_with(char::is_whitespace)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn help(command: &Command, path: &[&str]) -> String {
        let mut command = command;
        for name in path {
            command = command.find_subcommand(name).unwrap();
        }
        command
            .get_after_help()
            .map(ToString::to_string)
            .unwrap_or_default()
    }

    #[test]
    fn a_command_shows_the_examples_that_call_it() {
        let command = |name: &'static str| Command::new(name);
        let group = command("group")
            .after_help(
                "Examples:\n  all group set 1\n  all group set-more\n  \
                 cat x |\n    all group set \\\n    --long\n\nEnd.",
            )
            .subcommand(command("set"))
            .subcommand(command("none"))
            .subcommand(command("text").after_help("Text."))
            .subcommand(command("set-more").after_help("Text."))
            .subcommand(command("own").after_help("Examples:\n  all group own"));
        let all = inherit(command("all").subcommand(group));
        assert_eq!(
            help(&all, &["group", "set"]),
            "Examples:\n  all group set 1\n  cat x |\n    all group set \\\n    --long"
        );
        assert_eq!(help(&all, &["group", "none"]), "");
        assert_eq!(help(&all, &["group", "text"]), "Text.");
        assert_eq!(
            help(&all, &["group", "set-more"]),
            "Text.\n\nExamples:\n  all group set-more"
        );
        assert_eq!(help(&all, &["group", "own"]), "Examples:\n  all group own");
    }
}
