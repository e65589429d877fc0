//! Pure: the help of each command to its manual page.

use clap::builder::PossibleValue;
use clap::{Arg, Command};
use clap_mangen::Man;
use clap_mangen::roff::{Inline, Roff, bold, roman};

use super::NAME;
use super::prose::{self, Block, Place};

/// A file with a manual page.
pub(super) struct Page {
    pub(super) file: String,
    pub(super) text: String,
}

/// Sections of the main page that `--help` does not have: heading, and terms with their text.
const MAIN_SECTIONS: &[(&str, &[(&str, &str)])] = &[
    (
        "ENVIRONMENT",
        &[
            (
                "BUILDD_SLAVE_CONFIG",
                "Configuration file, if a command has no `--config`.",
            ),
            (
                "RUST_LOG",
                "Level of the log on standard error: error, warn, info (the default) or debug.",
            ),
            (
                "XDG_CACHE_HOME",
                "Below it, in buildd-slave, `build` and `chroot` work for a user other than root\n\
                 and the one that builds, unless the configuration sets a home. Default: ~/.cache.",
            ),
        ],
    ),
    (
        "FILES",
        &[
            (
                "/etc/buildd-slave/buildd-slave.conf",
                "Configuration file; see buildd-slave.conf(5). It may be absent: then each key has\n\
                 its default.",
            ),
            (
                "/etc/subuid, /etc/subgid",
                "Subordinate ids, which builds without root need; see subuid(5).",
            ),
            (
                "~buildd",
                "Home of the user that builds. File cache, chroots, journal, work trees, results and\n\
                 database are below it, unless the configuration moves them.",
            ),
        ],
    ),
];

/// Other pages that the main page names.
const OTHER_PAGES: &[(&str, &str)] = &[
    ("mmdebstrap", "1"),
    ("sbuild", "1"),
    ("subuid", "5"),
    ("user_namespaces", "7"),
];

/// The help of a command below its options, sorted into sections of a page.
#[derive(Debug, Default, PartialEq, Eq)]
struct Sections {
    description: Vec<Block>,
    examples: Vec<Block>,
    exit_status: Vec<Block>,
}

/// Returns the pages of a command and of all commands below it that are not hidden.
pub(super) fn pages(command: Command, date: &str) -> Vec<Page> {
    let mut command = command.disable_help_subcommand(true);
    command.build();
    let exit_status = sections(&command).exit_status;
    let mut pages = Vec::new();
    add_pages(&mut pages, &command, None, &exit_status, date);
    pages
}

/// Appends the page of a built command, and those below it. `exit_status`: the text for commands
/// whose help does not mention it.
fn add_pages(
    pages: &mut Vec<Page>,
    command: &Command,
    parent: Option<&Command>,
    exit_status: &[Block],
    date: &str,
) {
    pages.push(Page {
        file: format!("{}.1", name(command)),
        text: page(command, parent, exit_status, date),
    });
    for below in command.get_subcommands().filter(|one| !one.is_hide_set()) {
        add_pages(pages, below, Some(command), exit_status, date);
    }
}

fn page(command: &Command, parent: Option<&Command>, exit_status: &[Block], date: &str) -> String {
    let mut sections = sections(command);
    if sections.exit_status.is_empty() {
        sections.exit_status = exit_status.to_vec();
    }
    let man = Man::new(with_usage(command));
    let mut roff = Roff::new();
    title(&mut roff, name(command), "1", date);
    let mut text = roff.render();
    let mut add = |part: &dyn Fn(&Man, &mut Vec<u8>) -> std::io::Result<()>| {
        let mut bytes = Vec::new();
        part(&man, &mut bytes).expect("a write to memory does not fail");
        text.push_str(without_preamble(&String::from_utf8_lossy(&bytes)));
    };
    add(&|man, to| man.render_name_section(to));
    add(&|man, to| man.render_synopsis_section(to));
    add(&|_, to| description(command, &sections.description).to_writer(to));
    add(&|man, to| man.render_options_section(to));
    if command.get_subcommands().any(|one| !one.is_hide_set()) {
        add(&|man, to| man.render_subcommands_section(to));
    }
    add(&|_, to| rest(command, parent, &sections).to_writer(to));
    text
}

/// Returns the name of a command's page, such as `buildd-slave-master-submit`.
fn name(command: &Command) -> &str {
    command
        .get_display_name()
        .unwrap_or_else(|| command.get_name())
}

/// Gives a command the synopsis and the texts of options that `--help` shows, and the heading of
/// its commands.
fn with_usage(command: &Command) -> Command {
    let usage = command.clone().render_usage().to_string();
    let heading = command.get_subcommand_help_heading().unwrap_or("Commands");
    command
        .clone()
        .override_usage(usage.trim_start_matches("Usage:").trim().to_owned())
        .subcommand_help_heading(heading.to_uppercase())
        .mut_args(with_values)
}

/// Appends the default and the possible values to the text of an option, as `--help` does.
fn with_values(arg: Arg) -> Arg {
    if !arg.get_action().takes_values() {
        return arg;
    }
    let mut help = arg.get_help().map(ToString::to_string).unwrap_or_default();
    let defaults: Vec<_> = arg
        .get_default_values()
        .iter()
        .map(|one| one.to_string_lossy())
        .collect();
    if !arg.is_hide_default_value_set() && !defaults.is_empty() {
        help.push_str(&format!(" [default: {}]", defaults.join(" ")));
    }
    let words = arg.get_possible_values();
    let words: Vec<&str> = words.iter().map(PossibleValue::get_name).collect();
    if !arg.is_hide_possible_values_set() && !words.is_empty() {
        help.push_str(&format!(" [possible values: {}]", words.join(", ")));
    }
    arg.help(help)
        .hide_default_value(true)
        .hide_possible_values(true)
}

/// Removes the definitions that `roff` puts at the beginning of each text.
fn without_preamble(text: &str) -> &str {
    let preamble = Roff::new().render();
    text.strip_prefix(preamble.as_str()).unwrap_or(text)
}

/// Appends the title line of a page.
pub(super) fn title(roff: &mut Roff, name: &str, section: &str, date: &str) {
    // An empty argument needs its quotation marks.
    let date = if date.is_empty() { "\"\"" } else { date };
    let source = format!("{NAME} {}", env!("CARGO_PKG_VERSION"));
    let title = name.to_uppercase();
    roff.control(
        "TH",
        [&title, section, date, &source, "buildd-slave manual"],
    );
    // Names of commands and keys are not hyphenated, and lines not stretched.
    roff.control("nr", ["HY", "0"]);
    roff.control("nh", []);
    roff.control("ad", ["l"]);
}

fn description(command: &Command, blocks: &[Block]) -> Roff {
    let about = command.get_about().map(ToString::to_string);
    let mut all = vec![Block::Paragraph(format!("{}.", about.unwrap_or_default()))];
    all.extend_from_slice(blocks);
    let mut roff = Roff::new();
    roff.control("SH", ["DESCRIPTION"]);
    prose::write(&mut roff, &all, Place::Section);
    roff
}

/// Sorts the text below the options into sections.
fn sections(command: &Command) -> Sections {
    const EXIT_CODE: &str = "Exit code: ";
    let text = command.get_after_help().map(ToString::to_string);
    let mut sections = Sections::default();
    let mut examples = false;
    for block in prose::blocks(&text.unwrap_or_default()) {
        match block {
            Block::Paragraph(text) if prose::is_heading_of_examples(&text) => examples = true,
            block @ Block::Verbatim(_) if examples => sections.examples.push(block),
            Block::Paragraph(text) if text.starts_with(EXIT_CODE) => {
                let codes = text.replacen(EXIT_CODE, "", 1);
                sections.exit_status.push(Block::Paragraph(codes));
            }
            block => {
                examples = false;
                sections.description.push(block);
            }
        }
    }
    sections
}

/// Returns the sections below the commands.
fn rest(command: &Command, parent: Option<&Command>, sections: &Sections) -> Roff {
    let mut roff = Roff::new();
    if !sections.examples.is_empty() {
        roff.control("SH", ["EXAMPLES"]);
        prose::write(&mut roff, &sections.examples, Place::Section);
    }
    for (heading, terms) in MAIN_SECTIONS.iter().filter(|_| parent.is_none()) {
        roff.control("SH", [*heading]);
        for (term, text) in *terms {
            roff.control("TP", []);
            roff.text([bold(*term)]);
            roff.text(prose::inlines(text));
        }
    }
    roff.control("SH", ["EXIT STATUS"]);
    prose::write(&mut roff, &sections.exit_status, Place::Section);
    see_also(&mut roff, &related(command, parent));
    roff
}

/// Returns the pages that the page of a command names: that above, its neighbours, and files.
fn related(command: &Command, parent: Option<&Command>) -> Vec<(String, &'static str)> {
    let mut pages = Vec::new();
    let mut add = |one: &Command| pages.push((name(one).to_owned(), "1"));
    if let Some(parent) = parent {
        add(parent);
        parent
            .get_subcommands()
            .filter(|one| !one.is_hide_set() && one.get_name() != command.get_name())
            .for_each(&mut add);
    }
    if parent.is_none() {
        let others = OTHER_PAGES.iter();
        pages.extend(others.map(|&(name, section)| (name.to_owned(), section)));
    }
    pages.sort_by(|one, other| one.1.cmp(other.1).then(one.0.cmp(&other.0)));
    let at = pages.partition_point(|(_, section)| *section < "5");
    pages.insert(at, ("buildd-slave.conf".to_owned(), "5"));
    pages
}

/// Appends the section that names other pages.
pub(super) fn see_also(roff: &mut Roff, pages: &[(String, &str)]) {
    roff.control("SH", ["SEE ALSO"]);
    let last = pages.len().saturating_sub(1);
    for (index, (name, section)) in pages.iter().enumerate() {
        let comma = if index == last { "" } else { "," };
        let line: [Inline; 2] = [bold(name), roman(format!("({section}){comma}"))];
        roff.text(line);
    }
}

#[cfg(test)]
mod tests {
    use clap::ArgAction;

    use super::*;

    fn sample() -> Command {
        let below = Command::new("below")
            .about("Do one thing")
            .arg(
                Arg::new("dry")
                    .long("dry-run")
                    .action(ArgAction::SetTrue)
                    .help("Only print"),
            )
            .arg(
                Arg::new("way")
                    .long("way")
                    .value_parser(["a", "b"])
                    .default_value("b"),
            )
            .after_help("Prints `.x`.\n\nExamples:\n  all below --dry-run  # none\n");
        Command::new("all")
            .about("Do all")
            .after_help("Exit code: 0 if done.")
            .subcommand(below)
            .subcommand(Command::new("hidden").hide(true))
            .subcommand(Command::new("near").about("Do another"))
    }

    fn sample_page(file: &str) -> String {
        let pages = pages(sample(), "2026-11-28");
        pages
            .into_iter()
            .find(|page| page.file == file)
            .unwrap()
            .text
    }

    #[test]
    fn each_shown_command_has_a_page() {
        let pages = pages(sample(), "");
        let files: Vec<&str> = pages.iter().map(|page| page.file.as_str()).collect();
        assert_eq!(files, ["all.1", "all-below.1", "all-near.1"]);
        assert!(pages.iter().all(|page| !page.text.contains("hidden")));
    }

    #[test]
    fn the_help_is_sorted_into_sections() {
        let page = sample_page("all-below.1");
        for part in [
            ".TH ALL-BELOW 1 2026-11-28 \"buildd-slave ",
            ".SH NAME\nall\\-below \\- Do one thing\n",
            ".SH SYNOPSIS\n\\fBall below\\fR [OPTIONS]\n",
            ".SH DESCRIPTION\nDo one thing.\n.PP\nPrints \\fB.x\\fR.\n.SH OPTIONS\n",
            "\\fB\\-\\-dry\\-run\\fR\nOnly print\n.TP\n",
            " [default: b] [possible values: a, b]\n",
            ".SH EXAMPLES\n.RS 4\n.EX\nall below \\-\\-dry\\-run  # none\n.EE\n.RE\n",
            ".SH \"EXIT STATUS\"\n0 if done.\n",
            ".SH \"SEE ALSO\"\n\\fBall\\fR(1),\n\\fBall\\-near\\fR(1),\n\\fBbuildd\\-slave.conf\\fR(5)\n",
        ] {
            assert!(page.contains(part), "{part}\nis not in\n{page}");
        }
        assert_eq!(page.matches(".ds Aq '").count(), 1, "{page}");
    }

    #[test]
    fn the_main_page_names_files_and_commands() {
        let page = sample_page("all.1");
        for part in [
            ".SH COMMANDS\n.TP\nall\\-below(1)\nDo one thing\n",
            ".SH FILES\n.TP\n\\fB/etc/buildd\\-slave/buildd\\-slave.conf\\fR\n",
            ".SH \"EXIT STATUS\"\n0 if done.\n",
            "\\fBbuildd\\-slave.conf\\fR(5),\n\\fBsubuid\\fR(5),\n",
        ] {
            assert!(page.contains(part), "{part}\nis not in\n{page}");
        }
    }
}
