//! Runs a client under a subordinate id of the user that builds, as a build session has.

use std::process::Command;

use nix::unistd::Uid;

use super::Site;

/// Returns a command that runs `script` with bash under a subordinate id of the site's user.
///
/// Root takes the id by `setpriv`. An ordinary user needs a user namespace for it.
pub(crate) fn in_session(site: &Site, script: &str) -> Command {
    let mut command = if Uid::effective().is_root() {
        let id = first_id(site).to_string();
        let mut command = Command::new("setpriv");
        command.args(["--reuid", &id, "--regid", &id]);
        command
    } else {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--map-auto"]);
        command.args(["setpriv", "--reuid", "1", "--regid", "1"]);
        command
    };
    command.args(["--clear-groups", "bash", "-c", script]);
    command.current_dir("/");
    command
}

/// Returns the first subordinate id of the site's user.
fn first_id(site: &Site) -> u32 {
    let user = site.user().expect("root has the user buildd for tests");
    let text = std::fs::read_to_string("/etc/subuid").unwrap();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(&*user.name)?.strip_prefix(':'));
    let first = line.and_then(|line| line.split(':').next());
    first.unwrap().parse().unwrap()
}

/// Returns a script that sends `request` to a port and prints the answer.
pub(crate) fn talk(address: &str, port: u16, request: &str) -> String {
    format!("exec 3<>/dev/tcp/{address}/{port} && printf '{request}' >&3 && cat <&3")
}
