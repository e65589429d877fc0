//! `buildd-slave master scan`: one pass over all builders, as cron ran it in 2008.
//!
//! The pass has the phases of 2008 (docs/farm.md §2.6). It groups builders by the processor family
//! of the architectures that have a chroot. It probes each builder that is ok, polls every job,
//! and dispatches jobs to free builders. Unlike in 2008, a failing builder affects no other,
//! cookies are compared, and the answer to `build` is checked. Builders of a running master are
//! skipped.

use std::collections::{BTreeMap, HashMap};
use std::sync::mpsc;
use std::thread;

use crate::config;
use crate::db::{self, Db, Tx};

use super::uploads;
use crate::master::farm::{Farm, millis, process_name};
use crate::master::policy::next_step::{self, ScanMode, Step};
use crate::master::rows::builders;
use crate::master::rows::leases::{self, Fence};
use crate::master::rows::series::{self, ArchSeries};
use crate::master::scan::look::{LookError, Next, Scanner, View, add_event, check_fence};
use crate::master::scan::steps;
use crate::sys::clock::{now_ms as now, since_boot};

/// The parent of the groups' loggers.
const LOGGER: &str = "root";

/// Makes one pass.
pub(crate) fn run(config: &config::Farm, db: Db) -> Result<(), db::Error> {
    Pass::begin(&Farm::new(db, config))?.run()
}

struct Pass<'a> {
    farm: &'a Farm,
    process: String,
    fences: HashMap<i64, Fence>,
}

impl<'a> Pass<'a> {
    /// Takes the lease of every free builder.
    fn begin(farm: &'a Farm) -> Result<Self, db::Error> {
        let process = process_name();
        let lease = millis(farm.config().lease);
        // A pass does not announce itself: running masters would reduce their shares.
        let limit = i64::from(i32::MAX);
        let (taken, began) = farm.db.write(|tx| {
            let began = since_boot();
            let now = tx.now()?;
            Ok((leases::take(tx, &process, now, now + lease, limit)?, began))
        })?;
        farm.set_leased(began);
        let fences = taken.into_iter().map(|fence| (fence.builder, fence));
        Ok(Self {
            farm,
            process,
            fences: fences.collect(),
        })
    }

    fn run(&self) -> Result<(), db::Error> {
        let (stop, stopped) = mpsc::channel::<()>();
        let done = thread::scope(|scope| {
            scope.spawn(move || self.renew_leases(&stopped));
            let done = self.phases();
            drop(stop);
            done
        });
        uploads::run_to_end(self.farm);
        let left = self.farm.flush_tails();
        self.farm.db.write(|tx| leases::leave(tx, &self.process))?;
        done.and(left)
    }

    /// Renews the leases until the sender is dropped. A single slave may take longer than a lease.
    fn renew_leases(&self, stopped: &mpsc::Receiver<()>) {
        let lease = self.farm.config().lease;
        while let Err(mpsc::RecvTimeoutError::Timeout) = stopped.recv_timeout(lease / 3) {
            let renewed = self.farm.db.write(|tx| {
                let began = since_boot();
                let until = tx.now()? + millis(lease);
                leases::renew(tx, &self.process, until).map(|_| began)
            });
            match renewed {
                Ok(began) => self.farm.set_leased(began),
                Err(error) => {
                    let delay = (lease / 3).as_secs();
                    log::warn!(
                        target: LOGGER,
                        "cannot renew the leases: {error}; retrying in {delay} s"
                    );
                }
            }
        }
    }

    fn phases(&self) -> Result<(), db::Error> {
        log::info!(target: LOGGER, "setting builders");
        let groups = self.groups()?;
        for (family, tags) in &groups {
            self.probe_group(family, tags)?;
        }
        log::info!(target: LOGGER, "scanning builders");
        self.for_each_builder(
            |view| {
                view.job.is_some()
                    && view
                        .builder
                        .family()
                        .is_some_and(|family| groups.contains_key(family))
            },
            Self::poll,
        )?;
        log::info!(target: LOGGER, "dispatching");
        self.for_each_builder(|view| view.job.is_none() && view.builder.ok, Self::dispatch)?;
        log::info!(target: LOGGER, "pass finished");
        Ok(())
    }

    /// Returns the architectures of each processor family that have a chroot.
    fn groups(&self) -> Result<BTreeMap<String, Vec<ArchSeries>>, db::Error> {
        let mut groups: BTreeMap<String, Vec<ArchSeries>> = BTreeMap::new();
        for arch in self.farm.db.read(series::architectures)? {
            let name = format!("{}/{}", arch.series, arch.tag);
            if !arch.chroots.is_empty() {
                log::debug!(target: LOGGER, "{name} added");
                groups.entry(arch.family.clone()).or_default().push(arch);
            } else {
                log::debug!(target: LOGGER, "{name} skipped: it has no chroot");
            }
        }
        Ok(groups)
    }

    /// Calls `work` for each leased builder that `is_for` accepts.
    fn for_each_builder(
        &self,
        is_for: impl Fn(&View) -> bool,
        work: impl Fn(&Self, &mut Scanner<'a>, &View) -> Result<Next, LookError>,
    ) -> Result<(), db::Error> {
        for (builder, job) in self.farm.db.read(builders::all)? {
            let view = View { builder, job };
            if !is_for(&view) {
                continue;
            }
            let Some(fence) = self.fences.get(&view.builder.id) else {
                let name = &view.builder.name;
                let owner = view
                    .builder
                    .lease_owner
                    .as_deref()
                    .unwrap_or("another process");
                log::info!(target: LOGGER, "{name} is leased to {owner}; skipped");
                continue;
            };
            let mut scanner = Scanner::new(self.farm, *fence, ScanMode::Pass);
            // The rows may have changed during the looks at other builders.
            let Some(view) = scanner.view()?.filter(&is_for) else {
                continue;
            };
            let result = work(self, &mut scanner, &view);
            if let Err(error) = result {
                self.log_error(&mut scanner, &view, error);
            }
        }
        Ok(())
    }

    /// Logs a failed look. It counts against no builder: the next pass retries (docs/farm.md §2.9).
    fn log_error(&self, scanner: &mut Scanner<'_>, view: &View, error: LookError) {
        match error {
            LookError::Failure { why, .. } => scanner.log(view, log::Level::Debug, &why),
            LookError::Internal(why) => scanner.log(view, log::Level::Warn, &why),
            LookError::Changed => {
                scanner.log(view, log::Level::Info, "its rows changed during the look");
            }
        }
    }

    /// Probes the builders of a family that are ok, and fails those that do not pass
    /// (docs/farm.md §2.7).
    fn probe_group(&self, group: &str, tags: &[ArchSeries]) -> Result<(), db::Error> {
        let is_for = |view: &View| view.builder.ok && view.builder.family() == Some(group);
        self.for_each_builder(is_for, |pass, scanner, view| {
            match pass.probe(scanner, view, tags) {
                Err(LookError::Failure { why, .. }) => pass.fail(scanner, view, &why),
                other => other,
            }
        })
    }

    fn probe(
        &self,
        scanner: &mut Scanner<'_>,
        view: &View,
        tags: &[ArchSeries],
    ) -> Result<Next, LookError> {
        log::info!(target: &view.logger(), "checking builder {}", view.builder.name);
        scanner.slave(view)?.echo()?;
        // The leases may have ended during the first call.
        let info = scanner.slave(view)?.info()?;
        let wrong = |why: String| LookError::Failure {
            kind: crate::master::policy::blame::Kind::Isolation,
            why,
        };
        if !info.is_understood() {
            return Err(wrong(format!("protocol {} is not supported", info.version)));
        }
        let has = |arch: &&ArchSeries| {
            let processors = &view.builder.processors;
            processors
                .iter()
                .any(|processor| processor.id == arch.processor_id)
        };
        let wanted: Vec<&str> = tags.iter().filter(has).map(|arch| &*arch.tag).collect();
        let mut offered = std::iter::once(&info.arch_tag).chain(&info.emulated);
        if !offered.any(|tag| wanted.contains(&&**tag)) {
            let wanted = wanted.join(" or ");
            let got = &info.arch_tag;
            return Err(wrong(format!(
                "Architecture tag mismatch: {got} != {wanted}"
            )));
        }
        scanner.note_emulation(view, &info)?;
        let status = scanner.ask(view)?;
        match next_step::step(ScanMode::Pass, &view.facts(), &status.record, now()) {
            step @ Step::Rescue { .. } => steps::act(scanner, view, step),
            _ => Ok(Next::Turn),
        }
    }

    /// Disables a builder until an operator enables it.
    fn fail(&self, scanner: &Scanner<'_>, view: &View, why: &str) -> Result<Next, LookError> {
        let write = |tx: &mut Tx<'_>| {
            add_event(tx, log::Level::Error, "builder failed", view, why)?;
            builders::fail(tx, scanner.fence, why)
        };
        check_fence(self.farm.db.write(write)?)?;
        let name = &view.builder.name;
        let url = view.url();
        log::warn!(target: &view.logger(), "{name} ({url}) marked as failed due to: {why}");
        Ok(Next::Turn)
    }

    /// Polls the job on a builder, whether or not the builder is ok.
    fn poll(&self, scanner: &mut Scanner<'_>, view: &View) -> Result<Next, LookError> {
        let info = scanner.slave(view)?.info()?;
        if !info.is_understood() {
            scanner.log(
                view,
                log::Level::Warn,
                &format!("protocol {} is not supported", info.version),
            );
        }
        let status = scanner.ask(view)?;
        let step = next_step::step(ScanMode::Pass, &view.facts(), &status.record, now());
        match steps::act(scanner, view, step) {
            Err(error @ LookError::Failure { .. }) => Ok(steps::settle(scanner, view, Err(error))),
            other => other,
        }
    }

    /// Dispatches a job to a free builder, after cleaning it if necessary.
    fn dispatch(&self, scanner: &mut Scanner<'_>, view: &View) -> Result<Next, LookError> {
        if view.builder.manual {
            scanner.log(view, log::Level::Info, "in manual state, ignored");
            return Ok(Next::Turn);
        }
        for _ in 0..3 {
            match steps::scan(scanner) {
                Next::Now => {}
                next => return Ok(next),
            }
        }
        Ok(Next::Turn)
    }
}
