//! Isolation: network, processes, files and passwords that a build must not reach.

use std::fs;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;

use serde_json::json;

use super::archive::{Archive, PASSWORD, USER};
use crate::support::machine::machine;
use crate::support::package::Package;
use crate::support::real_slave::Slave;

/// Sockets of the host, which a build must not reach.
struct Host {
    tcp: TcpListener,
    /// The name of an abstract Unix socket.
    name: String,
    _unix: UnixListener,
}

impl Host {
    fn listen() -> Self {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let name = format!("buildd-slave-test-{}", tcp.local_addr().unwrap().port());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let _unix = UnixListener::bind_addr(&address).unwrap();
        Self { tcp, name, _unix }
    }

    /// A script that tries to connect to all of them.
    fn script(&self) -> String {
        // Connecting a datagram socket sends nothing and only needs a route.
        format!(
            "try() {{ perl -MIO::Socket::INET -e '
                 my $s = IO::Socket::INET->new(Proto => shift, PeerAddr => shift, Timeout => 5);
                 print $s ? \"connected\" : \"no: $@\", \"\\n\"' \"$@\"; }}
             echo \"outside: $(try udp 192.0.2.1:9)\"
             echo \"loopback: $(try udp 127.0.0.1:9)\"
             echo \"host: $(try tcp {})\"
             perl -MSocket -e '
                 socket(my $s, AF_UNIX, SOCK_STREAM, 0) or die;
                 my $there = connect($s, pack_sockaddr_un(\"\\0{}\"));
                 print \"abstract: \", $there ? \"connected\" : \"no: $!\", \"\\n\"'
             ls /sys/class/net",
            self.tcp.local_addr().unwrap(),
            self.name
        )
    }
}

const NOTHING_REACHED: [&str; 5] = [
    "\noutside: no: ",
    "Network is unreachable",
    "\nloopback: connected",
    "\nhost: no: ",
    "\nabstract: no: ",
];

#[test]
fn apt_has_a_network_and_the_build_has_none() {
    let Some(machine) = machine() else { return };
    let slave = Slave::start(machine, "network", "");
    let host = Host::listen();
    let package = Package {
        build_depends: "hello",
        ..Package::new("toy", format!("hello\n{}", host.script()))
    };
    let ended = slave.build(&package, json!({}));
    ended.assert("OK");
    ended.assert_said("\nHello, world!");
    NOTHING_REACHED
        .iter()
        .for_each(|said| ended.assert_said(said));
    slave.clean(&ended);
}

#[test]
fn a_builder_without_a_network_reaches_no_archive() {
    let Some(machine) = machine() else { return };
    let slave = Slave::start(machine, "no-network", "network = never");
    // The archive listens on the loopback of the host, which no session may reach.
    let archive = Archive::with_package(machine.folder("no-network/archive"), "near", "");
    let package = Package {
        build_depends: "near",
        ..Package::new("toy", "echo not reached")
    };
    // With package lists in the chroot apt fails to download; without, it does not know the
    // package.
    let ended = slave.build(&package, json!({"archives": [archive.line()]}));
    assert_eq!(archive.requests(), 0);
    assert!(
        ["CHROOTFAIL", "DEPFAIL"].contains(&&*ended.status),
        "{}",
        ended.status
    );
    ended.assert_said("The chroot is taken as it is: builds have no network here");
    assert!(!ended.log.contains("\nnot reached"));
    slave.clean(&ended);
}

#[test]
fn a_background_process_does_not_delay_its_build() {
    let Some(machine) = machine() else { return };
    let slave = Slave::start(machine, "left-daemon", "[limits]\nsilence = 60");
    let package = Package::new("toy", "setsid sleep 4242 &\necho left");
    let ended = slave.build(&package, json!({}));
    ended.assert("OK");
    slave.clean(&ended);
}

/// Builds with a private archive at `path`; the package looks for the password everywhere.
fn build_with_a_private_archive(test: &str, path: &str) {
    let Some(machine) = machine() else { return };
    let slave = Slave::start(machine, test, "");
    let folder = machine.folder(&format!("{test}/archive"));
    let archive = Archive::with_package(folder, "only-in-private", "");
    let (first, second) = PASSWORD.split_once('-').unwrap();
    let package = Package {
        build_depends: "only-in-private",
        ..Package::new(
            "toy",
            format!(
                "word={first}; word=$word-{second}
                 cat /etc/apt/sources.list /etc/apt/sources.list.d/* || true
                 if grep -rsl \"$word\" /etc /var /build /run /tmp /root /proc/[0-9]*/environ; then
                     exit 1
                 fi
                 echo \"left: $(ls /etc/apt/auth.conf.d).\""
            ),
        )
    };
    let mut archives = vec![archive.line_at(path)];
    archives.extend(machine.archives());
    let args = json!({"archives": archives, "archive_private": true});
    slave.begin(&slave.pack(&package), args);
    slave.await_log("] SBUILD");
    assert_without_password(&slave.dir.join("journal"));
    let ended = slave.end();
    ended.assert("OK");
    ended.assert_said("Setting up only-in-private");
    ended.assert_said("\nleft: .\n");
    let public = archive
        .line_at(path)
        .replace(&format!("{USER}:{PASSWORD}@"), "");
    let uri = public.split(' ').nth(2).unwrap();
    let (_, built) = ended.log.split_once("info: source package").unwrap();
    assert!(built.contains(uri), "the build has no sources");
    assert!(!ended.log.contains(PASSWORD));
    for part in ["journal", "filecache", "daemon.log"] {
        assert_without_password(&slave.dir.join(part));
    }
    slave.clean(&ended);
}

#[test]
fn the_password_of_a_private_archive_is_in_no_file_nor_log() {
    build_with_a_private_archive("private", "/");
}

#[test]
fn a_password_that_apts_file_cannot_hold_is_gone_before_the_build() {
    build_with_a_private_archive("private-path", "/%41");
}

#[test]
fn root_in_the_session_sees_nothing_of_the_host() {
    let Some(machine) = machine() else { return };
    let slave = Slave::start(machine, "hostile", "");
    let folder = machine.folder("hostile/archive");
    // Every builder has this file, and no chroot has it.
    const OF_THE_HOST: &str = "/usr/bin/sbuild";
    assert!(Path::new(OF_THE_HOST).exists());
    assert!(
        std::env::var_os("CARGO").is_some(),
        "the daemon inherits CARGO"
    );
    // A command has a /proc of its own, mounted over that of the session.
    let script = format!(
        "exec >/var/tmp/seen 2>&1
         umount /proc
         echo processes: $(ls -d /proc/[0-9]* | wc -l)
         for process in /proc/[0-9]*; do
             [ ! -e $process/root{OF_THE_HOST} ] || echo the host is at $process
             ! grep -qz ^CARGO= $process/environ || echo the daemon\\'s environment is at $process
         done
         touch /sys/kernel/nothing || echo /sys cannot be written
         ls -l /proc/self/fd /proc/1/fd
         echo looked; true"
    );
    let archive = Archive::with_package(folder, "hostile", &script);
    let package = Package {
        build_depends: "hostile",
        ..Package::new("toy", "cat /var/tmp/seen")
    };
    let mut archives = vec![archive.line()];
    archives.extend(machine.archives());
    let ended = slave.build(&package, json!({"archives": archives}));
    ended.assert("OK");
    ended.assert_said("\nlooked");
    ended.assert_said("/sys cannot be written");
    assert!(!ended.log.contains("the host is at"), "{}", ended.log);
    assert!(!ended.log.contains("environment is at"), "{}", ended.log);
    assert!(!ended.log.contains(" 9 -> "), "{}", ended.log);
    slave.clean(&ended);
}

fn assert_without_password(path: &Path) {
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            assert_without_password(&entry.unwrap().path());
        }
        return;
    }
    // The chroot tarball is skipped: it is large and older than the password. So is a socket.
    let about = fs::metadata(path).unwrap();
    if !about.is_file() || about.len() > 64 << 20 {
        return;
    }
    let bytes = fs::read(path).unwrap();
    let found = bytes
        .windows(PASSWORD.len())
        .any(|window| window == PASSWORD.as_bytes());
    assert!(!found, "the password is in {}", path.display());
}

#[test]
fn a_build_with_a_network_reaches_the_outside_but_not_the_hosts_loopback() {
    let Some(machine) = machine() else { return };
    let usable = |mode: u32| mode & 0o006 == 0o006;
    if !fs::metadata("/dev/net/tun").is_ok_and(|about| usable(about.permissions().mode())) {
        eprintln!("NOT RUN: a build with a network needs /dev/net/tun of mode 0666");
        return;
    }
    let slave = Slave::start(machine, "always", "network = always");
    let host = Host::listen();
    let package = Package::new("toy", host.script());
    let ended = slave.build(&package, json!({}));
    ended.assert("OK");
    // Connecting a datagram socket needs a route to the outside.
    ended.assert_said("\noutside: connected");
    ended.assert_said("\nhost: no: ");
    ended.assert_said("\nabstract: no: ");
    slave.clean(&ended);
}
