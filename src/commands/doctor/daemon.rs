//! Asks the running daemon for the limits of its builds and its health, and predicts the limits of
//! a daemon that would start.

use std::fs;
use std::time::Duration;

use super::facts::{Forecast, Limits, Running};
use crate::client::{Client, Error, SlaveUrl, Timeouts};
use crate::config::Config;
use crate::protocol::Credentials;
use crate::server;
use crate::sys::cgroup::{self, Enforcer, Enforcers};
use crate::sys::claim;

/// The daemon on this host answers at once, or is stuck.
const TIMEOUTS: Timeouts = Timeouts {
    idle: Duration::from_secs(5),
    fetch: Duration::from_secs(5),
    answer: Duration::from_secs(5),
};

/// Reads `/metrics` of the daemon that listens at the first address of `config`.
pub(super) fn ask(config: &Config) -> Running {
    match config.slave.bindhost.first() {
        Some(host) => ask_at(config, host),
        None => Running::NoDaemon,
    }
}

/// Whether that daemon answers `/healthz` with 200; `None` if it gives no such answer.
pub(super) fn is_healthy(config: &Config) -> Option<bool> {
    let host = config.slave.bindhost.first()?;
    match client(config, host).get("/healthz", 0) {
        Ok(_) => Some(true),
        Err(Error::Status { status, .. }) if status.as_u16() == 503 => Some(false),
        Err(_) => None,
    }
}

/// Whether the daemon of `config` has the port at the address `host`, which is in use.
pub(super) fn listens(config: &Config, host: &str) -> bool {
    // A daemon that lets in no client from here has written its pid into the lock of its journal.
    matches!(ask_at(config, host), Running::Limits(_))
        || fs::read_to_string(config.slave.journal.join(claim::NAME))
            .is_ok_and(|pid| has_port(pid.trim(), config.slave.bindport))
}

/// Whether a process listens on a TCP port.
fn has_port(pid: &str, port: u16) -> bool {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd"));
    let links = descriptors.into_iter().flatten().flatten();
    let sockets: Vec<String> = links
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .map(|link| link.display().to_string())
        .collect();
    ["tcp", "tcp6"].iter().any(|table| {
        let text = fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
        let inodes = text.lines().filter_map(|line| listener(line, port));
        let mut names = inodes.map(|inode| format!("socket:[{inode}]"));
        names.any(|name| sockets.contains(&name))
    })
}

/// Returns the inode in a line of `/proc/net/tcp`, if its socket listens on the port.
fn listener(line: &str, port: u16) -> Option<&str> {
    let mut fields = line.split_whitespace();
    let (_, local) = fields.nth(1)?.rsplit_once(':')?;
    let state = fields.nth(1)?;
    let inode = fields.nth(5)?;
    let listens = state == "0A" && u16::from_str_radix(local, 16) == Ok(port);
    listens.then_some(inode)
}

fn ask_at(config: &Config, host: &str) -> Running {
    match read(&client(config, host)) {
        Ok(text) => enforcers(&text).map_or_else(
            || Running::Unknown("it has no such metric: another version?".to_owned()),
            |found| Running::Limits(limits(found)),
        ),
        Err(Error::Refused { .. }) => Running::NoDaemon,
        Err(error) => Running::Unknown(error.to_string()),
    }
}

fn client(config: &Config, host: &str) -> Client {
    let slave = &config.slave;
    // Connecting to an unspecified address is not portable.
    let host = match host {
        "0.0.0.0" => "127.0.0.1",
        "::" => "::1",
        host => host,
    };
    let address = server::address(host, slave.bindport);
    let url = SlaveUrl {
        base: format!("http://{address}"),
        address,
        credentials: slave.credentials.as_ref().map(|known| Credentials {
            username: known.username.clone(),
            password: known.password.expose().to_owned(),
        }),
    };
    Client::new(&url, TIMEOUTS)
}

/// Returns the limits of a daemon that would start now.
pub(super) fn forecast() -> Forecast {
    let found = cgroup::Forecast::read();
    Forecast {
        unit: found.unit.map(limits),
        by_root: limits(found.by_root),
    }
}

fn limits(found: Enforcers) -> Limits {
    Limits {
        shown: found.to_string(),
        by_groups: found.are_groups(),
    }
}

fn read(client: &Client) -> Result<String, Error> {
    let mut download = client.get("/metrics", 0)?;
    let (mut bytes, mut text) = (Vec::new(), String::new());
    loop {
        download.fill(&mut bytes)?;
        if bytes.is_empty() {
            return Ok(text);
        }
        text.push_str(&String::from_utf8_lossy(&bytes));
    }
}

/// Finds what enforces the limits in the text of `/metrics`.
fn enforcers(text: &str) -> Option<Enforcers> {
    let of = |resource: &str| {
        Enforcer::ALL.into_iter().find(|enforcer| {
            let by = enforcer.label();
            let line =
                format!("buildd_slave_build_limits{{by=\"{by}\",resource=\"{resource}\"}} 1");
            text.lines().any(|found| found == line)
        })
    };
    Some(Enforcers {
        memory: of("memory")?,
        processes: of("processes")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_is_found_by_its_port() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let me = std::process::id().to_string();
        assert!(has_port(&me, port));
        assert!(!has_port("1", port), "of another process");
        drop(socket);
        assert!(!has_port(&me, port));
        assert!(!has_port("", port));
    }

    #[test]
    fn the_enforcers_are_read_from_the_metrics() {
        let text = "# HELP x\nbuildd_slave_build_limits{by=\"cgroup_v1\",resource=\"memory\"} 0\n\
                    buildd_slave_build_limits{by=\"cgroup_v2\",resource=\"memory\"} 1\n\
                    buildd_slave_build_limits{by=\"measurement\",resource=\"processes\"} 1\n";
        let found = enforcers(text).unwrap();
        assert_eq!(found.memory, Enforcer::CgroupV2);
        assert_eq!(found.processes, Enforcer::Measurement);
        assert_eq!(enforcers("buildd_slave_connections 1\n"), None);
    }
}
