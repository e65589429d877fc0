//! Uploads local files to a librarian and downloads files from one.
//!
//! The progress of a large upload is shown on a terminal.

use std::fs::File;
use std::io::{self, IsTerminal as _, Read, Write as _};
use std::path::Path;

use sha1::{Digest as _, Sha1};

use super::remote::{self, Added, Uploader};
use super::{Error, alias_url, name, rows};

use crate::db::Db;
use crate::protocol::Sha1Hex;
use crate::sys::clock;
use crate::sys::digest::hex;

/// Uploads of at least this size show their progress.
const LARGE_BYTES: u64 = 64 << 20;

/// Uploads the file at `path`, under its own name if `name` is `None`. The other arguments are
/// those of [`Uploader::add`].
pub(crate) fn upload(
    uploader: &Uploader,
    path: &Path,
    name: Option<&str>,
    content_type: Option<&str>,
    expires_at: Option<i64>,
    restricted: bool,
) -> Result<Added, Error> {
    let at = |source| Error::File {
        path: path.to_owned(),
        source,
    };
    let own = || path.file_name().and_then(|name| name.to_str());
    let name = name.or_else(own);
    let name = name.filter(|name| name::is_good(name)).ok_or_else(|| {
        at(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the librarian does not accept this file name",
        ))
    })?;
    let mut file = File::open(path).map_err(at)?;
    let about = file.metadata().map_err(at)?;
    if !about.is_file() {
        return Err(at(io::Error::other("not a regular file")));
    }
    let len = about.len();
    let mut source = Progress {
        source: &mut file,
        name,
        done: 0,
        len,
        shown: None,
    };
    let added = uploader.add(name, content_type, expires_at, restricted, &mut source, len);
    source.clear();
    added
}

/// A file of a librarian to download.
pub(crate) struct Download {
    pub(super) url: String,
    pub(super) name: String,
    /// Known only from the database.
    pub(super) sha1: Option<Sha1Hex>,
}

impl Download {
    /// Looks a file up by its number; `base` is `[librarian] url`. Issues a token for a restricted
    /// file.
    pub(crate) fn by_number(db: &Db, base: &str, id: i64) -> Result<Self, Error> {
        let found = db.read(|tx| rows::find(tx, id))?;
        let found = found.ok_or(Error::NoFile(id))?;
        let mut url = alias_url(base, id, &found.name);
        if found.restricted {
            let token = db.write(|tx| rows::issue_token(tx, id, clock::now_ms()))?;
            url = format!("{url}?token={token}");
        }
        Ok(Self {
            url,
            name: found.name,
            sha1: Sha1Hex::parse(&found.sha1).ok(),
        })
    }

    /// Downloads the file, passes each chunk to `write`, and verifies length and hash at the end.
    pub(crate) fn fetch(
        &self,
        write: &mut dyn FnMut(&[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut sha1 = Sha1::new();
        remote::fetch(&self.url, &mut |chunk| {
            sha1.update(chunk);
            write(chunk)
        })?;
        let actual = hex(&sha1.finalize());
        match &self.sha1 {
            Some(expected) if expected.as_str() != actual => Err(Error::Mismatch {
                expected: expected.clone(),
                actual,
            }),
            _ => Ok(()),
        }
    }
}

/// A reader that shows on a terminal how much of a large file has been read.
struct Progress<'a> {
    source: &'a mut dyn Read,
    name: &'a str,
    done: u64,
    len: u64,
    /// Percentage on the terminal.
    shown: Option<u64>,
}

impl Progress<'_> {
    fn draw(&mut self) {
        let percent = self.done.saturating_mul(100) / self.len.max(1);
        if self.len < LARGE_BYTES || self.shown == Some(percent) || !io::stderr().is_terminal() {
            return;
        }
        self.shown = Some(percent);
        let _ = write!(io::stderr(), "\r{}: {percent}% ", self.name);
    }

    fn clear(&mut self) {
        if self.shown.take().is_some() {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

impl Read for Progress<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(buffer)?;
        self.done += count as u64;
        self.draw();
        Ok(count)
    }
}
