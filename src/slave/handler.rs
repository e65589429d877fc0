//! Answers HTTP requests: XML-RPC calls, cached files, logs, metrics and health.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use crate::filecache::{Fetcher, Store};
use crate::metrics::metrics;
use crate::pipeline::buildlog::Tail;
use crate::protocol::{
    BUILD_TYPES, BuildCall, BuilderStatus, Call, Sha1Hex, StatusForm, StatusRecord, SumKind,
    Verdicts, builder_state, building, ensure_present, fault_refused, fault_state,
    fault_unparsable, fault_unrenderable, render_info, render_status, unknown_builder, unknown_sum,
};
use crate::server::{self, Request, Response, Route};
use crate::sys::fs::DiskUsage;
use crate::sys::lock::lock;
use crate::xmlrpc::{self, Fault, Value};

use super::daemon::{Daemon, Error};
use super::show;
use super::state::{Run, State};

/// The length of the log tail in `status`, in bytes (docs/wire.md §1.6).
const TAIL_BYTES: usize = 2048;

/// The state and settings that answers need.
pub(super) struct Handler {
    pub(super) daemon: Daemon,
    pub(super) store: Arc<Store>,
    /// The folders of builds, with their configuration keys.
    pub(super) folders: Vec<(&'static str, PathBuf)>,
    pub(super) arch: String,
    /// The architectures that it builds for by emulation.
    pub(super) emulated: Vec<String>,
    /// Replaced by a reload.
    pub(super) settings: Mutex<Arc<HandlerSettings>>,
    /// The open log tail, with the number of its run.
    pub(super) tail: Mutex<Option<(u64, Arc<Tail>)>>,
}

/// The settings of answers that a reload may change.
pub(super) struct HandlerSettings {
    pub(super) fetcher: Fetcher,
    /// The space that must stay free in the folders of builds.
    pub(super) reserve: DiskUsage,
    pub(super) form: StatusForm,
    pub(super) verdicts: Verdicts,
}

impl server::Handler for Handler {
    fn handle(&self, request: &Request) -> Response {
        match server::route(&request.method, &request.path) {
            Route::Rpc => Response::bytes(200, "text/xml", self.rpc(&request.body)),
            Route::File(name) => self.file(request, name),
            Route::Log(id) => self.log_page(request, id),
            Route::Metrics => self.metrics_page(),
            Route::Health => show::health(&self.folders, self.settings().reserve),
            Route::NotFound => not_found(),
            Route::MethodNotAllowed { allow } => {
                Response::text(405, "method not allowed").with_header("Allow", allow)
            }
            Route::NotImplemented => Response::text(501, "not implemented"),
        }
    }

    fn takes_long(&self, request: &Request) -> bool {
        let route = server::route(&request.method, &request.path);
        matches!(route, Route::Rpc) && is_download(&request.body)
    }
}

/// Returns whether the body is a call that waits for a transfer.
fn is_download(body: &[u8]) -> bool {
    xmlrpc::parse_call(body).is_ok_and(|call| Call::may_download(&call))
}

impl Handler {
    pub(super) fn settings(&self) -> Arc<HandlerSettings> {
        Arc::clone(&lock(&self.settings))
    }

    fn rpc(&self, body: &[u8]) -> Vec<u8> {
        let mut method = "unknown";
        let answer = xmlrpc::parse_call(body)
            .map_err(|error| fault_unparsable(&error))
            .and_then(Call::parse)
            .and_then(|call| {
                method = call.method();
                self.answer(call)
            })
            .and_then(|value| {
                xmlrpc::render_response(&value).map_err(|error| fault_unrenderable(&error))
            });
        let outcome = if answer.is_ok() { "ok" } else { "fault" };
        metrics().calls.with_label_values(&[method, outcome]).inc();
        answer.unwrap_or_else(|fault| xmlrpc::render_fault(&fault))
    }

    fn answer(&self, call: Call) -> Result<Value, Fault> {
        Ok(match call {
            Call::Echo(values) => Value::Array(values),
            Call::Info => render_info(&self.arch, self.settings().form, &self.emulated),
            Call::Status => self.status(self.settings().form),
            Call::StatusDict => self.status(StatusForm::Dict),
            Call::EnsurePresent {
                sha1,
                url,
                credentials,
            } => {
                let credentials = credentials
                    .as_ref()
                    .map(|c| (c.username.as_str(), c.password.as_str()));
                let fetcher = &self.settings().fetcher;
                let (present, info) = fetcher.ensure_present(&sha1, url.as_deref(), credentials);
                ensure_present(present, &info)
            }
            Call::Build(call) => self.build(call)?,
            Call::Abort => {
                self.daemon.abort().map_err(|error| fault("abort", error))?;
                builder_state(BuilderStatus::Aborting)
            }
            Call::Clean => {
                self.daemon.clean().map_err(|error| fault("clean", error))?;
                *lock(&self.tail) = None;
                builder_state(BuilderStatus::Idle)
            }
            Call::ProxyInfo => {
                let state = self.daemon.state().builder_status();
                let reason = format!("no build type here has a proxy (the builder is {state})");
                return Err(fault_refused("proxy_info", reason));
            }
        })
    }

    fn status(&self, form: StatusForm) -> Value {
        let record = match self.daemon.state() {
            State::Idle => StatusRecord::Idle,
            State::Building(run) => StatusRecord::Building {
                logtail: self.tail(&run),
                id: run.id,
            },
            State::Aborting(run) => StatusRecord::Aborting { id: run.id },
            State::Waiting(run, outcome) => StatusRecord::Waiting {
                id: run.id,
                status: outcome.status,
                files: outcome.files,
                dependencies: outcome.dependencies,
            },
        };
        let version = env!("CARGO_PKG_VERSION");
        render_status(&record, form, self.settings().verdicts, Some(version))
    }

    /// Returns the end of the running build's log, empty if there is none. Its files stay open
    /// between calls.
    fn tail(&self, run: &Run) -> Vec<u8> {
        let open = lock(&self.tail).clone();
        let tail = match open.filter(|(number, tail)| *number == run.number && tail.is_current()) {
            Some((_, tail)) => tail,
            None => match self.daemon.open_tail(&run.id) {
                Ok(tail) => {
                    let tail = Arc::new(tail);
                    *lock(&self.tail) = Some((run.number, Arc::clone(&tail)));
                    tail
                }
                Err(_) => return Vec::new(),
            },
        };
        tail.read(TAIL_BYTES, run.private).unwrap_or_default()
    }

    /// Checks in the order of docs/wire.md §1.4; a failed check changes nothing.
    fn build(&self, call: BuildCall) -> Result<Value, Fault> {
        if !BUILD_TYPES.contains(&call.build_type()) {
            return Ok(unknown_builder(call.build_type(), &BUILD_TYPES));
        }
        let refused = |error| fault_refused("build", error);
        let absent = |hash: &str| !Sha1Hex::parse(hash).is_ok_and(|sha1| self.holds(&sha1));
        let chroot = call.chroot_sha1().map_err(refused)?;
        if absent(chroot) {
            return Ok(unknown_sum(SumKind::Chroot, chroot, "No URL"));
        }
        let files = call.files().map_err(refused)?;
        if let Some((_, sha1)) = files.iter().find(|(_, sha1)| absent(sha1)) {
            return Ok(unknown_sum(SumKind::File, sha1, "No URL"));
        }
        let request = call.into_request().map_err(refused)?;
        let id = request.build_id.clone();
        self.daemon
            .build(request)
            .map_err(|error| fault("build", error))?;
        Ok(building(&id))
    }

    /// True if a file is in the cache and intact. It is not evicted until the build has started.
    fn holds(&self, sha1: &Sha1Hex) -> bool {
        self.store.hold(sha1).unwrap_or_else(|error| {
            log::error!("{sha1}: {error}");
            false
        })
    }

    fn metrics_page(&self) -> Response {
        let folder = |key| self.folders.iter().find(|(name, _)| *name == key);
        let chroots = folder("chroots").map(|(_, dir)| dir.as_path());
        show::metrics_page(self.daemon.state().builder_status(), &self.store, chroots)
    }

    /// `/filecache/NAME`: NAME is a SHA-1 or `buildlog`.
    fn file(&self, request: &Request, name: &str) -> Response {
        if name == "buildlog" {
            let run = current_run(self.daemon.state());
            return run.map_or_else(not_found, |run| self.log(request, &run));
        }
        let Ok(sha1) = Sha1Hex::parse(name) else {
            return not_found();
        };
        match self.store.entry(&sha1) {
            Ok(Some(entry)) => {
                let kind = "application/octet-stream";
                server::serve_file(request, entry.file, entry.len, kind, entry.modified)
            }
            Ok(None) => not_found(),
            Err(error) => {
                log::warn!("{error}");
                Response::text(503, "the file cannot be read now").with_header("Retry-After", "1")
            }
        }
    }

    /// `/log/ID`: the log written so far, or with `?follow` until the build has finished.
    fn log_page(&self, request: &Request, id: &str) -> Response {
        let run = current_run(self.daemon.state()).filter(|run| run.id.as_str() == id);
        let Some(run) = run else { return not_found() };
        if request.query != "follow" {
            return self.log(request, &run);
        }
        let path = self.daemon.log_of(&run.id);
        show::follow(&path, self.daemon.shared_state(), run.number)
    }

    fn log(&self, request: &Request, run: &Run) -> Response {
        show::log(request, &self.daemon.log_of(&run.id)).unwrap_or_else(|_| not_found())
    }
}

/// Returns the current build, running or waiting.
fn current_run(state: State) -> Option<Run> {
    match state {
        State::Idle => None,
        State::Building(run) | State::Aborting(run) | State::Waiting(run, _) => Some(run),
    }
}

fn not_found() -> Response {
    Response::text(404, "not found")
}

fn fault(method: &str, error: Error) -> Fault {
    match error {
        Error::Refused(refused) => fault_state(method, refused.wanted, refused.state),
        Error::Failed(error) => fault_refused(method, error),
    }
}
