//! Makes root become the user that builds, by executing this program again as that user.
//!
//! No daemon and no build runs as root. Used by all commands that root may start.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt as _;

use nix::unistd::User;

use crate::sys::{exe, user};

/// Why this process cannot run as the user that builds.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(
        "no user {0} on this host; try: useradd --system --user-group --create-home --home-dir \
         /var/lib/{0} {0}"
    )]
    NoUser(String),
    #[error("builds do not run as root: set [slave] user to another user than {0}")]
    Root(String),
    #[error("cannot become {0}: {1}")]
    CannotBecome(String, io::Error),
    /// This process is neither root nor that user. Holds the name of the user it runs as.
    #[error("{0} is neither root nor the user that builds; run this as root")]
    OtherUser(String),
}

/// Looks up `name`, the user that builds.
pub(crate) fn builder(name: &str) -> Result<User, Error> {
    match user::lookup(name) {
        None => Err(Error::NoUser(name.to_owned())),
        Some(found) if found.uid.is_root() => Err(Error::Root(name.to_owned())),
        Some(found) => Ok(found),
    }
}

/// Checks that this process runs as `name`. If it is root, executes the same command again as that
/// user and does not return.
pub(crate) fn become_builder(name: &str) -> Result<(), Error> {
    let builder = builder(name)?;
    if user::am_root() {
        let args: Vec<OsString> = std::env::args_os().skip(1).collect();
        let error = reexec_as(&builder, &args);
        return Err(Error::CannotBecome(name.to_owned(), error));
    }
    match user::effective() {
        Some(me) if me.uid == builder.uid => Ok(()),
        Some(me) => Err(Error::OtherUser(me.name)),
        None => Err(Error::OtherUser("a user without a name".to_owned())),
    }
}

/// Executes this program again as `builder`, with `args`. Returns only on failure.
fn reexec_as(builder: &User, args: &[OsString]) -> io::Error {
    debug_assert!(
        !builder.uid.is_root(),
        "root would execute itself without end"
    );
    let mut command = exe::this_program(args);
    user::become_user(&mut command, builder);
    command.exec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_and_unknown_users_are_refused() {
        assert!(matches!(become_builder("root"), Err(Error::Root(_))));
        let unknown = become_builder("no-such-user").unwrap_err().to_string();
        assert!(unknown.contains("useradd --system"), "{unknown}");
    }
}
