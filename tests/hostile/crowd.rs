//! Many clients on one thread. Each has at most one connection and acts on it once in a beat.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc::linger;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, setsockopt, socket, sockopt,
};

/// The interval at which each client acts.
pub(crate) const BEAT: Duration = Duration::from_millis(50);
/// The pause before a client connects again: the first of a crowd waits this long, the last twice
/// as long.
const AWAY: Duration = Duration::from_secs(2);

/// The receive buffer of a client.
const RECEIVED_BYTES: usize = 8 << 10;

/// One connection of a client.
pub(crate) struct Caller {
    stream: TcpStream,
    /// The number of the client in its crowd.
    pub(crate) number: usize,
    /// Beats since the connect.
    pub(crate) beat: usize,
    /// Bytes written of the current message.
    sent: usize,
}

/// The connection has ended.
pub(crate) struct Gone;

impl Caller {
    /// Continues to write `bytes` where the last beat stopped; returns whether all is written. The
    /// next call then starts again.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> Result<bool, Gone> {
        while self.sent < bytes.len() {
            match self.stream.write(&bytes[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(_) => return Err(Gone),
            }
        }
        self.sent = 0;
        Ok(true)
    }

    /// Writes `bytes` at the first beat; the buffer of a new connection holds them.
    pub(crate) fn begin(&mut self, bytes: &[u8]) -> Result<(), Gone> {
        match self.beat {
            0 => self.send(bytes).map(drop),
            _ => Ok(()),
        }
    }

    /// Writes one byte a second.
    pub(crate) fn drip(&mut self) -> Result<(), Gone> {
        match self.beat % 20 {
            19 => self.send(b"1").map(drop),
            _ => Ok(()),
        }
    }

    /// Reads up to `most` bytes without waiting; returns their number.
    pub(crate) fn take(&mut self, most: usize) -> Result<usize, Gone> {
        match self.stream.read(&mut vec![0; most]) {
            Ok(0) => Err(Gone),
            Ok(count) => Ok(count),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
            Err(_) => Err(Gone),
        }
    }

    /// Reads everything until the other side closes the connection.
    pub(crate) fn hold(&mut self) -> Result<(), Gone> {
        self.take(4096).map(drop)
    }

    /// Closes the connection with a TCP reset.
    pub(crate) fn reset(&self) -> Result<(), Gone> {
        let now = linger {
            l_onoff: 1,
            l_linger: 0,
        };
        let _ = setsockopt(&self.stream, sockopt::Linger, &now);
        Err(Gone)
    }
}

/// Runs a client for each of `addresses`. Each does `step` once in a beat and connects again when
/// its connection has ended. All are closed at `ending`.
pub(crate) fn crowd(
    port: u16,
    addresses: &[Ipv4Addr],
    ending: Instant,
    step: impl Fn(&mut Caller) -> Result<(), Gone>,
) {
    let mut clients: Vec<_> = addresses
        .iter()
        .map(|address| (*address, None::<Caller>, Instant::now()))
        .collect();
    let all = u32::try_from(clients.len()).unwrap();
    let away = |number: usize| AWAY + AWAY * u32::try_from(number).unwrap() / all;
    while Instant::now() < ending {
        let beat = Instant::now();
        for (number, (address, caller, back)) in clients.iter_mut().enumerate() {
            if caller.is_none() && *back <= beat {
                *back = beat + away(number);
                *caller = call(*address, port).ok().map(|stream| Caller {
                    stream,
                    number,
                    beat: 0,
                    sent: 0,
                });
            }
            let acted = caller.as_mut().map(&step);
            match (acted, &mut *caller) {
                (Some(Ok(())), Some(caller)) => caller.beat += 1,
                (Some(Err(Gone)), _) => {
                    *caller = None;
                    *back = beat + away(number);
                }
                _ => {}
            }
        }
        // The pace of the clients.
        std::thread::sleep(BEAT.saturating_sub(beat.elapsed()));
    }
}

/// Begins to connect from `address` without waiting.
fn call(address: Ipv4Addr, port: u16) -> io::Result<TcpStream> {
    let socket = open(address, SockFlag::SOCK_NONBLOCK)?;
    // A small buffer makes an answer that is not read wait in the daemon.
    setsockopt(&socket, sockopt::RcvBuf, &RECEIVED_BYTES)?;
    match connect(socket.as_raw_fd(), &server(port)) {
        Ok(()) | Err(Errno::EINPROGRESS) => Ok(TcpStream::from(socket)),
        Err(error) => Err(error.into()),
    }
}

/// Connects from `address`; `limit` is the timeout of the connect and of every later read and
/// write.
pub(crate) fn connect_from(address: Ipv4Addr, port: u16, limit: Duration) -> io::Result<TcpStream> {
    let socket = open(address, SockFlag::empty())?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(limit))?;
    // On Linux this is also the timeout of `connect`.
    stream.set_write_timeout(Some(limit))?;
    connect(stream.as_raw_fd(), &server(port))?;
    Ok(stream)
}

fn open(address: Ipv4Addr, flags: SockFlag) -> io::Result<OwnedFd> {
    let flags = flags | SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Inet, SockType::Stream, flags, None)?;
    // The system chooses the port at the connect, when the destination is known.
    setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
    let from = SockaddrIn::from(SocketAddrV4::new(address, 0));
    bind(socket.as_raw_fd(), &from)?;
    Ok(socket)
}

fn server(port: u16) -> SockaddrIn {
    SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))
}
