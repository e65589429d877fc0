//! Calls one slave by XML-RPC and fetches its files by HTTP.
//!
//! Calls have limits on time and memory, and use no proxy and no redirect. Errors name the slave
//! and what to do; they contain no credentials.

use std::io::{self, Read};
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine};
use ureq::RequestBuilder;
use ureq::http::{Response, StatusCode, header};

use super::slave_url::SlaveUrl;
use crate::http_client;
use crate::xmlrpc::{self, Fault, Value};

/// Applies to each of: resolving the name, connecting, sending a request.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The most bytes read of an answer. `xmlrpc` refuses documents over 2 MiB.
const MAX_ANSWER_BYTES: u64 = 64 << 20;
const CHUNK_BYTES: usize = 256 << 10;

/// Why a call or a download failed. `url` contains no credentials.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{url}: connection refused: is `buildd-slave serve` running there, at that port?")]
    Refused { url: String },
    /// The connection broke.
    #[error("{url}: {source}: is the slave still running?")]
    Lost { url: String, source: io::Error },
    #[error("{url}: {source}")]
    Http {
        url: String,
        #[source]
        source: ureq::Error,
    },
    #[error("{url}: {status}{}", advice(*status))]
    Status { url: String, status: StatusCode },
    #[error("{url}: the answer is not XML-RPC: {source}")]
    Answer { url: String, source: xmlrpc::Error },
    #[error("{method}: fault {}: {}", fault.code, fault.string)]
    Fault { method: String, fault: Fault },
}

impl Error {
    fn new(url: &str, error: ureq::Error) -> Self {
        let url = url.to_owned();
        match error {
            ureq::Error::Io(source) if source.kind() == io::ErrorKind::ConnectionRefused => {
                Self::Refused { url }
            }
            ureq::Error::Io(source) => Self::Lost { url, source },
            source => Self::Http { url, source },
        }
    }

    /// Returns whether a retry may succeed: the slave may be restarting or have too many callers.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Refused { .. } | Self::Lost { .. } => true,
            Self::Status { status, .. } => *status == StatusCode::SERVICE_UNAVAILABLE,
            _ => false,
        }
    }

    /// Returns whether the slave answered that it does not have the file.
    pub(crate) fn is_absence(&self) -> bool {
        matches!(self, Self::Status { status, .. } if *status == StatusCode::NOT_FOUND)
    }
}

/// Returns what to do about an HTTP status.
fn advice(status: StatusCode) -> &'static str {
    match status.as_u16() {
        401 => ": give the slave's user name and password: http://USER:PASSWORD@HOST:8221",
        403 => ": add this host to `allow` in the slave's configuration",
        404 => ": the slave has no such file, or this is not a slave",
        503 => ": the slave is busy: try again",
        _ => "",
    }
}

/// How long to wait for a slave.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeouts {
    /// The longest wait for bytes.
    pub(crate) idle: Duration,
    /// The longest wait for bytes during `ensurepresent`, which answers after the download.
    pub(crate) fetch: Duration,
    /// The time for a whole answer to a call.
    pub(crate) answer: Duration,
}

impl Timeouts {
    /// For commands that a person runs.
    pub(crate) const INTERACTIVE: Self = Self {
        idle: Duration::from_secs(30),
        fetch: Duration::from_secs(3600),
        answer: Duration::from_secs(60),
    };
}

/// A client of one slave.
pub(crate) struct Client {
    timeouts: Timeouts,
    agent: ureq::Agent,
    base: String,
    authorization: Option<String>,
}

impl Client {
    /// Makes a client; does not contact the slave.
    pub(crate) fn new(slave: &SlaveUrl, timeouts: Timeouts) -> Self {
        let config = http_client::config(CONNECT_TIMEOUT.min(timeouts.idle), timeouts.idle)
            .max_redirects(0)
            .build();
        let authorization = slave.credentials.as_ref().map(|credentials| {
            let pair = format!("{}:{}", credentials.username, credentials.password);
            format!("Basic {}", BASE64_STANDARD.encode(pair))
        });
        Self {
            timeouts,
            agent: http_client::agent(config),
            base: slave.base.clone(),
            authorization,
        }
    }

    /// Calls `method` and returns its answer. An answer over 2 MiB is an error.
    pub(crate) fn call(&self, method: &str, params: &[Value]) -> Result<Value, Error> {
        let url = format!("{}/rpc", self.base);
        let idle = match method {
            "ensurepresent" => self.timeouts.fetch,
            _ => self.timeouts.idle,
        };
        let request = self
            .authorized(self.agent.post(&url))
            .header(header::CONTENT_TYPE, "text/xml")
            .config()
            .timeout_recv_response(Some(idle))
            .timeout_per_read(Some(idle))
            .timeout_recv_body(Some(self.timeouts.answer))
            .build();
        let document = request
            .send(xmlrpc::render_call(method, params))
            .and_then(|response| {
                let status = response.status();
                let body = response.into_body();
                let body = body.into_with_config().limit(MAX_ANSWER_BYTES);
                body.read_to_vec().map(|bytes| (status, bytes))
            });
        let (status, document) = document.map_err(|error| Error::new(&url, error))?;
        if status != StatusCode::OK {
            return Err(Error::Status { url, status });
        }
        match xmlrpc::parse_response(&document) {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(fault)) => Err(Error::Fault {
                method: method.to_owned(),
                fault,
            }),
            Err(source) => Err(Error::Answer { url, source }),
        }
    }

    /// Requests the file at `path` from byte `from` on. If the file is not longer, the download is
    /// empty.
    pub(crate) fn get(&self, path: &str, from: u64) -> Result<Download, Error> {
        let url = format!("{}{path}", self.base);
        let mut request = self.authorized(self.agent.get(&url));
        if from > 0 {
            request = request.header(header::RANGE, format!("bytes={from}-"));
        }
        let response = request.call().map_err(|error| Error::new(&url, error))?;
        let status = response.status();
        let skipped = match status {
            StatusCode::OK => from,
            StatusCode::PARTIAL_CONTENT if starts_at(&response, from) => 0,
            StatusCode::RANGE_NOT_SATISFIABLE if from > 0 => return Ok(Download::empty(url)),
            status => return Err(Error::Status { url, status }),
        };
        let mut download = Download {
            reader: Box::new(response.into_body().into_reader()),
            buffer: Vec::new(),
            url,
        };
        download.skip(skipped)?;
        Ok(download)
    }

    fn authorized<Any>(&self, request: RequestBuilder<Any>) -> RequestBuilder<Any> {
        match &self.authorization {
            Some(value) => request.header(header::AUTHORIZATION, value),
            None => request,
        }
    }
}

fn starts_at<Body>(response: &Response<Body>, from: u64) -> bool {
    let range = response.headers().get(header::CONTENT_RANGE);
    range
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.starts_with(&format!("bytes {from}-")))
}

/// A download in progress.
pub(crate) struct Download {
    reader: Box<dyn Read>,
    buffer: Vec<u8>,
    url: String,
}

impl Download {
    fn empty(url: String) -> Self {
        Self {
            reader: Box::new(io::empty()),
            buffer: Vec::new(),
            url,
        }
    }

    /// Returns the next bytes, or `None` at the end. A body shorter than its declared length is an
    /// error. Not every body declares its length, so the caller must verify the file.
    pub(crate) fn chunk(&mut self) -> Result<Option<&[u8]>, Error> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let filled = self.fill(&mut buffer);
        self.buffer = buffer;
        filled.map(|()| (!self.buffer.is_empty()).then_some(&self.buffer[..]))
    }

    /// Replaces `bytes` by the next ones, at most 256 KiB; empty at the end.
    pub(crate) fn fill(&mut self, bytes: &mut Vec<u8>) -> Result<(), Error> {
        bytes.resize(CHUNK_BYTES, 0);
        loop {
            match self.reader.read(bytes) {
                Ok(count) => {
                    bytes.truncate(count);
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::new(&self.url, ureq::Error::from(error))),
            }
        }
    }

    /// Skips bytes that a server without support for ranges has sent again.
    fn skip(&mut self, count: u64) -> Result<(), Error> {
        io::copy(&mut self.reader.by_ref().take(count), &mut io::sink())
            .map(drop)
            .map_err(|error| Error::new(&self.url, ureq::Error::from(error)))
    }
}
