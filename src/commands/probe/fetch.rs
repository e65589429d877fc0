//! Downloads one file from a slave's cache and verifies its hash, in constant memory.
//!
//! The output file is created only if the hash matches.

use std::io::Write;
use std::path::Path;

use sha1_smol::Sha1;

use super::Error;
use crate::client::Client;
use crate::protocol::Sha1Hex;
use crate::sys::fs::TempFile;

/// Downloads the file with that SHA-1 to `dest`, or to `out` if `dest` is `None`.
pub(super) fn fetch(
    client: &Client,
    sha1: &Sha1Hex,
    dest: Option<&Path>,
    out: &mut dyn Write,
) -> Result<(), Error> {
    let mut download = client.get(&format!("/filecache/{sha1}"), 0)?;
    let folder = dest
        .and_then(Path::parent)
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or_else(|| Path::new("."));
    let mut file = match dest {
        Some(_) => Some(TempFile::create(folder)?),
        None => None,
    };
    let mut digest = Sha1::new();
    while let Some(chunk) = download.chunk()? {
        digest.update(chunk);
        match &mut file {
            Some(file) => file.write_all(chunk)?,
            None => out.write_all(chunk).map_err(Error::Output)?,
        }
    }
    let actual = digest.digest().to_string();
    if actual != sha1.as_str() {
        return Err(Error::Mismatch {
            expected: sha1.clone(),
            actual,
        });
    }
    if let (Some(file), Some(dest)) = (file, dest) {
        file.persist(dest, 0o644)?;
    }
    Ok(())
}
