//! The time to the first answer, and the memory of the slave.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use super::Plan;
use super::client::{Caller, download};
use super::content::place;
use super::measure::{Sample, Watch, by_turns, memory_bytes};
use super::reference::{PYTHON, Server, free_port};
use super::table::{Line, Target, Unit};
use crate::support::{DEADLINE, Daemon, Site};

const TIME: Duration = Duration::from_secs(3);

/// Measures the start, the idle memory and the busy memory.
pub(crate) fn rows(plan: &Plan) -> Vec<Line> {
    let (ours, theirs) = by_turns(plan.runs, our_start, python_start);
    let line = |what: &str, unit, ours, theirs, reference, target| Line {
        what: what.into(),
        unit,
        ours,
        theirs,
        reference,
        target,
        worst: false,
    };
    let (our_memory, their_memory) = by_turns(plan.runs, our_idle, twisted_idle);
    let busy = Target::AtMost(40e6);
    vec![
        line(
            "start to first answer",
            Unit::Milliseconds,
            ours,
            theirs,
            "python3 -m http.server",
            Target::AtMost(50.0),
        ),
        line(
            "memory when idle",
            Unit::Megabytes,
            our_memory,
            their_memory,
            "python3-twisted",
            Target::AtMost(10e6),
        ),
        line(
            "memory when busiest",
            Unit::Megabytes,
            vec![busiest(plan)],
            Vec::new(),
            "n/a",
            busy,
        ),
    ]
}

fn our_start() -> Sample {
    let port = free_port();
    let site = Site::new("");
    let config = fs::read_to_string(site.config()).unwrap();
    let config = config.replace("bindport = 0", &format!("bindport = {port}"));
    fs::write(site.config(), config).unwrap();
    let mut command = site.command(&["serve", "--config", site.config().to_str().unwrap()]);
    command.stderr(Stdio::null());
    let caller = Caller::new(port, "echo", "hello", false);
    first_answer(command, || caller.once().is_ok())
}

fn python_start() -> Sample {
    let port = free_port();
    let mut command = Command::new(PYTHON);
    command.args([
        "-m",
        "http.server",
        "--bind",
        "127.0.0.1",
        &port.to_string(),
    ]);
    command
        .current_dir("/usr/share/doc")
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    first_answer(command, || {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else {
            return false;
        };
        stream.write_all(b"HEAD / HTTP/1.0\r\n\r\n").unwrap();
        stream
            .read_to_end(&mut Vec::new())
            .is_ok_and(|count| count > 0)
    })
}

/// Measures from the start of a program until `answers` returns true.
fn first_answer(mut command: Command, answers: impl Fn() -> bool) -> Sample {
    let began = Instant::now();
    let mut child = command.stdin(Stdio::null()).spawn().unwrap();
    while !answers() {
        assert!(child.try_wait().unwrap().is_none(), "{command:?} has ended");
        assert!(began.elapsed() < DEADLINE, "{command:?} does not answer");
        thread::sleep(Duration::from_micros(200));
    }
    let millis = began.elapsed().as_secs_f64() * 1e3;
    let usage = Watch::since_start(child.id()).usage();
    end(&mut child);
    Sample {
        figure: millis,
        usage,
    }
}

fn end(child: &mut Child) {
    let _ = child.kill();
    child.wait().unwrap();
}

fn our_idle() -> Sample {
    let daemon = Daemon::start("");
    daemon.ok("status", &[]);
    let watch = Watch::since_start(daemon.pid());
    watch.sample(memory_bytes(daemon.pid(), "VmRSS") as f64)
}

fn twisted_idle() -> Sample {
    let twisted = Server::twisted();
    let caller = Caller::new(twisted.port, "echo", "hello", false);
    caller.once().unwrap();
    let watch = Watch::since_start(twisted.pid());
    watch.sample(memory_bytes(twisted.pid(), "VmRSS") as f64)
}

/// Makes calls on 40 connections, four reads of a large file and a download of 1 GiB at once.
fn busiest(plan: &Plan) -> Sample {
    let (big, sum) = plan.content.big();
    let nginx = Server::nginx();
    place(&big, &nginx.root().join("big"));
    let daemon = Daemon::start("");
    let cached = daemon.add_file(&vec![b'x'; 256 << 20]);
    let watch = Watch::new(&[daemon.pid()]);
    thread::scope(|scope| {
        scope.spawn(|| Caller::new(daemon.port, "echo", "hello", true).rate(20, TIME));
        scope.spawn(|| Caller::new(daemon.port, "status", "", false).rate(20, TIME));
        scope.spawn(|| download(daemon.port, &format!("/filecache/{cached}"), 4, 256 << 20));
        scope.spawn(|| {
            let url = format!("http://127.0.0.1:{}/big", nginx.port);
            daemon.ok(
                "ensurepresent",
                &[json!(sum), json!(url), json!(""), json!("")],
            );
        });
    });
    watch.sample(watch.usage().peak_bytes as f64)
}
