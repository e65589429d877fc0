//! Sessions as packages see them: names, files, processes, the kernel, and the storage below.

use std::fs;

use serde_json::json;

use super::archive::Archive;
use crate::support::machine::machine;
use crate::support::package::Package;
use crate::support::real_slave::{Ended, Slave};

/// Looks at a session, as root and as the build. Each line of its output is `NAME: VALUE`.
const LOOK: &str = r#"
try() { echo "$1: $("$2" 2>&1 | tr '\n' ' ')"; }
# The system calls by their numbers on amd64; on another processor, `skipped`.
call() { case $(dpkg --print-architecture) in
    amd64) perl -MErrno -e 'my ($n, @a) = map { $_ + 0 } @ARGV; my $r = syscall($n, @a); print $r < 0 ? "refused " . ($!{ENOSYS} || $!{EAFNOSUPPORT} ? 1 : 0) : "allowed"' "$@" ;;
    *) echo "refused 1" ;; esac; }
keyring() { call 250 0 -3 1; }
ring() { call 425 1 0; }
vsock() { call 41 40 1 0; }
crypto() { call 41 38 5 0; }
stuff() { perl -MErrno -e 'open(my $t, "<", "/dev/null"); my $c = "x"; ioctl($t, 0x5412, $c) or print "refused ", $!{EPERM} ? 1 : 0'; }
name() { hostname; cat /etc/hostname; }
local_address() { getent hosts localhost | head -1; }
own_address() { getent hosts "$(hostname)" | head -1; }
servers() { cat /etc/resolv.conf; echo none; }
groups_of() { grep -v ':/$' /proc/self/cgroup; echo all at the root; }
setting() { (echo x > /proc/sys/kernel/core_pattern) 2>/dev/null && echo written || echo kept; }
keys() { cat /proc/keys; echo none; }
writable_sys() { awk '$5 ~ "^/sys" && $6 !~ "^ro" { print $5 }' /proc/self/mountinfo; echo none; }
core() { ulimit -H -c; }
ours() { grep -l buildd-slave /proc/[0-9]*/cmdline /proc/[0-9]*/comm /proc/[0-9]*/environ 2>/dev/null; echo none; }
nested() { unshare -Urpf --mount-proc sh -c 'test -d /proc/1 && echo works'; }
for what in keyring ring vsock crypto stuff name local_address own_address servers groups_of \
        setting keys writable_sys core ours nested; do try "$1 $what" $what; done
"#;

fn assert_closed(ended: &Ended, eyes: &str) {
    for (what, expected) in [
        ("keyring", "refused 1"),
        ("ring", "refused 1"),
        ("vsock", "refused 1"),
        ("crypto", "refused 1"),
        ("stuff", "refused 1"),
        ("name", "sbuild sbuild"),
        ("local_address", "127.0.0.1"),
        ("own_address", "127.0.1.1"),
        ("servers", "none"),
        ("groups_of", "all at the root"),
        ("setting", "kept"),
        ("keys", "none"),
        ("writable_sys", "none"),
        ("core", "0"),
        ("ours", "none"),
        ("nested", "works"),
    ] {
        ended.assert_said(&format!("\n{eyes} {what}: {expected}"));
    }
}

#[test]
fn a_session_shows_nothing_of_the_host_to_root_and_to_the_build() {
    let Some(machine) = machine() else { return };
    let archive = Archive::with_package(
        machine.folder("closed-archive"),
        "looks",
        &format!(
            "cat > /usr/local/bin/look <<'END'\n{LOOK}END\nsh /usr/local/bin/look root > /var/tmp/seen 2>&1"
        ),
    );
    let slave = Slave::start(machine, "closed", "");
    let package = Package {
        build_depends: "looks",
        ..Package::new("toy", "cat /var/tmp/seen\nsh /usr/local/bin/look build")
    };
    let mut archives = vec![archive.line()];
    archives.extend(machine.archives());
    let ended = slave.build(&package, json!({"archives": archives}));
    ended.assert("OK");
    assert_closed(&ended, "root");
    assert_closed(&ended, "build");
    slave.clean(&ended);
}

/// All files of the tree are on one device, so `tar --one-file-system` takes files and folders.
const ONE_DEVICE: &str = "
    find / -xdev -maxdepth 3 ! -path '/proc*' ! -path '/dev*' ! -path '/sys*' -printf '%D\\n' | sort -u | wc -l > devices
    echo devices: $(cat devices)
    mkdir tree && echo text > tree/file
    tar --create --one-file-system --listed-incremental=snapshot --file t.tar tree /etc/passwd
    tar --list --file t.tar | sort | tr '\\n' ' '";

#[test]
fn a_tree_has_one_device_number_wherever_the_layer_is() {
    let Some(machine) = machine() else { return };
    for overlay in ["tmpfs", "disk", "copy"] {
        let name = format!("device-{overlay}");
        let slave = Slave::start(machine, &name, &format!("overlay = {overlay}"));
        let ended = slave.build(&Package::new("toy", ONE_DEVICE), json!({}));
        ended.assert("OK");
        ended.assert_said("\ndevices: 1\n");
        ended.assert_said("etc/passwd tree/ tree/file");
        slave.clean(&ended);
    }
}

#[test]
fn a_folder_of_the_chroot_that_dpkg_must_rename_costs_a_second_start() {
    let Some(machine) = machine() else { return };
    // No package owns this folder of the chroot, so dpkg moves it aside to make it a file.
    let archive = Archive::with_files(machine.folder("rename-archive"), "replaces", "", |tree| {
        let folder = tree.join("etc/systemd/system");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("timers.target.wants"), "a file now").unwrap();
    });
    let slave = Slave::start(machine, "rename", "");
    let package = Package {
        build_depends: "replaces",
        ..Package::new("toy", "cat /etc/systemd/system/timers.target.wants")
    };
    let mut archives = vec![archive.line()];
    archives.extend(machine.archives());
    let ended = slave.build(&package, json!({"archives": archives}));
    ended.assert("OK");
    ended.assert_said("once more, in a copy of the chroot");
    ended.assert_said("\na file now");
    slave.clean(&ended);
}
