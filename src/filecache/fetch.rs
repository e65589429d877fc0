//! Downloads files into the cache for `ensurepresent` (docs/wire.md §1.4).
//!
//! One download per SHA-1 runs at a time; later callers wait for it and get its answer. A download
//! has limits on time, rate and size, and is retried after transient failures. Every failure
//! becomes an answer, never a fault. An answer does not say what a host did, so no caller can map
//! the ports that the slave can reach; the log says it. Credentials go only to the requested host,
//! never into answers or logs.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use base64::prelude::{BASE64_STANDARD, Engine};
use ureq::http::{StatusCode, Uri, header};

use super::Error;
use super::store::Store;
use crate::http_client::{self, NotAllowed, UrlPrefix};
use crate::metrics::metrics;
use crate::protocol::Sha1Hex;
use crate::sys::hashing_writer::fill;
use crate::sys::lock::lock;

/// The most redirects followed in one download.
const MAX_REDIRECTS: u32 = 5;
/// The pause before the first retry; doubled for each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// The size of the send buffer, which only has to hold the head of a request.
const HEAD_BYTES: usize = 32 << 10;
/// The time after which the rate of a download is checked.
const PACE_GRACE: Duration = Duration::from_secs(60);

/// Limits of a download.
#[derive(Debug, Clone)]
pub(crate) struct FetchLimits {
    /// Applies to each of: resolving the name, connecting, sending the request.
    pub(crate) connect_timeout: Duration,
    /// The longest wait for bytes, before the answer or within it.
    pub(crate) idle_timeout: Duration,
    /// The lowest average rate, in bytes a second; a slower download fails.
    pub(crate) lowest_rate: u64,
    /// The largest file, in bytes.
    pub(crate) size: u64,
    /// Retries after the first attempt, for transient failures only.
    pub(crate) retries: u32,
}

/// The answer of `ensurepresent`: whether the file is in the cache, and its source or the reason.
type Answer = (bool, String);

/// Downloads into a [`Store`].
pub(crate) struct Fetcher {
    agent: ureq::Agent,
    limits: FetchLimits,
    allowed: Vec<UrlPrefix>,
    store: Arc<Store>,
    flights: Arc<Mutex<HashMap<Sha1Hex, Arc<Flight>>>>,
}

impl Fetcher {
    /// Makes a fetcher for URLs with one of the prefixes `allowed`; with none, for all. It ignores
    /// the environment's proxy settings.
    pub(crate) fn new(limits: FetchLimits, allowed: Vec<UrlPrefix>, store: Arc<Store>) -> Self {
        let config = http_client::config(limits.connect_timeout, limits.idle_timeout)
            .max_redirects(MAX_REDIRECTS)
            .output_buffer_size(HEAD_BYTES)
            .redirect_auth_headers(ureq::config::RedirectAuthHeaders::Never)
            .build();
        Self {
            agent: http_client::limited_agent(config, allowed.clone()),
            limits,
            allowed,
            store,
            flights: Arc::default(),
        }
    }

    /// Returns a fetcher with other settings. It shares the running downloads of this one.
    pub(crate) fn with(&self, limits: FetchLimits, allowed: Vec<UrlPrefix>) -> Self {
        Self {
            flights: Arc::clone(&self.flights),
            ..Self::new(limits, allowed, Arc::clone(&self.store))
        }
    }

    /// Answers `ensurepresent`: downloads `url` into the cache unless the cache has `sha1` already.
    ///
    /// `credentials` are a user name and a password for HTTP Basic; both empty means none. Blocks
    /// until the download, with its retries, has ended.
    pub(crate) fn ensure_present(
        &self,
        sha1: &str,
        url: Option<&str>,
        credentials: Option<(&str, &str)>,
    ) -> Answer {
        // A master that only asks gets the answer of launchpad-buildd, whatever it asks for.
        let no_url = || "No URL".to_owned();
        let sha1 = match (Sha1Hex::parse(sha1), url) {
            (Ok(sha1), _) => sha1,
            (Err(_), None) => return (false, no_url()),
            (Err(_), Some(_)) => {
                let shown: String = sha1.chars().take(80).collect();
                return (false, format!("not a SHA-1 sum: {shown:?}"));
            }
        };
        let Some(url) = url else {
            return match self.is_cached(&sha1) {
                Ok(held) => (held, no_url()),
                Err(answer) => answer,
            };
        };
        match self.is_cached(&sha1) {
            Ok(true) => return (true, "Cache".to_owned()),
            Ok(false) => {}
            Err(answer) => return answer,
        }
        let flight = {
            let mut flights = lock(&self.flights);
            if let Some(flight) = flights.get(&sha1).cloned() {
                drop(flights);
                return flight.wait();
            }
            let flight = Arc::new(Flight::default());
            flights.insert(sha1.clone(), Arc::clone(&flight));
            flight
        };
        let mut guard = FlightGuard {
            fetcher: self,
            sha1: &sha1,
            flight,
            answer: None,
        };
        // An earlier download may have finished since the first check.
        let answer = match self.store.hold(&sha1) {
            Ok(true) => (true, "Cache".to_owned()),
            _ => self.download(&sha1, url, credentials),
        };
        guard.answer = Some(answer.clone());
        answer
    }

    /// Returns whether the cache has the file, and updates the metrics. `Err` holds the answer to
    /// send.
    fn is_cached(&self, sha1: &Sha1Hex) -> Result<bool, Answer> {
        let held = self.store.hold(sha1).map_err(|error| {
            log::error!("reading {sha1} from the cache: {error}");
            (false, format!("Error reading the cache: {error}"))
        })?;
        let found = match held {
            true => &metrics().cache_hits,
            false => &metrics().cache_misses,
        };
        found.inc();
        Ok(held)
    }

    /// Tries until success, a permanent failure, or the last retry.
    fn download(&self, sha1: &Sha1Hex, url: &str, credentials: Option<(&str, &str)>) -> Answer {
        let mut retries = self.limits.retries;
        let mut pause = FIRST_PAUSE;
        loop {
            let failure = match self.attempt(sha1, url, credentials) {
                Ok(bytes) => {
                    count("ok");
                    log::info!("fetched {sha1}, {bytes} bytes");
                    return (true, "Download".to_owned());
                }
                Err(Failure::Store(Error::Mismatch { actual, .. })) => {
                    count("mismatch");
                    log::warn!(
                        "fetching {sha1}: the downloaded file has SHA-1 {actual}; discarding it"
                    );
                    return (false, "Digests did not match, removing again!".to_owned());
                }
                Err(failure) => failure,
            };
            log::warn!("fetching {sha1}: {failure}");
            if let Failure::Store(error) = &failure {
                count(if error.is_no_space() {
                    "no_space"
                } else {
                    "failed"
                });
                return (false, format!("Error keeping the file: {error}"));
            }
            count("failed");
            if retries == 0 || !failure.is_transient() {
                return (
                    false,
                    format!("Error accessing Librarian: {}", failure.answer()),
                );
            }
            retries -= 1;
            thread::sleep(pause);
            pause = pause.saturating_mul(2);
        }
    }

    /// Downloads once; returns the number of bytes.
    fn attempt(
        &self,
        sha1: &Sha1Hex,
        url: &str,
        credentials: Option<(&str, &str)>,
    ) -> Result<u64, Failure> {
        let uri: Uri = url.parse().map_err(|_| Failure::NotHttp)?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) {
            return Err(Failure::NotHttp);
        }
        let mut request = self.agent.get(uri.clone());
        let credentials =
            credentials.filter(|(user, password)| !(user.is_empty() && password.is_empty()));
        if let Some((user, password)) = credentials {
            let mut value = "Basic ".to_owned();
            BASE64_STANDARD.encode_string(format!("{user}:{password}"), &mut value);
            request = request.header(header::AUTHORIZATION, value);
        }
        let response = request.call();
        let response = response.map_err(|error| Failure::of(error, &uri, &self.allowed))?;
        if response.status() != StatusCode::OK {
            return Err(Failure::Status(response.status()));
        }
        let body = response.into_body();
        let declared = body.content_length();
        if declared.is_some_and(|length| length > self.limits.size) {
            return Err(Failure::TooLong(self.limits.size));
        }
        let mut incoming = self.store.receive(declared)?;
        let mut reader = body.into_reader();
        let mut received = 0;
        let started = Instant::now();
        loop {
            let mut piece = incoming.spare();
            fill(&mut reader, &mut piece).map_err(ureq::Error::from)?;
            if piece.is_empty() {
                break;
            }
            received += piece.len() as u64;
            metrics().download_bytes.inc_by(piece.len() as u64);
            if received > self.limits.size {
                return Err(Failure::TooLong(self.limits.size));
            }
            let due = Duration::from_secs(received / self.limits.lowest_rate.max(1));
            if started.elapsed() > PACE_GRACE.saturating_add(due) {
                return Err(Failure::TooSlow(self.limits.lowest_rate));
            }
            incoming.write(piece)?;
        }
        incoming.finish(Some(sha1))?;
        Ok(received)
    }
}

fn count(result: &str) {
    metrics().downloads.with_label_values(&[result]).inc();
}

/// Why one attempt failed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("not an http or https URL")]
    NotHttp,
    #[error("{0} is not allowed by [slave] fetch_from")]
    NotAllowed(String),
    #[error("redirected to a URL that [slave] fetch_from does not allow")]
    RedirectNotAllowed,
    #[error("HTTP Error {}: {}", .0.as_u16(), .0.canonical_reason().unwrap_or("unknown status"))]
    Status(StatusCode),
    #[error("longer than the limit of {0} bytes ([limits] fetch_size)")]
    TooLong(u64),
    #[error("slower than {0} bytes a second ([limits] fetch_lowest_rate)")]
    TooSlow(u64),
    #[error("{}", reason(.0))]
    Http(#[from] ureq::Error),
    #[error(transparent)]
    Store(#[from] Error),
}

impl Failure {
    /// Returns whether a retry may succeed.
    fn is_transient(&self) -> bool {
        use ureq::Error as Http;
        match self {
            Self::Status(status) => status.is_server_error(),
            Self::TooSlow(_) => true,
            Self::Http(
                Http::Io(_) | Http::Timeout(_) | Http::HostNotFound | Http::ConnectionFailed,
            ) => true,
            Self::Http(_)
            | Self::NotHttp
            | Self::NotAllowed(_)
            | Self::RedirectNotAllowed
            | Self::TooLong(_)
            | Self::Store(_) => false,
        }
    }

    /// Returns the text for the caller: the reason only if it does not depend on any host.
    fn answer(&self) -> String {
        match self {
            Self::NotHttp | Self::NotAllowed(_) => self.to_string(),
            Self::RedirectNotAllowed
            | Self::Status(_)
            | Self::TooLong(_)
            | Self::TooSlow(_)
            | Self::Http(_)
            | Self::Store(_) => {
                "the file could not be fetched; the log of the slave says why".to_owned()
            }
        }
    }

    /// Takes the refusal of the URL `asked` or of a redirect from an error of the client.
    fn of(error: ureq::Error, asked: &Uri, allowed: &[UrlPrefix]) -> Self {
        let refused = matches!(&error, ureq::Error::Other(inner) if inner.is::<NotAllowed>());
        match refused {
            false => Self::Http(error),
            true if allowed.iter().any(|prefix| prefix.contains(asked)) => Self::RedirectNotAllowed,
            true => {
                // Without the path, which may hold a token.
                let (scheme, host) = (asked.scheme_str(), asked.host().unwrap_or_default());
                let port = asked.port_u16().map(|port| format!(":{port}"));
                let (scheme, port) = (scheme.unwrap_or_default(), port.unwrap_or_default());
                Self::NotAllowed(format!("{scheme}://{host}{port}/…"))
            }
        }
    }
}

/// Describes an error without URLs, which may contain passwords or the librarian's tokens.
fn reason(error: &ureq::Error) -> String {
    match error {
        ureq::Error::BadUri(_) => "redirected to a URL that is not http or https".to_owned(),
        ureq::Error::Protocol(_) => "malformed HTTP answer".to_owned(),
        other => other.to_string(),
    }
}

/// A download in progress, shared by the calls that wait for it.
#[derive(Default)]
struct Flight {
    answer: Mutex<Option<Answer>>,
    finished: Condvar,
}

impl Flight {
    fn wait(&self) -> Answer {
        let waiting = self
            .finished
            .wait_while(lock(&self.answer), |answer| answer.is_none());
        let answer = waiting.unwrap_or_else(PoisonError::into_inner).clone();
        answer.expect("the wait ends when there is an answer")
    }
}

/// Ends a flight when dropped, even by a panic, so that no call waits for ever.
struct FlightGuard<'a> {
    fetcher: &'a Fetcher,
    sha1: &'a Sha1Hex,
    flight: Arc<Flight>,
    answer: Option<Answer>,
}

impl Drop for FlightGuard<'_> {
    fn drop(&mut self) {
        lock(&self.fetcher.flights).remove(self.sha1);
        let answer = self.answer.take();
        let abandoned = || {
            (
                false,
                "Error accessing Librarian: download abandoned".to_owned(),
            )
        };
        *lock(&self.flight.answer) = Some(answer.unwrap_or_else(abandoned));
        self.flight.finished.notify_all();
    }
}

#[cfg(test)]
mod tests;
