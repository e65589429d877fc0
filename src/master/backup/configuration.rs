//! The configuration file in a backup: with its passwords only in `keys/`.

use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use std::io::Write as _;

use super::Error;
use crate::master::rows::backup::without_password;
use crate::sys::fs::Error as FileError;

const NAME: &str = "buildd-slave.conf";

/// Copies the configuration file, if there is one; returns whether passwords were left out.
pub(super) fn copy(config: &Path, backup: &Path, with_keys: bool) -> Result<bool, Error> {
    if !config.exists() {
        return Ok(false);
    }
    let text = fs::read_to_string(config).map_err(FileError::at("read", config))?;
    let public = without_passwords(&text);
    write_private(&backup.join("conf"), NAME, public.as_bytes())?;
    if with_keys {
        write_private(&backup.join("keys"), NAME, text.as_bytes())?;
    }
    Ok(public != text && !with_keys)
}

/// Creates a file of mode 0600 in a folder of mode 0700, which may exist.
pub(super) fn write_private(folder: &Path, name: &str, bytes: &[u8]) -> Result<(), Error> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder
        .create(folder)
        .map_err(FileError::at("create", folder))?;
    let path = folder.join(name);
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let written = options
        .open(&path)
        .and_then(|mut file| file.write_all(bytes));
    Ok(written.map_err(FileError::at("write", &path))?)
}

/// Comments out the keys `password`, with the lines that continue them, and removes passwords from
/// URLs.
fn without_passwords(text: &str) -> String {
    let mut kept = String::new();
    let mut is_continued = false;
    for line in text.split_inclusive('\n') {
        let key = line.split(['=', ':']).next().unwrap_or_default();
        let key = key.trim_matches(['#', ';', ' ', '\t', '\u{feff}']);
        is_continued &= line.starts_with([' ', '\t']);
        if is_continued {
            continue;
        }
        is_continued = key.eq_ignore_ascii_case("password");
        match is_continued {
            true => kept.push_str("#password = (left out of the backup)\n"),
            false => kept.push_str(&without_password(line)),
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_left_out_wherever_they_are() {
        let text = "[slave]\nusername = farm\nPassword: hush\n  hush2\nhome = /srv\n\
                    #password = old\n[database]\nurl = postgresql://farm:hu@db/farm\n\
                    [proxy]\napt = http://u:sh@proxy:3128/\n";
        let kept = without_passwords(text);
        for secret in ["hush", "old", "hu@", "sh@"] {
            assert!(!kept.contains(secret), "{secret}: {kept}");
        }
        for line in [
            "username = farm",
            "home = /srv",
            "postgresql://farm@db/farm",
            "http://u@proxy:3128/",
        ] {
            assert!(kept.contains(line), "{line}: {kept}");
        }
    }
}
