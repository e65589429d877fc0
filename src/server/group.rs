//! Runs several bound servers in one process until a signal stops them.
//!
//! Used by every command that serves.

use super::Error;
use super::http::Server;
use super::protocol::Protocol;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::io;
use std::sync::Arc;
use std::thread;

/// Bound servers, each with its protocol.
#[derive(Default)]
pub(crate) struct Group(Vec<(Server, Arc<dyn Protocol>)>);

impl Group {
    pub(crate) fn add(&mut self, server: Server, protocol: Arc<dyn Protocol>) {
        self.0.push((server, protocol));
    }

    /// Serves until `SIGTERM` or `SIGINT`, then logs `message` and returns. Open exchanges continue
    /// until the process ends.
    pub(crate) fn run_until_signal(self, message: &'static str) -> Result<(), Error> {
        let stops: Vec<_> = self
            .0
            .iter()
            .map(|(server, _)| server.stop_handle())
            .collect();
        let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
        thread::Builder::new()
            .name("signals".into())
            .spawn(move || {
                for signal in &mut signals {
                    if signal == SIGHUP {
                        log::info!(
                            "hang-up ignored: there is no log file to reopen, and the \
                             configuration is read at start"
                        );
                        continue;
                    }
                    log::info!("{message}");
                    stops.iter().for_each(super::StopHandle::stop);
                }
            })?;
        let mut running = Vec::new();
        for (server, protocol) in self.0 {
            let serve = move || server.run_protocol(protocol);
            running.push(thread::Builder::new().name("accept".into()).spawn(serve)?);
        }
        for server in running {
            server
                .join()
                .map_err(|_| io::Error::other("the accept loop panicked"))??;
        }
        Ok(())
    }
}

/// Returns `host:port`, where the host may be an IPv6 address.
pub(crate) fn address(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}
