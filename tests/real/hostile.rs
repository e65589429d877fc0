//! Packages that misbehave: each comes to its end, by its own fault, and the log says how.

use serde_json::json;

use super::machine::machine;
use super::package::Package;
use super::slave::Slave;

#[test]
fn silence_is_ended_after_an_autopsy() {
    let Some(machine) = machine() else { return };
    let slave = Slave::start(machine, "silent", "[limits]\nsilence = 20");
    let script = "perl -MIO::Socket::INET -e '# silent-marker
             my $l = IO::Socket::INET->new(Listen => 1, LocalAddr => \"127.0.0.1:7341\");
             my $s = IO::Socket::INET->new(\"127.0.0.1:7341\"); sleep 1000' &
         sh -c 'while :; do :; done' spinning-marker &
         sleep 1000";
    let ended = slave.build(&Package::new("toy", script), json!({}));
    ended.assert("PACKAGEFAIL");
    ended.assert_said("SBUILD printed nothing for 20 s; it was killed.");
    let line = |marker: &str| {
        let found = ended.log.lines().find(|line| line.contains(marker));
        found.unwrap_or_else(|| panic!("no {marker:?} in the autopsy"))
    };
    let sleeper = line("silent-marker");
    assert!(
        sleeper.contains(" S ") && sleeper.contains("nanosleep"),
        "{sleeper}"
    );
    let spinner: Vec<_> = line("spinning-marker").split_whitespace().collect();
    assert_eq!(spinner[1], "R", "{spinner:?}");
    assert!(spinner[2].parse::<f64>().unwrap() > 1.0, "{spinner:?}");
    line("-> 127.0.0.1:7341 connected");
    slave.clean(&ended);
}

#[test]
fn the_same_line_for_ever() {
    let Some(machine) = machine() else { return };
    let slave = Slave::start(
        machine,
        "endless",
        "[limits]\nlog_size = 64K\nbuild_time = 25",
    );
    let package = Package::new("toy", "echo first words\nyes the same line");
    let ended = slave.build(&package, json!({}));
    ended.assert("PACKAGEFAIL");
    assert!(ended.log.len() < 70_000, "{} bytes", ended.log.len());
    let verdict = ended.log.lines().next_back().unwrap();
    for said in ["took longer than it may", "bytes of its log were left out"] {
        assert!(verdict.contains(said), "{verdict}");
    }
    for said in [
        "first words",
        "\nthe same line\n",
        "bytes of log left out here",
        "] SBUILD",
    ] {
        ended.assert_said(said);
    }
    slave.clean(&ended);
}

#[test]
fn forks_without_end() {
    let Some(machine) = machine() else { return };
    let slave = Slave::start(machine, "forks", "[limits]\nprocesses = 300");
    let script = "perl -e 'for (;;) { my $p = fork; defined $p or do { print \"no fork: $!\\n\"; exit 1 } }' 2>&1";
    let ended = slave.build(&Package::new("toy", script), json!({}));
    ended.assert("PACKAGEFAIL");
    ended.assert_said("no fork: ");
    ended.assert_said("The build ran out of processes: it may have 300");
    slave.clean(&ended);
}

#[test]
fn eats_memory() {
    let Some(machine) = machine() else { return };
    let slave = Slave::start(machine, "memory", "[limits]\nmemory = 600M");
    let script = "perl -e 'my @x; push @x, \"x\" x 10_000_000 for 1..200; print \"all of it\\n\"'";
    let ended = slave.build(&Package::new("toy", script), json!({}));
    ended.assert("PACKAGEFAIL");
    ended.assert_said("The build ran out of memory: it may use 600 MiB ([limits] memory).");
    assert!(!ended.log.contains("\nall of it"));
    slave.clean(&ended);
}
