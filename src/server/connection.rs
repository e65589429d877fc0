//! Serves HTTP on one connection, from its first byte to its close.
//!
//! Requests are handled one after another, pipelined ones too. Every wait has a deadline. A client
//! that breaks a rule gets the reason, loses the connection and is logged at debug level only.
//! `http` calls this file on a thread of its pool. An exchange that has to wait for its turn gives
//! the thread back and continues on another one.

use super::access::SharedAccess;
use super::framing::{Framing, render};
use super::head::{self, Head, LENGTH_REQUIRED, Refusal, refusal};
use super::limits::Limits;
use super::message::{Body, BodyStream, Handler, Request, Response};
use super::protocol::Protocol;
use super::slots::ConnectionSlot;
use super::turns::{Need, Parked, Permit, Resource, TOO_MANY_CONNECTIONS, Turns};
use super::wire::{PIECE_BYTES, Wire};
use crate::metrics::metrics;
use std::any::Any;
use std::io::{self, ErrorKind, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tiny_http::Method;

/// A body up to this length, in bytes, needs no permit. Each connection may hold one such body in
/// memory, and an unread answer several times as long.
const SHORT_BODY_BYTES: usize = 16 << 10;

/// The answer to a client whose connection is evicted.
const EVICTED: Refusal = refusal(503, TOO_MANY_CONNECTIONS);

/// The answer to `Expect: 100-continue`.
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// The state that all connections of a server share.
pub(super) struct Service {
    pub(super) handler: Arc<dyn Handler>,
    pub(super) limits: Limits,
    pub(super) access: SharedAccess,
    pub(super) turns: Turns,
}

impl Protocol for Service {
    fn serve(self: Arc<Self>, slot: &ConnectionSlot) -> Option<Parked> {
        serve(&self, slot, Vec::new(), Step::Head, None)
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
    /// The exchange has to wait for its turn, and then continues with this step.
    Waits(Need, Box<Step>),
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

/// The next step of an exchange. An exchange may wait for its turn before any step but the first.
enum Step {
    Head,
    /// Handle a request whose body is a stream.
    Receive(Asked),
    /// Read a body; a request that has waited has a new deadline for it.
    Body(Asked, Option<Instant>),
    /// Handle a request. A long body has its permit.
    Handle(Asked, Option<Permit>),
    Answer {
        response: Response,
        framing: Framing,
        /// Whether the client may still be sending a body.
        still_sending: bool,
        /// The permit of a long body: the answer may be as long.
        held: Option<Permit>,
    },
}

/// A request whose head is read.
struct Asked {
    request: Request,
    body: DeclaredBody,
    framing: Framing,
}

/// Serves requests on a connection, beginning with `step`, until it ends or has to wait. Closes it
/// in the way its end needs. `input` is read but not consumed; `permit` is for `step`.
fn serve(
    service: &Arc<Service>,
    slot: &ConnectionSlot,
    input: Vec<u8>,
    mut step: Step,
    mut permit: Option<Permit>,
) -> Option<Parked> {
    let mut connection = Connection {
        service,
        slot,
        wire: Wire::with_input(slot, &service.limits, input),
        answered: false,
    };
    let end = loop {
        match connection.take(step, permit.take()) {
            Ok(next) => step = next,
            // A waiting connection is not idle: it cannot be evicted.
            Err(End::Waits(need, step)) if slot.mark_serving() => {
                return Some(connection.park(need, *step));
            }
            Err(end) => break end,
        }
    };
    connection.close(end);
    None
}

struct Connection<'a> {
    service: &'a Arc<Service>,
    slot: &'a ConnectionSlot,
    /// Its input holds at most a head and one read.
    wire: Wire<'a>,
    /// Whether a request has been answered.
    answered: bool,
}

impl Connection<'_> {
    /// Closes the connection in the way its end needs.
    fn close(&self, end: End) {
        let (wire, peer) = (&self.wire, self.slot.peer());
        match end {
            // The client has no open request, so it gets no answer.
            End::Done | End::StillSending if self.slot.is_evicted() => {}
            _ if self.slot.is_evicted() => self.reject_evicted(),
            End::Done if wire.input().is_empty() => {}
            End::Done | End::StillSending | End::Waits(..) => wire.drain(),
            End::Refused(Refusal { status, reason }) => {
                log::debug!("{peer}: {status}: {reason}");
                if self
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

    /// Returns the rest of the exchange, to be continued with a permit.
    fn park(self, need: Need, step: Step) -> Parked {
        let service = Arc::clone(self.service);
        let input = self.wire.into_input();
        Parked {
            need,
            rest: Box::new(move |slot, permit| serve(&service, slot, input, step, Some(permit))),
        }
    }

    /// Does one step and returns the next. An `Err` ends the connection, or makes it wait.
    fn take(&mut self, step: Step, permit: Option<Permit>) -> Result<Step, End> {
        match step {
            Step::Head => self.begin(),
            Step::Receive(asked) => self.receive(asked, permit),
            Step::Body(asked, deadline) => self.read_body(asked, deadline, permit),
            Step::Handle(asked, held) => self.handle(asked, held, permit),
            Step::Answer {
                response,
                framing,
                still_sending,
                held,
            } => self.finish(response, framing, still_sending, held, permit),
        }
    }

    /// Returns `permit`, which an exchange has that has waited, or acquires one.
    fn acquire(&self, need: Need, permit: Option<Permit>) -> Option<Permit> {
        permit.or_else(|| self.service.turns.acquire(self.slot.peer().ip(), need))
    }

    /// Reads a head and checks its credentials.
    fn begin(&mut self) -> Result<Step, End> {
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
        let asked = Asked {
            body: DeclaredBody {
                len: head.body_bytes,
                expects_continue: head.expects_continue,
            },
            request: Request {
                method: head.method,
                path: head.path,
                query: head.query,
                headers: head.headers,
                body: Vec::new(),
                peer: self.slot.peer().ip(),
            },
            framing,
        };
        Ok(match self.service.handler.takes_stream(&asked.request) {
            true => Step::Receive(asked),
            false => Step::Body(asked, Some(deadline)),
        })
    }

    /// Handles a request whose body is a stream.
    fn receive(&mut self, asked: Asked, permit: Option<Permit>) -> Result<Step, End> {
        if asked.request.header("Content-Length").is_none() {
            return Err(LENGTH_REQUIRED.into());
        }
        let need = Need::one(Resource::Upload);
        let Some(_permit) = self.acquire(need, permit) else {
            return Err(End::Waits(need, Box::new(Step::Receive(asked))));
        };
        let Asked {
            request,
            body,
            framing,
        } = asked;
        let handler = &self.service.handler;
        let mut stream = self.wire.body(body.len);
        stream.continue_line = body.expects_continue.then_some(CONTINUE);
        let response = call_handler(&request, || {
            handler.receive(&request, &mut stream, body.len)
        });
        // The client may never send the rest of the body, so the connection serves no further
        // request.
        let still_sending = stream.left() > 0;
        Ok(Step::answer(response, framing, still_sending, None))
    }

    /// Calls the handler.
    fn handle(
        &self,
        asked: Asked,
        held: Option<Permit>,
        permit: Option<Permit>,
    ) -> Result<Step, End> {
        let need = Need::one(Resource::Call);
        let mut long = permit;
        if self.service.handler.takes_long(&asked.request) {
            long = self.acquire(need, long);
            if long.is_none() {
                return Err(End::Waits(need, Box::new(Step::Handle(asked, held))));
            }
        }
        if !self.slot.mark_serving() {
            return Err(EVICTED.into());
        }
        let Asked {
            request, framing, ..
        } = asked;
        let response = call_handler(&request, || self.service.handler.handle(&request));
        Ok(Step::answer(response, framing, false, held))
    }

    /// Writes an answer; ends the connection unless another request may follow.
    fn finish(
        &mut self,
        mut response: Response,
        mut framing: Framing,
        still_sending: bool,
        held: Option<Permit>,
        permit: Option<Permit>,
    ) -> Result<Step, End> {
        // A 304 has no body, but its `Content-Length` is the length of the client's copy.
        framing.head_only |= response.status == 304;
        let resource = match response.body {
            _ if framing.head_only => None,
            Body::Bytes(_) => None,
            Body::File { .. } | Body::Reader { .. } => Some(Resource::Download),
            Body::Stream(_) => Some(Resource::Follower),
        };
        let mut own = None;
        if let Some(resource) = resource {
            let need = Need::one(resource);
            own = self.acquire(need, permit);
            if own.is_none() && resource == Resource::Download {
                let step = Step::Answer {
                    response,
                    framing,
                    still_sending,
                    held,
                };
                return Err(End::Waits(need, Box::new(step)));
            }
            if own.is_none() {
                // A follower may stay for as long as a build: a wait for it has no end.
                response = Response::text(503, need.refusal()).with_header("Retry-After", "1");
            }
        }
        let crowded = || self.service.turns.is_crowded(self.slot.peer().ip());
        framing.keep_alive &= !still_sending && !matches!(response.body, Body::Stream(_));
        framing.keep_alive = framing.keep_alive && !crowded();
        let keep_alive = framing.keep_alive;
        self.answer(response, framing)?;
        drop((own, held));
        self.answered = true;
        match keep_alive {
            true => Ok(Step::Head),
            false if still_sending => Err(End::StillSending),
            false => Err(End::Done),
        }
    }

    /// Reads a head; returns it with the deadline for its body.
    fn read_head(&mut self) -> Result<(Head, Instant), End> {
        let limits = &self.service.limits;
        let idle_until = Instant::now() + Duration::from_secs(limits.idle_secs);
        let wire = &mut self.wire;
        if wire.input().is_empty() {
            if self.answered {
                self.slot.mark_kept();
            }
            if !wire.read_more(idle_until).or_else(idle_timeout_ends)? {
                return Err(End::Done);
            }
            self.slot.mark_begun();
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

    /// Reads a body. A long one needs a permit until it is answered.
    fn read_body(
        &mut self,
        mut asked: Asked,
        deadline: Option<Instant>,
        mut permit: Option<Permit>,
    ) -> Result<Step, End> {
        let limits = &self.service.limits;
        let len = usize::try_from(asked.body.len)
            .ok()
            .filter(|len| *len <= limits.body_bytes)
            .ok_or(refusal(413, "body too long"))?;
        if len > SHORT_BODY_BYTES {
            let need = Need {
                resource: Resource::LongBody,
                amount: len,
            };
            permit = self.acquire(need, permit);
            if permit.is_none() {
                return Err(End::Waits(need, Box::new(Step::Body(asked, None))));
            }
        }
        let fresh = || Instant::now() + Duration::from_secs(limits.request_secs);
        let deadline = deadline.unwrap_or_else(fresh);
        if asked.body.expects_continue && self.wire.input().len() < len {
            self.wire.write(CONTINUE, deadline)?;
        }
        asked.request.body = self
            .wire
            .read_whole(len, deadline)
            .map_err(request_timeout)?;
        Ok(Step::Handle(asked, permit))
    }

    /// Writes an answer.
    fn answer(&self, response: Response, framing: Framing) -> io::Result<()> {
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

impl Step {
    /// Returns the answer step for what a handler has returned; `None` if it panicked.
    fn answer(
        response: Option<Response>,
        mut framing: Framing,
        still_sending: bool,
        held: Option<Permit>,
    ) -> Self {
        let response = response.unwrap_or_else(|| {
            framing.keep_alive = false;
            Response::text(500, "internal error")
        });
        Self::Answer {
            response,
            framing,
            still_sending,
            held,
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
