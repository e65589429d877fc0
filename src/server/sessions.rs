//! Refuses connections from build sessions on this host.
//!
//! A session runs under subordinate ids of the user that builds. No master and no person does, so a
//! connection from such an id is a package that reached the host's network. The kernel names the
//! user of each socket of this host; `http` asks when it accepts a connection (docs/wire.md §1.1).

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::ops::Range;
use std::sync::Once;

use crate::sys::sock_diag::{Owner, SockDiag};
use crate::sys::{sub_ids, user};

const SUB_IDS: &str = "/etc/subuid";

/// Recognizes the connections of build sessions.
pub(super) struct Sessions {
    /// `None` if there is nothing to compare, or nobody to ask.
    guard: Option<Guard>,
}

struct Guard {
    diag: SockDiag,
    /// The subordinate user ids of the user of this process.
    ids: Vec<Range<u32>>,
}

impl Sessions {
    /// Reads the subordinate ids, and tries whether the kernel answers about the listener. If it
    /// does not, all connections are allowed, and a warning says so once.
    pub(super) fn of(listener: &TcpListener) -> Self {
        let ids = own_ids();
        if ids.is_empty() {
            return Self { guard: None };
        }
        let guard = open(listener).map(|diag| Guard { diag, ids });
        let warn = |problem: String| {
            static WARNING: Once = Once::new();
            WARNING.call_once(|| {
                log::warn!(
                    "the kernel does not tell whose connections these are ({problem}): those of \
                     build sessions are not refused; load the kernel module tcp_diag"
                );
            });
        };
        Self {
            guard: guard.map_err(warn).ok(),
        }
    }

    /// Returns why the connection is refused, if it is.
    pub(super) fn refusal(&mut self, stream: &TcpStream, peer: SocketAddr) -> Option<String> {
        let guard = self.guard.as_mut()?;
        let own = match stream.local_addr() {
            Ok(own) => own,
            Err(error) => return Some(format!("it has no address: {error}")),
        };
        match guard.diag.connected(peer, own) {
            Ok(owner) => refusal(owner, || is_local(peer), &guard.ids),
            // An answer that fails for a client of another host is no reason to refuse it.
            Err(_) if !is_local(peer) => None,
            Err(error) => Some(format!("cannot ask the kernel for its user: {error}")),
        }
    }
}

/// Decides about a connection whose socket has this owner. `local` returns whether the peer has an
/// address of this host.
fn refusal(owner: Owner, local: impl Fn() -> bool, ids: &[Range<u32>]) -> Option<String> {
    // A session could send its call and close before this question. No other client of this host
    // leaves before the answer.
    let closed = || Some("it is closed already, so nobody knows its user".to_owned());
    match owner {
        Owner::Uid(uid) if ids.iter().any(|range| range.contains(&uid)) => Some(format!(
            "its user id {uid} is a subordinate id: a build session may not connect"
        )),
        Owner::Uid(_) => None,
        Owner::Closed => closed(),
        Owner::None if local() => closed(),
        Owner::None => None,
    }
}

/// True if the peer has an address of this network namespace: then a socket can be bound to it.
fn is_local(mut peer: SocketAddr) -> bool {
    peer.set_port(0);
    UdpSocket::bind(peer).is_ok()
}

/// Returns the subordinate user ids of the user of this process.
fn own_ids() -> Vec<Range<u32>> {
    let text = fs::read_to_string(SUB_IDS).unwrap_or_default();
    let own = user::effective();
    own.map_or_else(Vec::new, |own| {
        let mut ids = sub_ids::ranges(&text, &own.name, own.uid.as_raw());
        // A container may count its users among the subordinate ids.
        ids.retain(|range| !range.contains(&own.uid.as_raw()) && !range.contains(&0));
        ids
    })
}

fn open(listener: &TcpListener) -> Result<SockDiag, String> {
    let try_it = || {
        let mut diag = SockDiag::open()?;
        let address = listener.local_addr()?;
        let found = diag.finds_listener(address)?;
        Ok::<_, std::io::Error>((diag, found))
    };
    match try_it() {
        Ok((diag, true)) => Ok(diag),
        Ok((_, false)) => Err("it does not find the socket of this server".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subordinate_ids_and_closed_sockets_of_this_host_are_refused() {
        let ids = [100_000..165_536, 300_000..300_001];
        for (owner, local, refused) in [
            (Owner::Uid(100_000), true, true),
            (Owner::Uid(165_535), true, true),
            (Owner::Uid(165_536), true, false),
            (Owner::Uid(300_000), false, true),
            (Owner::Uid(99_999), true, false),
            (Owner::Uid(0), true, false),
            (Owner::Closed, true, true),
            (Owner::None, true, true),
            (Owner::None, false, false),
        ] {
            assert_eq!(
                refusal(owner, || local, &ids).is_some(),
                refused,
                "{owner:?} {local}"
            );
        }
    }

    #[test]
    fn an_address_of_this_host_is_local() {
        let local = |peer: &str| is_local(peer.parse().unwrap());
        assert!(local("127.0.0.1:9"));
        assert!(local("127.9.9.9:9"));
        assert!(local("[::1]:9"));
        assert!(local("[::ffff:127.0.0.1]:9"));
        assert!(!local("192.0.2.1:9"));
        assert!(!local("[2001:db8::1]:9"));
    }
}
