//! One look at one builder: its row is read, its slave asked, and what follows is done.
//!
//! What follows is `scan`'s to decide, whose fault a failure is `blame`'s. Every write is fenced
//! by the builder's lease, so that a process that was thought dead changes nothing; no transaction
//! is open while a slave is spoken to. Called by the daemon's threads and by the pass of 2008.

use std::time::Instant;

use crate::client::{self, shown_url};
use crate::db::{self, Tx};
use crate::protocol::StatusForm;

use super::failure::note;
use super::slave::{self, Slave, Status};
use crate::master::farm::{Farm, millis};
use crate::master::model::{BuildState, CleanStatus, ResetProtocol};
use crate::master::policy::blame::Kind;
use crate::master::policy::next_step::{self, Before, BuilderFacts, Era, JobFacts, Step};
use crate::master::rows::builders::{self, Builder, Job};
use crate::master::rows::leases::{self, Fence};
use crate::master::rows::queue;
use crate::sys::bounded_command::{self, Input};
use crate::sys::clock::now_ms as now;

/// When the builder is to be looked at again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// At once: there is more to do.
    Now,
    /// In a moment: something was set going.
    Soon,
    /// At its turn.
    Turn,
    /// At its turn, or as soon as there is a job for it.
    Idle,
    /// Never again by this process: another one has it, or it is no more.
    Gone,
}

/// Why a look did not end well.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// The farm's own: its database, librarian or disk. Nobody is blamed, and it is tried again.
    Ours(String),
    /// The rows are not what they were: another process, or an operator, came in between.
    Changed,
    /// The builder's or its job's; to be judged.
    Failure { kind: Kind, why: String },
}

impl From<db::Error> for Trouble {
    fn from(error: db::Error) -> Self {
        Self::Ours(error.to_string())
    }
}

/// A slave that does not answer may well do so at the next look.
impl From<slave::Error> for Trouble {
    fn from(error: slave::Error) -> Self {
        Self::Failure {
            kind: Kind::Passing,
            why: error.to_string(),
        }
    }
}

impl From<client::Error> for Trouble {
    fn from(error: client::Error) -> Self {
        slave::Error::from(error).into()
    }
}

/// Turns the word of a fenced write into an error when it touched nothing.
pub(crate) fn held(touched: bool) -> Result<(), Trouble> {
    touched.then_some(()).ok_or(Trouble::Changed)
}

/// Tells whether a lease is still this process's: asked before a slave is told to do what cannot be
/// undone. What cannot be known counts as lost.
pub(crate) fn still_held(farm: &Farm, fence: Fence) -> bool {
    let epoch = farm.db.read(|tx| leases::epoch(tx, fence.builder));
    epoch.is_ok_and(|epoch| epoch == Some(fence.epoch))
}

/// A builder and its job, as the last look at the database found them.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) builder: Builder,
    pub(crate) job: Option<Job>,
}

impl View {
    /// The logger of the group that the builder is in, named after its processor family.
    pub(crate) fn logger(&self) -> String {
        format!("root.builders.{}", self.builder.family().unwrap_or("none"))
    }

    pub(crate) fn facts(&self) -> BuilderFacts {
        let builder = &self.builder;
        BuilderFacts {
            ok: builder.ok,
            manual: builder.manual,
            clean: builder.clean,
            virtualized: builder.virtualized,
            reset: builder.reset,
            job: self.job.as_ref().map(|job| JobFacts {
                cookie: job.cookie(),
                cancelling: job.is_cancelling(),
                cancel_by: job.cancel_by,
            }),
        }
    }

    /// What the builder is called in messages: its URL, without a password.
    pub(crate) fn url(&self) -> String {
        shown_url(&self.builder.url)
    }

    /// The build of the job, for events.
    pub(crate) fn build(&self) -> Option<i64> {
        self.job.as_ref().map(|job| job.build)
    }
}

/// Returns the first label of the host of a URL.
fn buildd_name(url: &str) -> String {
    let url = shown_url(url);
    let host = url.split_once("://").map_or(&*url, |(_, host)| host);
    let end = host.find(['.', ':', '/']).unwrap_or(host.len());
    host[..end].to_owned()
}

/// Looks at one builder, over and over.
pub(crate) struct Scanner<'a> {
    pub(crate) farm: &'a Farm,
    pub(crate) fence: Fence,
    pub(crate) era: Era,
    /// Failed looks in a row.
    pub(crate) consecutive: u32,
    /// What was wrong with the results in the last answer.
    pub(crate) odd_results: Option<String>,
    /// The build that the slave is to let go of, and since when.
    letting_go: Option<(String, Instant)>,
    slave: Option<(String, Slave)>,
    /// The builder, as the last look found it.
    pub(crate) seen: Option<Builder>,
}

impl<'a> Scanner<'a> {
    pub(crate) fn new(farm: &'a Farm, fence: Fence, era: Era) -> Self {
        Self {
            farm,
            fence,
            era,
            consecutive: 0,
            odd_results: None,
            letting_go: None,
            slave: None,
            seen: None,
        }
    }

    /// Looks once, and does what follows. Never fails: failures are judged here.
    pub(crate) fn scan(&mut self) -> Next {
        let view = match self.view() {
            Ok(Some(view)) => view,
            Ok(None) => return Next::Gone,
            Err(error) => {
                log::warn!("builder {}: {error}", self.fence.builder);
                return Next::Turn;
            }
        };
        let looked = self.look(&view);
        let next = self.settle(&view, looked);
        self.seen = Some(view.builder);
        next
    }

    /// Makes the best of how a look ended.
    pub(crate) fn settle(&mut self, view: &View, looked: Result<Next, Trouble>) -> Next {
        let logger = view.logger();
        match looked {
            Ok(next) => {
                self.consecutive = 0;
                next
            }
            Err(Trouble::Changed) => {
                log::debug!(target: &logger, "{}: changed in the meantime", view.url());
                Next::Soon
            }
            Err(Trouble::Ours(why)) => {
                log::warn!(target: &logger, "{}: {why}; trying again", view.url());
                Next::Turn
            }
            Err(Trouble::Failure { kind, why }) => self.judge(view, kind, &why),
        }
    }

    /// Reads the builder; none if it is no more, or no longer ours.
    pub(crate) fn view(&self) -> Result<Option<View>, db::Error> {
        let found = self
            .farm
            .db
            .read(|tx| builders::view(tx, self.fence.builder))?;
        Ok(found
            .filter(|(builder, _)| builder.epoch == self.fence.epoch)
            .map(|(builder, job)| View { builder, job }))
    }

    fn look(&mut self, view: &View) -> Result<Next, Trouble> {
        let facts = view.facts();
        match next_step::before(self.era, &facts) {
            Before::Leave => Ok(Next::Turn),
            Before::ResetJob { why } => self.reset_job(view, log::Level::Warn, &why),
            Before::CancelJob { why } => self.cancelled(view, &why),
            Before::Broken { why } => Err(Trouble::Failure {
                kind: Kind::Isolation,
                why,
            }),
            Before::ResetMachine => self.reset_machine(view),
            Before::Ask => {
                let status = self.ask(view)?;
                let step = next_step::step(self.era, &facts, &status.record, now());
                self.act(view, step)
            }
        }
    }

    /// Returns the slave of the builder, to be called now.
    pub(crate) fn slave(&mut self, view: &View) -> Result<&Slave, Trouble> {
        if !self.farm.is_leased() {
            return Err(Trouble::Changed);
        }
        let url = &view.builder.url;
        if self.slave.as_ref().is_none_or(|(known, _)| known != url) {
            let slave = Slave::new(url, &self.farm.config)?;
            self.slave = Some((url.clone(), slave));
        }
        Ok(&self.slave.as_ref().expect("set above").1)
    }

    /// Asks the slave what it does, and remembers how it speaks.
    pub(crate) fn ask(&mut self, view: &View) -> Result<Status, Trouble> {
        let status = self.slave(view)?.status()?;
        self.odd_results = status.odd_results.first().map(ToString::to_string);
        let builder = &view.builder;
        let version = status.version.as_deref();
        let same_version = version.is_none() || version == builder.version.as_deref();
        if builder.form != Some(status.form) || !same_version {
            let write = |tx: &mut Tx<'_>| builders::set_form(tx, self.fence, status.form, version);
            held(self.farm.db.write(write)?)?;
        }
        Ok(status)
    }

    pub(crate) fn act(&mut self, view: &View, step: Step) -> Result<Next, Trouble> {
        let logger = view.logger();
        match step {
            Step::Nothing => Ok(Next::Turn),
            Step::KeepTail { logtail } => {
                if let (Some(raw), Some(job)) = (logtail, &view.job) {
                    let text = next_step::logtail_text(&raw);
                    self.farm.keep_tail(job.queue, self.fence.builder, text);
                }
                let aborting = view.job.as_ref().is_some_and(|job| job.cancel_by.is_some());
                Ok(if aborting { Next::Soon } else { Next::Turn })
            }
            Step::SendAbort { first_deadline } => {
                self.slave(view)?.abort()?;
                if let (true, Some(job)) = (first_deadline, &view.job) {
                    log::info!(target: &logger, "{}: told to abort {}", view.url(), job.cookie());
                    let by = now() + millis(self.farm.config.cancel_timeout);
                    let write =
                        |tx: &mut Tx<'_>| queue::set_cancel_by(tx, self.fence, job.queue, by);
                    held(self.farm.db.write(write)?)?;
                }
                Ok(Next::Soon)
            }
            Step::CancelOverdue => Err(Trouble::Failure {
                kind: Kind::Cancel,
                why: "the build does not stop".to_owned(),
            }),
            Step::Cancelled => self.cancelled(view, "the slave no longer has it"),
            Step::Collect {
                status,
                files,
                dependencies,
            } => self.collect(view, status, &files, &dependencies),
            Step::Forgotten => {
                let name = view.job.as_ref().map(|job| job.name.to_string());
                // The sentence masters of 2008 say, to the letter.
                let why = format!(
                    "Builder {} forgot about build {} -- resetting buildqueue record",
                    view.url(),
                    name.unwrap_or_default()
                );
                self.reset_job(view, log::Level::Warn, &why)
            }
            Step::Lost { expected, got } => {
                let got = got.map_or_else(|| "none".to_owned(), |got| format!("'{got}'"));
                let why = format!("lost: expected '{expected}', got {got}");
                self.reset_job(view, log::Level::Warn, &why)
            }
            Step::Rescue { cookie, abort } => self.rescue(view, &cookie, abort),
            Step::Clean => {
                self.letting_go = None;
                let write = |tx: &mut Tx<'_>| {
                    builders::set_clean(tx, self.fence, CleanStatus::Clean, now())
                };
                held(self.farm.db.write(write)?)?;
                Ok(Next::Now)
            }
            Step::WaitForAbort => self.wait_for("its last build").map(|_| Next::Soon),
            Step::Dispatch => self.dispatch(view),
            Step::Broken { why } => Err(Trouble::Failure {
                kind: Kind::Isolation,
                why,
            }),
        }
    }

    /// Frees a slave of a build that nobody wants from it. One that does not let go of it is at
    /// fault.
    fn rescue(&mut self, view: &View, cookie: &str, abort: bool) -> Result<Next, Trouble> {
        let is_new = self.wait_for(cookie)?;
        if !still_held(self.farm, self.fence) {
            return Err(Trouble::Changed);
        }
        let slave = self.slave(view)?;
        if abort {
            slave.abort()?;
        } else {
            slave.clean()?;
        }
        if is_new {
            let why = format!(
                "Builder '{}' rescued from '{cookie}: it has no job'",
                view.builder.name
            );
            log::warn!(target: &view.logger(), "{why}");
            let write = |tx: &mut Tx<'_>| note(tx, log::Level::Warn, "rescued", view, &why);
            self.farm.db.write(write)?;
        }
        Ok(Next::Soon)
    }

    /// Gives a slave time to let go of a build; tells whether that has just begun.
    fn wait_for(&mut self, cookie: &str) -> Result<bool, Trouble> {
        let limit = self.farm.config.cancel_timeout;
        match &self.letting_go {
            Some((known, since)) if known == cookie && since.elapsed() > limit => {
                let why = format!("the slave does not let go of {cookie}");
                self.letting_go = None;
                Err(Trouble::Failure {
                    kind: Kind::Dispatch,
                    why,
                })
            }
            Some((known, _)) if known == cookie => Ok(false),
            _ => {
                self.letting_go = Some((cookie.to_owned(), Instant::now()));
                Ok(true)
            }
        }
    }

    /// Sends the job back to the queue, to be tried at once.
    fn reset_job(&mut self, view: &View, level: log::Level, why: &str) -> Result<Next, Trouble> {
        let Some(job) = &view.job else {
            return Ok(Next::Turn);
        };
        let write = |tx: &mut Tx<'_>| {
            let reset = queue::reset(tx, self.fence, job.queue, 0)?;
            if reset {
                note(tx, level, "reset", view, why)?;
            }
            Ok(reset)
        };
        held(self.farm.db.write(write)?)?;
        self.say(view, level, why);
        Ok(Next::Soon)
    }

    /// Says something of a builder, with its URL unless the sentence has it.
    pub(crate) fn say(&self, view: &View, level: log::Level, what: &str) {
        let logger = view.logger();
        match (what.contains(&view.url()), &view.job) {
            (true, _) => log::log!(target: &logger, level, "{what}"),
            (false, Some(job)) => {
                log::log!(target: &logger, level, "{}: {}: {what}", view.url(), job.name);
            }
            (false, None) => log::log!(target: &logger, level, "{}: {what}", view.url()),
        }
    }

    fn cancelled(&mut self, view: &View, why: &str) -> Result<Next, Trouble> {
        let write = |tx: &mut Tx<'_>| self.end(tx, view, BuildState::Cancelled, why);
        held(self.farm.db.write(write)?)?;
        self.say(view, log::Level::Info, &format!("cancelled: {why}"));
        Ok(Next::Soon)
    }

    /// Puts a virtual builder back to its first state by the site's command (docs/farm.md §3.4).
    fn reset_machine(&mut self, view: &View) -> Result<Next, Trouble> {
        let failure = |why: String| Trouble::Failure {
            kind: Kind::Dispatch,
            why,
        };
        let words = &self.farm.config.reset_command;
        let Some(host) = view
            .builder
            .vm_host
            .as_deref()
            .filter(|_| !words.is_empty())
        else {
            let why = "a virtual builder needs a vm_host, and [master] reset_command";
            return Err(failure(why.to_owned()));
        };
        let place = buildd_name(&view.builder.url);
        let words: Vec<String> = words
            .iter()
            .map(|word| {
                word.replace("%(vm_host)s", host)
                    .replace("%(buildd_name)s", &place)
            })
            .collect();
        let cleaning = |to| {
            let write = |tx: &mut Tx<'_>| builders::set_clean(tx, self.fence, to, now());
            held(self.farm.db.write(write)?)
        };
        let run = || {
            let done = bounded_command::run(&words, Input::Text(""), self.farm.config.rpc_timeout);
            done.map_err(|error| failure(format!("cannot reset {host}: {error}")))
        };
        self.say(view, log::Level::Info, &format!("resetting {host}"));
        match view.builder.reset {
            Some(ResetProtocol::Asynchronous) => {
                run()?;
                cleaning(CleanStatus::Cleaning)?;
                Ok(Next::Turn)
            }
            Some(ResetProtocol::Synchronous) | None => {
                cleaning(CleanStatus::Cleaning)?;
                run()?;
                // The first packet to a fresh guest tends to be lost.
                let _ = self.slave(view)?.echo();
                self.slave(view)?.echo()?;
                let write = |tx: &mut Tx<'_>| {
                    builders::set_clean(tx, self.fence, CleanStatus::Clean, now())
                };
                held(self.farm.db.write(write)?)?;
                Ok(Next::Now)
            }
        }
    }

    /// What `build` is called in the form this builder speaks.
    pub(crate) fn form(view: &View) -> StatusForm {
        view.builder.form.unwrap_or(StatusForm::Tuple)
    }
}
