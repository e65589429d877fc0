//! Speaking to others: slaves by XML-RPC and HTTP, as masters do.
//!
//! Bounded in time and in memory. Gives answers no meaning. Used by `probe` and the master.

mod log;
mod slave;
mod slave_url;

pub(crate) use log::{LogError, follow_log, print_log, retry_transient};
pub(crate) use slave::{Client, Download, Error, Timeouts};
pub(crate) use slave_url::{Invalid as InvalidUrl, SlaveUrl, shown_url};
