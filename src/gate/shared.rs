//! The state that the threads of one gate share.

use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex, RwLock};

use super::cache::{Cache, Incoming};
use super::journal::{Fetched, Journal};
use super::known::{Expected, Known};
use super::refusal::Refusal;
use super::rules::Rules;
use super::settings::Settings;
use super::sockets::Sockets;
use crate::sys::lock::lock;

pub(super) struct Shared {
    pub(super) rules: RwLock<Rules>,
    pub(super) known: Mutex<Known>,
    pub(super) journal: Mutex<Journal>,
    pub(super) sockets: Arc<Sockets>,
    pub(super) cache: Option<Cache>,
    pub(super) settings: Settings,
}

impl Shared {
    /// Opens the cache. Without a cache that works, the gate still serves.
    pub(super) fn new(rules: Rules, settings: Settings) -> Self {
        let cache = settings.cache.clone().and_then(|cache| {
            Cache::open(cache)
                .inspect_err(|error| {
                    log::warn!("archive files are not cached: {error}");
                })
                .ok()
        });
        let shared = Self {
            rules: RwLock::new(rules),
            known: Mutex::default(),
            journal: Mutex::default(),
            sockets: Arc::default(),
            cache,
            settings,
        };
        shared.change_rules(|_| {});
        shared
    }

    /// Changes the rules, and notes the sources that they cannot serve.
    pub(super) fn change_rules(&self, change: impl FnOnce(&mut Rules)) {
        let unusable = {
            let mut rules = self
                .rules
                .write()
                .unwrap_or_else(|poisoned| poisoned.into_inner());
            change(&mut rules);
            rules.take_unusable()
        };
        let mut journal = lock(&self.journal);
        unusable
            .into_iter()
            .for_each(|sentence| journal.note_refused(sentence));
    }

    /// Asks the rules.
    pub(super) fn ask<T>(&self, question: impl FnOnce(&Rules) -> T) -> T {
        question(
            &self
                .rules
                .read()
                .unwrap_or_else(|poisoned| poisoned.into_inner()),
        )
    }

    pub(super) fn add(&self, fetched: Fetched) {
        lock(&self.journal).add(fetched);
    }

    pub(super) fn note(&self, refusal: &Refusal) {
        lock(&self.journal).note(refusal);
    }

    /// Returns whether the cache may serve a file. Not if it may be one of several.
    pub(super) fn has_cached(&self, expected: &[Expected]) -> bool {
        match (&self.cache, expected) {
            (Some(cache), [one]) => cache.has(one.sha256),
            _ => false,
        }
    }

    /// Opens a cached file after checking it.
    pub(super) fn open_cached(&self, expected: &[Expected]) -> Option<(File, u64)> {
        match (&self.cache, expected) {
            (Some(cache), [one]) => cache.open_checked(one),
            _ => None,
        }
    }

    /// Begins to store a file of the stated length.
    pub(super) fn begin_storing(
        &self,
        expected: &[Expected],
        stated: Option<u64>,
    ) -> Option<Incoming<'_>> {
        let bytes = stated.or_else(|| expected.first()?.bytes)?;
        let fits = |one: &Expected| one.bytes.is_none_or(|own| own == bytes);
        let cache = self.cache.as_ref()?;
        expected
            .iter()
            .any(fits)
            .then(|| cache.receive(bytes, expected))?
    }

    /// Returns the refusal of a closed gate.
    pub(super) fn check_open(&self, what: &str) -> Result<(), Refusal> {
        if self.sockets.is_closed() {
            let sentence =
                format!("The gate refused {what}: the build has begun, without network.");
            return Err(Refusal::forbidden(
                "the build has begun: no network",
                sentence,
            ));
        }
        Ok(())
    }
}

/// Describes why a transfer broke off.
pub(super) fn broken(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::TimedOut => "no byte arrived in time".to_owned(),
        io::ErrorKind::UnexpectedEof => "the connection was closed".to_owned(),
        _ => error.to_string(),
    }
}
