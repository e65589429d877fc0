//! Stores the results of a build in the file cache.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, Read};

use crate::dpkg::dsc;
use crate::dpkg::expected::Expected;
use crate::filecache::{self, Rules, Store};
use crate::metrics::metrics;
use crate::protocol::{FileName, Sha1Hex};

use super::journal::{JournalEntry, pinned};
use super::spec::Spec;
use super::verify_results::verify;

/// Why no results were kept, and whose fault it is.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("aborted")]
    Aborted,
    #[error("{0}")]
    Package(String),
    #[error("{0}")]
    Builder(String),
}

/// A reader that fails after an abort request.
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

/// Returns the rules of the cache: the daemon's limits, and its pins, which are all in the journal.
fn rules(spec: &Spec, entry: &JournalEntry) -> Rules {
    let (recorder, journal) = (entry.clone(), entry.journal().to_owned());
    Rules {
        limit: spec.settings.space.cache,
        reserve: spec.settings.space.reserve,
        pinned: Box::new(move || pinned(&journal)),
        before_naming: Box::new(move |sha1| recorder.record_result(sha1)),
    }
}

/// Returns what the results must say that they are. The .dsc is read from the cache, which the
/// package cannot change.
fn expected(spec: &Spec) -> Result<Expected, Error> {
    let dsc = spec.request.dsc();
    let named = spec.request.files.iter().find(|(name, _)| name == dsc);
    let sha1 = named.map_or("", |(_, sha1)| sha1.as_str());
    let path = spec.settings.filecache.join(sha1);
    let mut text = Vec::new();
    let read = File::open(&path).and_then(|file| file.take(dsc::MAX_BYTES).read_to_end(&mut text));
    read.map_err(|error| Error::Builder(format!("{}: {error}", path.display())))?;
    let mut expected = Expected::of_dsc(&text, spec.arch(), spec.request.args.arch_indep)
        .map_err(|error| Error::Package(format!("{dsc}: {error}")))?;
    let inputs = spec.request.files.iter();
    expected.inputs = inputs.map(|(name, _)| name.to_string()).collect();
    Ok(expected)
}

/// Stores the `.changes` of the build and all files it lists in the cache. An error removes every
/// file that this call has added.
pub(crate) fn keep(
    spec: &Spec,
    entry: &JournalEntry,
    aborted: &mut dyn FnMut() -> bool,
) -> Result<Vec<(FileName, Sha1Hex)>, Error> {
    let dsc = spec.request.dsc().to_string();
    let stem = dsc.strip_suffix(".dsc").unwrap_or(&dsc);
    let changes = FileName::parse(&format!("{stem}_{}.changes", spec.arch()))
        .map_err(|error| Error::Package(error.to_string()))?;
    let expected = expected(spec)?;
    let cache = Store::open(&spec.settings.filecache, rules(spec, entry))
        .map_err(|error| Error::Builder(error.to_string()))?;
    let mut stored = Vec::new();
    let builder_error = Cell::new(None);
    let max_bytes = spec.settings.result_bytes;
    let result = verify(
        &spec.work_tree(),
        &changes,
        &expected,
        max_bytes,
        &mut |_, reader, size| {
            let mut reader = Abortable {
                inner: reader,
                aborted,
            };
            let is_input =
                |sha1: &Sha1Hex| spec.request.files.iter().any(|(_, input)| input == sha1);
            match cache.put(&mut reader, Some(size), None) {
                Ok(sha1) => {
                    if !is_input(&sha1) {
                        stored.push(sha1.clone());
                    }
                    Ok(sha1)
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
        // Only the daemon serves metrics; it reads the count from the journal.
        let _ = entry.record_evictions(evicted);
    }
    result.map_err(|error| {
        for sha1 in &stored {
            // A file that cannot be removed stays in the cache, which does no harm.
            let _ = cache.remove(sha1);
        }
        match builder_error.take() {
            _ if aborted() => Error::Aborted,
            Some(reason) => Error::Builder(reason),
            None => Error::Package(error.to_string()),
        }
    })
}
