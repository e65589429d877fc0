//! Calls slaves by XML-RPC and fetches their files by HTTP, as masters do.
//!
//! Calls have limits on time and memory. Answers are not interpreted here. Used by `probe` and the
//! master.

mod log;
mod slave;
mod slave_url;

pub(crate) use log::{LogError, follow_log, print_log, retry_transient};
pub(crate) use slave::{Client, Download, Error, Timeouts};
pub(crate) use slave_url::{Invalid as InvalidUrl, SlaveUrl, shown_url};
