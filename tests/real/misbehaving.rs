//! Packages that misbehave: each fails, and its log names the reason.

use std::fs;

use serde_json::json;

use super::archive::Archive;
use crate::support::machine::{machine, sum};
use crate::support::package::Package;
use crate::support::real_slave::{Ended, Slave};

#[test]
fn a_silent_build_is_killed_after_an_autopsy() {
    let Some(machine) = machine() else { return };
    let slave = Slave::start(machine, "silent", "[limits]\nsilence = 30");
    let script = "perl -MIO::Socket::INET -e '# silent-marker
             my $l = IO::Socket::INET->new(Listen => 1, LocalAddr => \"127.0.0.1:7341\");
             my $s = IO::Socket::INET->new(\"127.0.0.1:7341\"); sleep 1000' &
         sh -c 'while :; do :; done' spinning-marker &
         sleep 1000";
    let ended = slave.build(&Package::new("toy", script), json!({}));
    ended.assert("PACKAGEFAIL");
    ended.assert_said("SBUILD printed nothing for 30 s; it was killed.");
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
fn endless_output_is_cut_and_packagefail() {
    let Some(machine) = machine() else { return };
    let slave = Slave::start(machine, "endless", "[limits]\nlog_size = 64K");
    // The timeouts have tests of their own, so this output ends.
    let script = "echo first words\nyes the same line | head -c 5M\nexit 1";
    let ended = slave.build(&Package::new("toy", script), json!({}));
    ended.assert("PACKAGEFAIL");
    assert!(ended.log.len() < 70_000, "{} bytes", ended.log.len());
    let verdict = ended.log.lines().next_back().unwrap();
    assert!(
        verdict.contains("bytes of its log were left out"),
        "{verdict}"
    );
    for said in [
        "\nthe same line\n",
        "bytes of log left out here",
        "] UPDATE",
    ] {
        ended.assert_said(said);
    }
    slave.clean(&ended);
}

#[test]
fn a_fork_bomb_hits_the_process_limit() {
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
fn a_memory_hog_hits_the_memory_limit() {
    let Some(machine) = machine() else { return };
    let slave = Slave::start(machine, "memory", "[limits]\nmemory = 600M");
    let script = "perl -e 'my @x; push @x, \"x\" x 10_000_000 for 1..200; print \"all of it\\n\"'";
    let ended = slave.build(&Package::new("toy", script), json!({}));
    ended.assert("PACKAGEFAIL");
    ended.assert_said("The build ran out of memory: it may use 600 MiB ([limits] memory).");
    assert!(!ended.log.contains("\nall of it"));
    slave.clean(&ended);
}

#[test]
fn odd_files_and_processes_are_cleaned_up() {
    let Some(machine) = machine() else { return };
    let slave = Slave::start(machine, "mess", "overlay = disk");
    let script = "mkdir ../mess && cd ../mess
         perl -e 'for my $d (1..200) { mkdir $d; for (1..1000) { open F, \">\", \"$d/$_\" or die $! } }'
         cp /bin/true setuid && chmod 6755 setuid
         mknod null c 1 3 2>/dev/null || echo no device
         mkdir -p locked/in && touch locked/in/side && chmod 0 locked/in && chmod 0 locked
         perl -e 'for (1..1500) { mkdir \"deep\" or die $!; chdir \"deep\" or die $! }'
         touch \"$(printf 'new\\nline \\377')\" -- --help
         setsid sleep 4243 </dev/null >/dev/null 2>&1 &
         echo made
         rm -rf \"$OLDPWD\"";
    let ended = slave.build(&Package::new("toy", script), json!({}));
    ended.assert("PACKAGEFAIL");
    ended.assert_said("\nno device");
    ended.assert_said("\nmade");
    slave.clean(&ended);
}

#[test]
fn a_package_that_kills_its_parents_is_packagefail() {
    let Some(machine) = machine() else { return };
    let slave = Slave::start(machine, "parricide", "");
    // The dependency's postinst runs as root in the session and kills everything it can see.
    let folder = machine.folder("parricide/archive");
    let archive = Archive::with_package(folder, "killer", "(sleep 1; kill -9 -1) & echo armed");
    let package = Package {
        build_depends: "killer",
        ..Package::new("toy", "echo to kill\nkill -9 -1\nkill -9 $PPID\nsleep 1")
    };
    let mut archives = vec![archive.line()];
    archives.extend(machine.archives());
    let ended = slave.build(&package, json!({"archives": archives}));
    ended.assert("PACKAGEFAIL");
    ended.assert_said("\nto kill");
    slave.clean(&ended);
}

/// Builds a package whose `.changes` also lists the file `name`, which `script` makes in the folder
/// of the results.
fn with_a_result(test: &str, name: &str, size: &str, script: &str, config: &str) -> (Slave, Ended) {
    let machine = machine().unwrap();
    let slave = Slave::start(machine, test, config);
    // A dependency replaces dpkg-genchanges.
    let tamper = format!(
        "mv /usr/bin/dpkg-genchanges /usr/bin/real-genchanges
         cat >/usr/bin/dpkg-genchanges <<'END'\n\
         #!/bin/sh -e\n\
         real-genchanges \"$@\"\n\
         cd ..\n\
         {script}\n\
         sum() {{ if [ -f {name} ] && [ {size} -lt 1000 ]; then $1 <{name} | cut -d' ' -f1; \
                  else head -c $2 /dev/zero | tr '\\0' 0; fi; }}\n\
         export MD5=$(sum md5sum 32) SHA1=$(sum sha1sum 40) SHA256=$(sum sha256sum 64)\n\
         perl -pi -e '$_ .= \" $ENV{{SHA1}} {size} {name}\\n\" if /^Checksums-Sha1:/;\n\
             $_ .= \" $ENV{{SHA256}} {size} {name}\\n\" if /^Checksums-Sha256:/;\n\
             $_ .= \" $ENV{{MD5}} {size} devel optional {name}\\n\" if /^Files:/' *.changes\n\
         echo tampered\n\
         END\n\
         chmod 755 /usr/bin/dpkg-genchanges"
    );
    let folder = machine.folder(&format!("{test}/archive"));
    let archive = Archive::with_package(folder, "tamper", &tamper);
    let package = Package {
        build_depends: "tamper",
        ..Package::new("toy", "echo fine")
    };
    let mut archives = vec![archive.line()];
    archives.extend(machine.archives());
    let ended = slave.build(&package, json!({"archives": archives}));
    ended.assert_said("tampered");
    (slave, ended)
}

#[test]
fn a_result_outside_the_work_tree_is_packagefail() {
    if machine().is_none() {
        return;
    }
    let there = "../../../../../../etc/passwd";
    let (slave, ended) = with_a_result("result-path", there, "3", ":", "");
    ended.assert("PACKAGEFAIL");
    assert!(ended.files.is_empty());
    slave.clean(&ended);
}

#[test]
fn a_result_named_like_an_input_does_not_replace_it() {
    if machine().is_none() {
        return;
    }
    let script = "rm -f toy_1.0.tar.xz; echo bad >toy_1.0.tar.xz";
    let (slave, ended) = with_a_result("result-input", "toy_1.0.tar.xz", "4", script, "");
    for entry in fs::read_dir(slave.dir.join("filecache")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if name.len() == 40 {
            assert_eq!(
                sum("sha1sum", &path),
                name,
                "a cached file has another hash"
            );
        }
    }
    slave.clean(&ended);
}

#[test]
fn a_result_that_is_a_pipe_is_packagefail() {
    if machine().is_none() {
        return;
    }
    let config = "[limits]\nsilence = 30";
    let (slave, ended) = with_a_result("result-pipe", "pipe", "3", "mkfifo pipe", config);
    ended.assert("PACKAGEFAIL");
    slave.clean(&ended);
}

#[test]
fn a_result_over_the_limit_is_packagefail() {
    if machine().is_none() {
        return;
    }
    let script = "truncate -s 100G big";
    let (slave, ended) = with_a_result(
        "result-size",
        "big",
        "107374182400",
        script,
        "[limits]\nresults = 1G",
    );
    ended.assert("PACKAGEFAIL");
    ended.assert_said("[limits] results");
    slave.clean(&ended);
}
