//! The formats of chroot tarballs.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use serde_json::json;

use crate::support::machine::{machine, stdout, sum};
use crate::support::package::Package;
use crate::support::real_slave::Slave;
use crate::support::until;

#[test]
fn every_compression_and_layout_of_a_tarball_is_unpacked() {
    let Some(machine) = machine() else { return };
    let slave = Slave::start(machine, "forms", "");
    let source = slave.pack(&Package::new("toy", "echo not reached"));
    // The tree is enough for a session and too little for apt, so a build reaches UPDATE.
    let tree = slave.dir.join("tree/chroot-autobuild");
    for folder in ["etc", "usr/bin", "var", "dev"] {
        fs::create_dir_all(tree.join(folder)).unwrap();
    }
    symlink("usr/bin", tree.join("bin")).unwrap();
    // The unpacker skips device nodes.
    stdout(
        Command::new("mknod")
            .arg(tree.join("dev/null"))
            .args(["c", "1", "3"]),
    );

    let forms = [
        ("--gzip", "..", "chroot-autobuild"),
        ("--zstd", "..", "./chroot-autobuild"),
        ("--bzip2", ".", "."),
        ("--xz", ".", "."),
        ("--format=gnu", ".", "etc usr var dev bin"),
    ];
    for (option, folder, members) in forms {
        let tarball = slave.dir.join(format!("form{option}"));
        let mut tar = Command::new("tar");
        tar.args(["--create", option, "--file"]).arg(&tarball);
        tar.arg("--directory")
            .arg(tree.join(folder))
            .args(members.split(' '));
        stdout(&mut tar);
        slave.send(std::slice::from_ref(&tarball));
        slave.begin_in(&sum("sha1sum", &tarball), &source, json!({}));
        slave.await_log("] UPDATE");
        slave.call("abort", &[]);
        let ended = until("end of the abort", || {
            let status = slave.status();
            (status[0] != "BuilderStatus.ABORTING").then_some(status)
        });
        assert_eq!(ended[0], "BuilderStatus.ABORTED", "{option}");
        slave.assert_gone();
        slave.call("clean", &[]);
    }
}
