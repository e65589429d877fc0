//! Writes the manual pages and the shell completions: `buildd-slave internal manual DIR`.
//!
//! The pages of the commands have the same source as `--help`, that of the configuration has the
//! comments of the shipped `buildd-slave.conf`. A package runs the command when it is built.

mod command;
mod completions;
mod configuration;
mod prose;
mod visible;

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::Path;

use chrono::DateTime;

use crate::cli;

const NAME: &str = "buildd-slave";
const CONFIGURATION: &str = include_str!("../../buildd-slave.conf");
/// Names the date of the pages, in seconds since 1970, so that a package is reproducible.
const DATE: &str = "SOURCE_DATE_EPOCH";

/// Writes all files below the folder that `args` name, and creates the folders.
pub(crate) fn run(args: &[OsString]) -> io::Result<()> {
    let [folder] = args else {
        return Err(io::Error::other("give one argument, the folder to write"));
    };
    let folder = Path::new(folder);
    let date = date(env::var_os(DATE))?;
    for page in command::pages(cli::command(), &date) {
        write(&folder.join("man1").join(page.file), &page.text)?;
    }
    let page = configuration::page(CONFIGURATION, &date);
    write(&folder.join("man5/buildd-slave.conf.5"), &page)?;
    let command = visible::copy(&cli::command());
    let scripts = folder.join("completions");
    write(
        &scripts.join("bash/buildd-slave"),
        completions::bash(&command),
    )?;
    write(
        &scripts.join("zsh/_buildd-slave"),
        completions::zsh(&command),
    )?;
    write(
        &scripts.join("fish/buildd-slave.fish"),
        completions::fish(&command),
    )?;
    Ok(())
}

/// Returns the day that `epoch` names; an empty text if it is not set.
fn date(epoch: Option<OsString>) -> io::Result<String> {
    let Some(epoch) = epoch else {
        return Ok(String::new());
    };
    let seconds = epoch.to_str().and_then(|text| text.parse().ok());
    let time = seconds.and_then(|seconds| DateTime::from_timestamp(seconds, 0));
    let time = time.ok_or_else(|| {
        io::Error::other(format!(
            "${DATE} is {epoch:?}; set it to seconds since 1970, or unset it"
        ))
    })?;
    Ok(time.format("%Y-%m-%d").to_string())
}

fn write(file: &Path, content: impl AsRef<[u8]>) -> io::Result<()> {
    let folder = file.parent().unwrap_or(file);
    fs::create_dir_all(folder)
        .and_then(|()| fs::write(file, content))
        .map_err(|error| {
            let problem = format!("cannot write {}: {error}", file.display());
            io::Error::new(error.kind(), problem)
        })
}

#[cfg(test)]
mod tests {
    use super::date;

    #[test]
    fn the_date_is_that_of_the_environment() {
        assert_eq!(date(None).unwrap(), "");
        assert_eq!(date(Some("1795772443".into())).unwrap(), "2026-11-27");
        for wrong in ["", "today", "99999999999999999"] {
            let error = date(Some(wrong.into())).unwrap_err().to_string();
            assert!(error.contains("SOURCE_DATE_EPOCH"), "{error}");
        }
    }
}
