//! Pure: grades the facts that `doctor` collects, and chooses what mends each problem.
//!
//! The commands are for root on Debian or Ubuntu.

mod host;
mod limits;
mod paths;
mod sessions;
#[cfg(test)]
mod tests;

use crate::config::{Config, Isolation};

use super::facts::{Builder, Host, Port, Seen};
use super::finding::Finding;
use super::mend::Mend;

pub(super) use host::{PROFILE_FILE, PROGRAMS, SYSCTLS};

/// Grades all facts. `seen` is what the user that builds sees; an error is why nothing is known of
/// that, unless the user is missing.
pub(super) fn all(
    config: &Config,
    host: &Host,
    seen: Result<&Seen, Option<Finding>>,
) -> Vec<Finding> {
    let slave = &config.slave;
    let mut findings = vec![Finding::ok("configuration", "can be read")];
    let user = host::user(&host.builder, &slave.user);
    let is_known = matches!(host.builder, Builder::Known(_));
    findings.push(user);
    let seen = match seen {
        Ok(seen) => Some(seen),
        Err(finding) => {
            findings.extend(finding);
            None
        }
    };
    if let Some(seen) = seen.filter(|_| is_known) {
        findings.extend(paths::folders(config, &seen.paths));
        for disk in &seen.disks {
            findings.push(paths::space(disk, &config.limits));
        }
    }
    findings.extend(seen.and_then(|seen| health(seen.healthy)));
    if slave.isolation == Isolation::Unshare {
        findings.extend(unshare(config, host, seen, &findings));
    }
    for (program, path) in PROGRAMS.iter().zip(&host.programs) {
        findings.push(host::program(*program, path.as_deref()));
    }
    for (address, port) in seen.iter().flat_map(|seen| &seen.ports) {
        findings.push(check_port(address, slave.bindport, port));
    }
    findings
}

/// The checks of built-in sessions; `before` are the findings so far.
fn unshare(config: &Config, host: &Host, seen: Option<&Seen>, before: &[Finding]) -> Vec<Finding> {
    let slave = &config.slave;
    let works = seen.is_some_and(|seen| sessions::namespaces_work(&seen.trial));
    let mut findings = Vec::new();
    if let Builder::Known(uid) = host.builder {
        let [subuid, subgid] = &host.sub_ids;
        findings.push(host::sub_ids(&slave.user, uid, subuid, subgid));
    }
    for (program, installed) in ["newuidmap", "newgidmap"].iter().zip(&host.mappers) {
        findings.push(host::id_mapper(program, installed.clone(), works));
    }
    findings.push(host::no_new_privileges(host.no_new_privileges));
    let label = seen.and_then(|seen| seen.label.as_deref());
    for (setting, value) in SYSCTLS.into_iter().zip(&host.sysctls) {
        // A kernel without this setting does not restrict namespaces by it.
        let Some(value) = value else { continue };
        findings.push(match setting.0 {
            host::RESTRICTED => host::apparmor(value, works, label, &host.apparmor, host.unit_runs),
            _ => host::sysctl(setting, value, works),
        });
    }
    if let Some(seen) = seen {
        if matches!(host.builder, Builder::Known(_)) {
            findings.extend(sessions::store(
                &seen.chroots,
                &seen.running,
                host.unit_runs,
            ));
        }
        let paths = before.iter().filter(|it| it.subject.starts_with("path of"));
        let causes = paths.chain(&findings).filter_map(Finding::failed);
        let causes: Vec<&str> = causes.collect();
        let graded = sessions::trial(&seen.trial, &causes, slave.overlay, &host.overlay);
        findings.extend(graded);
    }
    findings.push(host::system_calls(host.knows_system_calls, host.processor));
    if let Some(seen) = seen {
        findings.extend(seen.outside.as_ref().map(sessions::outside));
        match &seen.emulation {
            Ok(ways) => findings.extend(ways.iter().map(|(arch, way)| {
                let known = slave.emulate.iter().find(|known| *known == arch);
                sessions::emulation(known.map_or("?", String::as_str), way)
            })),
            Err(error) => findings.push(Finding::fail("emulation", error.as_str())),
        }
    }
    findings.push(host::sbuild(host.sbuild.as_deref()));
    if let Some(seen) = seen {
        let found = limits::limits(&seen.running, &host.forecast, host.unit_runs);
        findings.push(found);
    }
    findings
}

/// Grades the health of the running daemon, which may see what this process does not.
fn health(healthy: Option<bool>) -> Option<Finding> {
    let subject = "health of the daemon";
    Some(match healthy? {
        true => Finding::ok(subject, "/healthz answers 200"),
        false => Finding::fail(subject, "/healthz answers 503, and builds may be killed").mend(
            Mend::operator("see the lines `space at`; /healthz names the disk"),
        ),
    })
}

fn check_port(address: &str, port: u16, found: &Port) -> Finding {
    let subject = format!("listening on {address}");
    match found {
        Port::Free => Finding::ok(&subject, "free"),
        Port::Own => Finding::ok(&subject, "the running slave does"),
        Port::InUse => {
            Finding::warn(&subject, "another program uses the port").mend(Mend::operator(format!(
                "stop that program, or set another bindport in [slave]; `ss -ltnp 'sport = \
                 :{port}'` names it"
            )))
        }
        Port::Failed(error) => Finding::fail(&subject, error.as_str()).mend(Mend::operator(
            "set bindhost in [slave] to an address of this host; `ip address` lists them",
        )),
    }
}
