//! Describes the processes of a build for its log, before a timeout kills them.
//!
//! It shows state, kernel wait channel, CPU time so far and at present, and open sockets. Lines and
//! time are limited, so that the kill is never delayed for long.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::Stdio;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use nix::unistd::Pid;

use crate::session::enter;
use crate::sys::cgroup::LIMITS_VAR;
use crate::sys::exe;
use crate::sys::procs::{self, Process};

/// The timeout of the description: reading from a process that is stuck in the kernel may block.
const TIMEOUT: Duration = Duration::from_secs(2);
/// The time between the two samples of CPU time.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(500);
const MAX_PROCESSES: usize = 40;
const MAX_SOCKETS: usize = 15;
const MAX_COMMAND_CHARS: usize = 100;

/// Returns the output of `internal autopsy` about all descendants of this process, as seen from
/// the session of `init` if there is one.
pub(super) fn of_descendants(init: Option<i32>) -> String {
    let root = std::process::id().to_string();
    let init = init.map(|pid| pid.to_string()).unwrap_or_default();
    let child = exe::internal("autopsy")
        .args([root, init])
        // It must start even when the build has reached its limit on processes.
        .env_remove(LIMITS_VAR)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn();
    let (sender, receiver) = channel();
    let report = child.and_then(|mut child| {
        let mut output = child.stdout.take().expect("stdout is piped");
        thread::Builder::new().spawn(move || {
            let mut text = String::new();
            let _ = output.read_to_string(&mut text);
            let _ = sender.send(text);
        })?;
        let text = receiver.recv_timeout(TIMEOUT);
        child.kill()?;
        text.map_err(io::Error::other)
    });
    report.unwrap_or_else(|error| format!("cannot describe the build's processes: {error}"))
}

/// Runs `internal autopsy ROOT INIT`: describes the descendants of ROOT.
///
/// It enters the user namespace of INIT first: files in `/proc` of the session's processes are not
/// readable from outside.
pub(crate) fn run(args: &[OsString]) -> io::Result<()> {
    let [root, init] = args else {
        return Err(io::Error::other("autopsy: ROOT INIT"));
    };
    let root = root.to_str().and_then(|pid| pid.parse().ok());
    let root = root.ok_or_else(|| io::Error::other("autopsy: no pid"))?;
    if !init.is_empty() {
        setns(
            enter::namespace_of(init, "user")?,
            CloneFlags::CLONE_NEWUSER,
        )?;
    }
    let me = Pid::this().as_raw();
    let before = procs::all();
    thread::sleep(SAMPLE_INTERVAL);
    let mut processes = procs::descendants(&procs::all(), root);
    processes.retain(|process| process.pid != me);
    io::stdout().write_all(report(&processes, &before).as_bytes())
}

fn report(processes: &[Process], before: &[Process]) -> String {
    let mut text = format!(
        "The build has {} processes (`now s`: CPU time within {} ms):\n\
         {:>9} S {:>9} {:>6}  {:<20} command\n",
        processes.len(),
        SAMPLE_INTERVAL.as_millis(),
        "pid",
        "cpu s",
        "now s",
        "waits in",
    );
    let depths = depths(processes);
    for process in processes.iter().take(MAX_PROCESSES) {
        let earlier = before.iter().find(|old| old.pid == process.pid);
        let more = process.cpu - earlier.map_or(Duration::ZERO, |old| old.cpu.min(process.cpu));
        let _ = writeln!(
            text,
            "{:>9} {} {:>9.2} {:>6.2}  {:<20} {}{}",
            process.pid,
            process.state,
            process.cpu.as_secs_f64(),
            more.as_secs_f64(),
            wait_channel(process.pid),
            " ".repeat(depths.get(&process.pid).copied().unwrap_or(0).min(20)),
            command(process),
        );
    }
    if let Some(left_out) = processes.len().checked_sub(MAX_PROCESSES + 1) {
        let _ = writeln!(text, "          … and {} more", left_out + 1);
    }
    let sockets = sockets(processes);
    for line in sockets.iter().take(MAX_SOCKETS) {
        let _ = writeln!(text, "{line}");
    }
    if sockets.len() > MAX_SOCKETS {
        let _ = writeln!(
            text,
            "          … and {} more sockets",
            sockets.len() - MAX_SOCKETS
        );
    }
    text
}

/// Returns how far below the shim each process is. Parents must come before their children.
fn depths(processes: &[Process]) -> HashMap<i32, usize> {
    let mut depths = HashMap::new();
    for process in processes {
        let depth = depths.get(&process.parent).map_or(0, |above| above + 1);
        depths.insert(process.pid, depth);
    }
    depths
}

fn proc_file(pid: i32, name: &str) -> String {
    let bytes = fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn wait_channel(pid: i32) -> String {
    match proc_file(pid, "wchan").as_str() {
        "" | "0" => "-".to_owned(),
        place => place.chars().take(20).collect(),
    }
}

/// Returns the command line as one line of limited length.
fn command(process: &Process) -> String {
    let line = proc_file(process.pid, "cmdline");
    let line = match line.trim_end_matches('\0') {
        "" => format!("[{}]", process.name),
        line => line.to_owned(),
    };
    let words: Vec<&str> = line
        .split(|c: char| c.is_control() || c.is_whitespace())
        .filter(|word| !word.is_empty())
        .collect();
    let plain = words.join(" ");
    let mut shown: String = plain.chars().take(MAX_COMMAND_CHARS).collect();
    if shown.len() < plain.len() {
        shown.push('…');
    }
    shown
}

/// Returns a line for each connected or named socket of the processes.
fn sockets(processes: &[Process]) -> Vec<String> {
    let mut tables: HashMap<String, HashMap<String, String>> = HashMap::new();
    let mut lines = Vec::new();
    let mut seen = HashSet::new();
    for process in processes.iter().take(MAX_PROCESSES) {
        let pid = process.pid;
        let inodes = socket_inodes(pid);
        if inodes.is_empty() {
            continue;
        }
        let network = fs::read_link(format!("/proc/{pid}/ns/net")).unwrap_or_default();
        let table = tables
            .entry(network.to_string_lossy().into_owned())
            .or_insert_with(|| socket_table(pid));
        for inode in inodes {
            let Some(socket) = table.get(&inode) else {
                continue;
            };
            if seen.insert(inode) {
                lines.push(format!("{pid:>9} socket: {socket}"));
            }
        }
    }
    lines
}

fn socket_inodes(pid: i32) -> Vec<String> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd"));
    let links = entries.into_iter().flatten().flatten();
    links
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .filter_map(|link| {
            let text = link.to_str()?;
            Some(text.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())
        })
        .collect()
}

/// Returns all sockets in the network namespace of `pid`, by inode.
fn socket_table(pid: i32) -> HashMap<String, String> {
    let mut table = HashMap::new();
    for kind in ["tcp", "tcp6", "udp", "udp6"] {
        let text = proc_file(pid, &format!("net/{kind}"));
        table.extend(text.lines().filter_map(|line| parse_inet(kind, line)));
    }
    let text = proc_file(pid, "net/unix");
    table.extend(text.lines().filter_map(parse_unix));
    table
}

/// Parses a line of `/proc/net/tcp`, `tcp6`, `udp` or `udp6`: `SL: LOCAL REMOTE STATE …`; the tenth
/// field is the inode.
fn parse_inet(kind: &str, line: &str) -> Option<(String, String)> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (local, remote) = (
        parse_address(fields.get(1)?)?,
        parse_address(fields.get(2)?)?,
    );
    let state = match *fields.get(3)? {
        "01" => "connected",
        "02" => "connecting",
        "08" => "closed by the peer",
        "0A" => "listening",
        _ => "closing",
    };
    let state = if kind.starts_with("udp") { "" } else { state };
    let shown = format!("{kind} {local} -> {remote} {state}");
    Some(((*fields.get(9)?).to_owned(), shown.trim_end().to_owned()))
}

/// Parses an address of `/proc/net`: 32-bit words in native byte order, the port in hexadecimal.
fn parse_address(text: &str) -> Option<SocketAddr> {
    let (host, port) = text.split_once(':')?;
    let words: Vec<u8> = host
        .as_bytes()
        .chunks(8)
        .map(|word| u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok())
        .collect::<Option<Vec<_>>>()?
        .into_iter()
        .flat_map(u32::to_ne_bytes)
        .collect();
    let host = match <[u8; 4]>::try_from(words.as_slice()) {
        Ok(four) => IpAddr::from(Ipv4Addr::from(four)),
        Err(_) => IpAddr::from(Ipv6Addr::from(<[u8; 16]>::try_from(words.as_slice()).ok()?)),
    };
    Some(SocketAddr::new(host, u16::from_str_radix(port, 16).ok()?))
}

/// Parses a line of `/proc/net/unix`; sockets without a name are left out.
fn parse_unix(line: &str) -> Option<(String, String)> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let name = fields.get(7)?;
    Some(((*fields.get(6)?).to_owned(), format!("unix {name}")))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::process::Command;
    use std::time::Instant;

    use super::*;

    #[test]
    fn processes_and_their_sockets_are_described() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let marker = "autopsy of this very process";
        let mut child = Command::new("sh")
            .args(["-c", "sleep 600; :", marker])
            .spawn()
            .unwrap();
        let root = Pid::this().as_raw();
        let mut text = String::new();
        // The forked child needs a moment to become `sh`.
        let deadline = Instant::now() + Duration::from_secs(30);
        while !text.contains(marker) && Instant::now() < deadline {
            text = report(&procs::descendants(&procs::all(), root), &[]);
        }
        assert!(text.contains(marker), "{text}");
        let me = procs::all()
            .into_iter()
            .find(|process| process.pid == root)
            .unwrap();
        let mine = sockets(&[me]).join("\n");
        let expected = format!(
            "tcp {} -> {} connected",
            stream.local_addr().unwrap(),
            stream.peer_addr().unwrap()
        );
        assert!(mine.contains(&expected), "{mine}");
        for process in procs::descendants(&procs::all(), child.id() as i32) {
            let pid = nix::unistd::Pid::from_raw(process.pid);
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::SIGKILL);
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn ipv4_and_ipv6_addresses_are_parsed() {
        let shown = |text| parse_address(text).map(|address| address.to_string());
        if cfg!(target_endian = "little") {
            assert_eq!(shown("0100007F:1F90").as_deref(), Some("127.0.0.1:8080"));
            let six = "B80D0120000000000000000001000000:0050";
            assert_eq!(shown(six).as_deref(), Some("[2001:db8::1]:80"));
        }
        assert_eq!(shown("0100007F"), None);
        assert_eq!(shown("sl:local"), None);
    }

    #[test]
    fn a_thousand_processes_take_under_sixty_lines() {
        let process = |pid| Process {
            pid,
            parent: 1,
            state: 'R',
            name: "fork\nbomb".into(),
            cpu: Duration::ZERO,
        };
        let many: Vec<_> = (100_000_000..100_001_000).map(process).collect();
        let text = report(&many, &[]);
        assert!(text.lines().count() < 60, "{text}");
        assert!(text.contains("… and 960 more"), "{text}");
    }
}
