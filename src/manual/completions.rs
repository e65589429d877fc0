//! Pure: the command line to scripts that complete it in a shell.
//!
//! The scripts are those of `clap_complete`, with its mistakes mended.

use clap::Command;
use clap_complete::Shell;

use super::NAME;

/// clap issue 6421: the labels of the commands split this program's name at its hyphen, and the
/// code that jumps to them does not.
pub(super) fn bash(command: &Command) -> String {
    script(Shell::Bash, command, NAME).replace("buildd__subcmd__slave", "buildd__slave")
}

pub(super) fn zsh(command: &Command) -> String {
    script(Shell::Zsh, command, NAME)
}

/// `clap_complete` leaves out the options of the third level, such as `master archive set`. They
/// come from the scripts of the commands of the first level, as if each were a program.
pub(super) fn fish(command: &Command) -> String {
    const BELOW_GROUP: &str = "; and __fish_seen_subcommand_from ";
    let mut all = script(Shell::Fish, command, NAME);
    for group in command.get_subcommands() {
        let name = group.get_name();
        let ours = fish_entry(NAME) + name + BELOW_GROUP;
        let script = script(Shell::Fish, group, name);
        // An entry has several lines if its option has possible values.
        for entry in script.split(fish_entry(name).as_str()).skip(1) {
            if entry.contains(BELOW_GROUP) {
                all.push_str(&format!("{ours}{}\n", entry.trim_end()));
            }
        }
    }
    all
}

/// Returns the beginning of an entry for the commands below `program`.
fn fish_entry(program: &str) -> String {
    let function = program.replace('-', "_");
    format!("complete -c {program} -n \"__fish_{function}_using_subcommand ")
}

fn script(shell: Shell, command: &Command, program: &str) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command.clone(), program, &mut script);
    String::from_utf8_lossy(&script).into_owned()
}
