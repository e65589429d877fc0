//! Translates the end of a process into an exit code.

use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;

/// The exit code of an internal command that failed because of the host, not of the build.
pub(crate) const HOST_FAILED: u8 = 125;

/// Returns the exit code as a shell does: the process's code, or 128 plus the signal's number.
pub(crate) fn exit_code(status: ExitStatus) -> u8 {
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}
