//! Limits of builds without control groups: the shim measures the build.

use serde_json::json;

use crate::support::machine::{Machine, machine};
use crate::support::mounts::{may_mount, mount_tmpfs};
use crate::support::package::Package;
use crate::support::real_slave::Slave;

/// Hides the control groups from this test and its daemons. Returns the machine if that works.
fn without_groups(what: &str) -> Option<&'static Machine> {
    let machine = machine()?;
    if !may_mount(what) {
        return None;
    }
    mount_tmpfs(std::path::Path::new("/sys/fs/cgroup"), 64);
    Some(machine)
}

fn assert_measured(slave: &Slave) {
    let log = std::fs::read_to_string(slave.dir.join("daemon.log")).unwrap();
    let line = "limits of builds: memory by measurement, processes by measurement";
    assert!(log.contains(line), "{log}");
}

/// A build that starts processes all the time, until it finds the file that `stop` makes.
struct Other {
    slave: Slave,
}

impl Other {
    fn start(machine: &'static Machine, name: &str, limits: &str) -> Self {
        let slave = Slave::start(machine, name, limits);
        // Each `$(…)` forks; a failed fork ends the script.
        let script = "echo at work
             for n in $(seq 3000); do test \"$(echo $n)\" = $n; sleep 0.01; done
             echo all forks worked";
        slave.begin(&slave.pack(&Package::new("other", script)), json!({}));
        slave.await_log("at work");
        Self { slave }
    }

    /// Asserts that the build succeeds.
    fn assert_goes_on(self) {
        let ended = self.slave.end();
        ended.assert("OK");
        ended.assert_said("\nall forks worked");
        self.slave.clean(&ended);
    }
}

#[test]
fn sanitizers_start_and_leave_no_core_dump() {
    let Some(machine) = without_groups("sanitizers without control groups") else {
        return;
    };
    let slave = Slave::start(machine, "sanitizers", "[limits]\nmemory = 1G");
    assert_measured(&slave);
    let script = "cat >x.c <<END
#include <stdio.h>
#include <stdlib.h>
int main(void) { char *p = malloc(9); puts(p ? \"it runs\" : \"no memory\"); free(p); return 0; }
END
         for kind in address thread; do
             gcc -fsanitize=$kind -o $kind x.c
             setarch -R ./$kind >$kind.out 2>&1 || { cat $kind.out; exit 1; }
             echo $kind: $(cat $kind.out)
         done
         echo core dumps: $(ulimit -Sc) $(ulimit -Hc)";
    let ended = slave.build(&Package::new("toy", script), json!({}));
    ended.assert("OK");
    ended.assert_said("\naddress: it runs");
    ended.assert_said("\nthread: it runs");
    ended.assert_said("\ncore dumps: 0 0");
    slave.clean(&ended);
}

#[test]
fn a_memory_hog_is_killed_and_another_build_continues() {
    let Some(machine) = without_groups("a memory hog without control groups") else {
        return;
    };
    let other = Other::start(machine, "beside-hog", "");
    let slave = Slave::start(machine, "measured-hog", "[limits]\nmemory = 600M");
    assert_measured(&slave);
    // No process alone exceeds the limit.
    let script = "for n in 1 2 3 4 5 6 7 8; do
             perl -e 'my $x = \"x\" x 100_000_000; sleep 60' &
         done
         wait
         echo all of it";
    let ended = slave.build(&Package::new("toy", script), json!({}));
    ended.assert("PACKAGEFAIL");
    ended
        .assert_said("The build ran out of memory: it may use 600 MiB ([limits] memory). It used ");
    assert!(!ended.log.contains("\nall of it"));
    slave.clean(&ended);
    other.assert_goes_on();
}

#[test]
fn files_in_shared_memory_count() {
    let Some(machine) = without_groups("shared memory without control groups") else {
        return;
    };
    let slave = Slave::start(machine, "measured-shm", "[limits]\nmemory = 600M");
    let script = "head -c 700M /dev/zero >/dev/shm/file; sleep 60; echo all of it";
    let ended = slave.build(&Package::new("toy", script), json!({}));
    ended.assert("PACKAGEFAIL");
    ended
        .assert_said("The build ran out of memory: it may use 600 MiB ([limits] memory). It used ");
    slave.clean(&ended);
}

#[test]
fn memory_that_processes_share_counts_once() {
    let Some(machine) = without_groups("shared pages without control groups") else {
        return;
    };
    let slave = Slave::start(machine, "measured-shared", "[limits]\nmemory = 600M");
    let script = "perl -e 'my $x = \"x\" x 200_000_000;
             for (1..6) { fork or do { sleep 5; exit 0 } }
             1 while wait > 0'
         echo children done";
    let ended = slave.build(&Package::new("toy", script), json!({}));
    ended.assert("OK");
    ended.assert_said("\nchildren done");
    slave.clean(&ended);
}

#[test]
fn a_fork_bomb_is_killed_and_another_build_continues() {
    let Some(machine) = without_groups("a fork bomb without control groups") else {
        return;
    };
    let limits = "[limits]\nprocesses = 300";
    let other = Other::start(machine, "beside-forks", limits);
    let slave = Slave::start(machine, "measured-forks", limits);
    let script = "perl -e 'for (;;) { defined fork or sleep 60 }'; echo no end";
    let ended = slave.build(&Package::new("toy", script), json!({}));
    ended.assert("PACKAGEFAIL");
    ended.assert_said(
        "The build ran out of processes: it may have 300 ([limits] processes). It had ",
    );
    assert!(!ended.log.contains("\nno end"));
    slave.clean(&ended);
    other.assert_goes_on();
}

#[test]
fn a_refused_fork_is_named() {
    let Some(machine) = without_groups("a refused fork without control groups") else {
        return;
    };
    let slave = Slave::start(machine, "refused-fork", "[limits]\nprocesses = 300");
    // The bomb is over before the shim measures again.
    let script = "perl -e '$| = 1; for (;;) { my $p = fork; \
                  defined $p or do { print \"no fork: $!\\n\"; exit 1 } }' 2>&1";
    let ended = slave.build(&Package::new("toy", script), json!({}));
    ended.assert("PACKAGEFAIL");
    ended.assert_said("out of processes: it may have 300 ([limits] processes)");
    slave.clean(&ended);
}
