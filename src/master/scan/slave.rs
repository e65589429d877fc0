//! Calls a slave's methods, and parses the answers into types.
//!
//! Each call has a timeout and its own connection. Both forms of `status` are accepted, and
//! [`Status`] has the form of the answer.

use crate::client::{self, Client, InvalidUrl, SlaveUrl, Timeouts, shown_url};
use crate::config;
use crate::protocol::{
    self, Info, Sha1Hex, StatusForm, StatusRecord, parse_building, parse_present,
};
use crate::xmlrpc::Value;

/// The timeout of `ensurepresent`, as a multiple of that of other calls (docs/farm.md §3.1).
const FETCH_FACTOR: u32 = 20;
const VERSION: &str = "builder_version";

/// An error in a call to a slave.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{url}: {source}")]
    Url { url: String, source: InvalidUrl },
    #[error(transparent)]
    Client(#[from] client::Error),
    #[error("{method}: {source}")]
    Answer {
        method: &'static str,
        source: protocol::Error,
    },
    #[error("echo: the answer differs from what was sent")]
    Echo,
}

/// A slave's answer to `status`.
#[derive(Debug)]
pub(crate) struct Status {
    pub(crate) record: StatusRecord,
    pub(crate) form: StatusForm,
    /// The slave's version. Only the dict form has it.
    pub(crate) version: Option<String>,
    /// The announced results that are malformed; the record does not have them.
    pub(crate) invalid_results: Vec<protocol::Error>,
}

/// A client for one slave.
pub(crate) struct Slave {
    pub(crate) client: Client,
}

impl Slave {
    /// Makes no call yet.
    pub(crate) fn new(url: &str, config: &config::Master) -> Result<Self, Error> {
        let parsed = SlaveUrl::parse(url).map_err(|source| Error::Url {
            url: shown_url(url),
            source,
        })?;
        let timeouts = Timeouts {
            idle: config.rpc_timeout,
            fetch: config.rpc_timeout * FETCH_FACTOR,
            answer: config.rpc_timeout,
        };
        Ok(Self {
            client: Client::new(&parsed, timeouts),
        })
    }

    /// Checks that the slave answers.
    pub(crate) fn echo(&self) -> Result<(), Error> {
        let sent = Value::from("Test");
        match self.client.call("echo", std::slice::from_ref(&sent))? {
            Value::Array(items) if items.first() == Some(&sent) => Ok(()),
            _ => Err(Error::Echo),
        }
    }

    pub(crate) fn info(&self) -> Result<Info, Error> {
        read("info", self.client.call("info", &[])?, Info::parse)
    }

    pub(crate) fn status(&self) -> Result<Status, Error> {
        let answer = self.client.call("status", &[])?;
        let (form, version) = match &answer {
            Value::Struct(members) => {
                let version = members.iter().find_map(|member| match member {
                    (name, Value::String(version)) if name == VERSION => Some(version.clone()),
                    _ => None,
                });
                (StatusForm::Dict, version)
            }
            _ => (StatusForm::Tuple, None),
        };
        let (record, invalid_results) = read("status", answer, StatusRecord::parse_leniently)?;
        Ok(Status {
            record,
            form,
            version,
            invalid_results,
        })
    }

    /// Calls the slave to fetch a file into its cache; returns its message if it fails.
    pub(crate) fn ensure_present(
        &self,
        sha1: &Sha1Hex,
        url: &str,
        password: &str,
    ) -> Result<Option<String>, Error> {
        let params = [sha1.as_str(), url, "", password].map(Value::from);
        let answer = self.client.call("ensurepresent", &params)?;
        let (present, info) = read("ensurepresent", answer, parse_present)?;
        Ok((!present).then_some(info))
    }

    /// Starts a build; returns the slave's message if it refuses.
    pub(crate) fn build(&self, params: &[Value]) -> Result<Option<String>, Error> {
        let answer = self.client.call("build", params)?;
        read("build", answer, parse_building)
    }

    pub(crate) fn abort(&self) -> Result<(), Error> {
        Ok(self.client.call("abort", &[]).map(drop)?)
    }

    pub(crate) fn clean(&self) -> Result<(), Error> {
        Ok(self.client.call("clean", &[]).map(drop)?)
    }
}

fn read<T>(
    method: &'static str,
    answer: Value,
    parse: impl Fn(&Value) -> Result<T, protocol::Error>,
) -> Result<T, Error> {
    parse(&answer).map_err(|source| Error::Answer { method, source })
}
