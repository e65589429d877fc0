//! The settings that all HTTP clients of this program share, and their resolver.
//!
//! ureq's own resolver starts a thread for its timeout, and panics if the system refuses one. In
//! that case, the resolver here runs without that timeout; the system's timeout still applies.

mod url_prefix;

use std::thread;
use std::time::Duration;

use ureq::Error;
use ureq::config::{Config, ConfigBuilder};
use ureq::http::Uri;
use ureq::typestate::AgentScope;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout, time};

pub(crate) use url_prefix::UrlPrefix;

use crate::sys::hashing_writer::PIECE_BYTES;

/// Returns the common settings: no proxy, no decoding, and no status is an error. Each wait has a
/// timeout: `connect` for resolving, connecting and sending, `idle` for each read and write.
pub(crate) fn config(connect: Duration, idle: Duration) -> ConfigBuilder<AgentScope> {
    let (connect, idle) = (Some(connect), Some(idle));
    ureq::Agent::config_builder()
        .proxy(None)
        .http_status_as_error(false)
        // Reusing a connection that the server has closed would look like a failure.
        .max_idle_connections(0)
        .accept_encoding("identity")
        .input_buffer_size(PIECE_BYTES)
        .timeout_resolve(connect)
        .timeout_connect(connect)
        .timeout_send_request(connect)
        .timeout_recv_response(idle)
        .timeout_per_read(idle)
        .timeout_per_write(idle)
}

/// Makes a client with the settings `config`; contacts no host.
pub(crate) fn agent(config: Config) -> ureq::Agent {
    ureq::Agent::with_parts(config, DefaultConnector::new(), FallbackResolver::default())
}

/// Makes a client that connects only for URLs with one of the prefixes `allowed`, redirects
/// included; with none, for all. A refusal is [`Error::Other`] with [`NotAllowed`].
pub(crate) fn limited_agent(config: Config, allowed: Vec<UrlPrefix>) -> ureq::Agent {
    let resolver = LimitedResolver {
        inner: FallbackResolver::default(),
        allowed,
    };
    ureq::Agent::with_parts(config, DefaultConnector::new(), resolver)
}

/// The URL of a request or a redirect has none of the allowed prefixes.
#[derive(Debug, thiserror::Error)]
#[error("not an allowed URL")]
pub(crate) struct NotAllowed;

/// A resolver that refuses URLs before a name is resolved. ureq asks it for each connection, and
/// keeps none for the next request.
#[derive(Debug)]
struct LimitedResolver {
    inner: FallbackResolver,
    allowed: Vec<UrlPrefix>,
}

impl Resolver for LimitedResolver {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, Error> {
        let contains = |prefix: &UrlPrefix| prefix.contains(uri);
        if !self.allowed.is_empty() && !self.allowed.iter().any(contains) {
            return Err(Error::Other(Box::new(NotAllowed)));
        }
        self.inner.resolve(uri, config, timeout)
    }
}

/// ureq's resolver, without its timeout if the system refuses a thread.
#[derive(Debug, Default)]
struct FallbackResolver(DefaultResolver);

impl Resolver for FallbackResolver {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        mut timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, Error> {
        if thread::Builder::new().spawn(|| {}).is_err() {
            timeout.after = time::Duration::NotHappening;
        }
        self.0.resolve(uri, config, timeout)
    }
}
