//! HTTP client of a librarian: uploads, downloads and checks files.
//!
//! Bodies are streamed, every wait has a timeout, and no proxy is used. Errors repeat the
//! librarian's answer.

use std::io::{self, Read};
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde::Deserialize;
use ureq::SendBody;
use ureq::http::{StatusCode, header};

use super::{Error, name};

use crate::config::{Credentials, Librarian, Secret};
use crate::http_client;

/// Timeout for each of: name resolution, connecting, sending the head.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Timeout without a byte of a body.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Timeout for the answer to an upload: the librarian fsyncs the file first.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(600);
/// A larger body is sent only after the librarian has accepted the head.
const EXPECT_CONTINUE_BYTES: u64 = 64 << 10;
/// Maximum size of an answer other than a file.
const ANSWER_BYTES: u64 = 64 << 10;
/// Bytes copied at a time.
const CHUNK_BYTES: usize = 256 << 10;

/// Uploads files to one librarian.
pub(crate) struct Uploader {
    agent: ureq::Agent,
    base: String,
    /// The value of the `Authorization` header, if uploads need credentials.
    authorization: Option<Secret>,
}

/// An uploaded file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Added {
    pub(crate) id: i64,
    pub(crate) url: String,
    pub(crate) sha1: String,
    pub(crate) sha256: String,
    /// In bytes.
    pub(crate) size: u64,
}

fn agent() -> ureq::Agent {
    let config = http_client::config(CONNECT_TIMEOUT, IDLE_TIMEOUT)
        .max_redirects(0)
        .timeout_recv_response(Some(RESPONSE_TIMEOUT))
        .build();
    http_client::agent(config)
}

impl Uploader {
    /// Creates an uploader to `[librarian] upload_url`, with its credentials; does not connect yet.
    pub(crate) fn new(config: &Librarian) -> Self {
        let basic = |own: &Credentials| {
            let pair = format!("{}:{}", own.username, own.password.expose());
            Secret::new(format!("Basic {}", BASE64_STANDARD.encode(pair)))
        };
        Self {
            agent: agent(),
            base: config.upload_url.clone(),
            authorization: config.credentials.as_ref().map(basic),
        }
    }

    /// Uploads the `len` bytes of `body`. On return the file can be downloaded.
    ///
    /// Without `content_type`, the librarian derives it from the name. `expires_at` is in
    /// milliseconds since 1970; without it, `gc` removes the file once it is a week old and
    /// unreferenced.
    pub(crate) fn add(
        &self,
        name: &str,
        content_type: Option<&str>,
        expires_at: Option<i64>,
        restricted: bool,
        body: &mut dyn Read,
        len: u64,
    ) -> Result<Added, Error> {
        let url = format!("{}{}", self.base, name::quote(name));
        let mut request = self.agent.put(&url).header(header::CONTENT_LENGTH, len);
        if let Some(value) = &self.authorization {
            request = request.header(header::AUTHORIZATION, value.expose());
        }
        if let Some(kind) = content_type {
            request = request.header(header::CONTENT_TYPE, kind);
        }
        if let Some(time) = expires_at {
            request = request.header("X-Expires", time / 1000);
        }
        if restricted {
            request = request.header("X-Restricted", "yes");
        }
        if len > EXPECT_CONTINUE_BYTES {
            request = request.header(header::EXPECT, "100-continue");
        }
        let answer = request
            .send(SendBody::from_reader(body))
            .and_then(|response| {
                let status = response.status();
                let body = response.into_body().into_with_config();
                Ok((status, body.limit(ANSWER_BYTES).read_to_vec()?))
            });
        let (status, answer) = answer.map_err(|error| connection_error(&url, &error))?;
        if status != StatusCode::CREATED {
            return Err(refusal(&url, status, &answer));
        }
        serde_json::from_slice(&answer).map_err(|_| Error::Refused {
            url,
            status: status.as_u16(),
            reason: "the answer is not that of a librarian".to_owned(),
        })
    }
}

/// Checks with a HEAD request that a file can be downloaded. `token` is for a restricted file, else
/// empty.
pub(crate) fn check(url: &str, token: &str) -> Result<(), Error> {
    let mut request = agent().head(url);
    if !token.is_empty() {
        let pair = BASE64_STANDARD.encode(format!(":{token}"));
        request = request.header(header::AUTHORIZATION, format!("Basic {pair}"));
    }
    let response = request
        .call()
        .map_err(|error| connection_error(url, &error))?;
    match response.status() {
        StatusCode::OK => Ok(()),
        // The answer to a HEAD has no body.
        status => {
            let reason = status.canonical_reason().unwrap_or_default();
            Err(refusal(url, status, reason.as_bytes()))
        }
    }
}

/// Downloads a file and passes each chunk to `write`. Fails if the length differs from the
/// header's.
pub(super) fn fetch(
    url: &str,
    write: &mut dyn FnMut(&[u8]) -> Result<(), Error>,
) -> Result<(), Error> {
    let shown = url.split('?').next().unwrap_or(url);
    let response = agent().get(url).call();
    let response = response.map_err(|error| connection_error(shown, &error))?;
    let status = response.status();
    let body = response.into_body();
    if status != StatusCode::OK {
        let answer = body.into_with_config().limit(ANSWER_BYTES).read_to_vec();
        return Err(refusal(shown, status, &answer.unwrap_or_default()));
    }
    let expected = body.content_length();
    let mut reader = body.into_reader();
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut received = 0;
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => {
                received += count as u64;
                write(buffer.get(..count).unwrap_or_default())?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(connection_error(shown, &ureq::Error::from(error))),
        }
    }
    match expected {
        Some(expected) if expected != received => Err(Error::Length {
            url: shown.to_owned(),
            expected,
            received,
        }),
        _ => Ok(()),
    }
}

fn connection_error(url: &str, error: &ureq::Error) -> Error {
    Error::Remote {
        url: url.to_owned(),
        problem: error.to_string(),
    }
}

fn refusal(url: &str, status: StatusCode, answer: &[u8]) -> Error {
    let answer = String::from_utf8_lossy(answer);
    let line = answer.lines().next().unwrap_or_default();
    let reason: String = line.chars().filter(|c| !c.is_control()).take(200).collect();
    Error::Refused {
        url: url.to_owned(),
        status: status.as_u16(),
        reason,
    }
}
