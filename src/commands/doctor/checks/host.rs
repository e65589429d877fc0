//! Pure: grades the user that builds, kernel settings, AppArmor, and installed programs.

use std::str::FromStr;

use debversion::Version;

use crate::session::idmap::{COUNT, first_of_range};

use super::super::facts::{AppArmor, Builder};
use super::super::finding::Finding;
use super::super::mend::{Mend, Step};

/// The oldest sbuild that works in a session.
const OLDEST_SBUILD: &str = "0.85";

/// The setting by which AppArmor refuses user namespaces to programs without a profile.
pub(super) const RESTRICTED: &str = "kernel.apparmor_restrict_unprivileged_userns";
/// Kernel settings that can forbid user namespaces: name, forbidding value, allowing value.
pub(in super::super) const SYSCTLS: [(&str, &str, &str); 3] = [
    (RESTRICTED, "1", "0"),
    ("kernel.unprivileged_userns_clone", "0", "1"),
    ("user.max_user_namespaces", "0", "65536"),
];
const SYSCTL_FILE: &str = "/etc/sysctl.d/60-buildd-slave.conf";

/// The profile for [`RESTRICTED`], and the paths in it.
const PROFILE: &str = include_str!("../../../../debian/buildd-slave.apparmor");
pub(in super::super) const PROFILE_FILE: &str = "/etc/apparmor.d/buildd-slave";
const PROFILE_PROGRAM: &str = "/usr/bin/buildd-slave";
/// The name of the profile, which is the first word of the label of a process that has it.
const PROFILE_NAME: &str = "buildd-slave";

/// Programs started by name, with their purpose and package.
pub(in super::super) const PROGRAMS: [(&str, &str, &str); 6] = [
    ("tar", "unpack chroots", "tar"),
    ("gzip", "unpack .tar.gz chroots", "gzip"),
    ("bzip2", "unpack .tar.bz2 chroots", "bzip2"),
    ("xz", "unpack .tar.xz chroots", "xz-utils"),
    ("zstd", "unpack .tar.zst chroots", "zstd"),
    ("mmdebstrap", "create chroots", "mmdebstrap"),
];

/// Checks the user that builds, who is called `name`.
pub(super) fn user(builder: &Builder, name: &str) -> Finding {
    let subject = "user";
    match builder {
        Builder::Known(_) => Finding::ok(subject, name),
        Builder::NotMe(reason) => {
            Finding::warn(subject, reason.as_str()).mend(Mend::operator("sudo buildd-slave doctor"))
        }
        Builder::Missing(home) => Finding::fail(subject, format!("this host has no user {name}"))
            .mend(Mend::command(&[
                "useradd",
                "--system",
                "--user-group",
                "--home-dir",
                home,
                "--create-home",
                "--skel",
                "/dev/null",
                "--shell",
                "/usr/sbin/nologin",
                name,
            ])),
        Builder::Wrong(reason) => Finding::fail(subject, reason.as_str())
            .mend(Mend::operator("set user in [slave] to a system user")),
    }
}

/// Checks the `value` of one of [`SYSCTLS`]. It is ignored if sessions work.
pub(super) fn sysctl(
    (name, forbidding, allowing): (&str, &str, &str),
    value: &str,
    sessions_work: bool,
) -> Finding {
    let value = value.trim();
    if value != forbidding || sessions_work {
        return Finding::ok(name, value);
    }
    let found = format!("{value}, which forbids user namespaces");
    Finding::fail(name, found).mend(Mend::Steps(vec![
        Step::AddLine {
            path: SYSCTL_FILE.to_owned(),
            line: format!("{name} = {allowing}"),
        },
        Step::run(&["sysctl", "--load", SYSCTL_FILE]),
    ]))
}

/// Checks [`RESTRICTED`]. `label` is the one that AppArmor gives this program. A profile allows
/// namespaces to this program alone; changing the setting would allow them to all.
pub(super) fn apparmor(
    value: &str,
    sessions_work: bool,
    label: Option<&str>,
    facts: &AppArmor,
    unit_runs: bool,
) -> Finding {
    let value = value.trim();
    if value == "0" {
        return Finding::ok(RESTRICTED, value);
    }
    let label = label.unwrap_or("unknown").trim();
    let has_profile = label.split([' ', '/']).next() == Some(PROFILE_NAME);
    if sessions_work || has_profile {
        return Finding::ok(
            RESTRICTED,
            format!("{value}; the program's label is {label}"),
        );
    }
    let found = format!(
        "{value}, and AppArmor gives this program no profile with userns (its label is {label})"
    );
    let finding = Finding::fail(RESTRICTED, found);
    let program = facts.program.as_str();
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./+".contains(&byte);
    if !program.starts_with('/') || !program.bytes().all(is_plain) {
        let advice = format!("install the program as {PROFILE_PROGRAM}");
        return finding.mend(Mend::operator(advice));
    }
    if !facts.has_parser {
        return finding.mend(Mend::package("apparmor"));
    }
    let mut steps = Vec::new();
    let names_program = |text: &String| {
        let mut words = text.lines().flat_map(str::split_whitespace);
        words.any(|word| word == program)
    };
    if !facts.profile.as_ref().is_some_and(names_program) {
        steps.push(Step::Write {
            path: PROFILE_FILE.to_owned(),
            text: PROFILE.replace(PROFILE_PROGRAM, program),
        });
    }
    steps.push(Step::run(&[
        "apparmor_parser",
        "--replace",
        "--write-cache",
        PROFILE_FILE,
    ]));
    if unit_runs {
        // A process gets its profile when it starts.
        steps.push(Step::run(&["systemctl", "restart", "buildd-slave"]));
    }
    finding.mend(Mend::Steps(steps))
}

/// Grades the flag of this process that forbids setuid programs.
pub(super) fn no_new_privileges(is_set: bool) -> Finding {
    let subject = "NoNewPrivileges";
    if !is_set {
        return Finding::ok(subject, "not set");
    }
    let found = "set, so newuidmap cannot map ids; the cause is a container's no-new-privileges, \
                 or a systemd unit with NoNewPrivileges=yes or an option that implies it";
    Finding::fail(subject, found).mend(Mend::operator(
        "start the container without no-new-privileges; or systemctl edit buildd-slave, with \
         [Service] NoNewPrivileges=no",
    ))
}

/// Checks the ranges of `user` in the texts of `/etc/subuid` and `/etc/subgid`.
pub(super) fn sub_ids(user: &str, uid: u32, subuid: &str, subgid: &str) -> Finding {
    let subject = "subordinate ids";
    let found = [("uid", subuid), ("gid", subgid)]
        .map(|(kind, text)| (kind, first_of_range(text, user, uid)));
    let lacking: Vec<&str> = found
        .iter()
        .filter_map(|(kind, first)| first.is_none().then_some(*kind))
        .collect();
    if lacking.is_empty() {
        let shown = found.map(|(kind, first)| format!("{kind}s from {}", first.unwrap_or(0)));
        return Finding::ok(subject, format!("{user} has {}", shown.join(", ")));
    }
    let first = free_range(&[subuid, subgid]);
    let range = format!("{first}-{}", first.saturating_add(COUNT - 1));
    let mut words = vec!["usermod".to_owned()];
    for kind in &lacking {
        words.extend([format!("--add-sub{kind}s"), range.clone()]);
    }
    words.push(user.to_owned());
    let files = lacking.iter().map(|kind| format!("/etc/sub{kind}"));
    let files: Vec<String> = files.collect();
    let found = format!("no range of {COUNT} for {user} in {}", files.join(" and "));
    Finding::fail(subject, found).mend(Mend::Steps(vec![Step::Run(words)]))
}

/// Returns the first id above all ranges in `texts`.
fn free_range(texts: &[&str]) -> u32 {
    let lines = texts.iter().flat_map(|text| text.lines());
    let ends = lines.filter_map(|line| {
        let mut numbers = line.trim().split(':').skip(1);
        let first: u32 = numbers.next()?.parse().ok()?;
        let count: u32 = numbers.next()?.parse().ok()?;
        first.checked_add(count)
    });
    ends.fold(100_000, u32::max)
}

/// Checks `newuidmap` or `newgidmap`: `installed` is its path and whether it is setuid root.
pub(super) fn id_mapper(
    program: &str,
    installed: Option<(String, bool)>,
    namespaces_work: bool,
) -> Finding {
    match installed {
        None => Finding::fail(program, "not installed").mend(Mend::package("uidmap")),
        Some((path, true)) => Finding::ok(program, format!("{path}, setuid root")),
        // It has file capabilities instead.
        Some((path, false)) if namespaces_work => Finding::ok(program, path),
        Some((path, false)) => Finding::fail(
            program,
            format!("{path} is not setuid root and cannot map ids"),
        )
        .mend(Mend::command(&[
            "env",
            "DEBIAN_FRONTEND=noninteractive",
            "apt-get",
            "install",
            "--yes",
            "--reinstall",
            "uidmap",
        ])),
    }
}

/// Checks the installed version of sbuild.
pub(super) fn sbuild(installed: Option<&str>) -> Finding {
    let subject = "sbuild";
    let Some(installed) = installed else {
        return Finding::fail(subject, "not installed").mend(Mend::package("sbuild"));
    };
    let oldest = Version::from_str(OLDEST_SBUILD).expect("a version");
    match Version::from_str(installed) {
        Ok(version) if version >= oldest => Finding::ok(subject, installed),
        _ => Finding::fail(subject, format!("{installed}, older than {OLDEST_SBUILD}")).mend(
            Mend::operator(
                "upgrade this host to Debian 12, Ubuntu 24.04 or later, or install sbuild from \
                 backports",
            ),
        ),
    }
}

/// Grades the filter of system calls, which exists for some processors.
pub(super) fn system_calls(filter_is_known: bool, processor: &str) -> Finding {
    let subject = "system calls";
    if filter_is_known {
        return Finding::ok(subject, "those that no build needs are refused");
    }
    let found =
        format!("there is no filter for {processor}: a build can use the kernel's keyrings");
    Finding::warn(subject, found).mend(Mend::operator("nothing; builds work"))
}

/// Checks for one of [`PROGRAMS`]. Only tar is always needed.
pub(super) fn program((name, purpose, package): (&str, &str, &str), path: Option<&str>) -> Finding {
    match path {
        Some(path) => Finding::ok(name, path),
        None => {
            let found = format!("not installed: cannot {purpose}");
            let grade = if name == "tar" {
                Finding::fail
            } else {
                Finding::warn
            };
            grade(name, found).mend(Mend::package(package))
        }
    }
}
