//! What does a slave answer to each call a master makes, as types?
//!
//! One connection a call, bounded in time. Either form of `status` is understood; which it was is
//! told with it. Judges nothing. Called by the scanner.

use crate::client::{self, Client, InvalidUrl, SlaveUrl, Timeouts, shown_url};
use crate::config;
use crate::protocol::{
    self, Info, Sha1Hex, StatusForm, StatusRecord, parse_building, parse_present,
};
use crate::xmlrpc::Value;

/// How many times longer than any other call a slave may take to fetch a file (docs/farm.md §3.1).
const FETCH_FACTOR: u32 = 20;
const VERSION: &str = "builder_version";

/// Why a slave gave no usable answer.
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
    #[error("echo: not what was said")]
    Echo,
}

/// What a slave says of itself.
#[derive(Debug)]
pub(crate) struct Status {
    pub(crate) record: StatusRecord,
    pub(crate) form: StatusForm,
    /// Told in one form only.
    pub(crate) version: Option<String>,
    /// What is wrong with results that are not in the record.
    pub(crate) invalid_results: Vec<protocol::Error>,
}

/// A slave to call.
pub(crate) struct Slave {
    pub(crate) client: Client,
}

impl Slave {
    /// Contacts nobody yet.
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

    /// Makes sure that it is there and speaks.
    pub(crate) fn echo(&self) -> Result<(), Error> {
        let said = Value::from("Test");
        match self.client.call("echo", std::slice::from_ref(&said))? {
            Value::Array(items) if items.first() == Some(&said) => Ok(()),
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

    /// Has it fetch a file it lacks; returns its complaint if it cannot.
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

    /// Has it build; returns its complaint if it will not.
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
