//! The lease of a running backup, which holds off the deletion of files.
//!
//! A thread renews it. The lease of a killed backup ends by itself.

use std::process;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::Error;
use crate::db::{self, Db, Tx};
use crate::librarian::BACKUP_LEASE;
use crate::master::rows::leases;
use crate::sys::random;

/// Length of a lease, and the time after which it is renewed.
const LEASE_MS: i64 = 60_000;
const RENEW_AFTER: Duration = Duration::from_secs(15);
const NAME_BYTES: usize = 4;

/// A lease; dropping it ends it.
pub(super) struct Lease {
    stop: Option<Sender<()>>,
    renewing: Option<JoinHandle<()>>,
    db: Db,
    name: String,
}

impl Lease {
    /// Takes a lease of its own for each backup: several may run at a time.
    pub(super) fn take(db: &Db, host: &str) -> Result<Self, Error> {
        let name = format!(
            "{BACKUP_LEASE}{host}:{}:{}",
            process::id(),
            random::word(NAME_BYTES)
        );
        db.write(|tx| renew(tx, &name))?;
        let (stop, stopped) = mpsc::channel();
        let (own_db, own_name) = (db.clone(), name.clone());
        let run = move || {
            while stopped.recv_timeout(RENEW_AFTER) == Err(RecvTimeoutError::Timeout) {
                if let Err(error) = own_db.write(|tx| renew(tx, &own_name)) {
                    log::warn!(
                        "cannot renew the lease of the backup: {error}; retrying in {} s",
                        RENEW_AFTER.as_secs()
                    );
                }
            }
        };
        let renewing = thread::Builder::new().name("lease".to_owned()).spawn(run);
        let renewing =
            renewing.map_err(|error| Error::Refused(format!("cannot start a thread: {error}")))?;
        Ok(Self {
            stop: Some(stop),
            renewing: Some(renewing),
            db: db.clone(),
            name,
        })
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(renewing) = self.renewing.take() {
            // The thread has logged its problems.
            let _ = renewing.join();
        }
        // If this fails, the lease ends by itself.
        let _ = self.db.write(|tx| leases::end_singleton(tx, &self.name));
    }
}

fn renew(tx: &mut Tx<'_>, name: &str) -> Result<(), db::Error> {
    let now = tx.now()?;
    leases::singleton(tx, name, name, now, now + LEASE_MS).map(drop)
}
