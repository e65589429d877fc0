//! Who runs this process, and how does it become somebody else?
//!
//! Started as root, nothing here builds or judges as root: the process starts itself again as the
//! slave's user. Changes the ids of new programs only, never those of the running one. Called by
//! the commands that may be started as root.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use nix::unistd::{Uid, User};

use super::exe;

/// Returns the user of that name, if the host has one.
pub(crate) fn lookup(name: &str) -> Option<User> {
    User::from_name(name).ok().flatten()
}

/// Returns the user this process runs as, if the host has a name for it.
pub(crate) fn effective() -> Option<User> {
    User::from_uid(Uid::effective()).ok().flatten()
}

/// Tells whether this process runs as root.
pub(crate) fn am_root() -> bool {
    Uid::effective().is_root()
}

/// Makes `command` run as `user`, with the user's own group and no other, and say so in its
/// environment. Only root can start it then.
pub(crate) fn become_user(command: &mut Command, user: &User) {
    // Started by root with a user id given, a command keeps no supplementary group.
    command
        .uid(user.uid.as_raw())
        .gid(user.gid.as_raw())
        .env("HOME", &user.dir)
        .env("USER", &user.name)
        .env("LOGNAME", &user.name);
}

/// Becomes this program, started as `user` with `args`. Returns only if that fails: no such user,
/// or root itself.
pub(crate) fn reexec_as(user: &str, args: &[OsString]) -> io::Error {
    match lookup(user) {
        None => io::Error::new(io::ErrorKind::NotFound, format!("no user {user}")),
        // It would find itself root and start itself again, for ever.
        Some(found) if found.uid.is_root() => {
            io::Error::new(io::ErrorKind::InvalidInput, format!("{user} is root"))
        }
        Some(found) => {
            let mut command = exe::again(args);
            become_user(&mut command, &found);
            command.exec()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_nobody_knows_whom_nor_root_is_become() {
        let refused = |user| reexec_as(user, &[]).kind();
        assert_eq!(refused("no such user"), io::ErrorKind::NotFound);
        assert_eq!(refused("root"), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn the_environment_names_the_user() {
        let root = lookup("root").unwrap();
        let mut command = Command::new("true");
        become_user(&mut command, &root);
        let home = command.get_envs().find(|(name, _)| *name == "HOME");
        assert_eq!(home.unwrap().1.unwrap(), root.dir.as_os_str());
    }
}
