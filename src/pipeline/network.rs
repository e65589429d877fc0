//! The network of a build: starts its gate, tells it archives and hashes, reports what passed.

use std::fs::{self, File};
use std::io::{self, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;

use crate::gate::{self, Fetched, Gate, HostPattern, Rules};
use crate::session::enter::gate_socket;
use crate::sys::host;

use super::apt::FileHashes;
use super::spec::GateSettings;

/// How many hashes the gate is told at a time.
const BATCH: usize = 1000;

/// The gate of a session.
#[derive(Clone)]
pub(crate) struct BuildNetwork {
    gate: Arc<Gate>,
    address: SocketAddr,
    uses_cache: bool,
}

impl BuildNetwork {
    /// Starts the gate behind the socket of a session. Files of a private build are not cached.
    pub(crate) fn start(
        listener: TcpListener,
        settings: &GateSettings,
        private: bool,
    ) -> io::Result<Self> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, listener.local_addr()?.port()));
        let rules = Rules::from_sources(&[], &settings.redirect_to);
        let mut gate_settings = settings.of_gate(private);
        // The operator has named these hosts already: they may be on the local network.
        for (_, text) in host::apt_sources() {
            gate_settings.private.extend(HostPattern::of_sources(&text));
        }
        let uses_cache = gate_settings.cache.is_some();
        Ok(Self {
            gate: Arc::new(gate::start(listener, rules, gate_settings)?),
            address,
            uses_cache,
        })
    }

    /// The URL of the gate for apt in the session.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// Lets the session reach the archives in the text of apt's sources.
    pub(crate) fn allow(&self, sources: &str) {
        let lines: Vec<String> = sources.lines().map(str::to_owned).collect();
        self.gate.add_archives(&lines);
    }

    /// Closes the gate when `internal enter` asks for it, by a socket in `folder`.
    pub(crate) fn close_on_request(&self, folder: &Path) -> io::Result<()> {
        let entry = File::open(folder)?;
        let path = gate_socket(&entry);
        // A build that starts again has this file already.
        let _ = fs::remove_file(&path);
        let requests = UnixListener::bind(&path)?;
        let gate = Arc::clone(&self.gate);
        thread::Builder::new().spawn(move || {
            for mut request in requests.incoming().flatten() {
                gate.close();
                // The caller may have been killed.
                let _ = request.write_all(b"c");
            }
        })?;
        Ok(())
    }

    pub(crate) fn close(&self) {
        self.gate.close();
    }

    /// Reads the package lists that `command` prints, in a thread, and tells the gate the hashes.
    pub(crate) fn learn_hashes(&self, mut command: Command) -> io::Result<()> {
        if !self.uses_cache {
            return Ok(());
        }
        let gate = Arc::clone(&self.gate);
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let lists = BufReader::new(child.stdout.take().expect("stdout is piped"));
        thread::Builder::new().spawn(move || {
            tell_hashes(&gate, lists);
            let _ = child.wait();
        })?;
        Ok(())
    }

    /// Returns sentences about what the gate refused.
    pub(crate) fn refusals(&self) -> Vec<String> {
        self.gate.refused()
    }

    /// Returns lines for the build log: what passed, failed and was refused.
    pub(crate) fn report(&self) -> Vec<String> {
        let passed = self.gate.record();
        let mut lines: Vec<String> = passed.iter().map(line_of).collect();
        if !lines.is_empty() {
            lines.insert(0, "Through the gate (SHA-256, bytes, URL):".to_owned());
        }
        lines.extend(self.gate.failed());
        lines.extend(self.refusals());
        lines
    }
}

impl std::fmt::Debug for BuildNetwork {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BuildNetwork({})", self.address)
    }
}

fn tell_hashes(gate: &Gate, mut lists: impl io::BufRead) {
    let (mut hashes, mut batch, mut line) = (FileHashes::default(), Vec::new(), Vec::new());
    loop {
        line.clear();
        let read = lists.read_until(b'\n', &mut line);
        let at_end = !read.is_ok_and(|count| count > 0);
        batch.extend(hashes.feed(&String::from_utf8_lossy(&line)));
        if at_end || batch.len() >= BATCH {
            let told = batch
                .iter()
                .map(|(name, sha256, bytes): &(String, String, u64)| {
                    (name.as_str(), sha256.as_str(), *bytes)
                });
            gate.know(told);
            batch.clear();
        }
        if at_end {
            return;
        }
    }
}

fn line_of(fetched: &Fetched) -> String {
    match fetched {
        Fetched::File {
            url,
            bytes,
            sha256,
            partial,
            from_cache,
        } => {
            let part = if *partial { " (a part)" } else { "" };
            let cached = if *from_cache { " (cached)" } else { "" };
            format!("{sha256} {bytes} {url}{part}{cached}")
        }
        Fetched::Tunnel {
            authority,
            bytes_received,
            ..
        } => format!("https {bytes_received} {authority}"),
    }
}
