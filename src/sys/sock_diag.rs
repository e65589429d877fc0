//! Asks the kernel which user has a TCP socket of this host (`sock_diag(7)`).

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto,
    setsockopt, socket, sockopt::ReceiveTimeout,
};
use nix::sys::time::{TimeVal, TimeValLike as _};

/// A kernel answers at once. The timeout only protects against one that does not.
const TIMEOUT_MS: i64 = 1000;
/// `SOCK_DIAG_BY_FAMILY`.
const BY_FAMILY: u16 = 20;
const NLM_F_REQUEST: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IPPROTO_TCP: u8 = 6;
const TCP_LISTEN: u8 = 10;
/// The length of `struct nlmsghdr`, then of `struct inet_diag_req_v2`.
const HEADER_BYTES: usize = 16;
const REQUEST_BYTES: u32 = 16 + 56;
/// Positions in `struct inet_diag_msg`, after the header.
const STATE_AT: usize = HEADER_BYTES + 1;
const UID_AT: usize = HEADER_BYTES + 64;
const INODE_AT: usize = HEADER_BYTES + 68;
const ANSWER_BYTES: usize = HEADER_BYTES + 72;

/// The owner of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    /// A process of this user has the socket. The user id is as this process sees it.
    Uid(u32),
    /// The process has closed the socket already; the kernel no longer knows its user.
    Closed,
    /// This network namespace has no such socket.
    None,
}

/// A connection to the kernel for these questions.
#[derive(Debug)]
pub(crate) struct SockDiag {
    socket: OwnedFd,
    sequence: u32,
}

impl SockDiag {
    pub(crate) fn open() -> io::Result<Self> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Datagram,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkSockDiag,
        )?;
        setsockopt(&socket, ReceiveTimeout, &TimeVal::milliseconds(TIMEOUT_MS))?;
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    /// Returns the owner of the socket that is bound to `own` and connected to `other`.
    pub(crate) fn connected(&mut self, own: SocketAddr, other: SocketAddr) -> io::Result<Owner> {
        Ok(match self.find(own, other)? {
            Some((TCP_LISTEN, ..)) | None => Owner::None,
            Some((_, _, 0)) => Owner::Closed,
            Some((_, uid, _)) => Owner::Uid(uid),
        })
    }

    /// Returns whether the kernel can answer: it must find the listener at `own`.
    pub(crate) fn finds_listener(&mut self, own: SocketAddr) -> io::Result<bool> {
        let mut other = own;
        other.set_port(0);
        Ok(matches!(self.find(own, other)?, Some((TCP_LISTEN, ..))))
    }

    /// Returns state, user and inode of a socket.
    fn find(&mut self, own: SocketAddr, other: SocketAddr) -> io::Result<Option<(u8, u32, u32)>> {
        self.sequence = self.sequence.wrapping_add(1);
        let request = request(own, other, self.sequence);
        let fd = self.socket.as_raw_fd();
        sendto(fd, &request, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
        let mut answer = [0; 4096];
        loop {
            let got = recv(fd, &mut answer, MsgFlags::empty())?;
            if let Some(found) = parse(&answer[..got], self.sequence)? {
                return Ok(found);
            }
            // The late answer to a question that was given up.
        }
    }
}

/// Makes the question for one TCP socket.
fn request(own: SocketAddr, other: SocketAddr, sequence: u32) -> Vec<u8> {
    let scope = match own {
        SocketAddr::V6(address) => address.scope_id(),
        SocketAddr::V4(_) => 0,
    };
    // The kernel finds both kinds of sockets by an IPv4 address, IPv6 ones with a mapped address
    // too.
    let (own_ip, other_ip) = (own.ip().to_canonical(), other.ip().to_canonical());
    let family = if own_ip.is_ipv4() { AF_INET } else { AF_INET6 };
    let mut bytes = Vec::new();
    bytes.extend(REQUEST_BYTES.to_ne_bytes());
    bytes.extend(BY_FAMILY.to_ne_bytes());
    bytes.extend(NLM_F_REQUEST.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend(0_u32.to_ne_bytes()); // to the kernel
    bytes.extend([family, IPPROTO_TCP, 0, 0]);
    bytes.extend(u32::MAX.to_ne_bytes()); // any state
    bytes.extend(own.port().to_be_bytes());
    bytes.extend(other.port().to_be_bytes());
    for ip in [own_ip, other_ip] {
        match ip {
            IpAddr::V4(ip) => {
                bytes.extend(ip.octets());
                bytes.extend([0; 12]);
            }
            IpAddr::V6(ip) => bytes.extend(ip.octets()),
        }
    }
    bytes.extend(scope.to_ne_bytes());
    bytes.extend([0xff; 8]); // any cookie
    bytes
}

/// Returns state, user and inode of the socket, or `Some(None)` if there is none. `None` if this is
/// the answer to another question.
#[allow(clippy::type_complexity, reason = "one caller takes it apart at once")]
fn parse(answer: &[u8], sequence: u32) -> io::Result<Option<Option<(u8, u32, u32)>>> {
    let short = || io::Error::other("the kernel sent a short answer about a socket");
    let word = |at: usize| {
        let bytes = answer
            .get(at..at + 4)
            .and_then(|bytes| bytes.try_into().ok());
        bytes.map(u32::from_ne_bytes).ok_or_else(short)
    };
    let kind = answer.get(4..6).and_then(|bytes| bytes.try_into().ok());
    let kind = u16::from_ne_bytes(kind.ok_or_else(short)?);
    if word(8)? != sequence {
        return Ok(None);
    }
    match kind {
        BY_FAMILY if answer.len() >= ANSWER_BYTES => Ok(Some(Some((
            answer[STATE_AT],
            word(UID_AT)?,
            word(INODE_AT)?,
        )))),
        NLMSG_ERROR => {
            // `struct nlmsgerr` begins with the negated error.
            let code = word(HEADER_BYTES)?.wrapping_neg();
            match i32::try_from(code).map(io::Error::from_raw_os_error) {
                Ok(error) if error.raw_os_error() == Some(nix::Error::ENOENT as i32) => {
                    Ok(Some(None))
                }
                Ok(error) => Err(error),
                Err(_) => Err(short()),
            }
        }
        _ => Err(short()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    /// Connects to a listener at `bind` by the address `to`; returns both ends.
    fn pair(bind: &str, to: &str) -> (TcpListener, TcpStream, TcpStream) {
        let listener = TcpListener::bind((bind, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let client = TcpStream::connect((to, port)).unwrap();
        let (server, _) = listener.accept().unwrap();
        (listener, client, server)
    }

    #[test]
    fn the_owner_of_a_connected_socket_is_found_in_both_families() {
        let me = nix::unistd::geteuid().as_raw();
        let mut diag = SockDiag::open().unwrap();
        for (bind, to) in [
            ("127.0.0.1", "127.0.0.1"),
            ("::1", "::1"),
            ("::", "127.0.0.1"),
            ("::", "::1"),
            ("127.0.0.1", "::ffff:127.0.0.1"),
        ] {
            let (listener, client, server) = pair(bind, to);
            let (peer, own) = (server.peer_addr().unwrap(), server.local_addr().unwrap());
            assert_eq!(
                diag.connected(peer, own).unwrap(),
                Owner::Uid(me),
                "{bind} {to}"
            );
            // A client that only ends its request is still there.
            client.shutdown(std::net::Shutdown::Write).unwrap();
            assert_eq!(
                diag.connected(peer, own).unwrap(),
                Owner::Uid(me),
                "{bind} {to}"
            );
            drop(client);
            let gone = diag.connected(peer, own).unwrap();
            assert!(
                matches!(gone, Owner::Closed | Owner::None),
                "{bind} {to}: {gone:?}"
            );
            let mut loopback = own;
            loopback.set_port(listener.local_addr().unwrap().port());
            assert!(diag.finds_listener(loopback).unwrap(), "{bind} {to}");
        }
    }

    /// Every accepted connection asks once: 8 µs where this was measured.
    #[test]
    fn a_question_takes_little_time() {
        let (_listener, _client, server) = pair("127.0.0.1", "127.0.0.1");
        let (peer, own) = (server.peer_addr().unwrap(), server.local_addr().unwrap());
        let mut diag = SockDiag::open().unwrap();
        let started = std::time::Instant::now();
        for _ in 0..1000 {
            diag.connected(peer, own).unwrap();
        }
        let each = started.elapsed() / 1000;
        eprintln!("{each:?} for one question");
        assert!(each.as_millis() < 10, "{each:?}");
    }

    #[test]
    fn a_listener_is_not_the_other_end_of_a_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let mut diag = SockDiag::open().unwrap();
        let other = "127.0.0.1:1".parse().unwrap();
        assert_eq!(diag.connected(at, other).unwrap(), Owner::None);
        let elsewhere = "192.0.2.1:1".parse().unwrap();
        assert_eq!(diag.connected(elsewhere, at).unwrap(), Owner::None);
        drop(listener);
        assert!(!diag.finds_listener(at).unwrap());
    }

    #[test]
    fn an_answer_that_is_late_or_short_is_told_apart() {
        let at = "127.0.0.1:1".parse().unwrap();
        let mut echo = request(at, at, 7);
        assert_eq!(echo.len(), 72);
        assert!(parse(&echo, 8).unwrap().is_none());
        assert!(parse(&echo, 7).is_err());
        echo.truncate(5);
        assert!(parse(&echo, 7).is_err());
    }
}
