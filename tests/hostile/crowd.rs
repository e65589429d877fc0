//! Many clients on one thread: each has at most one connection, and acts on it once in a beat.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc::linger;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, setsockopt, socket, sockopt,
};

/// How often each client acts.
pub(crate) const BEAT: Duration = Duration::from_millis(50);
/// How long a client stays away whose connection has ended: the first comes back after one of
/// these, the last of a crowd after two.
const AWAY: Duration = Duration::from_secs(2);

/// What the system takes in for a client ahead of its reading.
const RECEIVED_BYTES: usize = 8 << 10;

/// One connection of a client.
pub(crate) struct Caller {
    stream: TcpStream,
    /// The client's number in its crowd.
    pub(crate) number: usize,
    /// Beats since it has connected.
    pub(crate) beat: usize,
    /// Bytes written of what is being sent.
    sent: usize,
}

/// The end of a connection, in whatever way.
pub(crate) struct Gone;

impl Caller {
    /// Writes what fits of `bytes`, going on where the last beat left off; says whether all is
    /// written. The next call begins anew then.
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

    /// Writes `bytes` at the first beat, which an empty connection always has room for.
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

    /// Takes up to `most` bytes of what has come; says how many those were.
    pub(crate) fn take(&mut self, most: usize) -> Result<usize, Gone> {
        match self.stream.read(&mut vec![0; most]) {
            Ok(0) => Err(Gone),
            Ok(count) => Ok(count),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
            Err(_) => Err(Gone),
        }
    }

    /// Stays until the other side ends it, taking whatever it says.
    pub(crate) fn hold(&mut self) -> Result<(), Gone> {
        self.take(4096).map(drop)
    }

    /// Ends the connection with a reset instead of a farewell.
    pub(crate) fn reset(&self) -> Result<(), Gone> {
        let now = linger {
            l_onoff: 1,
            l_linger: 0,
        };
        let _ = setsockopt(&self.stream, sockopt::Linger, &now);
        Err(Gone)
    }
}

/// Lets clients come from `addresses`, one each, act by `step` once in a beat, and come back when
/// their connection has ended. Closes all of them at `ending`.
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

/// Begins to connect from `address`, and does not wait for it.
fn call(address: Ipv4Addr, port: u16) -> io::Result<TcpStream> {
    let socket = open(address, SockFlag::SOCK_NONBLOCK)?;
    // Who does not read should not have the system do it.
    setsockopt(&socket, sockopt::RcvBuf, &RECEIVED_BYTES)?;
    match connect(socket.as_raw_fd(), &server(port)) {
        Ok(()) | Err(Errno::EINPROGRESS) => Ok(TcpStream::from(socket)),
        Err(error) => Err(error.into()),
    }
}

/// Connects from `address`; neither this nor anything later on the connection takes longer than
/// `limit`.
pub(crate) fn connect_from(address: Ipv4Addr, port: u16, limit: Duration) -> io::Result<TcpStream> {
    let socket = open(address, SockFlag::empty())?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(limit))?;
    // Linux heeds this for connecting, too.
    stream.set_write_timeout(Some(limit))?;
    connect(stream.as_raw_fd(), &server(port))?;
    Ok(stream)
}

fn open(address: Ipv4Addr, flags: SockFlag) -> io::Result<OwnedFd> {
    let flags = flags | SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Inet, SockType::Stream, flags, None)?;
    // The port is taken when it is known for what.
    setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
    let from = SockaddrIn::from(SocketAddrV4::new(address, 0));
    bind(socket.as_raw_fd(), &from)?;
    Ok(socket)
}

fn server(port: u16) -> SockaddrIn {
    SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))
}
