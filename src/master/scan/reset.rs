//! Resets the virtual machine of a builder with the site's command (docs/farm.md §3.4).

use crate::client::shown_url;
use crate::db::Tx;
use crate::master::model::{CleanStatus, ResetProtocol};
use crate::master::policy::blame::Kind;
use crate::master::rows::builders;
use crate::sys::bounded_command::{self, Input};
use crate::sys::clock::now_ms as now;

use super::look::{LookError, Next, Scanner, View, check_fence};

/// Runs the reset command and marks the builder CLEANING or CLEAN, as its protocol requires.
pub(super) fn reset_machine(scanner: &mut Scanner<'_>, view: &View) -> Result<Next, LookError> {
    let failure = |why: String| LookError::Failure {
        kind: Kind::Dispatch,
        why,
    };
    let words = &scanner.farm.config().reset_command;
    let Some(host) = view
        .builder
        .vm_host
        .as_deref()
        .filter(|_| !words.is_empty())
    else {
        let why = "cannot reset a virtual builder without its vm_host and [master] reset_command";
        return Err(failure(why.to_owned()));
    };
    let buildd_name = buildd_name(&view.builder.url);
    let words: Vec<String> = words
        .iter()
        .map(|word| {
            word.replace("%(vm_host)s", host)
                .replace("%(buildd_name)s", &buildd_name)
        })
        .collect();
    let set_clean = |to| {
        let write = |tx: &mut Tx<'_>| builders::set_clean(tx, scanner.fence, to, now());
        check_fence(scanner.farm.db.write(write)?)
    };
    let run = || {
        let done = bounded_command::run(&words, Input::Text(""), scanner.farm.config().rpc_timeout);
        done.map_err(|error| failure(format!("cannot reset {host}: {error}")))
    };
    scanner.log(view, log::Level::Info, &format!("resetting {host}"));
    match view.builder.reset {
        Some(ResetProtocol::Asynchronous) => {
            run()?;
            set_clean(CleanStatus::Cleaning)?;
            Ok(Next::Turn)
        }
        Some(ResetProtocol::Synchronous) | None => {
            set_clean(CleanStatus::Cleaning)?;
            run()?;
            // The first packet to a fresh guest is often lost.
            let _ = scanner.slave(view)?.echo();
            scanner.slave(view)?.echo()?;
            let write =
                |tx: &mut Tx<'_>| builders::set_clean(tx, scanner.fence, CleanStatus::Clean, now());
            check_fence(scanner.farm.db.write(write)?)?;
            Ok(Next::Now)
        }
    }
}

/// Returns the first label of the host of a URL.
fn buildd_name(url: &str) -> String {
    let url = shown_url(url);
    let host = url.split_once("://").map_or(&*url, |(_, host)| host);
    let end = host.find(['.', ':', '/']).unwrap_or(host.len());
    host[..end].to_owned()
}
