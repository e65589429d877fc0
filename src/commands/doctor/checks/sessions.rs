//! Pure: grades sessions that were tried, their chroots, their network and emulation.

use crate::config::Overlay;
use crate::session::binfmt::{Lack, Way};

use super::super::facts::{Chroots, NoOutside, OverlayModule, Running, Trial};
use super::super::finding::Finding;
use super::super::mend::{Mend, Step};

const NAMESPACES: &str = "user namespaces";
/// The kernel's text of ENOSPC, which is its answer beyond a limit on namespaces.
const NO_SPACE: &str = "No space left on device";

pub(super) fn namespaces_work(trial: &Trial) -> bool {
    matches!(trial, Trial::Sessions { .. })
}

/// Grades the result of trying sessions. `causes` are the subjects of failed checks, of which one
/// may be why namespaces fail; `overlay` is the configured layer.
pub(super) fn trial(
    trial: &Trial,
    causes: &[&str],
    overlay: Overlay,
    module: &OverlayModule,
) -> Vec<Finding> {
    let (in_memory, on_disk) = match trial {
        Trial::NotTried(reason) => {
            let finding = Finding::warn(NAMESPACES, format!("not tried: {reason}"));
            return vec![match causes.first() {
                Some(cause) => finding.mend(Mend::with(*cause)),
                None => finding.mend(Mend::operator("run this as root")),
            }];
        }
        Trial::NoNamespace(reason) => return vec![no_namespace(reason, causes)],
        Trial::Sessions { in_memory, on_disk } => (in_memory, on_disk),
    };
    let layer = |subject, result: &Result<(), String>, needed, mend: Mend| match result {
        Ok(()) => Finding::ok(subject, "works"),
        Err(reason) if needed => {
            let reason = match module {
                OverlayModule::Known => reason.clone(),
                _ => format!("the running kernel has no overlay file system ({reason})"),
            };
            Finding::fail(subject, reason).mend(mend)
        }
        Err(reason) => Finding::warn(subject, reason.as_str()),
    };
    let from_module = |other: Mend| module_mend(module).unwrap_or(other);
    vec![
        Finding::ok(NAMESPACES, "work"),
        layer(
            "layer in memory",
            in_memory,
            overlay == Overlay::Tmpfs,
            from_module(Mend::operator("set overlay = auto in [slave]")),
        ),
        // Needed with `auto` too: a build that fills its layer in memory restarts on disk.
        layer(
            "layer on disk",
            on_disk,
            overlay != Overlay::Tmpfs,
            from_module(Mend::operator(
                "put [slave] sessions on ext4, xfs or btrfs, not on an overlay or a network; \
                 or set overlay = copy in [slave]",
            )),
        ),
    ]
}

/// Grades namespaces that the host refuses.
fn no_namespace(reason: &str, causes: &[&str]) -> Finding {
    let at_limit = reason.contains(NO_SPACE);
    let found = match at_limit {
        true => {
            "refused: the limit of user namespaces is reached (user.max_user_namespaces; a \
                 container may have a limit of its own)"
        }
        false => reason,
    };
    let finding = Finding::fail(NAMESPACES, found);
    match causes.last() {
        Some(cause) => finding.mend(Mend::with(*cause)),
        None if at_limit => finding.mend(Mend::operator(
            "raise user.max_user_namespaces here, and on the host of a container",
        )),
        None => finding.mend(Mend::operator(
            "nothing here forbids them, so a container does: start it with --security-opt \
             seccomp=unconfined --security-opt apparmor=unconfined",
        )),
    }
}

/// Returns what makes the overlay known to the kernel; `None` if it is.
fn module_mend(module: &OverlayModule) -> Option<Mend> {
    match module {
        OverlayModule::Known => None,
        OverlayModule::Loadable => Some(Mend::Steps(vec![
            Step::run(&["modprobe", "overlay"]),
            Step::AddLine {
                path: "/etc/modules-load.d/buildd-slave.conf".to_owned(),
                line: "overlay".to_owned(),
            },
        ])),
        OverlayModule::Absent(release) => Some(Mend::operator(format!(
            "install the modules of the running kernel {release} or boot one with \
             CONFIG_OVERLAY_FS; until then, set overlay = copy in [slave]"
        ))),
    }
}

/// Grades the store of unpacked chroots.
pub(super) fn store(chroots: &Chroots, running: &Running, unit_runs: bool) -> Vec<Finding> {
    let subject = "unpacked chroots";
    let (count, unusable) = (chroots.count, &chroots.unusable);
    let mut findings = vec![if unusable.is_empty() {
        Finding::ok(subject, format!("{count}, owned by the subordinate ids"))
    } else {
        let found = format!(
            "{} of {count} cannot be used: {}",
            unusable.len(),
            unusable.join("; ")
        );
        Finding::warn(subject, found).mend(match running {
            Running::NoDaemon => Mend::operator(
                "nothing: the daemon discards them when it starts, and a build unpacks them again",
            ),
            _ if unit_runs => Mend::command(&["systemctl", "restart", "buildd-slave"]),
            _ => Mend::operator(
                "restart the daemon, which discards them; a build unpacks them again",
            ),
        })
    }];
    if !chroots.without_passwd.is_empty() {
        let found = format!(
            "the package passwd is missing, whose groupadd and useradd sbuild runs in the chroot: \
             {}",
            chroots.without_passwd.join(", ")
        );
        findings.push(
            Finding::warn("chroots for sbuild", found).mend(Mend::operator(
                "add it to the tarball with that SHA-1, and give the new tarball to the master: \
             buildd-slave chroot update TAR",
            )),
        );
    }
    findings
}

/// Grades the connection of builds to the outside.
pub(super) fn outside(usable: &Result<(), NoOutside>) -> Finding {
    let subject = "network of builds";
    match usable {
        Ok(()) => Finding::ok(subject, "connected by pasta"),
        Err(NoOutside::Pasta(error)) => {
            Finding::fail(subject, error.as_str()).mend(Mend::package("passt"))
        }
        Err(NoOutside::Tun(error)) => {
            Finding::fail(subject, error.as_str()).mend(Mend::Steps(vec![
                Step::run(&["modprobe", "tun"]),
                Step::run(&["chmod", "0666", "/dev/net/tun"]),
            ]))
        }
        Err(NoOutside::Other(error)) => Finding::fail(subject, error.as_str())
            .mend(Mend::operator("set network = build-deps in [slave]")),
    }
}

/// Grades the emulation of one architecture of `[slave] emulate`.
pub(super) fn emulation(arch: &str, way: &Way) -> Finding {
    let subject = format!("emulation of {arch}");
    match way {
        Way::Own(qemu) => {
            let found = format!("{}, registered by each session for itself", qemu.display());
            Finding::ok(&subject, found)
        }
        Way::Host => Finding::ok(&subject, "by the host's handler in binfmt_misc"),
        Way::Lacking(lack @ Lack::Unknown) => Finding::warn(&subject, lack.to_string())
            .mend(Mend::operator("remove it from emulate in [slave]")),
        Way::Lacking(lack) => {
            Finding::warn(&subject, lack.to_string()).mend(Mend::package("qemu-user-static"))
        }
    }
}
