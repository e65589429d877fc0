//! Masters under a service manager: reloads and readiness.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::support::farm::{Process, on_both_engines};
use super::support::uploads::{FULLYBUILT, Uploads};
use super::support::{Engine, Farm, QUICK};
use crate::support::until;

on_both_engines! {
    a_reload_changes_a_running_master_and_names_what_needs_a_restart
}

fn hang_up(master: &Process) {
    let pid = master.child.id().try_into().unwrap();
    kill(Pid::from_raw(pid), Signal::SIGHUP).unwrap();
}

fn a_reload_changes_a_running_master_and_names_what_needs_a_restart(engine: Engine) {
    let uploads = Uploads::new(engine, "uploads = 1\n");
    let farm = &uploads.farm;
    let change = |from: &str, to: &str| {
        farm.reconfigure(|line| Some(if line == from { to } else { line }.to_owned()));
    };
    uploads.add_with_results(1);
    let master = farm.master("master");
    until("the one uploader", || {
        (uploads.calls("results").len() == 1).then_some(())
    });
    uploads.add_with_results(3);
    // A file with an error changes nothing.
    change("uploads = 1", "uploads = none");
    hang_up(&master);
    master.wait_said("the configuration in force stays");
    change("uploads = none", "uploads = 2\ndownloads = 9");
    hang_up(&master);
    master.wait_said("applied [master] uploads\n");
    master.wait_said("a restart is needed for [master] downloads, changed");
    // The uploader of build 1 still runs.
    farm.wait_state(3, FULLYBUILT);
    uploads.go(1);
    farm.wait_state(1, FULLYBUILT);
    master.stop();
}

#[test]
fn a_master_with_a_librarian_is_ready_when_both_answer() {
    let farm = Farm::new(Engine::Sqlite, QUICK);
    farm.migrate();
    let path = farm.path("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
    let mut command = farm.farm_command(&["master", "run", "--with-librarian"]);
    command.env("NOTIFY_SOCKET", &path);
    let mut child = command.spawn().unwrap();
    let mut buffer = [0; 4096];
    let mut got = String::new();
    while !got.contains("READY=1") {
        let length = socket.recv(&mut buffer).unwrap();
        got.push_str(&String::from_utf8_lossy(&buffer[..length]));
    }
    assert_eq!(farm.library("/no-such-file").status, 404);
    kill(
        Pid::from_raw(child.id().try_into().unwrap()),
        Signal::SIGTERM,
    )
    .unwrap();
    let length = socket.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"STOPPING=1\n");
    assert!(child.wait().unwrap().success());
}
