//! Keeps the passwords of apt's sources from the package that is built.
//!
//! They are in a file of apt_auth.conf(5), which only root can read, or in the sources, if apt is
//! too old for that or the format cannot express them. [`remove`] runs in the session before the
//! build starts. Maintainer scripts of build dependencies are root, and can read them until then.

use std::fs;
use std::io;
use std::path::Path;

use super::init::replace;

/// The folder that apt reads since 1.5.
const AUTH_PARTS: &str = "/etc/apt/auth.conf.d";
const AUTH: &str = "/etc/apt/auth.conf.d/buildd-slave.conf";
/// The sources without passwords, while the others have them. apt ignores this file.
const PUBLIC: &str = "/etc/apt/buildd-slave.public";

pub(super) const LIST: &str = "/etc/apt/sources.list";
/// The file for sources in the format deb822.
pub(super) const OWN_PART: &str = "/etc/apt/sources.list.d/buildd-slave.sources";

/// Returns the file to which the sources of this build were written.
pub(super) fn own_sources() -> &'static str {
    match fs::symlink_metadata(OWN_PART) {
        Ok(_) => OWN_PART,
        Err(_) => LIST,
    }
}

/// Returns whether the apt of the chroot reads [`AUTH`].
pub(super) fn has_auth_parts() -> bool {
    Path::new(AUTH_PARTS).is_dir()
}

/// Writes the logins for apt.
pub(super) fn write_auth(text: &str) -> io::Result<()> {
    replace(AUTH, text.as_bytes(), 0o600)
}

/// Keeps the text that [`remove`] puts in the place of sources with passwords.
pub(super) fn keep_public(text: &str) -> io::Result<()> {
    replace(PUBLIC, text.as_bytes(), 0o644)
}

/// Removes every password that this program wrote into the session whose root is `/`. The sources
/// stay without them.
pub(crate) fn remove() -> io::Result<()> {
    let at = |path: &str, error: io::Error| {
        io::Error::new(
            error.kind(),
            format!("cannot remove the passwords in {path}: {error}"),
        )
    };
    match fs::remove_file(AUTH) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(AUTH, error)),
        _ => {}
    }
    if fs::symlink_metadata(PUBLIC).is_err() {
        return Ok(());
    }
    let sources = own_sources();
    fs::rename(PUBLIC, sources).map_err(|error| at(sources, error))
}
