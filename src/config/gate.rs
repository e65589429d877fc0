//! Pure: parses section `[gate]`: what a session may reach beyond its archives, and their cache.

use std::path::{Path, PathBuf};

use super::reader::Reader;

use crate::gate::HostPattern;

/// `[gate]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Gate {
    /// Hosts that archives may redirect to. Defaults to none.
    pub(crate) redirect_to: Vec<HostPattern>,
    /// Hosts that may have addresses that are not public. Defaults to none.
    pub(crate) private: Vec<HostPattern>,
    /// Files of archives, named by SHA-256. Defaults to the folder `aptcache` below `home`.
    pub(crate) cache: PathBuf,
    /// Size of that cache. Defaults to 5 GiB.
    pub(crate) cache_size: u64,
}

impl Gate {
    pub(super) fn read(reader: &mut Reader<'_>, home: &Path) -> Self {
        const G: &str = "gate";
        let expected = "hosts such as cdn.example.org, cdn.example.org:8080 or *.example.org";
        let mut hosts = |key| reader.list(G, key, expected, |text| text.parse().ok());
        Self {
            redirect_to: hosts("redirect_to").unwrap_or_default(),
            private: hosts("private").unwrap_or_default(),
            cache: reader
                .path(G, "cache")
                .unwrap_or_else(|| home.join("aptcache")),
            cache_size: reader.bytes(G, "cache_size", 5 << 30),
        }
    }
}
