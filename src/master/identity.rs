//! What is this process called, among all the masters of a farm?

use std::process;

use crate::sys::clock::now_ms as now;
use crate::sys::host;

/// Returns a name that no other process has or had: host, process, time.
pub(super) fn own_name() -> String {
    format!("{}:{}:{}", host::name(), process::id(), now())
}
