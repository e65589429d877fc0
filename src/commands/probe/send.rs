//! Sends files to a slave: serves each over HTTP while the slave downloads it.
//!
//! The URL has the local address of a connection to the slave, and the file's SHA-1 as a secret. It
//! is served only during one `ensurepresent` call.

use std::fs::File;
use std::io::Write;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::SystemTime;

use super::Error;
use crate::client::Client;
use crate::server::{self, Access, Handler, Limits, Method, Request, Response, Server, StopHandle};
use crate::sys::digest::sha1_of;
use crate::sys::stderr;
use crate::xmlrpc::Value;

/// Sends `files` to the slave at `address` and prints a line for each. Returns whether the slave
/// has all of them.
pub(super) fn send(
    client: &Client,
    address: &str,
    files: &[PathBuf],
    out: &mut dyn Write,
) -> Result<bool, Error> {
    let here = local_address(address)?;
    let mut all_present = true;
    for path in files {
        let (sha1, _) = sha1_of(path).map_err(|source| Error::File {
            path: path.clone(),
            source,
        })?;
        let (present, reason) = send_one(client, here, path, &sha1)?;
        if present {
            writeln!(out, "{sha1}  {}  {reason}", name(path)).map_err(Error::Output)?;
        } else {
            stderr::line(format_args!("{}: refused: {reason}", path.display()));
            all_present = false;
        }
    }
    Ok(all_present)
}

fn name(path: &Path) -> String {
    path.file_name()
        .map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

/// Returns the local address of a connection to `address`.
fn local_address(address: &str) -> Result<IpAddr, Error> {
    TcpStream::connect(address)
        .and_then(|stream| stream.local_addr())
        .map(|here| here.ip())
        .map_err(|source| Error::Connect {
            address: address.to_owned(),
            source,
        })
}

/// Lets the slave download one file. Returns whether the slave has it, and its reason.
fn send_one(
    client: &Client,
    here: IpAddr,
    path: &Path,
    sha1: &str,
) -> Result<(bool, String), Error> {
    let offer = Offer::start(here, path, sha1)?;
    // Empty user and password: masters that cannot send nil do the same.
    let params = [sha1, &offer.url, "", ""].map(Value::from);
    match client.call("ensurepresent", &params)? {
        Value::Array(pair) => match <[Value; 2]>::try_from(pair) {
            Ok([Value::Bool(present), Value::String(reason)]) => Ok((present, reason)),
            _ => Err(Error::NotAPair),
        },
        _ => Err(Error::NotAPair),
    }
}

/// A file served at `url` until dropped.
struct Offer {
    url: String,
    stop: StopHandle,
    thread: Option<JoinHandle<Result<(), server::Error>>>,
}

impl Offer {
    fn start(here: IpAddr, path: &Path, sha1: &str) -> Result<Self, Error> {
        let limits = Limits {
            connections: 4,
            connections_per_peer: 4,
            ..Limits::default()
        };
        let server = Server::bind(SocketAddr::new(here, 0), limits, Access::default())?;
        let address = server.local_addr().map_err(|source| Error::Connect {
            address: here.to_string(),
            source,
        })?;
        let handler = OneFile {
            path: path.to_owned(),
            url_path: format!("/{sha1}"),
        };
        let stop = server.stop_handle();
        let thread = thread::spawn(move || server.run(Arc::new(handler)));
        Ok(Self {
            url: format!("http://{address}/{sha1}"),
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Offer {
    fn drop(&mut self) {
        self.stop.stop();
        if let Some(thread) = self.thread.take() {
            // The slave's answer already reports a failed download.
            let _ = thread.join();
        }
    }
}

struct OneFile {
    path: PathBuf,
    url_path: String,
}

impl Handler for OneFile {
    fn handle(&self, request: &Request) -> Response {
        if request.path != self.url_path {
            return Response::text(404, "not found");
        }
        if !matches!(request.method, Method::Get | Method::Head) {
            return Response::text(405, "not allowed").with_header("Allow", "GET, HEAD");
        }
        let opened = File::open(&self.path).and_then(|file| {
            let about = file.metadata()?;
            let changed = about.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            Ok((file, about.len(), changed))
        });
        match opened {
            Ok((file, len, changed)) => {
                let content_type = "application/octet-stream";
                server::serve_file(request, file, len, content_type, changed)
            }
            Err(error) => Response::text(500, &format!("cannot read the file: {error}")),
        }
    }
}
