//! Connects a session's network to the outside, for builds that need it, through `pasta`.
//!
//! pasta is a user's program: it copies packets between an interface in the session and ordinary
//! sockets on the host. It is set up so that the host's loopback cannot be reached.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Stdio};

use crate::sys::exe;

use super::Error;

const PROGRAM: &str = "pasta";
/// The address, in the session, of the host's name server.
const RESOLVER: &str = "169.254.1.1";

/// Checks that pasta is installed and can make an interface.
pub(crate) fn check_host() -> Result<(), Error> {
    if exe::find_program(PROGRAM).is_none() {
        return Err(Error::NoPasta);
    }
    let device = "/dev/net/tun";
    let opened = File::options().read(true).write(true).open(device);
    opened.map(drop).map_err(|source| Error::NoTun {
        device: device.into(),
        source,
    })
}

/// Returns the content of `/etc/resolv.conf` in a connected session.
pub(crate) fn resolver() -> String {
    format!("nameserver {RESOLVER}\n")
}

/// Starts pasta for a network of the session with this init, and waits until it works. The network
/// is connected as long as the process lives.
pub(super) fn connect(init_pid: i32, network: File) -> Result<Child, Error> {
    check_host()?;
    let start = |source| Error::Start {
        what: PROGRAM.into(),
        source,
    };
    let mut pasta = exe::tethered(PROGRAM)
        .args(["--foreground", "--config-net", "--no-map-gw", "--quiet"])
        // No port of either side is forwarded to the other.
        .args(["-t", "none", "-u", "none", "-T", "none", "-U", "none"])
        .args(["--dns-forward", RESOLVER])
        .args(["--userns", &format!("/proc/{init_pid}/ns/user")])
        .args(["--netns", "/proc/self/fd/0", "--pid", "/proc/self/fd/1"])
        .stdin(network)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(start)?;
    // It writes its pid once the interface is there.
    let mut line = String::new();
    let ready = BufReader::new(pasta.stdout.take().expect("stdout is piped")).read_line(&mut line);
    if ready.map_err(start)? > 0 {
        return Ok(pasta);
    }
    let mut errors = String::new();
    if let Some(mut stderr) = pasta.stderr.take() {
        stderr.read_to_string(&mut errors).map_err(start)?;
    }
    pasta.wait().map_err(start)?;
    let last = errors.trim().lines().last().unwrap_or("no message");
    Err(Error::Child(format!("{PROGRAM} failed: {last}")))
}
