//! Pure: the spec of one build: the request of the master and the settings of this host.
//!
//! The daemon writes the spec, the shim reads it. So a running build is not affected by a new
//! configuration or an upgrade of the program.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::{Config, Network, Overlay, Programs};
use crate::gate::{self, CacheSettings, HostPattern, Upstream};
use crate::protocol::BuildRequest;

use super::scrub::scrub_always;

/// The request of a build, and the settings for it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Spec {
    pub(crate) request: BuildRequest,
    pub(crate) settings: Settings,
}

/// The settings of this host, as they were when the build started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Settings {
    /// The folder of the work tree `build-ID`, and the working folder of every stage.
    pub(crate) home: PathBuf,
    pub(crate) filecache: PathBuf,
    pub(crate) chroots: PathBuf,
    pub(crate) sessions: PathBuf,
    /// The architecture of a build without `arch_tag`.
    pub(crate) arch: String,
    /// `parallel=N` of DEB_BUILD_OPTIONS.
    pub(crate) parallel: u32,
    pub(crate) overlay: Overlay,
    /// Missing in the journal of older daemons.
    #[serde(default)]
    pub(crate) network: Network,
    /// Missing in the journal of older daemons, whose shims had no gate.
    #[serde(default)]
    pub(crate) gate: Option<GateSettings>,
    /// Site programs that replace built-in stages, called with the arguments of 2008.
    pub(crate) programs: Programs,
    // Its name in journal entries is `clocks`.
    #[serde(rename = "clocks")]
    pub(crate) timeouts: Timeouts,
    pub(crate) log_bytes: u64,
    /// Missing in the journal of older daemons.
    #[serde(default)]
    pub(crate) space: Space,
    /// The limit of a writable layer in memory; `None` is half of the available memory.
    pub(crate) memory_layer_bytes: Option<u64>,
    // Missing in the journal of older daemons, like all fields below.
    /// The limit on the memory of all processes; `None` is 7/8 of the machine's, divided by
    /// `slaves`.
    #[serde(default)]
    pub(crate) memory_bytes: Option<u64>,
    /// The slaves that share the machine's memory; 0 counts as 1.
    #[serde(default)]
    pub(crate) slaves: u64,
    /// The limit on the number of processes.
    #[serde(default)]
    pub(crate) processes: u64,
    /// The disk space promised to a build.
    #[serde(default)]
    pub(crate) disk_bytes: u64,
    /// The space left free on every file system that builds use.
    #[serde(default)]
    pub(crate) reserve_bytes: u64,
    /// The limit on the size of all results.
    #[serde(default)]
    pub(crate) result_bytes: u64,
    /// The inodes promised to a build, and those left free on every file system.
    #[serde(default)]
    pub(crate) inodes: u64,
    #[serde(default)]
    pub(crate) reserve_inodes: u64,
    /// The architectures that this host may emulate.
    #[serde(default)]
    pub(crate) emulate: Vec<String>,
}

/// The limits of the caches, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Space {
    /// In the file cache.
    pub(crate) cache: u64,
    /// In the chroot store.
    pub(crate) chroots: u64,
    /// The space that both leave free on their file systems.
    pub(crate) reserve: u64,
}

impl Default for Space {
    fn default() -> Self {
        Self {
            cache: u64::MAX,
            chroots: u64::MAX,
            reserve: 0,
        }
    }
}

/// The settings of a build's gate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GateSettings {
    pub(crate) redirect_to: Vec<HostPattern>,
    private: Vec<HostPattern>,
    cache: PathBuf,
    /// The size of the cache, and the space that it leaves free, in bytes.
    cache_bytes: u64,
    reserve_bytes: u64,
    connect: Duration,
    idle: Duration,
    /// In bytes per second.
    lowest_rate: u64,
    file_bytes: u64,
    /// `[proxy] apt`.
    upstream: Option<String>,
}

impl GateSettings {
    pub(crate) fn of(config: &Config) -> Self {
        let (gate, limits) = (&config.gate, &config.limits);
        Self {
            redirect_to: gate.redirect_to.clone(),
            private: gate.private.clone(),
            cache: gate.cache.clone(),
            cache_bytes: gate.cache_size,
            reserve_bytes: limits.reserve,
            connect: limits.fetch_connect_timeout,
            idle: limits.fetch_idle_timeout,
            lowest_rate: limits.fetch_lowest_rate,
            file_bytes: limits.fetch_size,
            upstream: config.apt_proxy.as_ref().map(|url| url.expose().to_owned()),
        }
    }

    /// Returns what the gate itself takes. A private build has no cache.
    pub(crate) fn of_gate(&self, private: bool) -> gate::Settings {
        let mut settings = gate::Settings::new(gate::Limits {
            connect: self.connect,
            server_idle: self.idle,
            lowest_rate: self.lowest_rate,
            file_bytes: self.file_bytes,
            ..gate::Limits::default()
        });
        settings.private.clone_from(&self.private);
        // The configuration was checked when it was read.
        let upstream = self.upstream.as_deref();
        settings.upstream = upstream.and_then(|url| Upstream::parse(url).ok());
        settings.cache = (!private).then(|| CacheSettings {
            dir: self.cache.clone(),
            limit: self.cache_bytes,
            reserve: self.reserve_bytes,
        });
        settings
    }
}

/// The timeouts of a build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Timeouts {
    /// The whole build.
    pub(crate) total: Duration,
    /// A stage without a byte of output.
    pub(crate) silence: Duration,
    /// Every stage but SBUILD.
    pub(crate) stage: Duration,
    /// From an abort request until all processes of the build have ended.
    pub(crate) abort: Duration,
}

impl Settings {
    /// Takes the settings of a build from the configuration.
    pub(crate) fn of(config: &Config) -> Self {
        let Config {
            slave,
            limits,
            programs,
            ..
        } = config;
        Self {
            home: slave.home.clone(),
            filecache: slave.filecache.clone(),
            chroots: slave.chroots.clone(),
            sessions: slave.sessions.clone(),
            arch: slave.architecturetag.clone(),
            parallel: slave.parallel,
            overlay: slave.overlay,
            network: slave.network,
            gate: Some(GateSettings::of(config)),
            programs: programs.clone(),
            timeouts: Timeouts {
                total: limits.build_time,
                silence: limits.silence,
                stage: limits.stage_time,
                abort: limits.abort_time,
            },
            log_bytes: limits.log_size,
            space: Space {
                cache: limits.cache_size,
                chroots: limits.chroots_size,
                reserve: limits.reserve,
            },
            memory_layer_bytes: limits.memory_layer,
            memory_bytes: limits.memory,
            slaves: limits.slaves.into(),
            processes: limits.processes.into(),
            disk_bytes: limits.disk,
            reserve_bytes: limits.reserve,
            result_bytes: limits.results,
            inodes: limits.inodes.into(),
            reserve_inodes: limits.reserve_inodes.into(),
            emulate: slave.emulate.clone(),
        }
    }
}

impl Spec {
    pub(crate) fn arch(&self) -> &str {
        self.request
            .args
            .arch_tag
            .as_ref()
            .map_or(self.settings.arch.as_str(), |arch| arch.as_str())
    }

    /// The suite of this build; `autobuild` if the request has none, as in 2008.
    pub(crate) fn suite(&self) -> &str {
        self.request
            .args
            .suite
            .as_ref()
            .map_or("autobuild", |suite| suite.as_str())
    }

    /// The work tree: links to the input files, and the results of sbuild.
    pub(crate) fn work_tree(&self) -> PathBuf {
        self.settings
            .home
            .join(format!("build-{}", self.request.build_id))
    }

    /// The folder of the build's session.
    pub(crate) fn session_dir(&self) -> PathBuf {
        self.settings.sessions.join(self.request.build_id.as_str())
    }

    /// The chroot tarball in the cache.
    pub(crate) fn tarball(&self) -> PathBuf {
        self.settings.filecache.join(self.request.chroot.as_str())
    }

    /// Returns the spec without the passwords of archives and proxy, as written to disk.
    pub(crate) fn without_secrets(&self) -> Self {
        let mut spec = self.clone();
        for line in &mut spec.request.args.archives {
            *line = scrub_always(line);
        }
        if let Some(gate) = &mut spec.settings.gate {
            gate.upstream = gate.upstream.as_deref().map(scrub_always);
        }
        spec
    }
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use super::*;

    /// A spec with these arguments of `build`.
    pub(crate) fn spec(args: serde_json::Value) -> Spec {
        let sha1 = "0a4d55a8d778e5022fab701977c5d840bbc486d0";
        let second = json!({"secs": 1, "nanos": 0});
        serde_json::from_value(json!({
            "request": {
                "build_id": "8-1", "chroot": sha1, "files": [["hello_2.10-3.dsc", sha1]],
                "args": args
            },
            "settings": {
                "home": "/h", "filecache": "/h/f", "chroots": "/h/c", "sessions": "/h/s",
                "arch": "amd64", "parallel": 4, "overlay": "Auto", "network": "BuildDeps",
                "programs": {"unpack": null, "mount": null, "umount": null, "clean": null,
                    "process_scan": null, "sbuild": null, "sbuild_args": ["--nolog", "--batch"],
                    "update": null, "ogre": null, "sources": null},
                "clocks": {"total": second, "silence": second, "stage": second, "abort": second},
                "log_bytes": 1000, "memory_layer_bytes": null
            }
        }))
        .unwrap()
    }
}
