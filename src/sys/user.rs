//! Looks up users, and starts processes as another user.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use nix::unistd::{Uid, User};

/// Returns the user called `name`, if the host has one.
pub(crate) fn lookup(name: &str) -> Option<User> {
    User::from_name(name).ok().flatten()
}

/// Returns the user this process runs as, if its id has a name on the host.
pub(crate) fn effective() -> Option<User> {
    User::from_uid(Uid::effective()).ok().flatten()
}

pub(crate) fn am_root() -> bool {
    Uid::effective().is_root()
}

/// Makes `command` run as `user`, with the user's primary group only, and sets `HOME`, `USER` and
/// `LOGNAME`. Only root can start such a command.
pub(crate) fn become_user(command: &mut Command, user: &User) {
    // The standard library drops supplementary groups when root sets a user id.
    command
        .uid(user.uid.as_raw())
        .gid(user.gid.as_raw())
        .env("HOME", &user.dir)
        .env("USER", &user.name)
        .env("LOGNAME", &user.name);
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
