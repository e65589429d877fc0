//! What is this process called, among all the masters of a farm?

use std::process;

use crate::sys::clock::now_ms as now;

/// Returns a name that no other process has or had: host, process, time.
pub(super) fn own_name() -> String {
    format!("{}:{}:{}", host(), process::id(), now())
}

/// Returns the name of this host.
pub(super) fn host() -> String {
    let name = nix::unistd::gethostname().unwrap_or_default();
    name.to_string_lossy().into_owned()
}
