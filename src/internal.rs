//! The internal entry points of this binary: `buildd-slave internal NAME ARGS…`.
//!
//! `sys::exe::internal` starts them; they are not for users and may change at any time.

use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use nix::sys::stat::{Mode, umask};

use crate::manual;
use crate::pipeline::{autopsy, shim};
use crate::session::{bootstrap, enter, files, init, outer, store, virt};
use crate::sys::cgroup::{self, Side};
use crate::sys::detached;
use crate::sys::exe;
use crate::sys::stderr;
use crate::sys::wait::HOST_FAILED;

/// Applies the limits of the build to this process.
fn join_limits(name: &OsString, args: &[OsString]) -> io::Result<()> {
    cgroup::join_inherited(Side::Host)?;
    match args.first() {
        Some(init) if name == "enter" => cgroup::join_session(init),
        _ => Ok(()),
    }
}

/// Runs the entry point that `args` name. Errors go to stderr, which is usually the build log.
pub(crate) fn run(args: &[OsString]) -> ExitCode {
    let Some((name, args)) = args.split_first() else {
        return ExitCode::from(2);
    };
    // A build or a session must not use a file that the daemon or a person had open.
    exe::close_inherited();
    // A command of the site keeps the umask that the master has.
    if name != "runner" {
        // Files in a chroot get the modes Debian expects, whatever the inherited umask.
        umask(Mode::from_bits_truncate(0o022));
    }
    let done = |result: io::Result<()>| result.map(|()| ExitCode::SUCCESS);
    // The shim stays outside, so that it survives a build that hits its limits.
    if name != "shim" {
        if let Err(error) = join_limits(name, args) {
            stderr::line(format_args!(
                "cannot apply the limits of this build: {error}"
            ));
            return ExitCode::from(HOST_FAILED);
        }
    }
    let result = match name.to_str() {
        Some("outer") => outer::run(args),
        Some("init") => match args {
            [merged, resolver] => done(init::run(Path::new(merged), resolver.as_encoded_bytes())),
            _ => Err(io::Error::other("init: MERGED RESOLVER")),
        },
        Some("bootstrap") => bootstrap::run(args),
        Some("enter") => enter::run(args),
        Some("session-files") => done(files::run(args)),
        Some("virt") => done(virt::run(args)),
        Some("unpack") => store::run(args),
        Some("autopsy") => done(autopsy::run(args)),
        Some("shim") => done(shim::run(args)),
        Some("runner") => done(detached::run(args)),
        Some("manual") => done(manual::run(args)),
        Some("tether") => done(exe::tether(args)),
        _ => Err(io::Error::other("no such internal command")),
    };
    result.unwrap_or_else(|error| {
        stderr::line(format_args!(
            "buildd-slave {}: {error}",
            name.to_string_lossy()
        ));
        ExitCode::from(HOST_FAILED)
    })
}
