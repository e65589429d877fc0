//! Pure: grades what enforces the limits of builds on memory and processes.

use super::super::facts::{Forecast, Running};
use super::super::finding::Finding;
use super::super::mend::Mend;

/// Checks what enforces the limits: of the running daemon, else of one that would start now.
/// `unit_runs`: systemd started that daemon.
pub(super) fn limits(running: &Running, forecast: &Forecast, unit_runs: bool) -> Finding {
    let subject = "limits of builds";
    let measured = "between two measurements, a build can exhaust the host";
    match running {
        Running::Limits(found) if found.by_groups => {
            Finding::ok(subject, format!("the running daemon has {}", found.shown))
        }
        Running::Limits(found) => {
            let found = format!("the running daemon has {}; {measured}", found.shown);
            with_groups(Finding::warn(subject, found), forecast, unit_runs)
        }
        Running::Unknown(reason) => Finding::warn(
            subject,
            format!("the running daemon does not tell: {reason}"),
        )
        .mend(Mend::operator(
            "run this on the slave's host, with an address that [slave] allow lets in",
        )),
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
                    false,
                ),
            }
        }
    }
}

/// Adds what starts a daemon with control groups.
fn with_groups(finding: Finding, forecast: &Forecast, unit_runs: bool) -> Finding {
    let by_unit = forecast.unit.as_ref().is_some_and(|it| it.by_groups);
    finding.mend(match by_unit {
        true if unit_runs => Mend::command(&["systemctl", "restart", "buildd-slave"]),
        true => Mend::operator(
            "start the daemon by the shipped unit (systemctl enable --now buildd-slave), or by \
             hand: systemd-run --scope --property=Delegate=yes buildd-slave serve",
        ),
        false if forecast.by_root.by_groups => Mend::operator("start the daemon as root"),
        false => Mend::operator(
            "nothing on this host: it gives no control groups for memory and pids to services; \
             a kernel with cgroup v2 does",
        ),
    })
}
