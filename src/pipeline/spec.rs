//! Pure: everything a shim must know to do one build, as it stands in the journal.
//!
//! The daemon writes it, the shim reads it: a later change of the configuration, or an upgrade of
//! the program, does not touch a build that runs.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::{Config, Network, Overlay, Programs};
use crate::protocol::BuildRequest;

use super::scrub::scrub_always;

/// One build: what the master asked for, and how this host does it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Spec {
    pub(crate) request: BuildRequest,
    pub(crate) settings: Settings,
}

/// How this host builds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Settings {
    /// Where `build-ID` goes, and the working folder of every stage.
    pub(crate) home: PathBuf,
    pub(crate) filecache: PathBuf,
    pub(crate) chroots: PathBuf,
    pub(crate) sessions: PathBuf,
    /// The architecture of a build that names none.
    pub(crate) arch: String,
    /// `parallel=N` of DEB_BUILD_OPTIONS.
    pub(crate) parallel: u32,
    pub(crate) overlay: Overlay,
    /// Absent from the journal of older daemons.
    #[serde(default)]
    pub(crate) network: Network,
    pub(crate) apt_proxy: Option<String>,
    /// Site programs in place of built-in stages, called with the arguments of 2008.
    pub(crate) programs: Programs,
    // Journals call it `clocks`.
    #[serde(rename = "clocks")]
    pub(crate) timeouts: Timeouts,
    pub(crate) log_bytes: u64,
    /// How much may be kept. An older program's spec has none.
    #[serde(default)]
    pub(crate) space: Space,
    /// The bound of a writable layer in memory; none is half of what is available.
    pub(crate) memory_layer_bytes: Option<u64>,
    // Absent from the journal of older daemons, as what follows.
    /// What all processes of the build may use; none is 7/8 of the machine's.
    #[serde(default)]
    pub(crate) memory_bytes: Option<u64>,
    #[serde(default)]
    pub(crate) processes: u64,
    /// What a build is promised of the disk.
    #[serde(default)]
    pub(crate) disk_bytes: u64,
    /// What is left free on every file system that builds use.
    #[serde(default)]
    pub(crate) reserve_bytes: u64,
    /// The bound of all results together.
    #[serde(default)]
    pub(crate) result_bytes: u64,
}

/// How much may be kept, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Space {
    /// In the file cache.
    pub(crate) cache: u64,
    /// In the chroot store.
    pub(crate) chroots: u64,
    /// What either leaves free on its file system.
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

/// How long things may take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Timeouts {
    /// The whole build.
    pub(crate) total: Duration,
    /// A stage without a byte of output.
    pub(crate) silence: Duration,
    /// Every stage but SBUILD.
    pub(crate) stage: Duration,
    /// From an abort until nothing of the build may be left.
    pub(crate) abort: Duration,
}

impl Settings {
    /// Returns what a configuration says of building.
    pub(crate) fn of(config: &Config) -> Self {
        let Config {
            slave,
            limits,
            programs,
            apt_proxy,
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
            apt_proxy: apt_proxy.as_ref().map(|url| url.expose().to_owned()),
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
            processes: limits.processes.into(),
            disk_bytes: limits.disk,
            reserve_bytes: limits.reserve,
            result_bytes: limits.results,
        }
    }
}

impl Spec {
    /// The architecture of this build.
    pub(crate) fn arch(&self) -> &str {
        self.request
            .args
            .arch_tag
            .as_ref()
            .map_or(self.settings.arch.as_str(), |arch| arch.as_str())
    }

    /// The suite of this build; `autobuild` is what 2008 gave a build that named none.
    pub(crate) fn suite(&self) -> &str {
        self.request
            .args
            .suite
            .as_ref()
            .map_or("autobuild", |suite| suite.as_str())
    }

    /// The folder the build works in: links to its files, sbuild's results.
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

    /// This spec as it may stand on disk: no password of an archive or a proxy is in it.
    pub(crate) fn without_secrets(&self) -> Self {
        let mut spec = self.clone();
        for line in &mut spec.request.args.archives {
            *line = scrub_always(line);
        }
        spec.settings.apt_proxy = spec.settings.apt_proxy.as_deref().map(scrub_always);
        spec
    }
}
