//! Puts a changed configuration in force while the daemon runs.
//!
//! Limits and settings of builds apply to the next build. Everything else applies to the next
//! connection or call.

use std::sync::{Arc, Mutex};

use crate::config::{Config, Isolation, Limits, Network, Warning};
use crate::config_file::{self, ConfigText, Reload};
use crate::filecache::{FetchLimits, Fetcher};
use crate::pipeline::spec::Settings;
use crate::server::{Access, SharedAccess};
use crate::session::outside;
use crate::sys::fs::DiskUsage;
use crate::sys::lock::lock;

use super::handler::{Handler, HandlerSettings};

/// The parts of a running daemon that a reload changes.
pub(super) struct Reloader {
    reload: Reload,
    /// The configuration in force.
    config: Mutex<Config>,
    handler: Arc<Handler>,
    /// The allowed clients of each server.
    clients: Vec<SharedAccess>,
}

impl Reloader {
    pub(super) fn new(
        reload: Reload,
        config: Config,
        handler: Arc<Handler>,
        clients: Vec<SharedAccess>,
    ) -> Self {
        Self {
            reload,
            config: Mutex::new(config),
            handler,
            clients,
        }
    }

    /// Reads the configuration again, and applies it unless it has errors.
    pub(super) fn run(&self) {
        self.reload.run(|text| self.apply(text));
    }

    fn apply(&self, text: &ConfigText) -> Result<Vec<Warning>, String> {
        let (new, warnings) = text
            .config(&config_file::host_defaults())
            .map_err(|error| error.to_string())?;
        let mut config = lock(&self.config);
        let next = config.reloaded(&new);
        let has_sessions =
            next.slave.isolation == Isolation::Unshare && next.programs.mount.is_none();
        if has_sessions && next.slave.network == Network::Always {
            outside::check_host().map_err(|error| error.to_string())?;
        }
        let handler = &self.handler;
        let limits = &next.limits;
        handler.store.set_space(limits.cache_size, limits.reserve);
        handler.daemon.set_settings(Settings::of(&next));
        let old = handler.settings();
        let allowed = next.slave.fetch_from.clone();
        let fetcher = old.fetcher.with(fetch_limits(limits), allowed);
        *lock(&handler.settings) = Arc::new(handler_settings(&next, fetcher));
        for clients in &self.clients {
            clients.replace(access(&next));
        }
        *config = next;
        Ok(warnings)
    }
}

/// Returns the settings of answers.
pub(super) fn handler_settings(config: &Config, fetcher: Fetcher) -> HandlerSettings {
    HandlerSettings {
        fetcher,
        reserve: DiskUsage {
            bytes: config.limits.reserve,
            inodes: config.limits.reserve_inodes.into(),
        },
        form: config.slave.statusform,
        verdicts: config.slave.verdicts,
    }
}

pub(super) fn fetch_limits(limits: &Limits) -> FetchLimits {
    FetchLimits {
        connect_timeout: limits.fetch_connect_timeout,
        idle_timeout: limits.fetch_idle_timeout,
        lowest_rate: limits.fetch_lowest_rate,
        size: limits.fetch_size,
        retries: limits.fetch_retries,
    }
}

pub(super) fn access(config: &Config) -> Access {
    let credentials = config.slave.credentials.as_ref();
    Access {
        allow: config.slave.allow.clone(),
        credentials: credentials.map(|c| (c.username.clone(), c.password.expose().to_owned())),
    }
}
