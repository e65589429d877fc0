//! Copies bytes between a session and an https archive, both ways, until one side ends.

use std::io::{ErrorKind, Read as _};
use std::net::{Shutdown, TcpStream};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use super::journal::Fetched;
use super::refusal::Refusal;
use super::shared::Shared;
use super::wire::{PIECE_BYTES, Wire};
use crate::sys::lock::lock;

/// The most bytes that a session may send through one tunnel: requests need far less.
const MAX_SENT_BYTES: u64 = 64 << 20;

/// The bytes of a tunnel, and when it was last used.
struct Traffic {
    sent: u64,
    received: u64,
    last: Instant,
}

/// Serves a tunnel to its end, and records it.
pub(super) fn run(shared: &Shared, client: &mut Wire, server: &mut Wire, authority: String) {
    let traffic = Mutex::new(Traffic {
        sent: 0,
        received: 0,
        last: Instant::now(),
    });
    let limits = &shared.settings.limits;
    let idle = limits.client_idle;
    // TLS may have sent its first bytes together with CONNECT.
    let early = [client.input().to_vec(), server.input().to_vec()];
    let handed = client.socket();
    let given = server.socket();
    let until = Instant::now() + idle;
    let begun = server
        .write_all(&early[0], until)
        .and_then(|()| client.write_all(&early[1], until));
    if begun.is_ok() {
        lock(&traffic).sent += early[0].len() as u64;
        lock(&traffic).received += early[1].len() as u64;
        let up = || {
            copy(handed, given, &traffic, idle, MAX_SENT_BYTES, |traffic| {
                &mut traffic.sent
            })
        };
        let down = || {
            copy(
                given,
                handed,
                &traffic,
                idle,
                limits.file_bytes,
                |traffic| &mut traffic.received,
            )
        };
        let within = thread::scope(|scope| {
            let name = thread::Builder::new().name("gate-tunnel".into());
            match name.spawn_scoped(scope, up) {
                Ok(thread) => {
                    let received = down();
                    thread.join().unwrap_or(false) && received
                }
                Err(error) => {
                    log::warn!("no thread for a tunnel to {authority}: {error}");
                    true
                }
            }
        });
        if !within {
            let sentence = format!(
                "The gate ended a connection to {authority}: more than [limits] fetch_size went \
                 through it, or more than {MAX_SENT_BYTES} bytes were sent."
            );
            shared.note(&Refusal::forbidden("too much", sentence));
        }
    }
    let traffic = lock(&traffic);
    shared.add(Fetched::Tunnel {
        authority,
        bytes_sent: traffic.sent,
        bytes_received: traffic.received,
    });
}

/// Copies one direction; false if it carried more than `most` bytes.
fn copy(
    mut from: &TcpStream,
    to: &TcpStream,
    traffic: &Mutex<Traffic>,
    idle: Duration,
    most: u64,
    count: impl Fn(&mut Traffic) -> &mut u64,
) -> bool {
    let mut piece = vec![0; PIECE_BYTES];
    // Ends both directions.
    let cut = || {
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
    };
    loop {
        let wait = idle.saturating_sub(lock(traffic).last.elapsed());
        if wait.is_zero() || from.set_read_timeout(Some(wait)).is_err() {
            cut();
            return true;
        }
        let bytes = match from.read(&mut piece) {
            Ok(0) => {
                // The other direction may go on.
                let _ = to.shutdown(Shutdown::Write);
                return true;
            }
            Ok(bytes) => bytes,
            // Another look at the other direction decides.
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
            {
                continue;
            }
            Err(_) => {
                cut();
                return true;
            }
        };
        {
            let mut traffic = lock(traffic);
            traffic.last = Instant::now();
            let total = count(&mut traffic);
            *total += bytes as u64;
            if *total > most {
                drop(traffic);
                cut();
                return false;
            }
        }
        let sent = to
            .set_write_timeout(Some(idle))
            .and_then(|()| std::io::Write::write_all(&mut &*to, &piece[..bytes]));
        if sent.is_err() {
            cut();
            return true;
        }
    }
}
