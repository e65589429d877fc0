//! Answers one request for a file: from the cache, or from its server while hashing the bytes.

use std::fs::File;
use std::io;
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};

use super::body::BodyState;
use super::cache::Incoming;
use super::connect::check_for_proxy;
use super::connection::{Connection, Fetch, Gone};
use super::journal::Fetched;
use super::known::Sha256Hash;
use super::link::{Link, NoResponse};
use super::refusal::Refusal;
use super::request::Method;
use super::response::{self, Framing, Response};
use super::shared::{Shared, broken};
use super::url::Url;
use super::wire::PIECE_BYTES;

impl Connection<'_> {
    /// Answers one request.
    pub(super) fn answer(&mut self, mut fetch: Fetch) -> Result<(), Gone> {
        if !fetch.sent {
            if let Some((file, bytes)) = self.shared.open_cached(&fetch.expected) {
                return self.send_cached(&fetch, &file, bytes);
            }
        }
        let response = match self.response_to(&mut fetch) {
            Ok(response) => response,
            Err(refusal) => {
                self.drop_link();
                return self.refuse_fetch(&fetch, &refusal);
            }
        };
        if let Err(refusal) = self.check(&fetch.url, &response) {
            // The rest of the response is not read.
            self.drop_link();
            return self.refuse_fetch(&fetch, &refusal);
        }
        self.pass_on(&fetch, &response)?;
        if !self.link.as_ref().is_some_and(|link| link.reusable) {
            self.drop_link();
        }
        Ok(())
    }

    fn refuse_fetch(&mut self, fetch: &Fetch, refusal: &Refusal) -> Result<(), Gone> {
        self.refuse(refusal, fetch.keep_alive, fetch.method == Method::Get)
    }

    fn send_cached(&mut self, fetch: &Fetch, file: &File, bytes: u64) -> Result<(), Gone> {
        let limits = &self.shared.settings.limits;
        let response = Response {
            status: 200,
            reason: "OK".to_owned(),
            headers: Vec::new(),
            framing: Framing::Length(bytes),
            length: Some(bytes),
            keep_alive: true,
            is_modern: true,
            bytes: 0,
        };
        let head = response::head(&response, response.framing, fetch.keep_alive);
        let until = Instant::now() + limits.client_idle;
        self.client.write_all(&head, until)?;
        let sha256 = fetch.expected.first().map(|one| one.sha256.hex());
        self.shared.add(Fetched::File {
            url: fetch.url.to_string(),
            bytes,
            sha256: sha256.unwrap_or_default(),
            partial: false,
            from_cache: true,
        });
        Ok(self.client.send_file(file, bytes, limits.client_idle)?)
    }

    /// Sends the request unless it is on its way, and reads the head of its response. If the server
    /// has closed a used connection, all requests without a response go to a new one.
    fn response_to(&mut self, fetch: &mut Fetch) -> Result<Response, Refusal> {
        loop {
            if !fetch.sent {
                self.send(fetch)?;
            }
            let shared = self.shared;
            let link = self.link.as_mut().expect("a sent request has a link");
            match link.read_head(shared, fetch.method == Method::Head) {
                Ok(response) => return Ok(response),
                Err(NoResponse::Closed) if link.answered > 0 => {
                    // A server may close after each response, so do not send it requests ahead.
                    self.pipelining = link.in_flight <= 1;
                    self.drop_link();
                    fetch.sent = false;
                }
                Err(NoResponse::Closed) => {
                    return Err(failed(&fetch.url, "the server closed the connection"));
                }
                Err(NoResponse::Failed(why)) => return Err(failed(&fetch.url, &why)),
            }
        }
    }

    fn send(&mut self, fetch: &mut Fetch) -> Result<(), Refusal> {
        let origin = &fetch.url.origin;
        if self.shared.settings.upstream.is_some() {
            check_for_proxy(&self.shared.settings, &origin.host, origin.port)?;
        }
        // Bytes that no request asked for must not answer the next one.
        let usable =
            |link: &mut Link| link.in_flight == 0 && link.serves(origin) && link.is_quiet();
        if !self.link.as_mut().is_some_and(usable) {
            self.drop_link();
        }
        loop {
            let shared = self.shared;
            let link = match self.link.take() {
                Some(link) => self.link.insert(link),
                None => self.link.insert(Link::open(shared, origin)?),
            };
            let until = Instant::now() + shared.settings.limits.server_idle;
            match link.wire.write_all(&fetch.head, until) {
                Ok(()) => {
                    link.in_flight = 1;
                    fetch.sent = true;
                    return Ok(());
                }
                Err(_) if link.answered > 0 => self.drop_link(),
                Err(error) => return Err(failed(&fetch.url, &broken(&error))),
            }
        }
    }

    /// Refuses responses that must not be passed on.
    fn check(&self, url: &Url, response: &Response) -> Result<(), Refusal> {
        let most = self.shared.settings.limits.file_bytes;
        if response.length.is_some_and(|bytes| bytes > most) {
            let sentence = format!(
                "The gate refused {url}: it is larger than {most} bytes ([limits] fetch_size)."
            );
            return Err(Refusal::forbidden("the file is too large", sentence));
        }
        if response.status == 407 {
            let sentence = "The proxy of [proxy] apt wants a password, or another one than that \
                            of its URL. Write http://USER:PASSWORD@HOST:PORT/."
                .to_owned();
            let reason = "the proxy refuses its password";
            return Err(Refusal::new(502, reason, sentence));
        }
        let Some(location) = response.redirect() else {
            return Ok(());
        };
        let target = url.join(location).map_err(|error| {
            let sentence =
                format!("The gate refused the redirect of {url}: its target has {error}.");
            Refusal::forbidden("malformed redirect", sentence)
        })?;
        // apt follows the redirect through the gate, which decides again.
        self.shared.ask(|rules| rules.redirect(url, &target))
    }

    fn pass_on(&mut self, fetch: &Fetch, response: &Response) -> Result<(), Gone> {
        let framing = match response.framing {
            // The session must see whether the file is complete.
            Framing::Chunked | Framing::UntilClose if fetch.is_modern => Framing::Chunked,
            Framing::Chunked => Framing::UntilClose,
            other => other,
        };
        let keep_alive = fetch.keep_alive && framing != Framing::UntilClose;
        let head = response::head(response, framing, keep_alive);
        let until = Instant::now() + self.shared.settings.limits.client_idle;
        self.client.write_all(&head, until)?;
        match self.copy(fetch, response, framing) {
            Ok(()) if keep_alive => Ok(()),
            Ok(()) => Err(Gone),
            Err(why) => {
                let sentence = format!("The download of {} broke off: {why}.", fetch.url);
                self.shared.note(&Refusal::new(502, "broken off", sentence));
                Err(Gone)
            }
        }
    }

    /// Copies the body; hashes, records and perhaps stores it. The file is recorded before its end
    /// is sent, so the record is complete when apt is.
    fn copy(&mut self, fetch: &Fetch, response: &Response, framing: Framing) -> Result<(), String> {
        let shared = self.shared;
        let limits = &shared.settings.limits;
        let mut state = BodyState::new(response.framing);
        let mut passing = Passing::new(shared, fetch, response);
        let begun = Instant::now();
        self.piece.resize(PIECE_BYTES, 0);
        let link = self.link.as_mut().ok_or("no connection")?;
        while state != BodyState::End {
            let idle = Instant::now() + limits.server_idle;
            let allowed = Duration::from_secs(passing.bytes / limits.lowest_rate.max(1));
            let slow = begun + 2 * limits.server_idle + allowed;
            let count = link
                .read_piece(&mut state, &mut self.piece, idle.min(slow))
                .map_err(|error| too_slow(&error, idle > slow, limits.lowest_rate))?;
            if count == 0 {
                break;
            }
            let piece = &self.piece[..count];
            passing.take(piece);
            if passing.bytes > limits.file_bytes {
                return Err("it is larger than [limits] fetch_size".to_owned());
            }
            if state == BodyState::End {
                passing.finish();
            }
            let idle = Instant::now() + limits.client_idle;
            let slow = slow + limits.client_idle;
            send_piece(&self.client, piece, framing, idle.min(slow))
                .map_err(|error| format!("apt: {}", broken(&error)))?;
        }
        passing.finish();
        if framing == Framing::Chunked {
            let until = Instant::now() + limits.client_idle;
            let sent = self.client.write_all(b"0\r\n\r\n", until);
            sent.map_err(|error| format!("apt: {}", broken(&error)))?;
        }
        Ok(())
    }
}

/// A file that is passing: hashed, and perhaps stored.
struct Passing<'a> {
    shared: &'a Shared,
    hasher: Sha256,
    bytes: u64,
    incoming: Option<Incoming<'a>>,
    /// The entry of the record, until it is made.
    entry: Option<(String, bool)>,
}

impl<'a> Passing<'a> {
    fn new(shared: &'a Shared, fetch: &Fetch, response: &Response) -> Self {
        let incoming = (response.status == 200)
            .then(|| shared.begin_storing(&fetch.expected, response.length));
        let is_file = fetch.method == Method::Get && matches!(response.status, 200 | 206);
        Self {
            shared,
            hasher: Sha256::new(),
            bytes: 0,
            incoming: incoming.flatten(),
            entry: is_file.then(|| (fetch.url.to_string(), response.status == 206)),
        }
    }

    fn take(&mut self, piece: &[u8]) {
        self.bytes += piece.len() as u64;
        self.hasher.update(piece);
        let failed = |file: &mut Incoming<'_>| !file.write(piece);
        if self.incoming.as_mut().is_some_and(failed) {
            self.incoming = None;
        }
    }

    /// Records and stores the complete file; does nothing the second time.
    fn finish(&mut self) {
        let Some((url, partial)) = self.entry.take() else {
            return;
        };
        let sha256 = Sha256Hash::new(self.hasher.finalize_reset().into());
        if let Some(incoming) = self.incoming.take() {
            incoming.finish(sha256);
        }
        self.shared.add(Fetched::File {
            url,
            bytes: self.bytes,
            sha256: sha256.hex(),
            partial,
            from_cache: false,
        });
    }
}

fn send_piece(
    client: &super::wire::Wire,
    piece: &[u8],
    framing: Framing,
    until: Instant,
) -> io::Result<()> {
    if framing != Framing::Chunked {
        return client.write_all(piece, until);
    }
    let mut chunk = format!("{:x}\r\n", piece.len()).into_bytes();
    chunk.extend_from_slice(piece);
    chunk.extend_from_slice(b"\r\n");
    client.write_all(&chunk, until)
}

fn too_slow(error: &io::Error, by_rate: bool, lowest_rate: u64) -> String {
    if by_rate && error.kind() == io::ErrorKind::TimedOut {
        format!("it was slower than {lowest_rate} bytes per second ([limits] fetch_lowest_rate)")
    } else {
        broken(error)
    }
}

fn failed(url: &Url, why: &str) -> Refusal {
    let host = url.origin.authority();
    let sentence = format!("The gate got no file from {host}: {why}.");
    Refusal::new(502, &format!("{host}: {why}"), sentence)
}
