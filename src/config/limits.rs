//! Pure: parses section `[limits]`. The code that uses a resource enforces its limit.

use std::time::Duration;

use super::reader::Reader;

use crate::server;

/// `[limits]`; sizes in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Request line and headers. Defaults to 16 KiB.
    pub(crate) head: u64,
    /// Body of an XML-RPC call. Defaults to 1 MiB.
    pub(crate) body: u64,
    /// Concurrent connections. Defaults to 128.
    pub(crate) connections: u32,
    /// Concurrent connections from one address. Defaults to 64.
    pub(crate) connections_per_peer: u32,
    /// Files sent concurrently. Defaults to 32.
    pub(crate) downloads: u32,
    /// Connections that wait for their turn. Defaults to 256.
    pub(crate) waiting: u32,
    /// Timeout to wait for a turn. Defaults to 10 minutes.
    pub(crate) wait_timeout: Duration,
    /// Concurrent followers of a running log. Defaults to 16.
    pub(crate) followers: u32,
    /// Timeout to receive a whole request. Defaults to 30 seconds.
    pub(crate) request_timeout: Duration,
    /// Timeout between requests on one connection. Defaults to 60 seconds.
    pub(crate) idle_timeout: Duration,
    /// Timeout for the peer to accept the next part of a response. Defaults to 60 seconds.
    pub(crate) write_timeout: Duration,
    /// Timeout to connect for a download. Defaults to 10 seconds.
    pub(crate) fetch_connect_timeout: Duration,
    /// Timeout without a byte of a download. Defaults to 30 seconds.
    pub(crate) fetch_idle_timeout: Duration,
    /// Bytes per second; a slower download fails. Defaults to 16 KiB.
    pub(crate) fetch_lowest_rate: u64,
    /// Largest download. Defaults to 20 GiB.
    pub(crate) fetch_size: u64,
    /// Retries after a transient failure. Defaults to 3.
    pub(crate) fetch_retries: u32,
    /// Space kept free on the file systems of cache, chroots and builds. Defaults to 512 MiB.
    pub(crate) reserve: u64,
    /// Size of the file cache. Defaults to 20 GiB.
    pub(crate) cache_size: u64,
    /// Size of all unpacked chroots. Defaults to 20 GiB.
    pub(crate) chroots_size: u64,
    /// Timeout for a whole build. Defaults to 24 hours.
    pub(crate) build_time: Duration,
    /// Timeout without output in the build log. Defaults to 150 minutes, as in launchpad-buildd.
    pub(crate) silence: Duration,
    /// Timeout for any stage except SBUILD. Defaults to 1 hour.
    pub(crate) stage_time: Duration,
    /// Timeout for an aborted build to end. Defaults to 2 seconds.
    pub(crate) abort_time: Duration,
    /// Size of a build log. Defaults to 200 MiB.
    pub(crate) log_size: u64,
    /// Size of a session's writable layer in memory. `None`: half of the available memory.
    pub(crate) memory_layer: Option<u64>,
    /// Slaves on this host, which share its memory and processes. Defaults to 1.
    pub(crate) slaves: u32,
    /// Memory of all processes of a build. `None`: 7/8 of the host's memory, shared by `slaves`.
    pub(crate) memory: Option<u64>,
    /// Processes of a build, threads included. Defaults to 8192, shared by `slaves`.
    pub(crate) processes: u32,
    /// Disk space a build may use. Defaults to 4 GiB.
    pub(crate) disk: u64,
    /// Inodes kept free on the file systems of cache, chroots and builds. Defaults to 1000.
    pub(crate) reserve_inodes: u32,
    /// Inodes a build may use. Defaults to 262144, which `disk` has on an ext4 file system.
    pub(crate) inodes: u32,
    /// All results of a build. Defaults to 20 GiB.
    pub(crate) results: u64,
}

impl Limits {
    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        const L: &str = "limits";
        let slaves = reader.count(L, "slaves", 1, 1);
        Self {
            head: reader.bytes(L, "head", 16 << 10),
            body: reader.bytes(L, "body", 1 << 20),
            connections: reader.count(L, "connections", 1, 128),
            connections_per_peer: reader.count(L, "connections_per_peer", 1, 64),
            downloads: reader.count(L, "downloads", 1, 32),
            followers: reader.count(L, "followers", 1, 16),
            waiting: reader.count(L, "waiting", 0, 256),
            wait_timeout: reader.duration(L, "wait_timeout", 600),
            request_timeout: reader.duration(L, "request_timeout", 30),
            idle_timeout: reader.duration(L, "idle_timeout", 60),
            write_timeout: reader.duration(L, "write_timeout", 60),
            fetch_connect_timeout: reader.duration(L, "fetch_connect_timeout", 10),
            fetch_idle_timeout: reader.duration(L, "fetch_idle_timeout", 30),
            fetch_lowest_rate: reader.bytes(L, "fetch_lowest_rate", 16 << 10),
            fetch_size: reader.bytes(L, "fetch_size", 20 << 30),
            fetch_retries: reader.count(L, "fetch_retries", 0, 3),
            reserve: reader.bytes(L, "reserve", 512 << 20),
            cache_size: reader.bytes(L, "cache_size", 20 << 30),
            chroots_size: reader.bytes(L, "chroots_size", 20 << 30),
            build_time: reader.duration(L, "build_time", 24 * 3600),
            silence: reader.duration(L, "silence", 150 * 60),
            stage_time: reader.duration(L, "stage_time", 3600),
            abort_time: reader.duration(L, "abort_time", 2),
            log_size: reader.bytes(L, "log_size", 200 << 20),
            memory_layer: reader.some_bytes(L, "memory_layer"),
            memory: reader.some_bytes(L, "memory"),
            slaves,
            processes: reader.count(L, "processes", 64, (8192 / slaves).max(64)),
            disk: reader.bytes(L, "disk", 4 << 30),
            reserve_inodes: reader.count(L, "reserve_inodes", 1, 1000),
            inodes: reader.count(L, "inodes", 1, 262_144),
            results: reader.bytes(L, "results", 20 << 30),
        }
    }

    /// Returns the limits of an HTTP server.
    pub(crate) fn http(&self) -> server::Limits {
        // A size beyond `usize` is no limit at all.
        let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        let count = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
        server::Limits {
            head_bytes: size(self.head),
            body_bytes: size(self.body),
            connections: count(self.connections),
            connections_per_peer: count(self.connections_per_peer),
            // The others are for short calls, so that `status` does not wait for long ones.
            calls: count(self.connections.div_ceil(2)),
            calls_per_peer: count(self.connections_per_peer.div_ceil(2)),
            downloads: count(self.downloads),
            followers: count(self.followers),
            // One address cannot use all downloads.
            downloads_per_peer: count(self.downloads.div_ceil(2)),
            waiting: count(self.waiting),
            wait_secs: self.wait_timeout.as_secs(),
            request_secs: self.request_timeout.as_secs(),
            idle_secs: self.idle_timeout.as_secs(),
            write_secs: self.write_timeout.as_secs(),
            ..server::Limits::default()
        }
    }
}
