//! Jumps of the host's clock change no timeout and no answer (docs/wire.md §5, clock wrong).

use std::fs;
use std::io::Write as _;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::clock::{self, Shared};
use crate::support::{Daemon, FileServer, Gate, Site, sha1, until};

/// A site whose processes read the time of day from the file `clock`.
fn site_with_a_clock(more: &str) -> Option<Site> {
    let mut site = Site::new(more);
    let clock = site.path("clock");
    site.start_with(clock::environment(&clock, "builds whose clock jumps")?);
    Some(site)
}

fn set_clock(site: &Site, to: &str) {
    clock::set_clock(&site.path("clock"), to);
}

/// The jumps, in the notation of the library: days forward or back.
const JUMPS: [&str; 4] = ["+4000d", "-3000d", "+1d", "-10000d"];

#[test]
fn a_clock_jump_neither_ends_nor_delays_a_build() {
    let more = "statusform = dict\nverdicts = exact\n[limits]\nsilence = 1h\nbuild_time = 2h\nabort_time = 5";
    let Some(site) = site_with_a_clock(more) else {
        return;
    };
    let _shared = Shared;
    let mut daemon = Daemon::start_in(site);
    for jump in JUMPS {
        set_clock(&daemon, "+0");
        daemon.reset();
        daemon.on("sbuild", "hold; date; exit 2");
        daemon.build("b1", json!({}));
        daemon.wait_at("sbuild");
        set_clock(&daemon, jump);
        // The daemon and the shim run for a while after the jump.
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(daemon.state(), "BUILDING");
        daemon.kill();
        daemon.restart();
        assert_eq!(daemon.state(), "BUILDING");
        daemon.let_go("sbuild");
        assert_eq!(daemon.wait_over()["build_status"], "BuildStatus.GIVENBACK");
        // The daemon and the build both saw the jump.
        let year = match jump {
            "+4000d" => "2037",
            "-3000d" => "2018",
            _ => "",
        };
        let (said, log) = (daemon.said(), daemon.log());
        assert!(said.contains(year) && log.contains(year), "{said} {log}");
        daemon.check_same_after_restart();
        set_clock(&daemon, "+0");
        daemon.check_same_after_restart();
        daemon.clean();

        // The clock jumps during an abort.
        daemon.reset();
        daemon.on("sbuild", "stubborn; hold");
        daemon.on("umount", "hold");
        daemon.build("b1", json!({}));
        daemon.wait_at("sbuild");
        daemon.ok("abort", &[]);
        daemon.wait_at("umount");
        set_clock(&daemon, jump);
        daemon.let_go("umount");
        let begun = Instant::now();
        let status = daemon.wait_over();
        assert!(begun.elapsed() < Duration::from_secs(10));
        assert_eq!(status["build_status"], "BuildStatus.ABORTED");
        daemon.clean();
        assert_eq!(daemon.strays().len(), 0, "{:?}", daemon.strays());
    }
    daemon.check_usable();
}

#[test]
fn a_clock_jump_does_not_break_a_download() {
    let Some(site) = site_with_a_clock("statusform = dict\nverdicts = exact") else {
        return;
    };
    let _shared = Shared;
    let daemon = Daemon::start_in(site);
    for jump in JUMPS {
        let gate = Gate::default();
        let waiting = gate.clone();
        let server = FileServer::start(move |_, stream| {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nHello ");
            waiting.wait();
            let _ = stream.write_all(b"World");
        });
        let sum = sha1(b"Hello World");
        let _ = fs::remove_file(daemon.path("home/filecache").join(&sum));
        set_clock(&daemon, "+0");
        let params = [json!(sum), json!(server.url("f")), json!(""), json!("")];
        let present = std::thread::scope(|scope| {
            let asking = scope.spawn(|| daemon.ok("ensurepresent", &params));
            until("half a file", || {
                let names = daemon.names("home/filecache");
                names
                    .iter()
                    .any(|name| name.starts_with(".tmp-"))
                    .then_some(())
            });
            set_clock(&daemon, jump);
            // The download runs for a while after the jump.
            std::thread::sleep(Duration::from_millis(100));
            gate.open();
            asking.join().unwrap()
        });
        assert_eq!(present, json!([true, "Download"]), "{jump}");
    }
    daemon.check_usable();
}
