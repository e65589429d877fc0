//! Finds what enforces the limits of builds: of the running daemon, and of one that would start.

use std::time::Duration;

use super::checks::{Forecast, Limits, Running};
use crate::client::{Client, Error, SlaveUrl, Timeouts};
use crate::config::Config;
use crate::protocol::Credentials;
use crate::server;
use crate::sys::cgroup::{self, Enforcer, Enforcers};

/// The daemon on this host answers at once, or is stuck.
const TIMEOUTS: Timeouts = Timeouts {
    idle: Duration::from_secs(5),
    fetch: Duration::from_secs(5),
    answer: Duration::from_secs(5),
};

/// Reads `/metrics` of the daemon that listens at the first address of `config`.
pub(super) fn ask(config: &Config) -> Running {
    let slave = &config.slave;
    let Some(host) = slave.bindhost.first() else {
        return Running::NoDaemon;
    };
    // Connecting to an unspecified address is not portable.
    let host = match host.as_str() {
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
    match read(&Client::new(&url, TIMEOUTS)) {
        Ok(text) => enforcers(&text).map_or_else(
            || Running::Unknown("it has no such metric: another version?".to_owned()),
            |found| Running::Limits(limits(found)),
        ),
        Err(Error::Refused { .. }) => Running::NoDaemon,
        Err(error) => Running::Unknown(error.to_string()),
    }
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
