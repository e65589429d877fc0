//! Runs several bound servers in one process until a signal stops them.
//!
//! Used by every command that serves.

use super::Error;
use super::http::Server;
use super::protocol::Protocol;
use crate::sys::service_manager::{self, Pulse};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread;

/// Bound servers, each with its protocol.
#[derive(Default)]
pub(crate) struct Group(Vec<(Server, Arc<dyn Protocol>)>);

/// The reactions of a command to the events of its servers.
pub(crate) struct Events {
    /// Called when every server accepts connections, with the proofs that the servers run.
    pub(crate) ready: Box<dyn FnOnce(Vec<Pulse>) + Send>,
    /// Called for each SIGHUP.
    pub(crate) reload: Box<dyn Fn() + Send>,
    /// Called for each SIGTERM and SIGINT, before the servers stop.
    pub(crate) stop: Box<dyn Fn() + Send>,
}

impl Group {
    pub(crate) fn add(&mut self, server: Server, protocol: Arc<dyn Protocol>) {
        self.0.push((server, protocol));
    }

    /// Serves until `SIGTERM` or `SIGINT`. Open exchanges continue until the process ends.
    pub(crate) fn run_until_signal(self, events: Events) -> Result<(), Error> {
        let Events {
            ready,
            reload,
            stop,
        } = events;
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
                        reload();
                        continue;
                    }
                    stop();
                    stops.iter().for_each(super::StopHandle::stop);
                }
            })?;
        let (started, starts) = channel();
        let mut running = Vec::new();
        for (mut server, protocol) in self.0 {
            let pulse = server.prove_life();
            let started = started.clone();
            let serve = move || {
                server.run_protocol(protocol, || {
                    // Nobody receives if another server could not start.
                    let _ = started.send(pulse);
                })
            };
            running.push(thread::Builder::new().name("accept".into()).spawn(serve)?);
        }
        drop(started);
        let pulses: Vec<_> = starts.iter().take(running.len()).collect();
        if pulses.len() == running.len() {
            ready(pulses.into_iter().flatten().collect());
        }
        for server in running {
            server
                .join()
                .map_err(|_| io::Error::other("the accept loop panicked"))??;
        }
        Ok(())
    }
}

/// Tells the service manager that all `pulses` beat from now on, and feeds its watchdog while they
/// do.
pub(crate) fn report_ready(pulses: Vec<Pulse>) {
    if let Err(error) = service_manager::feed_watchdog(pulses) {
        log::error!("cannot feed the watchdog: {error}");
    }
    service_manager::ready();
}

/// Returns `host:port`, where the host may be an IPv6 address.
pub(crate) fn address(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}
