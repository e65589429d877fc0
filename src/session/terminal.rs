//! Keeps a command in the session away from the terminal of the person who started it.
//!
//! A process that shares a terminal can type into it (TIOCSTI), and so run commands as its owner.
//! Therefore a command gets a login session of its own, without a terminal or with a new one of the
//! chroot. `enter` opens the new one inside the session, so that its name is valid there, and sends
//! the other end to its parent over the socket that is its stdin.

use std::ffi::OsString;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::Command;

use rustix::process::setsid;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};

use crate::sys::descriptors;

/// The terminal of a command in the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Terminal {
    /// No terminal; the command has its parent's stdin, stdout and stderr.
    None,
    /// A new terminal, whose other end the parent gets by [`receive`].
    New,
}

/// The answer of the parent when it has set up the terminal.
const READY: &[u8] = b"r";

impl Terminal {
    /// Returns the word on the command line of `internal enter`.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::None => "--no-terminal",
            Self::New => "--new-terminal",
        }
    }

    /// Splits the word off the front of the command line, where it may be absent.
    pub(super) fn of_words(words: &[OsString]) -> (Option<Self>, &[OsString]) {
        let known = |word: &OsString| {
            let kinds = [Self::None, Self::New];
            kinds.into_iter().find(|kind| word == kind.word())
        };
        match words {
            [word, rest @ ..] if known(word).is_some() => (known(word), rest),
            _ => (None, words),
        }
    }

    /// Leaves the caller's login session. With [`Self::New`], opens a terminal, which becomes the
    /// controlling one, and waits until the parent has set it up. The caller must be the session's
    /// root, in its mount namespace, with a socket as stdin.
    fn open(self) -> io::Result<Option<OwnedFd>> {
        setsid()?;
        if self == Self::None {
            return Ok(None);
        }
        let flags = OpenptFlags::RDWR | OpenptFlags::CLOEXEC;
        let master = openpt(flags | OpenptFlags::NOCTTY)?;
        unlockpt(&master)?;
        let terminal = ioctl_tiocgptpeer(&master, flags)?;
        let mut socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
        descriptors::send(&socket, &[master.as_fd()])?;
        drop(master);
        let mut answer = [0; READY.len()];
        socket.read_exact(&mut answer)?;
        Ok(Some(terminal))
    }
}

/// Gives `command` its terminal, which is open until the returned descriptor and all copies in the
/// session are closed.
pub(super) fn give(
    terminal: Option<Terminal>,
    command: &mut Command,
) -> io::Result<Option<OwnedFd>> {
    let opened = terminal.map(Terminal::open).transpose()?.flatten();
    if let Some(terminal) = &opened {
        command
            .stdin(terminal.try_clone()?)
            .stdout(terminal.try_clone()?)
            .stderr(terminal.try_clone()?);
    }
    Ok(opened)
}

/// Receives the other end of a command's terminal. `None` if the command has ended before.
pub(crate) fn receive(socket: &UnixStream) -> io::Result<Option<OwnedFd>> {
    Ok(descriptors::receive(socket)?.pop())
}

/// Lets the command start, whose terminal the caller has set up.
pub(crate) fn start(mut socket: UnixStream) -> io::Result<()> {
    socket.write_all(READY)
}

#[cfg(test)]
mod tests {
    use rustix::termios::isatty;

    use super::*;

    #[test]
    fn a_descriptor_crosses_the_socket() {
        let (here, there) = UnixStream::pair().unwrap();
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        descriptors::send(&there, &[master.as_fd()]).unwrap();
        assert!(isatty(receive(&here).unwrap().unwrap()));
        drop(there);
        assert!(receive(&here).unwrap().is_none());
    }

    #[test]
    fn the_words_of_the_command_line_are_read_back() {
        let network = OsString::from("/network");
        for terminal in [Terminal::None, Terminal::New] {
            let words = [terminal.word().into(), network.clone()];
            let read = Terminal::of_words(&words);
            assert_eq!(read, (Some(terminal), [network.clone()].as_slice()));
        }
        let words = [network];
        assert_eq!(Terminal::of_words(&words), (None, words.as_slice()));
    }
}
