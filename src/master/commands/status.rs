//! The one-line status of a builder, and other output shared by several commands.

use super::table::{Cell, Column, Table, column, hidden, printable, wrapping};
use super::units;
use crate::db::{self, Tx};
use crate::master::model::CleanStatus;
use crate::master::rows::builders::{Builder, Job};
use crate::master::rows::events::Event;
use crate::master::rows::registry;
use crate::sys::user;

/// A master whose last heartbeat is older than this, in milliseconds, is not running.
const MASTER_TIMEOUT_MS: i64 = 60_000;
/// Printed by commands that wait for a master when none is running.
pub(super) const NO_MASTER: &str =
    "no master is running, so nothing will be built; start one with `buildd-slave master run`";

/// Returns whether any master is running.
pub(super) fn is_master_alive(tx: &mut Tx<'_>) -> Result<bool, db::Error> {
    let since = tx.now()? - MASTER_TIMEOUT_MS;
    registry::any_master_is_alive(tx, since)
}

/// Returns whether a master is running on `host`.
pub(super) fn is_host_alive(tx: &mut Tx<'_>, host: &str) -> Result<bool, db::Error> {
    let since = tx.now()? - MASTER_TIMEOUT_MS;
    registry::host_is_alive(tx, host, since)
}

/// Returns the status of a builder: `Idle`, `Building <title> 5 min`, `Disabled: <notes>`.
pub(super) fn line(builder: &Builder, job: Option<&Job>, now: i64) -> String {
    let manual = if builder.manual { " (manual)" } else { "" };
    if !builder.ok {
        return match builder.failnotes.as_deref() {
            Some(notes) if !notes.is_empty() => format!("Disabled: {}{manual}", printable(notes)),
            _ => format!("Disabled{manual}"),
        };
    }
    let doing = match (job, builder.clean) {
        (Some(job), _) => {
            let took = units::span(now - job.started_at);
            format!("Building {} {took}", job.name)
        }
        (None, CleanStatus::Clean) => "Idle".to_owned(),
        (None, CleanStatus::Dirty | CleanStatus::Cleaning) => {
            format!(
                "Cleaning for {}",
                units::span(now - builder.clean_changed_at)
            )
        }
    };
    format!("{doing}{manual}")
}

const EVENT_COLUMNS: &[Column] = &[
    column("at", "AGO"),
    hidden("level"),
    column("kind", "EVENT"),
    wrapping("message", "MESSAGE"),
];

/// Returns a table of events, oldest first. `events` has the newest first.
pub(super) fn events(events: &[Event], now: i64) -> Table {
    let mut table = Table::new(EVENT_COLUMNS);
    for event in events.iter().rev() {
        table.row(vec![
            Cell::ago(Some(event.at), now),
            Cell::text(event.level),
            Cell::text(&event.kind),
            Cell::text(&event.message),
        ]);
    }
    table
}

/// Returns the name of the user who runs the command, or who ran `sudo`.
pub(super) fn operator() -> String {
    let sudo = std::env::var("SUDO_USER").ok();
    sudo.filter(|name| !name.is_empty())
        .or_else(|| user::effective().map(|user| user.name))
        .unwrap_or_else(|| "an operator".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::master::model::{BuildName, BuildState, JobStatus, Pocket};

    const NOW: i64 = 1_700_000_000_000;

    fn builder() -> Builder {
        Builder {
            id: 1,
            name: "bob".into(),
            url: "http://bob:8221/".into(),
            title: String::new(),
            virtualized: false,
            vm_host: None,
            reset: None,
            manual: false,
            active: true,
            ok: true,
            failnotes: None,
            failure_count: 0,
            form: None,
            version: None,
            clean: CleanStatus::Clean,
            clean_changed_at: NOW - 12 * 60_000,
            lease_owner: None,
            lease_until: 0,
            epoch: 0,
            processors: Vec::new(),
        }
    }

    fn job() -> Job {
        Job {
            queue: 1,
            build: 8,
            attempt: 1,
            nonce: None,
            status: JobStatus::Running,
            cancel_by: None,
            started_at: NOW - 5 * 60_000,
            state: BuildState::Building,
            name: BuildName {
                source: "hello".into(),
                version: "2".into(),
                distribution: "ubuntu".into(),
                series: "hoary".into(),
                arch_tag: "i386".into(),
                pocket: Pocket::Release,
            },
            logtail: None,
        }
    }

    #[test]
    fn the_status_line_shows_state_job_and_notes() {
        let idle = builder();
        let manual = |mut builder: Builder| {
            builder.manual = true;
            builder
        };
        let dirty = Builder {
            clean: CleanStatus::Cleaning,
            ..builder()
        };
        let disabled = |notes: Option<&str>| Builder {
            ok: false,
            failnotes: notes.map(str::to_owned),
            ..builder()
        };
        let building = "Building i386 build of hello 2 in ubuntu hoary RELEASE 5 min";
        for (builder, job, expect) in [
            (idle.clone(), None, "Idle"),
            (manual(idle.clone()), None, "Idle (manual)"),
            (dirty.clone(), Some(job()), building),
            (dirty, None, "Cleaning for 12 min"),
            (disabled(None), Some(job()), "Disabled"),
            (disabled(Some("no disk")), None, "Disabled: no disk"),
        ] {
            assert_eq!(line(&builder, job.as_ref(), NOW), expect);
        }
    }
}
