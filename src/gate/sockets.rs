//! The open sockets of a gate, so that closing the gate ends all of them.

use std::collections::HashMap;
use std::net::{Shutdown, TcpStream};
use std::ops::Deref;
use std::sync::{Arc, Mutex};

use crate::sys::lock::lock;

/// All open sockets of one gate.
#[derive(Debug, Default)]
pub(super) struct Sockets(Mutex<Open>);

#[derive(Debug, Default)]
struct Open {
    closed: bool,
    next: u64,
    streams: HashMap<u64, Arc<TcpStream>>,
}

/// A socket that [`Sockets::close`] ends.
#[derive(Debug)]
pub(super) struct Socket {
    stream: Arc<TcpStream>,
    number: u64,
    all: Arc<Sockets>,
}

impl Sockets {
    /// Registers the socket of a client. A closed gate still answers, with a refusal.
    pub(super) fn client(self: &Arc<Self>, stream: TcpStream) -> Socket {
        self.register(&mut lock(&self.0), stream)
    }

    /// Registers a socket to a server; `None` if the gate is closed.
    pub(super) fn server(self: &Arc<Self>, stream: TcpStream) -> Option<Socket> {
        let mut open = lock(&self.0);
        (!open.closed).then(|| self.register(&mut open, stream))
    }

    fn register(self: &Arc<Self>, open: &mut Open, stream: TcpStream) -> Socket {
        let stream = Arc::new(stream);
        open.next += 1;
        open.streams.insert(open.next, Arc::clone(&stream));
        Socket {
            stream,
            number: open.next,
            all: Arc::clone(self),
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        lock(&self.0).closed
    }

    /// Ends all sockets, and admits none to a server from now on.
    pub(super) fn close(&self) {
        let mut open = lock(&self.0);
        open.closed = true;
        for stream in open.streams.values() {
            // Fails if the peer has already closed.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Deref for Socket {
    type Target = TcpStream;

    fn deref(&self) -> &TcpStream {
        &self.stream
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        lock(&self.all.0).streams.remove(&self.number);
    }
}
