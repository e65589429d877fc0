//! `buildd-slave probe`: calls a slave like a master does.
//!
//! Makes any XML-RPC call with JSON arguments, follows the log, transfers files, and waits for the
//! end of a build. Answers go to stdout, errors to stderr. Keeps no state.

mod fetch;
mod send;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use clap::Subcommand;

use crate::client::{self, Client, InvalidUrl, LogError, SlaveUrl, Timeouts};
use crate::client::{follow_log, print_log, retry_transient};
use crate::protocol::{self, BuildStatus, Invalid, Sha1Hex, StatusRecord};
use crate::server;
use crate::sys::fs;
use crate::sys::{output, stderr, terminal_filter};
use crate::xmlrpc::{self, Value};

/// Interval between two status calls.
const POLL: Duration = Duration::from_secs(1);

const EXAMPLES: &str = r#"METHOD is log, get, send, wait, or an XML-RPC method of the slave: echo, info,
status, ensurepresent, build, abort, clean. An ARG is JSON: true, [1], {"a":1}, null, "8". An ARG
that is not JSON is a string. Bytes in an answer are printed as {"base64": "..."}.

Examples:
  buildd-slave probe builder1:8221 status
  buildd-slave probe http://me:secret@builder1:8221 echo '[1,true]' hello
  buildd-slave probe builder1:8221 send hello_2.10-3.dsc hello_2.10.orig.tar.gz bookworm.tar.xz
  buildd-slave probe builder1:8221 build 8-1 debian CHROOTSHA1 \
    '{"hello_2.10-3.dsc":"SHA1"}' '{"suite":"bookworm"}'
  buildd-slave probe builder1:8221 log -f
  buildd-slave probe builder1:8221 wait && buildd-slave probe builder1:8221 get SHA1 -o hello.deb"#;

const SEND_EXAMPLES: &str = "\
Examples:
  buildd-slave probe builder1:8221 send hello_2.10-3.dsc hello_2.10.orig.tar.gz bookworm.tar.xz

Exit code: 0 if the slave has all files, 1 if not, 2 for a wrong command line.";

const WAIT_EXAMPLES: &str = "\
Examples:
  buildd-slave probe builder1:8221 wait && buildd-slave probe builder1:8221 get SHA1 -o hello.deb

Exit code: 0 if the verdict is OK, 1 if not, 2 for a wrong command line.";

/// Call a slave's XML-RPC methods
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, disable_help_subcommand = true)]
pub(crate) struct Args {
    /// Slave: http://HOST:8221, http://USER:PASSWORD@HOST:8221, or HOST:8221
    url: String,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
#[command(
    subcommand_value_name = "METHOD [ARG]...",
    subcommand_help_heading = "Methods"
)]
enum Action {
    /// Print the build log
    #[command(after_help = "Examples:\n  buildd-slave probe builder1:8221 log -f")]
    Log {
        /// Print the log as it grows, until the build ends
        #[arg(short, long)]
        follow: bool,
    },
    /// Download a file from the slave's cache and verify its SHA-1
    #[command(after_help = "Examples:\n  buildd-slave probe builder1:8221 get SHA1 -o hello.deb")]
    Get {
        /// SHA-1 of the file
        sha1: String,
        /// Write to FILE, only if the hash matches [default: standard output]
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Let the slave download files from this host; prints hash, name, and Download or Cache
    #[command(after_help = SEND_EXAMPLES)]
    Send {
        /// Files to send
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// Wait until no build runs, print the status, and fail unless the verdict is OK
    #[command(after_help = WAIT_EXAMPLES)]
    Wait,
    /// Any XML-RPC method
    #[command(external_subcommand)]
    Call(Vec<OsString>),
}

/// An error of a probe.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Url(#[from] InvalidUrl),
    #[error(transparent)]
    Client(#[from] client::Error),
    #[error("argument {0} is not UTF-8 text")]
    NotText(usize),
    #[error("argument {0}: {1}")]
    Argument(usize, xmlrpc::Error),
    #[error("{0}: a SHA-1 has 40 digits 0-9 a-f")]
    Sha1(#[from] Invalid),
    #[error("cannot parse the slave's status: {0}")]
    Status(protocol::Error),
    #[error(transparent)]
    Log(LogError),
    #[error(
        "the slave sent {actual} for {expected}: the file is damaged on its disk or in transit"
    )]
    Mismatch { expected: Sha1Hex, actual: String },
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Disk(#[from] fs::Error),
    #[error("cannot serve files to the slave: {0}")]
    Offer(#[from] server::Error),
    #[error("cannot connect to {address}: {source}: is `buildd-slave serve` running there?")]
    Connect { address: String, source: io::Error },
    #[error("the slave's answer to ensurepresent is not a pair of a boolean and a string")]
    NotAPair,
    #[error("cannot write: {0}")]
    Output(io::Error),
}

pub(crate) fn run(args: &Args) -> ExitCode {
    let mut out = output::stdout();
    let done = perform(args, &mut out).and_then(|success| {
        out.flush().map_err(Error::Output)?;
        Ok(success)
    });
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        // The reader, such as `head`, closed the pipe.
        Err(Error::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            stderr::line(error);
            ExitCode::FAILURE
        }
    }
}

/// Performs the action. Returns `false` if the slave answered, but with a failure.
fn perform(args: &Args, out: &mut dyn Write) -> Result<bool, Error> {
    let slave = SlaveUrl::parse(&args.url)?;
    let client = Client::new(&slave, Timeouts::INTERACTIVE);
    match &args.action {
        Action::Log { follow } => log(&client, *follow, out, POLL).map(|()| true),
        Action::Get { sha1, output } => {
            fetch::fetch(&client, &Sha1Hex::parse(sha1)?, output.as_deref(), out).map(|()| true)
        }
        Action::Send { files } => send::send(&client, &slave.address, files, out),
        Action::Wait => wait(&client, out, POLL),
        Action::Call(words) => call(&client, words, out).map(|()| true),
    }
}

/// Prints the log of the current build.
fn log(client: &Client, follow: bool, out: &mut dyn Write, poll: Duration) -> Result<(), Error> {
    let printed = if follow {
        follow_log(client, None, out, poll)
    } else {
        print_log(client, out)
    };
    match printed {
        Err(LogError::Output(error)) => Err(Error::Output(error)),
        // The whole log has been printed.
        Err(LogError::Gone) => {
            stderr::line(LogError::Gone);
            Ok(())
        }
        other => other.map_err(Error::Log),
    }
}

fn call(client: &Client, words: &[OsString], out: &mut dyn Write) -> Result<(), Error> {
    let words: Vec<&str> = words
        .iter()
        .enumerate()
        .map(|(n, word)| word.to_str().ok_or(Error::NotText(n)))
        .collect::<Result<_, _>>()?;
    let (method, words) = words.split_first().expect("clap requires a first word");
    let params: Vec<Value> = words
        .iter()
        .enumerate()
        .map(|(n, word)| parse_word(word).map_err(|error| Error::Argument(n + 1, error)))
        .collect::<Result<_, _>>()?;
    print_json(&client.call(method, &params)?, out)
}

/// Converts an argument: JSON, else a string. A SHA-1 is a string even if all its digits are
/// decimal.
fn parse_word(word: &str) -> Result<Value, xmlrpc::Error> {
    match serde_json::from_str(word) {
        Ok(json) if Sha1Hex::parse(word).is_err() => Value::from_json(json),
        _ => Ok(Value::from(word)),
    }
}

fn print_json(value: &Value, out: &mut dyn Write) -> Result<(), Error> {
    let json = terminal_filter::escaped_json(&value.to_json().to_string());
    writeln!(out, "{json}").map_err(Error::Output)
}

/// Waits until no build runs. Returns whether the verdict is OK.
fn wait(client: &Client, out: &mut dyn Write, poll: Duration) -> Result<bool, Error> {
    loop {
        let status = || client.call("status", &[]);
        let answer = retry_transient(poll, client::Error::is_transient, status)?;
        let record = StatusRecord::parse(&answer).map_err(Error::Status)?;
        if !record.is_busy() {
            print_json(&answer, out)?;
            let status = match record {
                StatusRecord::Waiting { status, .. } => Some(status),
                _ => None,
            };
            return Ok(status == Some(BuildStatus::Ok));
        }
        thread::sleep(poll);
    }
}
