//! One connection of a session: reads requests, decides about them, and answers them in order.
//!
//! apt sends several requests before it reads a response. The gate sends them on in the same way,
//! so that it adds no round trip for each file.

use std::collections::VecDeque;
use std::io;
use std::time::Instant;

use super::known::Expected;
use super::link::{Link, open_tunnel};
use super::refusal::Refusal;
use super::request::{self, Method, Request, Target};
use super::response;
use super::rules::Access;
use super::shared::Shared;
use super::tunnel;
use super::url::{Host, Url};
use super::wire::Wire;

/// The most requests that are read before the first of them is answered; apt sends 10.
const MAX_PENDING: usize = 10;

/// A request and the decision about it.
struct Pending {
    request: Request,
    plan: Plan,
}

enum Plan {
    Refuse(Refusal),
    File(Fetch),
    Tunnel(Host, u16),
}

/// A file to fetch.
pub(super) struct Fetch {
    pub(super) method: Method,
    pub(super) url: Url,
    /// The head of the request to the server.
    pub(super) head: Vec<u8>,
    /// The hashes that the file may have; empty if the file is not to be cached.
    pub(super) expected: Vec<Expected>,
    /// Whether the request is on its way on the present link.
    pub(super) sent: bool,
    pub(super) keep_alive: bool,
    pub(super) is_modern: bool,
}

/// The connection must be closed: nothing more can be answered on it.
pub(super) struct Gone;

impl From<io::Error> for Gone {
    fn from(_: io::Error) -> Self {
        Self
    }
}

pub(super) struct Connection<'a> {
    pub(super) shared: &'a Shared,
    pub(super) client: Wire,
    pub(super) link: Option<Link>,
    /// Whether servers get several requests at a time.
    pub(super) pipelining: bool,
    pending: VecDeque<Pending>,
    /// No more requests are read.
    ending: bool,
    /// The answer to a malformed request, after which nothing is understood.
    malformed: Option<Refusal>,
    pub(super) piece: Vec<u8>,
}

impl<'a> Connection<'a> {
    pub(super) fn new(shared: &'a Shared, client: Wire) -> Self {
        Self {
            shared,
            client,
            link: None,
            pipelining: true,
            pending: VecDeque::new(),
            ending: false,
            malformed: None,
            piece: Vec::new(),
        }
    }

    /// Serves the connection to its end.
    pub(super) fn run(mut self) -> Result<(), Gone> {
        loop {
            self.gather()?;
            self.send_ahead();
            let Some(Pending { request, plan }) = self.pending.pop_front() else {
                return self.end();
            };
            match plan {
                Plan::Refuse(refusal) => {
                    let body = !matches!(request.target, Target::File(Method::Head, _));
                    self.refuse(&refusal, request.keep_alive, body)?;
                }
                Plan::File(fetch) => self.answer(fetch)?,
                Plan::Tunnel(host, port) => return self.tunnel(&host, port),
            }
            if !request.keep_alive {
                return Ok(());
            }
        }
    }

    /// Reads requests: the ones that have arrived, and waits if none is pending.
    fn gather(&mut self) -> Result<(), Gone> {
        let limits = &self.shared.settings.limits;
        let mut until = Instant::now() + limits.client_idle;
        let mut begun = !self.client.input().is_empty();
        if begun {
            until = Instant::now() + limits.head;
        }
        while self.pending.len() < MAX_PENDING && !self.ending {
            match request::parse(self.client.input()) {
                Ok(Some(request)) => {
                    self.client.consume(request.bytes);
                    let plan = self.decide(&request);
                    self.ending = !request.keep_alive || matches!(plan, Plan::Tunnel(..));
                    self.pending.push_back(Pending { request, plan });
                }
                Ok(None) if self.pending.is_empty() => {
                    if !self.client.fill(until)? {
                        self.ending = true;
                    } else if !begun {
                        begun = true;
                        until = Instant::now() + limits.head;
                    }
                }
                Ok(None) if self.client.fill_now() => {}
                Ok(None) => return Ok(()),
                Err(refusal) => {
                    self.ending = true;
                    self.malformed = Some(refusal);
                }
            }
        }
        Ok(())
    }

    fn decide(&self, request: &Request) -> Plan {
        let plan = match &request.target {
            Target::Tunnel(host, port) => self
                .shared
                .check_open(&format!("{host}:{port}"))
                .and_then(|()| self.shared.ask(|rules| rules.tunnel(host, *port)))
                .map(|_| Plan::Tunnel(host.clone(), *port)),
            Target::File(method, url) => self.decide_file(request, *method, url).map(Plan::File),
        };
        plan.unwrap_or_else(Plan::Refuse)
    }

    fn decide_file(&self, request: &Request, method: Method, url: &Url) -> Result<Fetch, Refusal> {
        self.shared.check_open(&url.to_string())?;
        let access = self.shared.ask(|rules| rules.file(url))?;
        let mut request = request.clone();
        let expected = match access {
            // The password of an archive is not for the host that it redirects to.
            Access::RedirectTarget => {
                request.authorization = None;
                Vec::new()
            }
            Access::Archive(below) if self.is_cacheable(&request, method) => {
                crate::sys::lock::lock(&self.shared.known).find(url, &below)
            }
            Access::Archive(_) => Vec::new(),
        };
        let upstream = self.shared.settings.upstream.as_ref();
        let via_proxy = upstream.map(|upstream| upstream.headers.as_str());
        Ok(Fetch {
            method,
            url: url.clone(),
            head: request.head_for(url, method, via_proxy),
            expected,
            sent: false,
            keep_alive: request.keep_alive,
            is_modern: request.is_modern,
        })
    }

    /// Only whole files that need no password are cached: other builds could read them.
    fn is_cacheable(&self, request: &Request, method: Method) -> bool {
        self.shared.cache.is_some()
            && method == Method::Get
            && !request.is_partial()
            && request.authorization.is_none()
    }

    /// Sends requests to the server before the responses to earlier ones have come.
    fn send_ahead(&mut self) {
        let Some(link) = self.link.as_mut() else {
            return;
        };
        if !self.pipelining || !link.is_modern || link.answered == 0 {
            return;
        }
        if link.in_flight == 0 && !link.is_quiet() {
            self.drop_link();
            return;
        }
        let until = Instant::now() + self.shared.settings.limits.server_idle;
        for pending in &mut self.pending {
            let Plan::File(fetch) = &mut pending.plan else {
                continue;
            };
            if fetch.sent || self.shared.has_cached(&fetch.expected) {
                continue;
            }
            if !link.serves(&fetch.url.origin) {
                return;
            }
            if link.wire.write_all(&fetch.head, until).is_err() {
                self.drop_link();
                return;
            }
            fetch.sent = true;
            link.in_flight += 1;
        }
    }

    /// Closes the link. Requests without a response will be sent again on the next one.
    pub(super) fn drop_link(&mut self) {
        self.link = None;
        for pending in &mut self.pending {
            if let Plan::File(fetch) = &mut pending.plan {
                fetch.sent = false;
            }
        }
    }

    pub(super) fn refuse(
        &mut self,
        refusal: &Refusal,
        keep_alive: bool,
        body: bool,
    ) -> Result<(), Gone> {
        self.shared.note(refusal);
        let Refusal {
            status,
            reason,
            sentence,
        } = refusal;
        let answer = response::text(*status, reason, sentence, keep_alive, body);
        let until = Instant::now() + self.shared.settings.limits.client_idle;
        Ok(self.client.write_all(&answer, until)?)
    }

    fn tunnel(mut self, host: &Host, port: u16) -> Result<(), Gone> {
        self.drop_link();
        let mut server = match open_tunnel(self.shared, host, port) {
            Ok(server) => server,
            Err(refusal) => return self.refuse(&refusal, false, true),
        };
        let until = Instant::now() + self.shared.settings.limits.client_idle;
        let answer = b"HTTP/1.1 200 Connection established\r\n\r\n";
        self.client.write_all(answer, until)?;
        let authority = format!("{host}:{port}");
        tunnel::run(self.shared, &mut self.client, &mut server, authority);
        Ok(())
    }

    fn end(mut self) -> Result<(), Gone> {
        let malformed = self.malformed.take();
        malformed.map_or(Ok(()), |refusal| self.refuse(&refusal, false, true))
    }
}
