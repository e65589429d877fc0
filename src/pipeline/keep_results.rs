//! Brings what sbuild built into the file cache.

use std::cell::Cell;
use std::io::{self, Read};

use crate::filecache::{self, Rules, Store};
use crate::metrics::metrics;
use crate::protocol::{FileName, Sha1Hex};

use super::journal::{JournalEntry, pinned};
use super::spec::Spec;
use super::verify_results::verify;

/// Why nothing was gathered, by whose fault.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("aborted")]
    Aborted,
    #[error("{0}")]
    Package(String),
    #[error("{0}")]
    Builder(String),
}

/// A reader that gives up when an abort has come.
struct Abortable<'a> {
    inner: &'a mut dyn Read,
    aborted: &'a mut dyn FnMut() -> bool,
}

impl Read for Abortable<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if (self.aborted)() {
            return Err(io::Error::other("aborted"));
        }
        self.inner.read(buffer)
    }
}

/// What the cache keeps to: the daemon's bounds, and its pins, which are all in the journal.
fn rules(spec: &Spec, entry: &JournalEntry) -> Rules {
    let (noting, journal) = (entry.clone(), entry.journal().to_owned());
    Rules {
        limit: spec.settings.space.cache,
        reserve: spec.settings.space.reserve,
        pinned: Box::new(move || pinned(&journal)),
        before_naming: Box::new(move |sum| noting.record_result(sum)),
    }
}

/// Puts the `.changes` of the build and all it names into the cache; on any error nothing that
/// is new there stays.
pub(crate) fn keep(
    spec: &Spec,
    entry: &JournalEntry,
    aborted: &mut dyn FnMut() -> bool,
) -> Result<Vec<(FileName, Sha1Hex)>, Error> {
    let dsc = spec.request.dsc().to_string();
    let stem = dsc.strip_suffix(".dsc").unwrap_or(&dsc);
    let changes = FileName::parse(&format!("{stem}_{}.changes", spec.arch()))
        .map_err(|error| Error::Package(error.to_string()))?;
    let cache = Store::open(&spec.settings.filecache, rules(spec, entry))
        .map_err(|error| Error::Builder(error.to_string()))?;
    let mut stored = Vec::new();
    let builder_error = Cell::new(None);
    let max_bytes = spec.settings.result_bytes;
    let result = verify(
        &spec.work_tree(),
        &changes,
        max_bytes,
        &mut |_, reader, size| {
            let mut reader = Abortable {
                inner: reader,
                aborted,
            };
            let known = |sum: &Sha1Hex| spec.request.files.iter().any(|(_, input)| input == sum);
            match cache.put(&mut reader, Some(size), None) {
                Ok(sum) => {
                    if !known(&sum) {
                        stored.push(sum.clone());
                    }
                    Ok(sum)
                }
                Err(filecache::Error::Source(error)) => Err(error),
                Err(error) => {
                    let reason = error.to_string();
                    builder_error.set(Some(reason.clone()));
                    Err(io::Error::other(reason))
                }
            }
        },
    );
    let evicted = metrics().evictions.with_label_values(&["filecache"]).get();
    if evicted > 0 {
        // This process shows its numbers to nobody; the daemon will.
        let _ = entry.record_evictions(evicted);
    }
    result.map_err(|error| {
        for sum in &stored {
            // What cannot be removed stays unnamed in the cache, which does no harm.
            let _ = cache.remove(sum);
        }
        match builder_error.take() {
            _ if aborted() => Error::Aborted,
            Some(reason) => Error::Builder(reason),
            None => Error::Package(error.to_string()),
        }
    })
}
