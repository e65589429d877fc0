//! Backups of farms, and what a test does with them.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde_json::{Value as Json, json};

use super::farm::Farm;
use crate::support::sha1;

/// The folder of the backups of a farm.
pub(crate) fn folder(farm: &Farm) -> PathBuf {
    farm.path("home/backups")
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// Runs `master backup`; returns its exit code and all it printed.
pub(crate) fn back_up(farm: &Farm, more: &[&str]) -> (Option<i32>, String) {
    let dir = text(&folder(farm));
    farm.run(&[&["master", "backup", &dir], more].concat())
}

/// Runs a backup that must succeed; returns its folder.
pub(crate) fn backed_up(farm: &Farm, more: &[&str]) -> PathBuf {
    let (code, said) = back_up(farm, more);
    assert_eq!(code, Some(0), "{said}");
    newest(farm)
}

/// The folder of the newest complete backup.
pub(crate) fn newest(farm: &Farm) -> PathBuf {
    let names = farm.names("home/backups");
    let complete = names.iter().filter(|name| name.ends_with('Z'));
    folder(farm).join(complete.max().expect("a complete backup"))
}

/// The manifest of the newest backup.
pub(crate) fn manifest(farm: &Farm) -> Json {
    serde_json::from_slice(&fs::read(newest(farm).join("manifest.json")).unwrap()).unwrap()
}

/// Runs `master restore` of the backups of `of` at the farm `at`.
pub(crate) fn restore(at: &Farm, of: &Farm, more: &[&str]) -> (Option<i32>, String) {
    let dir = text(&folder(of));
    at.run(&[&["master", "restore", &dir], more].concat())
}

/// Checks the newest backup of a farm.
pub(crate) fn verify(farm: &Farm) -> (Option<i32>, String) {
    restore(farm, farm, &["--verify"])
}

/// The path of the file with this content among the files of the backups.
pub(crate) fn stored(farm: &Farm, sha256: &str) -> PathBuf {
    folder(farm).join("files").join(&sha256[..2]).join(sha256)
}

/// Uploads a file to the librarian of a farm.
pub(crate) fn upload(farm: &Farm, name: &str, bytes: &[u8]) -> i64 {
    let path = farm.path("home").join(name);
    fs::File::create(&path).unwrap().write_all(bytes).unwrap();
    let said = farm.ok(&["librarian", "add", "--expires", "never", &text(&path)]);
    fs::remove_file(path).unwrap();
    let id = said.split(' ').next().unwrap();
    id.parse().unwrap_or_else(|_| panic!("{said}"))
}

/// Fetches every file that a database row names from the librarian; returns their number.
pub(crate) fn fetch_all(farm: &Farm) -> usize {
    let files = farm.db.rows(
        "SELECT a.id, a.filename, c.sha1 FROM library_alias a
         JOIN library_content c ON c.id = a.content_id WHERE c.sha256 <> '' ORDER BY a.id",
    );
    for file in &files {
        let (id, name) = (file[0].as_i64().unwrap(), file[1].as_str().unwrap());
        let answer = farm.library(&format!("/{id}/{}", name.replace(' ', "%20")));
        assert_eq!(answer.status, 200, "{file}");
        assert_eq!(json!(sha1(&answer.body)), file[2], "{file}");
    }
    files.len()
}
