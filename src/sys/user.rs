//! The user of this process, and how a new process gets another.

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

/// Replaces this process by the same program, started as `user` with `args`. Returns only if that
/// fails.
pub(crate) fn reexec_as(user: &User, args: &[OsString]) -> io::Error {
    let mut command = exe::this_program(args);
    become_user(&mut command, user);
    command.exec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_names_the_user() {
        let root = lookup("root").unwrap();
        let mut command = Command::new("true");
        become_user(&mut command, &root);
        let home = command.get_envs().find(|(name, _)| *name == "HOME");
        assert_eq!(home.unwrap().1.unwrap(), root.dir.as_os_str());
    }
}
