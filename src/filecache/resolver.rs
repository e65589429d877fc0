//! How does the name of a host become addresses, whatever the system denies?
//!
//! The client's own resolver starts a thread so that it can give up, and panics where there is none
//! to be had. Here a name is then looked up without that bound, and the system's own holds.

use std::thread;

use ureq::Error;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;
use ureq::unversioned::transport::time::Duration;

/// The client's own, made safe.
#[derive(Debug, Default)]
pub(super) struct Sturdy(DefaultResolver);

impl Resolver for Sturdy {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        mut timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, Error> {
        if thread::Builder::new().spawn(|| {}).is_err() {
            timeout.after = Duration::NotHappening;
        }
        self.0.resolve(uri, config, timeout)
    }
}
