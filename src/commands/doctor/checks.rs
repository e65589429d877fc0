//! Pure: grades the facts that `doctor` collects, and names the command that fixes each problem.
//!
//! The commands are for root on Debian or Ubuntu.

use std::str::FromStr;

use debversion::Version;

use crate::commands::report::Finding;
use crate::config::Overlay;
use crate::session;
use crate::session::binfmt::{FIX, Way};
use crate::session::idmap::{COUNT, first_of_range};

/// The oldest sbuild that works in a session.
const OLDEST_SBUILD: &str = "0.85";
/// Less free space gives a warning.
const SCARCE_BYTES: u64 = 2 << 30;
/// The same in inodes: a chroot with build dependencies takes about as many.
const SCARCE_INODES: u64 = 50_000;

/// Kernel settings that can forbid user namespaces: name, forbidding value, allowing value.
pub(super) const SYSCTLS: [(&str, &str, &str); 3] = [
    ("kernel.apparmor_restrict_unprivileged_userns", "1", "0"),
    ("kernel.unprivileged_userns_clone", "0", "1"),
    ("user.max_user_namespaces", "0", "65536"),
];

/// The result of trying to start sessions; an error is the reason.
pub(super) enum Trial {
    NotTried(&'static str),
    /// A user namespace with all its ids could not be created.
    NoNamespace(String),
    /// Sessions were tried, with either writable layer.
    Sessions {
        in_memory: Result<(), String>,
        on_disk: Result<(), String>,
    },
}

/// The means that enforce the limits of builds on memory and processes.
#[derive(Clone)]
pub(super) struct Limits {
    /// Words such as `memory by cgroup v2, processes by cgroup v2`.
    pub(super) shown: String,
    /// Whether control groups enforce both.
    pub(super) by_groups: bool,
}

/// The limits of the running daemon.
pub(super) enum Running {
    NoDaemon,
    Limits(Limits),
    /// The daemon does not tell; the reason.
    Unknown(String),
}

/// The limits of a daemon that would start now.
pub(super) struct Forecast {
    /// Started by the shipped unit; `None` without systemd.
    pub(super) unit: Option<Limits>,
    /// Started by root from the same shell.
    pub(super) by_root: Limits,
}

/// The free space of a file system, or the space to keep free.
#[derive(Clone, Copy)]
pub(super) struct Free {
    pub(super) bytes: u64,
    /// `u64::MAX` if the file system has no limit.
    pub(super) inodes: u64,
}

/// Checks the `value` of one of [`SYSCTLS`]. It is ignored if sessions work: an AppArmor profile
/// may allow what the setting forbids by default.
pub(super) fn sysctl(
    (name, forbidding, allowing): (&str, &str, &str),
    value: &str,
    sessions_work: bool,
) -> Finding {
    let value = value.trim();
    if value != forbidding || sessions_work {
        return Finding::ok(name, value);
    }
    Finding::fail(name, format!("{value}, which forbids user namespaces")).fix(format!(
        "echo {name}={allowing} > /etc/sysctl.d/60-buildd-slave.conf && sysctl --system"
    ))
}

/// Checks the text of `/proc/self/status`.
pub(super) fn no_new_privileges(status: &str) -> Finding {
    let subject = "NoNewPrivileges";
    let set = status
        .lines()
        .filter_map(|line| line.strip_prefix("NoNewPrivs:"))
        .any(|value| value.trim() != "0");
    if !set {
        return Finding::ok(subject, "not set");
    }
    let found = "set, so newuidmap cannot map ids; the cause is a container's no-new-privileges, \
                 or a systemd unit with NoNewPrivileges=yes or an option that implies it";
    Finding::fail(subject, found)
        .fix("systemctl edit buildd-slave, with [Service] NoNewPrivileges=no")
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
    let last = first.saturating_add(COUNT - 1);
    let options: String = lacking
        .iter()
        .map(|kind| format!(" --add-sub{kind}s {first}-{last}"))
        .collect();
    let files = lacking.iter().map(|kind| format!("/etc/sub{kind}"));
    let files: Vec<String> = files.collect();
    let found = format!("no range of {COUNT} for {user} in {}", files.join(" and "));
    Finding::fail(subject, found).fix(format!("usermod{options} {user}"))
}

/// Checks the emulation of one architecture of `[slave] emulate`.
pub(super) fn emulation(arch: &str, way: &Way) -> Finding {
    let subject = format!("emulation of {arch}");
    match way {
        Way::Own(qemu) => {
            let found = format!("{}, registered by each session for itself", qemu.display());
            Finding::ok(&subject, found)
        }
        Way::Host => Finding::ok(&subject, "by the host's handler in binfmt_misc"),
        Way::Lacking(lack) => Finding::warn(&subject, lack.to_string()).fix(FIX),
    }
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
        None => Finding::fail(program, "not installed").fix("apt-get install uidmap"),
        Some((path, true)) => Finding::ok(program, format!("{path}, setuid root")),
        // It has file capabilities instead.
        Some((path, false)) if namespaces_work => Finding::ok(program, path),
        Some((path, false)) => Finding::fail(
            program,
            format!("{path} is not setuid root and cannot map ids"),
        )
        .fix("apt-get install --reinstall uidmap"),
    }
}

/// Grades the result of trying sessions; `overlay` is the configured layer.
pub(super) fn sessions(trial: &Trial, overlay: Overlay) -> Vec<Finding> {
    let subject = "user namespaces";
    let (in_memory, on_disk) = match trial {
        Trial::NotTried(reason) => {
            return vec![Finding::warn(subject, format!("not tried: {reason}"))];
        }
        Trial::NoNamespace(reason) => {
            let fix = "the commands in the lines above; in a container, start it with \
                       --security-opt seccomp=unconfined --security-opt apparmor=unconfined";
            return vec![Finding::fail(subject, reason.as_str()).fix(fix)];
        }
        Trial::Sessions { in_memory, on_disk } => (in_memory, on_disk),
    };
    let layer = |subject, result: &Result<(), String>, needed, fix: &str| match result {
        Ok(()) => Finding::ok(subject, "works"),
        Err(reason) if needed => Finding::fail(subject, reason.as_str()).fix(fix),
        Err(reason) => Finding::warn(subject, reason.as_str()),
    };
    vec![
        Finding::ok(subject, "work"),
        layer(
            "layer in memory",
            in_memory,
            overlay == Overlay::Tmpfs,
            "set overlay = auto in [slave]",
        ),
        // Needed with `auto` too: a build that fills its layer in memory restarts on disk.
        layer(
            "layer on disk",
            on_disk,
            overlay != Overlay::Tmpfs,
            "put [slave] sessions on ext4, xfs or btrfs, not on an overlay or a network",
        ),
    ]
}

/// Checks the store of `count` unpacked chroots; `problems` are those that no session can use.
pub(super) fn store(count: usize, problems: Vec<String>) -> Finding {
    let subject = "unpacked chroots";
    if problems.is_empty() {
        return Finding::ok(subject, format!("{count}, owned by the subordinate ids"));
    }
    let found = format!(
        "{} of {count} cannot be used: {}",
        problems.len(),
        problems.join("; ")
    );
    Finding::warn(subject, found)
        .fix("systemctl restart buildd-slave, which discards them; a build unpacks them again")
}

/// Checks the installed version of sbuild.
pub(super) fn sbuild(installed: Option<&str>) -> Finding {
    let subject = "sbuild";
    let install = "apt-get install sbuild";
    let Some(installed) = installed else {
        return Finding::fail(subject, "not installed").fix(install);
    };
    let oldest = Version::from_str(OLDEST_SBUILD).expect("a version");
    match Version::from_str(installed) {
        Ok(version) if version >= oldest => Finding::ok(subject, installed),
        _ => Finding::fail(subject, format!("{installed}, older than {OLDEST_SBUILD}"))
            .fix("apt-get install sbuild, on Debian 12, Ubuntu 24.04 or later, or from backports"),
    }
}

/// Checks what enforces the limits on memory and processes: of the running daemon, else of one that
/// would start now.
pub(super) fn limits(running: &Running, forecast: &Forecast) -> Finding {
    let subject = "limits of builds";
    let measured = "between two measurements, a build can exhaust the host";
    match running {
        Running::Limits(found) if found.by_groups => {
            Finding::ok(subject, format!("the running daemon has {}", found.shown))
        }
        Running::Limits(found) => {
            let found = format!("the running daemon has {}; {measured}", found.shown);
            with_groups(Finding::warn(subject, found), forecast)
        }
        Running::Unknown(reason) => Finding::warn(
            subject,
            format!("the running daemon does not tell: {reason}"),
        ),
        Running::NoDaemon => {
            let unit = forecast.unit.as_ref();
            let shown = unit.map(|it| format!("the shipped unit: {}", it.shown));
            let by_root = format!("root, by hand: {}", forecast.by_root.shown);
            let starts: Vec<String> = shown.into_iter().chain([by_root]).collect();
            let found = format!("no daemon runs; started by {}", starts.join("; by "));
            match unit.unwrap_or(&forecast.by_root).by_groups {
                true => Finding::ok(subject, found),
                false => with_groups(
                    Finding::warn(subject, format!("{found}; {measured}")),
                    forecast,
                ),
            }
        }
    }
}

/// Adds the command that starts a daemon with control groups, if one does.
fn with_groups(finding: Finding, forecast: &Forecast) -> Finding {
    let by_unit = forecast.unit.as_ref().is_some_and(|it| it.by_groups);
    match by_unit {
        true => finding.fix(
            "systemctl restart buildd-slave, with the shipped unit; by hand: systemd-run --scope \
             --property=Delegate=yes buildd-slave serve",
        ),
        false if forecast.by_root.by_groups => finding.fix("start the daemon as root"),
        false => finding,
    }
}

/// Programs started by name, with their purpose and package.
pub(super) const PROGRAMS: [(&str, &str, &str); 6] = [
    ("tar", "unpack chroots", "tar"),
    ("gzip", "unpack .tar.gz chroots", "gzip"),
    ("bzip2", "unpack .tar.bz2 chroots", "bzip2"),
    ("xz", "unpack .tar.xz chroots", "xz-utils"),
    ("zstd", "unpack .tar.zst chroots", "zstd"),
    ("mmdebstrap", "create chroots", "mmdebstrap"),
];

/// Grades the filter of system calls, which exists for some processors.
pub(super) fn system_calls(filter_is_known: bool, processor: &str) -> Finding {
    let subject = "system calls";
    if filter_is_known {
        return Finding::ok(subject, "those that no build needs are refused");
    }
    Finding::warn(
        subject,
        format!("there is no filter for {processor}: a build can use the kernel's keyrings"),
    )
}

/// Grades the connection of builds to the outside.
pub(super) fn outside(usable: Result<(), session::Error>) -> Finding {
    let subject = "network of builds";
    match usable {
        Ok(()) => Finding::ok(subject, "connected by pasta"),
        Err(error) => Finding::fail(subject, error.to_string()),
    }
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
            grade(name, found).fix(format!("apt-get install {package}"))
        }
    }
}

/// Checks what is free on the file system of `path`. A build below the reserve ends at once.
pub(super) fn space(path: &str, free: Option<Free>, reserve: Free) -> Finding {
    let subject = format!("space at {path}");
    let Some(free) = free else {
        return Finding::warn(&subject, "unknown: the file system cannot be examined");
    };
    let mut shown = format!("{:.1} GiB free", gib(free.bytes));
    if free.inodes < u64::MAX {
        shown = format!("{shown}, {} inodes free", free.inodes);
    }
    let fix = format!("df -h {path}; df -i {path}");
    if free.bytes < reserve.bytes {
        Finding::fail(&subject, format!("{shown}, less than [limits] reserve")).fix(fix)
    } else if free.inodes < reserve.inodes {
        Finding::fail(
            &subject,
            format!("{shown}, less than [limits] reserve_inodes"),
        )
        .fix(fix)
    } else if free.bytes < SCARCE_BYTES || free.inodes < SCARCE_INODES {
        Finding::warn(&subject, format!("only {shown}")).fix(fix)
    } else {
        Finding::ok(&subject, shown)
    }
}

fn gib(bytes: u64) -> f64 {
    // Printed with one decimal, so the loss of precision does not matter.
    (bytes >> 20) as f64 / 1024.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::report::Grade;
    use crate::session::binfmt::Lack;

    #[test]
    fn an_architecture_without_emulation_gives_a_warning_with_its_fix() {
        let own = Way::Own("/usr/bin/qemu-aarch64-static".into());
        let line = emulation("arm64", &own).to_string();
        let found = "ok    emulation of arm64: /usr/bin/qemu-aarch64-static, ";
        assert!(line.starts_with(found), "{line}");
        assert_eq!(emulation("arm64", &Way::Host).grade, Grade::Ok);
        for lack in [Lack::Qemu, Lack::Handler] {
            let finding = emulation("arm64", &Way::Lacking(lack));
            assert_eq!(finding.grade, Grade::Warn);
            let line = finding.to_string();
            assert!(
                line.ends_with("try: apt-get install qemu-user-static"),
                "{line}"
            );
        }
    }

    #[test]
    fn sysctls_matter_only_if_sessions_fail() {
        let [apparmor, clone, max] = SYSCTLS;
        for (setting, value, works, grade) in [
            (apparmor, "1\n", false, Grade::Fail),
            (apparmor, "1\n", true, Grade::Ok),
            (apparmor, "0\n", false, Grade::Ok),
            (clone, "0\n", false, Grade::Fail),
            (max, "0\n", false, Grade::Fail),
            (max, "96365\n", false, Grade::Ok),
        ] {
            assert_eq!(
                sysctl(setting, value, works).grade,
                grade,
                "{setting:?} {value}"
            );
        }
        let line = sysctl(apparmor, "1", false).to_string();
        assert!(line.contains("echo kernel.apparmor_restrict_unprivileged_userns=0 > "));
    }

    #[test]
    fn no_new_privileges_is_read_from_the_status() {
        let status = |flag| format!("Name:\tx\nNoNewPrivs:\t{flag}\nSeccomp:\t0\n");
        assert_eq!(no_new_privileges(&status(0)).grade, Grade::Ok);
        assert_eq!(no_new_privileges(&status(1)).grade, Grade::Fail);
    }

    #[test]
    fn a_proposed_range_is_above_all_existing_ones() {
        let subuid = "me:100000:65536\n";
        let subgid = "you:165536:65536\n";
        assert_eq!(sub_ids("me", 7, subuid, subuid).grade, Grade::Ok);
        assert_eq!(
            sub_ids("me", 7, subuid, subgid).to_string(),
            "FAIL  subordinate ids: no range of 65536 for me in /etc/subgid; \
             try: usermod --add-subgids 231072-296607 me"
        );
        let both = sub_ids("me", 7, "", "").to_string();
        let options = "usermod --add-subuids 100000-165535 --add-subgids 100000-165535 me";
        assert!(both.ends_with(options), "{both}");
    }

    #[test]
    fn sbuild_is_compared_as_dpkg_does() {
        for (version, grade) in [
            (None, Grade::Fail),
            (Some("0.78.1-2"), Grade::Fail),
            (Some("0.85.0"), Grade::Ok),
            (Some("0.85~rc1"), Grade::Fail),
            (Some("0.100"), Grade::Ok),
        ] {
            assert_eq!(sbuild(version).grade, grade, "{version:?}");
        }
    }

    #[test]
    fn a_mapper_needs_the_setuid_bit_or_working_namespaces() {
        let at = |setuid| Some(("/usr/bin/newuidmap".to_owned(), setuid));
        for (installed, works, grade) in [
            (None, false, Grade::Fail),
            (at(true), false, Grade::Ok),
            (at(false), true, Grade::Ok),
            (at(false), false, Grade::Fail),
        ] {
            assert_eq!(id_mapper("newuidmap", installed, works).grade, grade);
        }
    }

    #[test]
    fn a_layer_that_is_not_needed_may_fail() {
        use Grade::{Fail, Ok as Good, Warn};
        let no = || Err("no".to_owned());
        let grades = |trial: Trial, overlay| {
            let findings = sessions(&trial, overlay);
            findings.iter().map(|f| f.grade).collect::<Vec<_>>()
        };
        let layers = |in_memory, on_disk| Trial::Sessions { in_memory, on_disk };
        let (auto, tmpfs) = (Overlay::Auto, Overlay::Tmpfs);
        assert_eq!(grades(Trial::NotTried("no"), auto), [Warn]);
        assert_eq!(grades(Trial::NoNamespace("no".into()), auto), [Fail]);
        assert_eq!(grades(layers(no(), Ok(())), auto), [Good, Warn, Good]);
        assert_eq!(grades(layers(no(), Ok(())), tmpfs), [Good, Fail, Good]);
        assert_eq!(grades(layers(Ok(()), no()), auto), [Good, Good, Fail]);
        assert_eq!(grades(layers(Ok(()), no()), tmpfs), [Good, Good, Warn]);
    }

    #[test]
    fn scarce_space_is_a_warning_and_less_than_the_reserve_a_failure() {
        let reserve = Free {
            bytes: 1 << 29,
            inodes: 1000,
        };
        let with = |bytes, inodes| space("/x", Some(Free { bytes, inodes }), reserve);
        assert_eq!(
            with(2 << 30, u64::MAX).to_string(),
            "ok    space at /x: 2.0 GiB free"
        );
        assert_eq!(with(1 << 30, 1 << 20).grade, Grade::Warn);
        assert_eq!(with(2 << 30, 5000).grade, Grade::Warn);
        assert_eq!(with(1 << 28, 1 << 20).grade, Grade::Fail);
        let line = with(2 << 30, 999).to_string();
        let expect = "FAIL  space at /x: 2.0 GiB free, 999 inodes free, less than [limits] \
                      reserve_inodes; try: df -h /x; df -i /x";
        assert_eq!(line, expect);
    }

    #[test]
    fn limits_are_those_of_the_running_daemon() {
        let of = |by: &str, by_groups| Limits {
            shown: format!("memory by {by}, processes by {by}"),
            by_groups,
        };
        let (groups, none) = (of("cgroup v2", true), of("measurement", false));
        let forecast = |unit: &Limits| Forecast {
            unit: Some(unit.clone()),
            by_root: none.clone(),
        };
        let line = limits(&Running::Limits(groups.clone()), &forecast(&none)).to_string();
        let expect = "ok    limits of builds: the running daemon has memory by cgroup v2, processes \
                      by cgroup v2";
        assert_eq!(line, expect);
        // The host offers groups, and the daemon has none.
        let line = limits(&Running::Limits(none.clone()), &forecast(&groups)).to_string();
        assert!(
            line.starts_with(
                "warn  limits of builds: the running daemon has memory by measurement"
            )
        );
        assert!(
            line.contains("try: systemctl restart buildd-slave"),
            "{line}"
        );
        assert_eq!(
            limits(&Running::Unknown("no".into()), &forecast(&groups)).grade,
            Grade::Warn
        );
        let line = limits(&Running::NoDaemon, &forecast(&groups)).to_string();
        let expect = "ok    limits of builds: no daemon runs; started by the shipped unit: memory by \
                      cgroup v2, processes by cgroup v2; by root, by hand: memory by measurement, \
                      processes by measurement";
        assert_eq!(line, expect);
        assert_eq!(
            limits(&Running::NoDaemon, &forecast(&none)).grade,
            Grade::Warn
        );
    }
}
