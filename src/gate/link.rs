//! A connection to a server or to the operator's proxy, and the requests on their way there.

use std::io;
use std::time::Instant;

use super::body::{BodyState, Step};
use super::connect::{check_for_proxy, connect, connect_upstream};
use super::refusal::Refusal;
use super::response::{self, Response};
use super::shared::Shared;
use super::url::{Host, Origin};
use super::wire::Wire;

/// The most interim responses (1xx) in front of a response.
const MAX_INTERIM: usize = 8;

/// A connection to a server.
pub(super) struct Link {
    pub(super) wire: Wire,
    /// The server; none for a proxy, which takes requests for all servers.
    origin: Option<Origin>,
    /// Responses received.
    pub(super) answered: u64,
    /// Requests sent and not answered yet.
    pub(super) in_flight: usize,
    /// Whether the server takes another request.
    pub(super) reusable: bool,
    /// Whether the server takes several requests at a time.
    pub(super) is_modern: bool,
}

/// Why no response came.
pub(super) enum NoResponse {
    /// The server closed the connection instead of answering.
    Closed,
    Failed(String),
}

impl Link {
    /// Connects for requests to `origin`.
    pub(super) fn open(shared: &Shared, origin: &Origin) -> Result<Self, Refusal> {
        let settings = &shared.settings;
        let (stream, origin) = match &settings.upstream {
            Some(upstream) => (connect_upstream(settings, upstream)?, None),
            None => (
                connect(settings, &origin.host, origin.port)?,
                Some(origin.clone()),
            ),
        };
        Ok(Self {
            wire: wire(shared, stream)?,
            origin,
            answered: 0,
            in_flight: 0,
            reusable: true,
            is_modern: false,
        })
    }

    /// Returns whether a request to `origin` may be sent now.
    pub(super) fn serves(&self, origin: &Origin) -> bool {
        self.reusable && self.origin.as_ref().is_none_or(|own| own == origin)
    }

    /// Returns whether the server has sent nothing since the last response.
    pub(super) fn is_quiet(&mut self) -> bool {
        self.wire.input().is_empty() && !self.wire.fill_now()
    }

    /// Reads the head of the next response.
    pub(super) fn read_head(
        &mut self,
        shared: &Shared,
        to_head: bool,
    ) -> Result<Response, NoResponse> {
        let until = Instant::now() + shared.settings.limits.server_idle;
        let response = read_head(&mut self.wire, to_head, until)?;
        self.answered += 1;
        self.in_flight = self.in_flight.saturating_sub(1);
        self.reusable = response.keep_alive;
        self.is_modern = response.is_modern;
        Ok(response)
    }

    /// Reads the next piece of a body into `piece`; returns its length, 0 at the end.
    pub(super) fn read_piece(
        &mut self,
        state: &mut BodyState,
        piece: &mut [u8],
        until: Instant,
    ) -> io::Result<usize> {
        loop {
            let step = state
                .step(self.wire.input())
                .map_err(|_| io::Error::other("its chunks are malformed"))?;
            match step {
                Step::End => return Ok(0),
                Step::Skip(count) => self.wire.consume(count),
                Step::Starved => {
                    if !self.wire.fill(until)? {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                Step::Data(most) => {
                    let most = usize::try_from(most).map_or(piece.len(), |m| m.min(piece.len()));
                    let count = self.wire.read(&mut piece[..most], until)?;
                    if count == 0 && *state != BodyState::UntilClose {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    state.advance(count as u64);
                    return Ok(count);
                }
            }
        }
    }
}

/// Opens a tunnel to `host`, through the operator's proxy if there is one.
pub(super) fn open_tunnel(shared: &Shared, host: &Host, port: u16) -> Result<Wire, Refusal> {
    let settings = &shared.settings;
    let Some(upstream) = &settings.upstream else {
        return wire(shared, connect(settings, host, port)?);
    };
    check_for_proxy(settings, host, port)?;
    let mut wire = wire(shared, connect_upstream(settings, upstream)?)?;
    let fail = |why: &str| {
        let sentence = format!(
            "The proxy of [proxy] apt opened no tunnel to {host}:{port}: {why}. Have the proxy \
             allow CONNECT to it, or use another one."
        );
        Refusal::new(502, &format!("the proxy opened no tunnel: {why}"), sentence)
    };
    let authority = format!("{host}:{port}");
    let headers = &upstream.headers;
    let head = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n{headers}\r\n");
    let until = Instant::now() + settings.limits.server_idle;
    wire.write_all(head.as_bytes(), until)
        .map_err(|error| fail(&error.to_string()))?;
    // Like a response to HEAD, that to CONNECT has no body.
    match read_head(&mut wire, true, until) {
        Ok(response) if (200..300).contains(&response.status) => Ok(wire),
        Ok(response) => Err(fail(&format!(
            "status {} {}",
            response.status, response.reason
        ))),
        Err(NoResponse::Closed) => Err(fail("it closed the connection")),
        Err(NoResponse::Failed(why)) => Err(fail(&why)),
    }
}

fn wire(shared: &Shared, stream: std::net::TcpStream) -> Result<Wire, Refusal> {
    let socket = shared.sockets.server(stream);
    socket.map(Wire::new).ok_or_else(|| {
        let sentence = "The gate was closed during a request: the build has begun.".to_owned();
        Refusal::forbidden("the build has begun: no network", sentence)
    })
}

fn read_head(wire: &mut Wire, to_head: bool, until: Instant) -> Result<Response, NoResponse> {
    let mut interim = 0;
    loop {
        match response::parse(wire.input(), to_head) {
            Err(error) => return Err(NoResponse::Failed(error.to_string())),
            Ok(Some(response)) => {
                wire.consume(response.bytes);
                if response.status >= 200 {
                    return Ok(response);
                }
                interim += 1;
                if interim > MAX_INTERIM {
                    return Err(NoResponse::Failed("too many interim responses".to_owned()));
                }
            }
            Ok(None) => match wire.fill(until) {
                Ok(true) => {}
                Ok(false) if wire.input().is_empty() => return Err(NoResponse::Closed),
                Ok(false) => {
                    return Err(NoResponse::Failed("its head ended early".to_owned()));
                }
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                    return Err(NoResponse::Failed("no answer in time".to_owned()));
                }
                Err(_) if wire.input().is_empty() => return Err(NoResponse::Closed),
                Err(error) => return Err(NoResponse::Failed(error.to_string())),
            },
        }
    }
}
