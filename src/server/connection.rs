//! One connection from its first byte to its close, on the thread it was given.
//!
//! Reads a request, has it handled, writes the answer; the next request, even if it has come
//! already, waits for that. Every wait has a deadline. A client that breaks a rule gets the reason
//! and is cut off; none of that is worth more than a debug line. Called by `http`; the only file
//! that names tiny_http's `raw_print`.

use super::access::Access;
use super::admission::{Admission, Ticket};
use super::head::{self, Head, LENGTH_NEEDED, Refusal, refusal};
use super::http::Protocol;
use super::limits::Limits;
use super::message::{Body, Handler, Request, Response};
use super::wire::Wire;
use std::any::Any;
use std::io::{self, ErrorKind, Write};
use std::net::{SocketAddr, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tiny_http::{HTTPVersion, Header, Method, StatusCode};

/// A body up to this long needs no permission.
const SHORT_BODY_BYTES: usize = 64 << 10;

/// What a client waits for that has asked whether to send its body.
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// What all connections share.
pub(super) struct Service {
    pub(super) handler: Arc<dyn Handler>,
    pub(super) limits: Limits,
    pub(super) access: Access,
    pub(super) downloads: Admission,
    pub(super) long_bodies: Admission,
    pub(super) uploads: Admission,
}

impl Service {
    /// Makes what the connections of one server share.
    pub(super) fn new(handler: Arc<dyn Handler>, limits: Limits, access: Access) -> Self {
        let places = |most| Admission::new(most, most);
        Self {
            handler,
            downloads: places(limits.downloads),
            long_bodies: places(limits.long_bodies),
            uploads: places(limits.uploads),
            limits,
            access,
        }
    }
}

impl Protocol for Service {
    fn serve(&self, stream: &TcpStream, peer: SocketAddr) {
        serve(self, stream, peer);
    }

    fn turn_away(&self, status: u16, reason: &str) -> Vec<u8> {
        let mut response = Response::text(status, reason);
        if status == 503 {
            response = response.with_header("Retry-After", "1");
        }
        render(&response, &Framing::last()).unwrap_or_default()
    }
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
fn serve(service: &Service, stream: &TcpStream, peer: SocketAddr) {
    let mut connection = Connection {
        service,
        wire: Wire::new(stream, &service.limits),
        peer,
    };
    let end = loop {
        if let Err(end) = connection.exchange() {
            break end;
        }
    };
    let wire = &connection.wire;
    match end {
        End::Over if wire.input().is_empty() => {}
        End::Over | End::CutOff => wire.drain(),
        End::Refused(Refusal { status, reason }) => {
            log::debug!("{peer}: {status}: {reason}");
            if connection
                .answer(Response::text(status, reason), Framing::last())
                .is_ok()
            {
                wire.drain();
            }
        }
        End::Lost(error) => {
            log::debug!("{peer}: {error}");
            wire.reset();
        }
    }
}

struct Connection<'a> {
    service: &'a Service,
    /// Its input is bounded by a head and one read.
    wire: Wire<'a>,
    peer: SocketAddr,
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
        let body = Announced {
            len: head.body_bytes,
            expects_continue: head.expects_continue,
        };
        let mut request = Request {
            method: head.method,
            path: head.path,
            query: head.query,
            headers: head.headers,
            body: Vec::new(),
            peer: self.peer.ip(),
        };
        let (response, unread) = if self.service.handler.takes_stream(&request) {
            self.receive(&request, &body)?
        } else {
            let _place = self.read_body(&mut request, &body, deadline)?;
            let handled = guard(&request, || self.service.handler.handle(&request));
            request.body = Vec::new();
            (handled, 0)
        };
        drop(request);
        let response = response.unwrap_or_else(|| {
            framing.keep_alive = false;
            Response::text(500, "internal error")
        });
        // Where the next request begins is known, but not whether the rest will ever come.
        let cut_off = unread > 0;
        framing.keep_alive &= !cut_off;
        let keep_alive = framing.keep_alive;
        self.answer(response, framing)?;
        match keep_alive {
            true => Ok(()),
            false if cut_off => Err(End::CutOff),
            false => Err(End::Over),
        }
    }

    /// Has a request handled whose body comes as a stream; `None` if that panicked. The number is
    /// of the bytes that the handler has left unread.
    fn receive(
        &mut self,
        request: &Request,
        body: &Announced,
    ) -> Result<(Option<Response>, u64), End> {
        if request.header("Content-Length").is_none() {
            return Err(LENGTH_NEEDED.into());
        }
        let Some(_place) = self.service.uploads.admit(self.peer.ip()) else {
            return Err(refusal(503, "too many uploads at once").into());
        };
        let handler = Arc::clone(&self.service.handler);
        let mut stream = self.wire.body(body.len);
        stream.welcome = body.expects_continue.then_some(CONTINUE);
        let response = guard(request, || handler.receive(request, &mut stream, body.len));
        Ok((response, stream.left()))
    }

    /// Reads until a head is complete; returns it with the moment by which its body must be.
    fn read_head(&mut self) -> Result<(Head, Instant), End> {
        let limits = &self.service.limits;
        let idle_until = Instant::now() + Duration::from_secs(limits.idle_secs);
        let wire = &mut self.wire;
        if wire.input().is_empty() && !wire.read_more(idle_until).or_else(silence_is_an_end)? {
            return Err(End::Over);
        }
        let deadline = Instant::now() + Duration::from_secs(limits.request_secs);
        loop {
            if let Some(head) = head::parse(wire.input(), limits)? {
                wire.take(head.bytes);
                return Ok((head, deadline));
            }
            if !wire.read_more(deadline).map_err(late)? {
                return Err(End::Lost(ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    /// Reads the body of `request`. A long one has a place in the result, to be held as long as the
    /// body is.
    fn read_body(
        &mut self,
        request: &mut Request,
        body: &Announced,
        deadline: Instant,
    ) -> Result<Option<Ticket>, End> {
        let limit = self.service.limits.body_bytes;
        let len = usize::try_from(body.len)
            .ok()
            .filter(|len| *len <= limit)
            .ok_or(refusal(413, "body too long"))?;
        let mut place = None;
        if len > SHORT_BODY_BYTES {
            let admitted = self.service.long_bodies.admit(self.peer.ip());
            place = Some(admitted.ok_or(refusal(503, "too many long requests at once"))?);
        }
        if body.expects_continue && self.wire.input().len() < len {
            self.wire.write(CONTINUE, deadline)?;
        }
        request.body = self.wire.read_whole(len, deadline).map_err(late)?;
        Ok(place)
    }

    /// Writes an answer; if it is a file and too many are being sent already, another one.
    fn answer(&self, mut response: Response, mut framing: Framing) -> io::Result<()> {
        // The client has the body; it is told the length of that.
        framing.head_only |= response.status == 304;
        let is_download = matches!(response.body, Body::File { .. }) && !framing.head_only;
        let admit = || self.service.downloads.admit(self.peer.ip());
        let place = is_download.then(admit).flatten();
        if is_download && place.is_none() {
            response =
                Response::text(503, "too many downloads at once").with_header("Retry-After", "1");
        }
        let deadline = Instant::now() + self.service.limits.answer_time(response.body.len());
        self.wire.write(&render(&response, &framing)?, deadline)?;
        match response.body {
            Body::File { file, len } if !framing.head_only => {
                self.wire.send_file(&file, len, deadline)
            }
            Body::File { .. } | Body::Bytes(_) => Ok(()),
        }
    }
}

/// What a head says of the body after it.
struct Announced {
    len: u64,
    expects_continue: bool,
}

/// Runs a handler; `None` if that panicked.
fn guard(request: &Request, handle: impl FnOnce() -> Response) -> Option<Response> {
    catch_unwind(AssertUnwindSafe(handle))
        .inspect_err(|panic| {
            let (method, path) = (&request.method, &request.path);
            log::error!("{method} {path}: panic: {}", panic_text(panic.as_ref()));
        })
        .ok()
}

/// How an answer is put on the wire.
struct Framing {
    version: HTTPVersion,
    /// Whether the body is left out, as for HEAD.
    head_only: bool,
    keep_alive: bool,
}

impl Framing {
    /// Returns the form for the last answer on a connection, to whatever was asked.
    fn last() -> Self {
        Self {
            version: HTTPVersion(1, 1),
            head_only: false,
            keep_alive: false,
        }
    }
}

/// Renders an answer up to what must be read from a file. `Content-Length` is always there,
/// chunks never, whatever the client would take.
fn render(response: &Response, framing: &Framing) -> io::Result<Vec<u8>> {
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

/// Returns the message of a panic.
pub(super) fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}
