//! Makes a backup: lease, database, lists, files, sync, rename.

use std::fs;
use std::path::PathBuf;

use chrono::DateTime;
use serde::{Deserialize, Serialize};

use super::database::{self, Facts, LEAVES, Results};
use super::folder::{Backups, FILES, Incomplete};
use super::lease::Lease;
use super::list::{Reader, Writer};
use super::manifest::{BLOBS, FORMAT, KEYS, MANIFEST, Manifest, PROBLEMS, RESULTS};
use super::progress::Progress;
use super::store::{Put, Store};
use super::{Error, configuration, prune, results, sums};
use crate::config::Farm;
use crate::db::Db;
use crate::librarian::{BlobFolder, NamedBlob};
use crate::master::rows::backup::Key;
use crate::sys::fs::{Error as FileError, sync_file_system};

/// The farm to back up, and how.
pub(crate) struct Plan<'a> {
    pub(crate) farm: &'a Farm,
    pub(crate) db: &'a Db,
    /// The name of this host in the farm.
    pub(crate) host: String,
    pub(crate) config: PathBuf,
    pub(crate) with_keys: bool,
    pub(crate) with_files: bool,
    /// How many backups stay; `None` keeps all.
    pub(crate) keep: Option<usize>,
}

/// A complete backup.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) name: String,
    pub(crate) manifest: Manifest,
    pub(crate) copied: Copied,
    pub(crate) removed: prune::Removed,
    /// A sentence for each of the first problems.
    pub(crate) problems: Vec<String>,
}

/// The numbers of files by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Copied {
    pub(crate) kept: u64,
    pub(crate) linked: u64,
    pub(crate) copied: u64,
}

/// A file that the farm itself lacks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Problem {
    /// Empty for results.
    pub(super) sha256: String,
    pub(super) sentence: String,
}

/// Sentences that are printed.
const SHOWN: usize = 20;
/// Things that an operator has to keep by other means.
const NEVER: [&str; 2] = [
    "programs of [master] uploader, notify and reset_command, with their own keys",
    "results on other hosts than this one, and files of slaves",
];

/// Makes a backup while the farm runs.
pub(crate) fn create(backups: &Backups, plan: &Plan<'_>) -> Result<Made, Error> {
    let lease = Lease::take(plan.db, &plan.host)?;
    let incomplete = backups.begin()?;
    let mut progress = Progress::new();
    let folder = &plan.farm.master.results;
    let hosts = results::hosts(folder, &plan.host);
    let of = Results {
        folder,
        hosts: &hosts,
    };
    let facts = database::dump(plan.db, &incomplete.path, &of, &mut progress)?;
    let store = match plan.with_files {
        true => {
            let root = backups.path().join(FILES);
            Some(Store::create(root, incomplete.is_after_crash)?)
        }
        false => None,
    };
    let mut files = Files {
        plan,
        backup: &incomplete,
        store: store.as_ref(),
        problems: Writer::create(&incomplete.path.join(PROBLEMS))?,
        shown: Vec::new(),
        copied: Copied::default(),
        progress,
    };
    files.copy_blobs(facts.blobs)?;
    let (count, bytes) = files.copy_results(&facts)?;
    let (copied, problems) = (files.copied, files.shown);
    let found = files.problems.count;
    files.problems.finish()?;
    drop(lease);
    let manifest = write_manifest(plan, &incomplete, &facts, (count, bytes), found)?;
    if let Some(store) = &store {
        store.sync()?;
    }
    sync_file_system(&incomplete.path)?;
    let name = incomplete.complete()?;
    let removed = match plan.keep {
        Some(keep) => prune::prune(backups, keep).map_err(|error| {
            Error::Refused(format!(
                "the backup {name} is complete, but older ones cannot be removed: {error}"
            ))
        })?,
        None => prune::Removed::default(),
    };
    Ok(Made {
        name,
        manifest,
        copied,
        removed,
        problems,
    })
}

/// The files of one backup.
struct Files<'a> {
    plan: &'a Plan<'a>,
    backup: &'a Incomplete<'a>,
    /// `None`: only the lists are wanted.
    store: Option<&'a Store>,
    problems: Writer,
    shown: Vec<String>,
    copied: Copied,
    progress: Progress,
}

impl Files<'_> {
    fn copy_blobs(&mut self, all: u64) -> Result<(), Error> {
        let Some(store) = self.store else {
            return Ok(());
        };
        let root = &self.plan.farm.librarian.root;
        let blobs = BlobFolder::open(root, self.plan.farm.limits.reserve)?;
        let list = Reader::<NamedBlob>::open(&self.backup.path.join(BLOBS))?;
        for (done, blob) in (1..).zip(list) {
            let blob = blob?;
            self.progress.show("files", done, Some(all));
            if store.has(&blob.sha256, blob.size)? {
                self.copied.kept += 1;
                continue;
            }
            let path = blobs.path(&blob.sha256);
            let put = match blobs.find(&blob.sha256)? {
                None => None,
                Some((_, size)) if size != blob.size => Some(Put::Damaged),
                Some((file, _)) => Some(store.put(file, &path, &blob.sha256, Some(&path))?),
            };
            match put {
                Some(Put::Linked) => self.copied.linked += 1,
                Some(Put::Copied) => self.copied.copied += 1,
                Some(Put::Damaged) => {
                    let what = format!("damaged in the librarian: {}", path.display());
                    self.problem(&blob, &what)?;
                }
                None => {
                    let what = format!("missing in the librarian: {}", path.display());
                    self.problem(&blob, &what)?;
                }
            }
        }
        Ok(())
    }

    fn problem(&mut self, blob: &NamedBlob, what: &str) -> Result<(), Error> {
        let sentence = format!("{what} ({})", blob.name);
        self.note(Problem {
            sha256: blob.sha256.clone(),
            sentence,
        })
    }

    fn note(&mut self, problem: Problem) -> Result<(), Error> {
        self.problems.add(&problem)?;
        if self.shown.len() < SHOWN {
            self.shown.push(problem.sentence);
        }
        Ok(())
    }

    /// Returns the numbers of files and bytes.
    fn copy_results(&mut self, facts: &Facts) -> Result<(u64, u64), Error> {
        let leaves = self.backup.path.join(LEAVES);
        let folder = &self.plan.farm.master.results;
        let mut list = Writer::create(&self.backup.path.join(RESULTS))?;
        let progress = &mut self.progress;
        let show = |done| progress.show("results", done, None);
        let bytes = results::copy(Reader::open(&leaves)?, folder, self.store, &mut list, show)?;
        let count = list.count;
        list.finish()?;
        fs::remove_file(&leaves).map_err(FileError::at("remove", &leaves))?;
        for (build, leaf) in &facts.waiting {
            let path = folder.join("incoming").join(leaf);
            if !path.exists() {
                self.note(Problem {
                    sha256: String::new(),
                    sentence: format!(
                        "the results of build {build} are no longer in {}: the uploader took them \
                         during the backup, or they were lost before",
                        path.display()
                    ),
                })?;
            }
        }
        Ok((count, bytes))
    }
}

/// Writes configuration, keys, manifest and sums.
fn write_manifest(
    plan: &Plan<'_>,
    incomplete: &Incomplete<'_>,
    facts: &Facts,
    (results, result_bytes): (u64, u64),
    problems: u64,
) -> Result<Manifest, Error> {
    let backup = &incomplete.path;
    let left_out = configuration::copy(&plan.config, backup, plan.with_keys)?;
    let mut without_keys = Vec::new();
    if plan.with_keys {
        let text = serde_json::json!(facts.keys).to_string();
        let name = KEYS.trim_start_matches("keys/");
        configuration::write_private(&backup.join("keys"), name, text.as_bytes())?;
    } else {
        without_keys.extend(facts.keys.iter().map(missing_key));
        if left_out {
            let config = plan.config.display();
            without_keys.push(format!("the passwords in {config}: write them there"));
        }
    }
    let time = DateTime::from_timestamp_millis(facts.time).unwrap_or_default();
    let counts = facts.counts.iter();
    let manifest = Manifest {
        format: FORMAT,
        program: env!("CARGO_PKG_VERSION").to_owned(),
        schema: facts.schema,
        engine: facts.engine,
        time: time.format("%Y-%m-%dT%H:%M:%SZ").to_string(),
        host: plan.host.clone(),
        has_files: plan.with_files,
        blobs: facts.blobs,
        blob_bytes: facts.blob_bytes,
        results,
        result_bytes,
        problems,
        counts: counts
            .map(|(name, count)| ((*name).to_owned(), *count))
            .collect(),
        has_keys: plan.with_keys,
        without_keys,
        never: NEVER.map(str::to_owned).to_vec(),
    };
    let text = serde_json::to_string_pretty(&manifest)
        .map_err(|error| Error::Refused(format!("{MANIFEST}: {error}")))?;
    configuration::write_private(backup, MANIFEST, text.as_bytes())?;
    sums::write(backup)?;
    Ok(manifest)
}

/// Returns what to do about a password that a backup without keys lacks.
fn missing_key(key: &Key) -> String {
    match key {
        Key::Archive { name, .. } => format!(
            "the password of the archive {name}: `master archive set {name} --secret-file FILE`"
        ),
        Key::Builder { name, .. } => format!(
            "the password of the builder {name}: `master builder remove {name}`, then `master \
             builder add {name} URL` with the password in the URL"
        ),
    }
}
