//! Serves HTTP on one connection, from its first byte to its close.
//!
//! Requests are handled one after another, pipelined ones too. Every wait has a deadline. A client
//! that breaks a rule gets the reason, loses the connection and is logged at debug level only.
//! `http` calls this file on a thread of its pool. Only this file uses tiny_http's `raw_print`.

use super::access::Access;
use super::head::{self, Head, LENGTH_REQUIRED, Refusal, refusal};
use super::limits::Limits;
use super::message::{Body, BodyStream, Handler, Request, Response};
use super::protocol::Protocol;
use super::quota::{Permit, Quota};
use super::slots::ConnectionSlot;
use super::wire::{PIECE_BYTES, Wire};
use crate::metrics::metrics;
use std::any::Any;
use std::io::{self, ErrorKind, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tiny_http::{HTTPVersion, Header, Method, StatusCode};

/// A body up to this length, in bytes, needs no permit. Each connection may hold one such body in
/// memory, and an unread answer several times as long.
const SHORT_BODY_BYTES: usize = 16 << 10;

/// The answer to a client whose connection is evicted.
const EVICTED: Refusal = refusal(503, "too many connections");

/// The answer to `Expect: 100-continue`.
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// The state that all connections of a server share.
pub(super) struct Service {
    pub(super) handler: Arc<dyn Handler>,
    pub(super) limits: Limits,
    pub(super) access: Access,
    pub(super) downloads: Quota,
    pub(super) followers: Quota,
    /// Bytes of bodies longer than [`SHORT_BODY_BYTES`].
    pub(super) long_bodies: Quota,
    pub(super) uploads: Quota,
}

impl Service {
    pub(super) fn new(handler: Arc<dyn Handler>, limits: Limits, access: Access) -> Self {
        Self {
            handler,
            downloads: Quota::new(limits.downloads, limits.downloads_per_peer),
            // One peer may hold half of them.
            followers: Quota::new(limits.followers, limits.followers.div_ceil(2)),
            long_bodies: Quota::new(limits.body_bytes.saturating_mul(2), limits.body_bytes),
            uploads: Quota::new(limits.uploads, limits.uploads),
            limits,
            access,
        }
    }
}

impl Protocol for Service {
    fn serve(&self, slot: &ConnectionSlot) {
        serve(self, slot);
    }

    fn rejection(&self, status: u16, reason: &str) -> Vec<u8> {
        let mut response = Response::text(status, reason);
        if status == 503 {
            response = response.with_header("Retry-After", "1");
        }
        let mut bytes = render(&response, &Framing::last()).unwrap_or_default();
        if let Body::Bytes(body) = response.body {
            bytes.extend_from_slice(&body);
        }
        bytes
    }
}

/// Why a connection ends.
enum End {
    /// The last answer is sent and no request follows.
    Done,
    /// The last answer is sent but the client may still be sending.
    StillSending,
    /// The client broke a rule and gets this answer.
    Refused(Refusal),
    /// The socket failed, or the peer closed it early.
    Broken(io::Error),
}

impl From<Refusal> for End {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        Self::Broken(error)
    }
}

/// Serves requests on a connection until it ends, then closes it in the way its end needs.
fn serve(service: &Service, slot: &ConnectionSlot) {
    let mut connection = Connection {
        service,
        slot,
        wire: Wire::new(slot, &service.limits),
    };
    let end = loop {
        if let Err(end) = connection.exchange() {
            break end;
        }
    };
    let (wire, peer) = (&connection.wire, slot.peer());
    match end {
        // The client has no open request, so it gets no answer.
        End::Done | End::StillSending if slot.is_evicted() => {}
        _ if slot.is_evicted() => connection.reject_evicted(),
        End::Done if wire.input().is_empty() => {}
        End::Done | End::StillSending => wire.drain(),
        End::Refused(Refusal { status, reason }) => {
            log::debug!("{peer}: {status}: {reason}");
            if connection
                .answer(Response::text(status, reason), Framing::last())
                .is_ok()
            {
                wire.drain();
            }
        }
        End::Broken(error) => {
            log::debug!("{peer}: {error}");
            wire.reset();
        }
    }
}

struct Connection<'a> {
    service: &'a Service,
    slot: &'a ConnectionSlot,
    /// Its input holds at most a head and one read.
    wire: Wire<'a>,
}

impl Connection<'_> {
    /// Reads one request and answers it. An `Err` ends the connection.
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
            return Err(End::StillSending);
        }
        let body = DeclaredBody {
            len: head.body_bytes,
            expects_continue: head.expects_continue,
        };
        let mut request = Request {
            method: head.method,
            path: head.path,
            query: head.query,
            headers: head.headers,
            body: Vec::new(),
            peer: self.slot.peer().ip(),
        };
        let (response, unread, _permit) = if self.service.handler.takes_stream(&request) {
            let (response, unread) = self.receive(&request, &body)?;
            (response, unread, None)
        } else {
            let permit = self.read_body(&mut request, &body, deadline)?;
            if !self.slot.mark_serving() {
                return Err(EVICTED.into());
            }
            let response = call_handler(&request, || self.service.handler.handle(&request));
            // The permit is held until the answer is written, which may be as long as the body.
            (response, 0, permit)
        };
        drop(request);
        let response = response.unwrap_or_else(|| {
            framing.keep_alive = false;
            Response::text(500, "internal error")
        });
        // The client may never send the rest of the body, so the connection serves no further
        // request.
        let still_sending = unread > 0;
        framing.keep_alive &= !still_sending && !matches!(response.body, Body::Stream(_));
        let keep_alive = framing.keep_alive;
        self.answer(response, framing)?;
        match keep_alive {
            true => Ok(()),
            false if still_sending => Err(End::StillSending),
            false => Err(End::Done),
        }
    }

    /// Handles a request whose body is a stream. Returns the response, `None` if the handler
    /// panicked, and the number of bytes that the handler left unread.
    fn receive(
        &mut self,
        request: &Request,
        body: &DeclaredBody,
    ) -> Result<(Option<Response>, u64), End> {
        if request.header("Content-Length").is_none() {
            return Err(LENGTH_REQUIRED.into());
        }
        let Some(_permit) = self.service.uploads.acquire(self.slot.peer().ip(), 1) else {
            return Err(refusal(503, "too many uploads at once").into());
        };
        let handler = Arc::clone(&self.service.handler);
        let mut stream = self.wire.body(body.len);
        stream.continue_line = body.expects_continue.then_some(CONTINUE);
        let response = call_handler(request, || handler.receive(request, &mut stream, body.len));
        Ok((response, stream.left()))
    }

    /// Reads a head; returns it with the deadline for its body.
    fn read_head(&mut self) -> Result<(Head, Instant), End> {
        let limits = &self.service.limits;
        let idle_until = Instant::now() + Duration::from_secs(limits.idle_secs);
        let wire = &mut self.wire;
        if wire.input().is_empty() && !wire.read_more(idle_until).or_else(idle_timeout_ends)? {
            return Err(End::Done);
        }
        let deadline = Instant::now() + Duration::from_secs(limits.request_secs);
        loop {
            if let Some(head) = head::parse(wire.input(), limits)? {
                wire.take(head.bytes);
                return Ok((head, deadline));
            }
            if !wire.read_more(deadline).map_err(request_timeout)? {
                return Err(End::Broken(ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    /// Reads the body of `request`. A long body needs the returned permit until it is answered.
    fn read_body(
        &mut self,
        request: &mut Request,
        body: &DeclaredBody,
        deadline: Instant,
    ) -> Result<Option<Permit>, End> {
        let limit = self.service.limits.body_bytes;
        let len = usize::try_from(body.len)
            .ok()
            .filter(|len| *len <= limit)
            .ok_or(refusal(413, "body too long"))?;
        let mut permit = None;
        if len > SHORT_BODY_BYTES {
            let acquired = self.service.long_bodies.acquire(self.slot.peer().ip(), len);
            permit = Some(acquired.ok_or(refusal(503, "too many long requests at once"))?);
        }
        if body.expects_continue && self.wire.input().len() < len {
            self.wire.write(CONTINUE, deadline)?;
        }
        request.body = self
            .wire
            .read_whole(len, deadline)
            .map_err(request_timeout)?;
        Ok(permit)
    }

    /// Writes an answer, or 503 if it needs a permit and its quota is used up.
    fn answer(&self, mut response: Response, mut framing: Framing) -> io::Result<()> {
        // A 304 has no body, but its `Content-Length` is the length of the client's copy.
        framing.head_only |= response.status == 304;
        let wanted = match response.body {
            _ if framing.head_only => None,
            Body::Bytes(_) => None,
            Body::File { .. } | Body::Reader { .. } => {
                Some((&self.service.downloads, "too many downloads at once"))
            }
            Body::Stream(_) => Some((&self.service.followers, "too many followers at once")),
        };
        let mut _permit = None;
        if let Some((quota, reason)) = wanted {
            _permit = quota.acquire(self.slot.peer().ip(), 1);
            if _permit.is_none() {
                response = Response::text(503, reason).with_header("Retry-After", "1");
            }
        }
        count_refusal(response.status);
        let begun = Instant::now();
        let deadline = begun + self.service.limits.answer_timeout(response.body.len());
        let mut head = render(&response, &framing)?;
        match response.body {
            _ if framing.head_only => {
                self.slot.mark_writing();
                self.wire.write(&head, deadline)
            }
            Body::Bytes(body) => {
                self.slot.mark_writing();
                if body.len() <= SHORT_BODY_BYTES {
                    head.extend_from_slice(&body);
                    return self.wire.write(&head, deadline);
                }
                self.wire.write(&head, deadline)?;
                self.wire.write(&body, deadline)
            }
            Body::File { file, len } => {
                self.wire.write(&head, deadline)?;
                self.send_pieces(len, begun, |piece, deadline| {
                    self.wire.send_file(&file, piece, deadline)
                })
            }
            Body::Reader { mut reader, len } => {
                self.wire.write(&head, deadline)?;
                self.send_pieces(len, begun, |piece, deadline| {
                    let mut bytes = Vec::new();
                    reader.by_ref().take(piece).read_to_end(&mut bytes)?;
                    self.wire.write(&bytes, deadline)?;
                    match bytes.len() as u64 == piece {
                        true => Ok(()),
                        false => Err(ErrorKind::UnexpectedEof.into()),
                    }
                })
            }
            Body::Stream(stream) => {
                self.wire.write(&head, deadline)?;
                self.send_stream(stream, framing.takes_chunks())
            }
        }
    }

    /// Sends a stream until it ends or the client closes its side.
    fn send_stream(&self, mut stream: Box<dyn BodyStream>, chunked: bool) -> io::Result<()> {
        let send = |bytes: &[u8]| {
            let time = self.service.limits.answer_timeout(bytes.len() as u64);
            self.wire.write(bytes, Instant::now() + time)
        };
        while let Some(piece) = stream.next()? {
            if piece.is_empty() {
                if self.wire.peer_has_closed() {
                    return Err(ErrorKind::ConnectionAborted.into());
                }
            } else if chunked {
                let size = format!("{:x}\r\n", piece.len());
                send(&[size.as_bytes(), &piece, b"\r\n"].concat())?;
            } else {
                send(&piece)?;
            }
        }
        if chunked { send(b"0\r\n\r\n") } else { Ok(()) }
    }

    /// Sends `len` bytes of an answer by calling `send` with each piece's length and deadline.
    fn send_pieces(
        &self,
        len: u64,
        begun: Instant,
        mut send: impl FnMut(u64, Instant) -> io::Result<()>,
    ) -> io::Result<()> {
        metrics().sent_files.inc();
        let mut sent = 0;
        while sent < len {
            let piece = (len - sent).min(PIECE_BYTES as u64);
            sent += piece;
            // The deadline covers only the bytes up to this piece, so that a client that slows down
            // is cut off early.
            send(piece, begun + self.service.limits.answer_timeout(sent))?;
            metrics().sent_bytes.inc_by(piece);
        }
        Ok(())
    }

    /// Answers an evicted client with 503, without waiting for it.
    fn reject_evicted(&self) {
        log::debug!("{}: idle connection evicted", self.slot.peer());
        if self.slot.stream().set_nonblocking(true).is_ok() {
            let Refusal { status, reason } = EVICTED;
            let _ = self.answer(Response::text(status, reason), Framing::last());
        }
    }
}

/// Counts an answer that refuses a request. A 404, 416 or 500 is not a refusal.
pub(super) fn count_refusal(status: u16) {
    if status >= 400 && !matches!(status, 404 | 416 | 500) {
        let refused = &metrics().refused;
        refused.with_label_values(&[&status.to_string()]).inc();
    }
}

/// The body as its head declares it.
struct DeclaredBody {
    len: u64,
    expects_continue: bool,
}

/// Calls a handler; `None` if it panicked.
fn call_handler(request: &Request, handle: impl FnOnce() -> Response) -> Option<Response> {
    catch_unwind(AssertUnwindSafe(handle))
        .inspect_err(|panic| {
            let (method, path) = (&request.method, &request.path);
            log::error!(
                "{method} {path}: the handler panicked: {}",
                panic_text(panic.as_ref())
            );
        })
        .ok()
}

/// How an answer is written.
struct Framing {
    version: HTTPVersion,
    /// Whether the body is left out, as for HEAD.
    head_only: bool,
    keep_alive: bool,
}

impl Framing {
    /// Returns the framing of a connection's last answer, independent of the request.
    fn last() -> Self {
        Self {
            version: HTTPVersion(1, 1),
            head_only: false,
            keep_alive: false,
        }
    }

    /// Returns whether an answer of unknown length may use chunks. Otherwise the close of the
    /// connection ends it.
    fn takes_chunks(&self) -> bool {
        self.version >= HTTPVersion(1, 1)
    }
}

/// Renders an answer up to its body. A stream gets chunks, every other body `Content-Length`.
fn render(response: &Response, framing: &Framing) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(512);
    tiny_http::Response::new(
        StatusCode(response.status),
        response.headers.clone(),
        io::empty(),
        Some(usize::try_from(response.body.len()).map_err(io::Error::other)?),
        None,
    )
    .with_header(Header::from_bytes("Server", "buildd-slave").expect("the header is ASCII"))
    .with_chunked_threshold(usize::MAX)
    .raw_print(&mut bytes, framing.version.clone(), &[], true, None)?;
    // tiny_http does not set these headers, so they are inserted before the closing empty line.
    bytes.truncate(bytes.len() - 2);
    if let Body::Stream(_) = response.body {
        let length = b"Content-Length: 0\r\n";
        let at = bytes.windows(length.len()).position(|part| part == length);
        if let Some(at) = at {
            bytes.drain(at..at + length.len());
        }
        if framing.takes_chunks() {
            bytes.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
        }
    }
    let connection = if framing.keep_alive {
        "keep-alive"
    } else {
        "close"
    };
    write!(bytes, "Connection: {connection}\r\n\r\n")?;
    Ok(bytes)
}

/// Turns an idle timeout into the end of input, which closes the connection without an answer.
fn idle_timeout_ends(error: io::Error) -> io::Result<bool> {
    if error.kind() == ErrorKind::TimedOut {
        Ok(false)
    } else {
        Err(error)
    }
}

/// Turns a timeout within a request into a 408 answer.
fn request_timeout(error: io::Error) -> End {
    match error.kind() {
        ErrorKind::TimedOut => refusal(408, "request too slow").into(),
        _ => error.into(),
    }
}

pub(super) fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}
