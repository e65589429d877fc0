//! Defines what all steps of a look share: the scanner, the view of a builder, and the error.
//!
//! Every write is fenced by the builder's lease. No transaction is open during a call to a slave.

use std::fmt::Display;
use std::time::{Duration, Instant};

use crate::client::{self, shown_url};
use crate::db::{self, Tx};
use crate::master::farm::Farm;
use crate::master::policy::blame::Kind;
use crate::master::policy::next_step::{BuilderFacts, JobFacts, ScanMode};
use crate::master::rows::builders::{self, Builder, Job};
use crate::master::rows::events::{self, NewEvent};
use crate::master::rows::leases::{self, Fence};
use crate::protocol::{Info, StatusForm};
use crate::sys::clock::now_ms as now;

use super::slave::{self, Slave, Status};

/// When to look at the builder again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// At once: there is more to do.
    Now,
    /// In about two seconds: an operation has started.
    Soon,
    /// After the scan interval.
    Turn,
    /// After the scan interval, or as soon as there is a job for it.
    Idle,
    /// When its row changes: it has no job and is out of service, or waits for the end of a reset.
    Parked,
    /// Never by this process: another one has the lease, or the builder was removed.
    Gone,
}

/// The failure of a look.
#[derive(Debug)]
pub(crate) enum LookError {
    /// The database, the librarian or the disk failed. It counts against no builder and no job, and
    /// the next look retries.
    Internal(String),
    /// Another process or an operator changed the rows since they were read.
    Changed,
    /// The builder or its job failed; `policy::blame` decides which.
    Failure { kind: Kind, why: String },
}

impl From<db::Error> for LookError {
    fn from(error: db::Error) -> Self {
        Self::Internal(error.to_string())
    }
}

/// A slave that does not answer may answer at the next look.
impl From<slave::Error> for LookError {
    fn from(error: slave::Error) -> Self {
        Self::Failure {
            kind: Kind::Passing,
            why: error.to_string(),
        }
    }
}

impl From<client::Error> for LookError {
    fn from(error: client::Error) -> Self {
        slave::Error::from(error).into()
    }
}

/// Returns an error if a fenced write changed no row.
pub(crate) fn check_fence(touched: bool) -> Result<(), LookError> {
    touched.then_some(()).ok_or(LookError::Changed)
}

/// Returns whether this process still holds the lease; `false` if the database does not answer.
/// Check before each call to a slave that cannot be undone.
pub(crate) fn holds_lease(farm: &Farm, fence: Fence) -> bool {
    let epoch = farm.db.read(|tx| leases::epoch(tx, fence.builder));
    epoch.is_ok_and(|epoch| epoch == Some(fence.epoch))
}

/// The time after which a slave is asked again which architectures it emulates.
const INFO_INTERVAL: Duration = Duration::from_secs(600);

/// A builder and its job, as last read from the database.
#[derive(Clone, Debug)]
pub(crate) struct View {
    pub(crate) builder: Builder,
    pub(crate) job: Option<Job>,
}

impl View {
    /// The logger of the builder's group, named after its processor family.
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

    /// The builder's URL for messages, without a password.
    pub(crate) fn url(&self) -> String {
        shown_url(&self.builder.url)
    }

    pub(crate) fn build(&self) -> Option<i64> {
        self.job.as_ref().map(|job| job.build)
    }
}

/// One look at a builder, or several.
pub(crate) struct Scanner<'a> {
    pub(crate) farm: &'a Farm,
    pub(crate) fence: Fence,
    pub(crate) mode: ScanMode,
    pub(crate) memory: Memory,
}

/// The state that is kept between the looks at one builder.
#[derive(Default)]
pub(crate) struct Memory {
    /// Failed looks in a row.
    pub(crate) consecutive: u32,
    /// The problem with invalid results in the last `status`.
    pub(crate) invalid_results: Option<String>,
    /// The build that the slave still has without a job for it, and since when.
    pub(super) unwanted_build: Option<(String, Instant)>,
    slave: Option<(String, Slave)>,
    /// When the slave was last asked which architectures it emulates.
    asked_info: Option<Instant>,
    /// The builder, as the last look found it.
    pub(crate) last_builder: Option<Builder>,
}

impl<'a> Scanner<'a> {
    pub(crate) fn new(farm: &'a Farm, fence: Fence, mode: ScanMode) -> Self {
        Self {
            farm,
            fence,
            mode,
            memory: Memory::default(),
        }
    }

    /// Reads the builder; `None` if it was removed or this process has lost its lease.
    pub(crate) fn view(&self) -> Result<Option<View>, db::Error> {
        let found = self
            .farm
            .db
            .read(|tx| builders::view(tx, self.fence.builder))?;
        Ok(found
            .filter(|(builder, _)| builder.epoch == self.fence.epoch)
            .map(|(builder, job)| View { builder, job }))
    }

    /// Returns the client for the builder's slave; an error if the leases may have ended.
    pub(crate) fn slave(&mut self, view: &View) -> Result<&Slave, LookError> {
        if !self.farm.is_leased() {
            return Err(LookError::Changed);
        }
        let url = &view.builder.url;
        if self
            .memory
            .slave
            .as_ref()
            .is_none_or(|(known, _)| known != url)
        {
            let slave = Slave::new(url, &self.farm.config())?;
            self.memory.slave = Some((url.clone(), slave));
        }
        Ok(&self.memory.slave.as_ref().expect("set above").1)
    }

    /// Calls `status`, and records the slave's form and version if they have changed.
    pub(crate) fn ask(&mut self, view: &View) -> Result<Status, LookError> {
        let status = self.slave(view)?.status()?;
        self.memory.invalid_results = status.invalid_results.first().map(ToString::to_string);
        let builder = &view.builder;
        let version = status.version.as_deref();
        let same_version = version.is_none() || version == builder.version.as_deref();
        if builder.form != Some(status.form) || !same_version {
            let write = |tx: &mut Tx<'_>| builders::set_form(tx, self.fence, status.form, version);
            check_fence(self.farm.db.write(write)?)?;
        }
        Ok(status)
    }

    /// Asks the slave now and then which architectures it emulates, and stores the answer. Returns
    /// the view with it. A slave without an answer emulates what it did before.
    pub(crate) fn with_emulation(&mut self, view: &View) -> Result<View, LookError> {
        let is_known = self
            .memory
            .asked_info
            .is_some_and(|asked| asked.elapsed() < INFO_INTERVAL);
        // A pass of 2008 has probed the slave.
        if is_known || self.mode == ScanMode::Pass {
            return Ok(view.clone());
        }
        match self.slave(view)?.info() {
            Ok(info) => self.note_emulation(view, &info)?,
            Err(error) => self.log(view, log::Level::Debug, &error.to_string()),
        }
        self.memory.asked_info = Some(Instant::now());
        self.view()?.ok_or(LookError::Changed)
    }

    /// Stores which processors of a builder its slave emulates.
    pub(crate) fn note_emulation(&self, view: &View, info: &Info) -> Result<(), LookError> {
        let known = view.builder.processors.iter().any(|one| one.emulated);
        if !known && info.emulated.is_empty() {
            return Ok(());
        }
        let write = |tx: &mut Tx<'_>| builders::set_emulated(tx, self.fence, &info.emulated);
        check_fence(self.farm.db.write(write)?)
    }

    /// Logs a message about a builder, with its URL unless the message contains it.
    pub(crate) fn log(&self, view: &View, level: log::Level, what: &str) {
        let logger = view.logger();
        match (what.contains(&view.url()), &view.job) {
            (true, _) => log::log!(target: &logger, level, "{what}"),
            (false, Some(job)) => {
                log::log!(target: &logger, level, "{}: {}: {what}", view.url(), job.name);
            }
            (false, None) => log::log!(target: &logger, level, "{}: {what}", view.url()),
        }
    }

    /// The form of `status` that the slave uses; the tuple form before its first answer.
    pub(crate) fn form(view: &View) -> StatusForm {
        view.builder.form.unwrap_or(StatusForm::Tuple)
    }
}

/// Adds an event to the history of a builder and the build on it.
pub(crate) fn add_event(
    tx: &mut Tx<'_>,
    level: log::Level,
    kind: &str,
    view: &View,
    message: impl Display,
) -> Result<(), db::Error> {
    let builder = Some(view.builder.id);
    events::add(
        tx,
        &NewEvent {
            level,
            builder,
            build: view.build(),
            ..NewEvent::info(now(), kind, &message.to_string())
        },
    )
}
