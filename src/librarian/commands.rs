//! `buildd-slave librarian`: serve, add, get, gc.
//!
//! `add` and `get` speak HTTP to a librarian that runs; `gc`, and `get` of a number, look into the
//! database themselves. Results go to stdout.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use super::files::{Wanted, upload};
use super::gc::{self, NEVER_MS, Swept};
use super::remote::{Added, Uploader};
use super::{Error, name, serve};
use serde_json::json;

use crate::config::Farm;
use crate::config_file::{self, ConfigOption};
use crate::db::Db;
use crate::privileges;
use crate::sys::clock;
use crate::sys::fs::TempFile;
use crate::sys::user;
use std::process::ExitCode;

const DAY_MS: i64 = 24 * 3600 * 1000;

/// Keep the farm's files: serve, add, get, gc
#[derive(Debug, clap::Args)]
#[command(
    disable_help_subcommand = true,
    after_help = "\
Examples:
  buildd-slave librarian serve
  buildd-slave librarian add chroot-bookworm-amd64.tar.gz
  buildd-slave librarian get http://localhost:8000/17/hello_2.10-3.dsc
  buildd-slave librarian gc --dry-run"
)]
pub(crate) struct Args {
    #[command(flatten)]
    config: ConfigOption,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Serve files, and take uploads, in the foreground
    #[command(after_help = "\
Examples:
  buildd-slave librarian serve
  buildd-slave librarian serve --config ./buildd-slave.conf

Downloads are at [librarian] bindport, http://HOST:8000/NUMBER/NAME; uploads by PUT there, and by
STORE at upload_port. Started as root it becomes [slave] user. SIGTERM stops it.")]
    Serve,
    /// Upload files
    Add(Add),
    /// Download a file
    Get(Get),
    /// Remove what nobody needs any more
    Gc(Gc),
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Prints number, URL and SHA-1 of each file. A file that nothing in the database refers to goes after
a week, unless it has a date to go at.

Examples:
  buildd-slave librarian add hello_2.10-3.dsc hello_2.10.orig.tar.gz
  buildd-slave librarian add --expires never chroot-bookworm-amd64.tar.gz
  buildd-slave librarian add --restricted --json secret_1.dsc")]
struct Add {
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// The content type [default: by the name's ending]
    #[arg(long = "type", value_name = "TYPE")]
    content_type: Option<String>,
    /// Keep it that many days, or `never` let it go
    #[arg(long, value_name = "DAYS", value_parser = read_lifetime)]
    expires: Option<Lifetime>,
    /// Only for who has a token, or may use the restricted port
    #[arg(long)]
    restricted: bool,
    /// Print one JSON object a file
    #[arg(long)]
    json: bool,
}

/// What `--expires` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lifetime {
    Days(i64),
    Never,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
By number it is looked up in the database, which also knows its SHA-1.

Examples:
  buildd-slave librarian get 17
  buildd-slave librarian get 17 -o hello.dsc
  buildd-slave librarian get http://localhost:8000/17/hello_2.10-3.dsc -o -")]
struct Get {
    /// Its number, or its URL
    #[arg(value_name = "ID|URL")]
    what: String,
    /// Where to; `-` is standard output [default: its own name, in this folder]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Goes: the content of files that expired a week ago; files that nothing in the database refers to,
with no date to go at or one a week ago, a week after they came; and what is on disk for no file,
after a day. It may run beside a librarian that serves.

Examples:
  buildd-slave librarian gc --dry-run
  buildd-slave librarian gc")]
struct Gc {
    /// Only say what would go
    #[arg(long)]
    dry_run: bool,
}

impl Args {
    /// Tells whether the command works on the library's own files, as their owner.
    fn owns_files(&self) -> bool {
        matches!(self.command, Command::Serve | Command::Gc(_))
    }

    fn is_daemon(&self) -> bool {
        matches!(self.command, Command::Serve)
    }
}

/// Does the command; becomes the farm's user first if the command needs that and root started it.
pub(crate) fn run(args: Args) -> Result<ExitCode, Error> {
    let (farm, warnings) = config_file::load_farm(args.config.file.as_deref())?;
    if args.owns_files() && user::am_root() {
        privileges::become_builder(&farm.user)?;
    }
    if args.is_daemon() {
        warnings.iter().for_each(|warning| log::warn!("{warning}"));
    }
    dispatch(args.command, &farm).map(|()| ExitCode::SUCCESS)
}

fn dispatch(command: Command, farm: &Farm) -> Result<(), Error> {
    match command {
        Command::Serve => serve::run(farm),
        Command::Add(args) => add(&args, farm),
        Command::Get(args) => get(&args, farm),
        Command::Gc(args) => gc(&args, farm),
    }
}

fn read_lifetime(text: &str) -> Result<Lifetime, String> {
    match text {
        "never" => Ok(Lifetime::Never),
        days => match days.parse() {
            Ok(days @ 1..=36_500) => Ok(Lifetime::Days(days)),
            _ => Err("write a number of days, or never".to_owned()),
        },
    }
}

fn add(args: &Add, farm: &Farm) -> Result<(), Error> {
    let uploader = Uploader::new(&farm.librarian.upload_url);
    let expires_at = args.expires.map(|lifetime| match lifetime {
        Lifetime::Never => NEVER_MS,
        Lifetime::Days(days) => clock::now_ms() + days * DAY_MS,
    });
    for path in &args.files {
        let kind = args.content_type.as_deref();
        let added = upload(&uploader, path, kind, expires_at, args.restricted);
        let Added {
            id,
            url,
            sha1,
            sha256,
            size,
        } = added?;
        if args.json {
            say(
                &json!({"id": id, "url": url, "sha1": sha1, "sha256": sha256, "size": size})
                    .to_string(),
            )?;
        } else {
            say(&format!("{id} {url} {sha1}"))?;
        }
    }
    Ok(())
}

fn get(args: &Get, farm: &Farm) -> Result<(), Error> {
    let wanted = locate(&args.what, farm)?;
    if args.output.as_deref() == Some(Path::new("-")) {
        let mut out = io::stdout().lock();
        wanted.fetch(&mut |piece| out.write_all(piece).map_err(Error::Output))?;
        return out.flush().map_err(Error::Output);
    }
    let output = args.output.clone();
    let output = output.unwrap_or_else(|| PathBuf::from(&wanted.name));
    let parent = output.parent().filter(|dir| !dir.as_os_str().is_empty());
    let mut temp = TempFile::create(parent.unwrap_or_else(|| Path::new(".")))?;
    wanted.fetch(&mut |piece| Ok(temp.write_all(piece)?))?;
    Ok(temp.persist(&output, 0o644)?)
}

fn locate(what: &str, farm: &Farm) -> Result<Wanted, Error> {
    if let Ok(id) = what.parse::<i64>() {
        let db = Db::open(farm.database.url.expose())?;
        return Wanted::by_number(&db, &farm.librarian.url, id);
    }
    let is_url = what.starts_with("http://") || what.starts_with("https://");
    let path = what.split(['?', '#']).next().unwrap_or(what);
    let name = path.rsplit('/').next().and_then(name::unquote);
    match name.filter(|name| is_url && name::is_good(name)) {
        Some(name) => Ok(Wanted {
            url: what.to_owned(),
            name,
            sha1: None,
        }),
        None => Err(Error::What(what.to_owned())),
    }
}

fn gc(args: &Gc, farm: &Farm) -> Result<(), Error> {
    let db = Db::open(farm.database.url.expose())?;
    let swept = gc::gc(&db, &farm.librarian.root, clock::now_ms(), args.dry_run)?;
    let verb = if args.dry_run { "would be" } else { "were" };
    say(&summary(&swept, verb))
}

/// Says what was removed, a line for each kind.
fn summary(swept: &Swept, verb: &str) -> String {
    let Swept {
        expired,
        aliases,
        merged,
        contents,
        blobs,
        bytes,
    } = swept;
    [
        format!("{expired} files {verb} expired"),
        format!("{aliases} files that nothing refers to {verb} removed"),
        format!("{merged} contents {verb} merged with their doubles"),
        format!("{contents} contents without a file {verb} removed"),
        format!("{blobs} blobs ({bytes} bytes) {verb} removed from disk"),
    ]
    .join("\n")
}

fn say(line: &str) -> Result<(), Error> {
    writeln!(io::stdout().lock(), "{line}").map_err(Error::Output)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes() {
        assert_eq!(read_lifetime("30"), Ok(Lifetime::Days(30)));
        assert_eq!(read_lifetime("never"), Ok(Lifetime::Never));
        for bad in ["", "0", "-1", "x", "36501"] {
            assert!(read_lifetime(bad).is_err(), "{bad}");
        }
    }
}
