//! One connection from its first byte to its close, on the thread it was given.
//!
//! Reads a request, has it handled, writes the answer; the next request, even if it has come
//! already, waits for that. Every wait has a deadline. A client that breaks a rule gets the reason
//! and is cut off; none of that is worth more than a debug line. Called by `http`; the only file
//! that names tiny_http's `raw_print`.

use super::access::Access;
use super::admission::{Admission, Ticket};
use super::deadline::Deadline;
use super::head::{self, Head, Refusal, refusal};
use super::limits::Limits;
use super::message::{Body, Handler, Request, Response};
use nix::libc::linger;
use nix::sys::socket::{setsockopt, sockopt};
use std::any::Any;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tiny_http::{HTTPVersion, Header, Method, StatusCode};

/// Bytes read at a time, on the stack.
const READ_BYTES: usize = 8 << 10;
/// A body up to this long needs no permission.
const SHORT_BODY_BYTES: usize = 64 << 10;
/// Bytes of an answer written under one deadline. Files go three times as fast as with 8 KiB.
const PIECE_BYTES: usize = 256 << 10;
/// How long, and how much, a client cut off in mid-request may still send before the close.
const DRAIN_TIME: Duration = Duration::from_secs(1);
const DRAIN_BYTES: u64 = 16 << 20;

/// What all connections share.
pub(super) struct Service {
    pub(super) handler: Arc<dyn Handler>,
    pub(super) limits: Limits,
    pub(super) access: Access,
    pub(super) downloads: Admission,
    pub(super) long_bodies: Admission,
}

/// Why a connection ends.
enum End {
    /// Both sides agree: nothing more is to come.
    Over,
    /// The client has its last answer but may still be sending.
    CutOff,
    /// The client broke a rule and is told which.
    Refused(Refusal),
    /// There is nobody left to tell.
    Lost(io::Error),
}

impl From<Refusal> for End {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        Self::Lost(error)
    }
}

/// Serves requests from `stream` until either side has had enough.
pub(super) fn serve(service: &Service, stream: &TcpStream, peer: SocketAddr) {
    let mut connection = Connection {
        service,
        stream,
        peer,
        input: Vec::new(),
    };
    let end = loop {
        if let Err(end) = connection.exchange() {
            break end;
        }
    };
    match end {
        End::Over if connection.input.is_empty() => {}
        End::Over | End::CutOff => drain(stream),
        End::Refused(Refusal { status, reason }) => {
            log::debug!("{peer}: {status}: {reason}");
            if connection
                .answer(Response::text(status, reason), Framing::last())
                .is_ok()
            {
                drain(stream);
            }
        }
        End::Lost(error) => {
            log::debug!("{peer}: {error}");
            reset(stream);
        }
    }
}

struct Connection<'a> {
    service: &'a Service,
    stream: &'a TcpStream,
    peer: SocketAddr,
    /// Bytes read that belong to no request yet; bounded by a head and one read.
    input: Vec<u8>,
}

impl Connection<'_> {
    /// Takes one request and answers it. Fails if that was the last.
    fn exchange(&mut self) -> Result<(), End> {
        let (head, deadline) = self.read_head()?;
        let mut framing = Framing {
            version: head.version.clone(),
            head_only: head.method == Method::Head,
            keep_alive: head.keep_alive,
        };
        if !self.service.access.authorizes(&head.headers) {
            framing.keep_alive = false;
            let response = Response::text(401, "credentials needed")
                .with_header("WWW-Authenticate", "Basic realm=\"buildd-slave\"");
            self.answer(response, framing)?;
            return Err(End::CutOff);
        }
        let _place = self.place_for_body(&head)?;
        let body = self.read_body(&head, deadline)?;
        let Head {
            method,
            path,
            headers,
            ..
        } = head;
        let request = Request {
            method,
            path,
            headers,
            body,
        };
        let response = self.handle(&request).unwrap_or_else(|| {
            framing.keep_alive = false;
            Response::text(500, "internal error")
        });
        drop(request);
        let keep_alive = framing.keep_alive;
        self.answer(response, framing)?;
        if keep_alive { Ok(()) } else { Err(End::Over) }
    }

    /// Reads until a head is complete; returns it with the moment by which its body must be.
    fn read_head(&mut self) -> Result<(Head, Instant), End> {
        let limits = &self.service.limits;
        let idle_until = Instant::now() + Duration::from_secs(limits.idle_secs);
        if self.input.is_empty() && !self.read_more(idle_until).or_else(silence_is_an_end)? {
            return Err(End::Over);
        }
        let deadline = Instant::now() + Duration::from_secs(limits.request_secs);
        loop {
            if let Some(head) = head::parse(&self.input, limits)? {
                self.input.drain(..head.bytes);
                return Ok((head, deadline));
            }
            if !self.read_more(deadline).map_err(late)? {
                return Err(End::Lost(ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    /// Appends what the client sends next to the input; false at the end of its sending.
    fn read_more(&mut self, deadline: Instant) -> io::Result<bool> {
        let mut buffer = [0; READ_BYTES];
        let count = Deadline::new(self.stream, deadline).read(&mut buffer)?;
        self.input.extend_from_slice(&buffer[..count]);
        Ok(count > 0)
    }

    /// Takes one of the places for long bodies if `head` announces one.
    fn place_for_body(&self, head: &Head) -> Result<Option<Ticket>, Refusal> {
        if head.body_bytes <= SHORT_BODY_BYTES {
            return Ok(None);
        }
        let place = self.service.long_bodies.admit(self.peer.ip());
        place
            .map(Some)
            .ok_or(refusal(503, "too many long requests at once"))
    }

    /// Reads the body that belongs to `head`, whose length has been checked.
    fn read_body(&mut self, head: &Head, deadline: Instant) -> Result<Vec<u8>, End> {
        let mut body = Vec::with_capacity(head.body_bytes);
        body.extend(self.input.drain(..head.body_bytes.min(self.input.len())));
        let missing = head.body_bytes - body.len();
        if missing > 0 && head.expects_continue {
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n", deadline)?;
        }
        let rest = Deadline::new(self.stream, deadline);
        rest.take(missing as u64)
            .read_to_end(&mut body)
            .map_err(late)?;
        if body.len() < head.body_bytes {
            return Err(End::Lost(ErrorKind::UnexpectedEof.into()));
        }
        Ok(body)
    }

    /// Has the request handled; `None` if that panicked.
    fn handle(&self, request: &Request) -> Option<Response> {
        let handler = &self.service.handler;
        catch_unwind(AssertUnwindSafe(|| handler.handle(request)))
            .inspect_err(|panic| {
                let (method, path) = (&request.method, &request.path);
                log::error!("{method} {path}: panic: {}", panic_text(panic.as_ref()));
            })
            .ok()
    }

    /// Writes an answer; if it is a file and too many are being sent already, another one.
    fn answer(&self, mut response: Response, framing: Framing) -> io::Result<()> {
        let is_download = matches!(response.body, Body::File { .. }) && !framing.head_only;
        let admit = || self.service.downloads.admit(self.peer.ip());
        let place = is_download.then(admit).flatten();
        if is_download && place.is_none() {
            response =
                Response::text(503, "too many downloads at once").with_header("Retry-After", "1");
        }
        let deadline = Instant::now() + self.service.limits.answer_time(response.body.len());
        self.write(&render(&response, &framing)?, deadline)?;
        match response.body {
            Body::File { file, len } if !framing.head_only => self.send_file(file, len, deadline),
            Body::File { .. } | Body::Bytes(_) => Ok(()),
        }
    }

    /// Sends the next `len` bytes of `file`.
    fn send_file(&self, mut file: File, len: u64, deadline: Instant) -> io::Result<()> {
        let piece = usize::try_from(len).unwrap_or(PIECE_BYTES).min(PIECE_BYTES);
        let mut buffer = vec![0; piece];
        let mut left = len;
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(piece).min(piece);
            let count = file.read(&mut buffer[..most])?;
            if count == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            self.write(&buffer[..count], deadline)?;
            left -= count as u64;
        }
        Ok(())
    }

    /// Writes all of `bytes` by `deadline`, and each piece of them within the time it may take.
    fn write(&self, bytes: &[u8], deadline: Instant) -> io::Result<()> {
        let piece_time = Duration::from_secs(self.service.limits.write_secs);
        bytes.chunks(PIECE_BYTES).try_for_each(|piece| {
            let until = deadline.min(Instant::now() + piece_time);
            Deadline::new(self.stream, until).write_all(piece)
        })
    }
}

/// How an answer is put on the wire.
pub(super) struct Framing {
    version: HTTPVersion,
    /// Whether the body is left out, as for HEAD.
    head_only: bool,
    keep_alive: bool,
}

impl Framing {
    /// Returns the form for the last answer on a connection, to whatever was asked.
    pub(super) fn last() -> Self {
        Self {
            version: HTTPVersion(1, 1),
            head_only: false,
            keep_alive: false,
        }
    }
}

/// Renders an answer up to what must be read from a file. `Content-Length` is always there,
/// chunks never, whatever the client would take.
pub(super) fn render(response: &Response, framing: &Framing) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(512);
    tiny_http::Response::new(
        StatusCode(response.status),
        response.headers.clone(),
        io::empty(),
        Some(usize::try_from(response.body.len()).map_err(io::Error::other)?),
        None,
    )
    .with_header(Header::from_bytes("Server", "buildd-slave").expect("it is ASCII"))
    .with_chunked_threshold(usize::MAX)
    .raw_print(&mut bytes, framing.version.clone(), &[], true, None)?;
    // tiny_http keeps this header to itself, so it goes in before the closing empty line.
    bytes.truncate(bytes.len() - 2);
    let connection = if framing.keep_alive {
        "keep-alive"
    } else {
        "close"
    };
    write!(bytes, "Connection: {connection}\r\n\r\n")?;
    match &response.body {
        Body::Bytes(body) if !framing.head_only => bytes.extend_from_slice(body),
        Body::Bytes(_) | Body::File { .. } => {}
    }
    Ok(bytes)
}

/// A client that keeps an idle connection too long is not told: it has asked nothing.
fn silence_is_an_end(error: io::Error) -> io::Result<bool> {
    if error.kind() == ErrorKind::TimedOut {
        Ok(false)
    } else {
        Err(error)
    }
}

/// A client whose request does not come to its end in time is told.
fn late(error: io::Error) -> End {
    match error.kind() {
        ErrorKind::TimedOut => refusal(408, "request too slow").into(),
        _ => error.into(),
    }
}

/// Lets the client finish sending before the close: data that meets a closed socket would make
/// the system reset the connection, and the client lose the answer.
fn drain(stream: &TcpStream) {
    let until = Instant::now() + DRAIN_TIME;
    if stream.shutdown(Shutdown::Write).is_ok() {
        let mut rest = Deadline::new(stream, until).take(DRAIN_BYTES);
        // Nobody is waiting for this; an error means that the client has gone.
        let _ = io::copy(&mut rest, &mut io::sink());
    }
}

/// Makes the close drop what the client has not taken: megabytes would wait in the kernel for a
/// client that stopped reading.
fn reset(stream: &TcpStream) {
    let now = linger {
        l_onoff: 1,
        l_linger: 0,
    };
    // Best effort: without it the system cleans up later.
    let _ = setsockopt(stream, sockopt::Linger, &now);
}

/// Returns the message of a panic.
pub(super) fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}
