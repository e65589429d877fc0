//! Restores a backup into an empty farm: files first, the database last.
//!
//! The database makes the farm. Until it is complete, a restore can be repeated; files that are in
//! place with the right sum stay.

use std::fs::{self, File};
use std::path::Path;

use super::database::{self, Load};
use super::folder::FILES;
use super::list::Reader;
use super::manifest::{BLOBS, Engine, KEYS, Manifest, RESULTS};
use super::progress::Progress;
use super::results::ResultFile;
use super::store::{Store, read};
use super::verify::known_problems;
use super::{Error, sums};
use crate::config::Farm;
use crate::db::{self, Content, Db};
use crate::librarian::{BlobFolder, NamedBlob};
use crate::master::rows::{backup as rows, registry};
use crate::sys::digest::hashes_of;
use crate::sys::fs::{Error as FileError, TempFile, make_private, remove_tree, sync_file_system};

/// A master whose last heartbeat is older than this, in milliseconds, is not running.
const MASTER_TIMEOUT_MS: i64 = 60_000;

/// The farm to restore into.
pub(crate) struct Target<'a> {
    pub(crate) farm: &'a Farm,
    /// The name of this host in the farm.
    pub(crate) host: String,
}

/// The outcome of a restore.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Restored {
    /// Files that were put in place, and files that were there.
    pub(crate) placed: u64,
    pub(crate) present: u64,
    /// Files that are damaged or missing in the backup.
    pub(crate) wrong: u64,
    /// Files that the farm itself lacked when the backup was made.
    pub(crate) known: u64,
    /// The database was restored from this backup before.
    pub(crate) was_restored: bool,
    /// The steps that the operator has to do.
    pub(crate) next: Vec<String>,
}

/// Restores a backup; `tell` gets a sentence for each file that cannot be restored.
pub(crate) fn restore(
    backup: &Path,
    manifest: &Manifest,
    target: &Target<'_>,
    tell: &mut dyn FnMut(&str) -> Result<(), Error>,
) -> Result<Restored, Error> {
    let url = target.farm.database.url.expose();
    let db = Db::unopened(url)?;
    check_engine(&db, manifest)?;
    check_sums(backup)?;
    let note = note(backup, manifest);
    let was_restored = check_target(&db, manifest, &note)?;
    let mut files = Files {
        store: Store::open(backup.parent().unwrap_or(backup).join(FILES)),
        has_files: manifest.has_files,
        known: known_problems(backup, &[])?,
        done: Restored {
            was_restored,
            ..Restored::default()
        },
        progress: Progress::new(),
        tell,
    };
    let root = &target.farm.librarian.root;
    let blobs = BlobFolder::open(root, target.farm.limits.reserve)?;
    files.blobs(&blobs, backup, manifest.blobs)?;
    files.results(&target.farm.master.results, backup)?;
    let mut done = files.done;
    sync_file_system(root)?;
    if !was_restored {
        load(&db, url, backup, manifest, &note, root)?;
    }
    done.next = next(backup, manifest, target, &done);
    Ok(done)
}

/// The text by which a restored database is recognized.
fn note(backup: &Path, manifest: &Manifest) -> String {
    let name = backup.file_name().unwrap_or_default().to_string_lossy();
    format!("from the backup {name} of {}", manifest.host)
}

fn load(
    db: &Db,
    url: &str,
    backup: &Path,
    manifest: &Manifest,
    note: &str,
    root: &Path,
) -> Result<(), Error> {
    let near = db.sqlite_folder().filter(|dir| !dir.as_os_str().is_empty());
    let scratch = near.unwrap_or(root).join(".restoring-database");
    remove_tree(&scratch)?;
    make_private(&scratch)?;
    let what = Load {
        backup,
        schema: manifest.schema,
        note,
        scratch: &scratch,
    };
    let loaded = database::load(db, url, &what);
    remove_tree(&scratch)?;
    loaded
}

fn check_engine(db: &Db, manifest: &Manifest) -> Result<(), Error> {
    let own = match db.engine() {
        db::Engine::Sqlite => Engine::Sqlite,
        db::Engine::Postgres => Engine::Postgresql,
    };
    if own != manifest.engine {
        let (own, of) = (own.name(), manifest.engine.name());
        return Err(Error::Refused(format!(
            "the backup is of {of}, and [database] url names {own}: set it to an empty database of \
             {of}"
        )));
    }
    let (found, known) = (manifest.schema, Db::known_schema());
    if found > known {
        let program = &manifest.program;
        return Err(Error::Refused(format!(
            "the backup is of a newer buildd-slave ({program}, schema {found}; this one knows \
             {known}): upgrade this program"
        )));
    }
    Ok(())
}

/// Refuses a backup whose own files are damaged: they are the database and the lists.
fn check_sums(backup: &Path) -> Result<(), Error> {
    let damaged = sums::check(backup)?;
    if damaged.is_empty() {
        return Ok(());
    }
    let all = damaged.join("\n");
    Err(Error::Refused(format!(
        "{all}\nnothing is restored: choose another backup with --backup NAME"
    )))
}

/// Refuses a database in use. Returns whether it was restored from this backup, and nothing has
/// happened since.
fn check_target(db: &Db, manifest: &Manifest, note: &str) -> Result<bool, Error> {
    let content = db.content()?;
    let refuse = |why: String| Err(Error::Refused(why));
    if matches!(content, Content::Tables | Content::Rows(_)) {
        let is_alive = db.read(|tx| {
            let since = tx.now()? - MASTER_TIMEOUT_MS;
            registry::any_master_is_alive(tx, since)
        })?;
        if is_alive {
            return refuse(
                "a master is running, or was a minute ago: stop all masters and librarians, and \
                 restore into an empty database"
                    .to_owned(),
            );
        }
    }
    match content {
        Content::Nothing | Content::Tables | Content::Unfinished => Ok(false),
        Content::Rows(_) if db.read(|tx| rows::is_restored_from(tx, note))? => Ok(true),
        Content::Rows(table) => refuse(format!(
            "the database of [database] url has rows in the table {table}: {}",
            empty_database(manifest.engine)
        )),
        Content::Foreign(table) => refuse(format!(
            "the database of [database] url has the table {table}, which is not of this program: {}",
            empty_database(manifest.engine)
        )),
    }
}

fn empty_database(engine: Engine) -> &'static str {
    match engine {
        Engine::Sqlite => {
            "move the file with its -wal and -shm away, or let [database] url name another file"
        }
        Engine::Postgresql => "make an empty one with `createdb`, and let [database] url name it",
    }
}

/// Returns what the operator has to do after the restore.
fn next(backup: &Path, manifest: &Manifest, target: &Target<'_>, done: &Restored) -> Vec<String> {
    let mut next = vec![
        "let no master of the old farm run any more: both would use the same builders".to_owned(),
        format!(
            "compare {} with this host's configuration",
            backup.join("conf").display()
        ),
    ];
    if manifest.host != target.host && manifest.results > 0 {
        next.push(format!(
            "set `host = {}` in [master], so that this host's results count as its own",
            manifest.host
        ));
    }
    if backup.join(KEYS).exists() {
        next.push(format!(
            "take the passwords of the configuration from {}",
            backup.join("keys").display()
        ));
    }
    next.extend(manifest.without_keys.iter().map(|key| format!("set {key}")));
    if done.wrong > 0 {
        next.push("put the missing files in place, and run this command again".to_owned());
    }
    next.extend(
        manifest
            .never
            .iter()
            .map(|what| format!("no backup has: {what}")),
    );
    next
}

struct Files<'a> {
    store: Store,
    /// False: the files must be in place already.
    has_files: bool,
    known: std::collections::HashSet<String>,
    done: Restored,
    progress: Progress,
    tell: &'a mut dyn FnMut(&str) -> Result<(), Error>,
}

impl Files<'_> {
    fn blobs(&mut self, blobs: &BlobFolder, backup: &Path, all: u64) -> Result<(), Error> {
        for (count, blob) in (1..).zip(Reader::<NamedBlob>::open(&backup.join(BLOBS))?) {
            let blob = blob?;
            self.progress.show("files", count, Some(all));
            if is_in_place(blobs, &blob)? {
                self.done.present += 1;
                continue;
            }
            let Some(mut file) = self.find(&blob.sha256, &blob.name)? else {
                continue;
            };
            let path = self.store.path(&blob.sha256);
            let is_whole = file.metadata().is_ok_and(|found| found.len() == blob.size);
            let is_placed = is_whole
                && blobs.put(&blob.sha256, blob.size, |write| {
                    read(&mut file, &path, &mut |piece| Ok(write(piece)?)).map(drop)
                })?;
            self.count(is_placed, &path, &blob.name)?;
        }
        Ok(())
    }

    fn results(&mut self, results: &Path, backup: &Path) -> Result<(), Error> {
        let incoming = results.join("incoming");
        for file in Reader::<ResultFile>::open(&backup.join(RESULTS))? {
            let file = file?;
            let name = format!("results {}/{}", file.leaf, file.path);
            let Some(relative) = file.relative() else {
                self.wrong(&format!("refused: {name} leads out of its folder"))?;
                continue;
            };
            let to = incoming.join(relative);
            if hashes_of(&to).is_ok_and(|found| found.sha256 == file.sha256) {
                self.done.present += 1;
                continue;
            }
            let Some(mut from) = self.find(&file.sha256, &name)? else {
                continue;
            };
            let path = self.store.path(&file.sha256);
            let is_placed = place(&mut from, &path, &to, &file)?;
            self.count(is_placed, &path, &name)?;
        }
        if incoming.exists() {
            sync_file_system(&incoming)?;
        }
        Ok(())
    }

    /// Opens a file of the backup; `None` if it is missing, which is told.
    fn find(&mut self, sha256: &str, name: &str) -> Result<Option<File>, Error> {
        let path = self.store.path(sha256);
        if self.known.contains(sha256) {
            self.done.known += 1;
            return Ok(None);
        }
        let found = match self.has_files {
            true => self.store.find(sha256)?,
            false => None,
        };
        if found.is_none() {
            self.wrong(&match self.has_files {
                true => format!("missing: {} ({name})", path.display()),
                false => format!("missing: {sha256} ({name}); the backup has no files"),
            })?;
        }
        Ok(found)
    }

    fn count(&mut self, is_placed: bool, path: &Path, name: &str) -> Result<(), Error> {
        if is_placed {
            self.done.placed += 1;
            return Ok(());
        }
        self.wrong(&format!("damaged: {} ({name})", path.display()))
    }

    fn wrong(&mut self, sentence: &str) -> Result<(), Error> {
        self.done.wrong += 1;
        (self.tell)(sentence)
    }
}

/// Returns whether the librarian has the blob with the right sum.
fn is_in_place(blobs: &BlobFolder, blob: &NamedBlob) -> Result<bool, Error> {
    match blobs.find(&blob.sha256)? {
        Some((mut file, size)) if size == blob.size => {
            let path = blobs.path(&blob.sha256);
            Ok(read(&mut file, &path, &mut |_| Ok(()))? == blob.sha256)
        }
        _ => Ok(false),
    }
}

/// Copies a file of results; false if its bytes have another sum.
fn place(from: &mut File, path: &Path, to: &Path, file: &ResultFile) -> Result<bool, Error> {
    let folder = to.parent().unwrap_or(to);
    fs::create_dir_all(folder).map_err(FileError::at("create", folder))?;
    let mut temp = TempFile::create(folder)?;
    let sum = read(from, path, &mut |piece| Ok(temp.write_all(piece)?))?;
    if sum != file.sha256 {
        return Ok(false);
    }
    temp.place(to, file.mode)?;
    Ok(true)
}
