//! Makes the copy of a command without its hidden options and commands.

use clap::Command;

/// Returns what `--help` shows of an unbuilt command, for generators that ignore `hide`.
pub(super) fn copy(command: &Command) -> Command {
    let mut copy = Command::new(command.get_name().to_owned())
        .disable_help_subcommand(command.is_disable_help_subcommand_set())
        .args(command.get_arguments().filter(|arg| !arg.is_hide_set()))
        .subcommands(
            command
                .get_subcommands()
                .filter(|one| !one.is_hide_set())
                .map(self::copy),
        );
    if let Some(about) = command.get_about() {
        copy = copy.about(about.clone());
    }
    if let Some(version) = command.get_version() {
        copy = copy.version(version.to_owned());
    }
    copy
}

#[cfg(test)]
mod tests {
    use clap::Arg;

    use super::*;

    #[test]
    fn hidden_options_and_commands_are_left_out() {
        let command = Command::new("all")
            .arg(Arg::new("shown").long("shown"))
            .arg(Arg::new("internal").long("internal").hide(true))
            .subcommand(Command::new("one").arg(Arg::new("deep").long("deep").hide(true)))
            .subcommand(Command::new("two").hide(true));
        let copy = copy(&command);
        let args: Vec<&str> = copy
            .get_arguments()
            .map(|arg| arg.get_id().as_str())
            .collect();
        assert_eq!(args, ["shown"]);
        let commands: Vec<&Command> = copy.get_subcommands().collect();
        assert_eq!(commands.len(), 1);
        assert_eq!(commands[0].get_name(), "one");
        assert_eq!(commands[0].get_arguments().count(), 0);
    }
}
