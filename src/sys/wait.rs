//! What exit code stands for the end of a process?

use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;

/// The exit code of a process of ours that this host did not let do its work.
pub(crate) const HOST_FAILED: u8 = 125;

/// Returns the code a shell would: the process's own, or 128 plus the number of the signal.
pub(crate) fn exit_code(status: ExitStatus) -> u8 {
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}
