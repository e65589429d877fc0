//! `buildd-slave librarian`: the commands serve, add, get and gc.
//!
//! `add` and `get` talk HTTP to a running librarian. `gc`, and `get` with a number, also use the
//! database. Results go to stdout.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use super::files::{Download, upload};
use super::gc::{self, NEVER_MS};
use super::remote::{Added, Uploader};
use super::{Error, name, serve};
use serde_json::json;

use crate::config::Farm;
use crate::config_file::{self, ConfigOption};
use crate::db::Db;
use crate::privileges;
use crate::sys::clock;
use crate::sys::fs::TempFile;
use crate::sys::{output, user};
use std::process::ExitCode;

const DAY_MS: i64 = 24 * 3600 * 1000;

/// Manage the farm's file store
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
    /// Serve files and accept uploads, in the foreground
    #[command(after_help = "\
Examples:
  buildd-slave librarian serve
  buildd-slave librarian serve --config ./buildd-slave.conf

Files are at http://HOST:8000/NUMBER/NAME ([librarian] bindport). Uploads use PUT on the same port
or the STORE protocol on upload_port. Started as root, the librarian switches to the user in
[slave] user. SIGTERM stops it.

Exit code: 0 after SIGTERM or SIGINT, 1 if it cannot start, 2 for a wrong command line.")]
    Serve,
    /// Upload files
    Add(Add),
    /// Download a file
    Get(Get),
    /// Remove files that are no longer needed
    Gc(Gc),
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Prints number, URL and SHA-1 of each file. Without --expires, `librarian gc` removes a file that is
a week old and that nothing in the database refers to.

Examples:
  buildd-slave librarian add hello_2.10-3.dsc hello_2.10.orig.tar.gz
  buildd-slave librarian add --expires never chroot-bookworm-amd64.tar.gz
  buildd-slave librarian add --restricted --json secret_1.dsc")]
struct Add {
    /// Files to upload
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Content type [default: by the extension of the name]
    #[arg(long = "type", value_name = "TYPE")]
    content_type: Option<String>,
    /// Number of days until the files expire, or `never`
    #[arg(long, value_name = "DAYS", value_parser = read_lifetime)]
    expires: Option<Lifetime>,
    /// Allow downloads only with a token, or on the restricted port
    #[arg(long)]
    restricted: bool,
    /// Print one JSON object per file
    #[arg(long)]
    json: bool,
}

/// The value of `--expires`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lifetime {
    Days(i64),
    Never,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
A number is looked up in the database, and the download is checked against the SHA-1 there.

Examples:
  buildd-slave librarian get 17
  buildd-slave librarian get 17 -o hello.dsc
  buildd-slave librarian get http://localhost:8000/17/hello_2.10-3.dsc -o -")]
struct Get {
    /// Number or URL of the file
    #[arg(value_name = "NUMBER|URL")]
    id_or_url: String,
    /// Output file; `-` is standard output [default: the file's own name]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Removes, in this order:
  - the content of files that expired more than a week ago
  - files that nothing in the database refers to, if they are older than a week, and have no
    expiry date or expired more than a week ago
  - tokens older than a day
  - data on disk that belongs to no file, if older than a day

A librarian does this by itself, every [librarian] gc_interval. The command is safe to run beside
it, and changes the database in short steps. --dry-run only reads.

Examples:
  buildd-slave librarian gc --dry-run
  buildd-slave librarian gc")]
struct Gc {
    /// Only print what would be removed
    #[arg(long)]
    dry_run: bool,
}

impl Args {
    /// Returns whether the command must run as the owner of the library's files.
    fn owns_files(&self) -> bool {
        matches!(self.command, Command::Serve | Command::Gc(_))
    }

    fn is_daemon(&self) -> bool {
        matches!(self.command, Command::Serve)
    }
}

/// Runs the command. Root becomes the farm's user first if the command works on its files.
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
    let uploader = Uploader::new(&farm.librarian);
    let expires_at = args.expires.map(|lifetime| match lifetime {
        Lifetime::Never => NEVER_MS,
        Lifetime::Days(days) => clock::now_ms() + days * DAY_MS,
    });
    for path in &args.files {
        let kind = args.content_type.as_deref();
        let added = upload(&uploader, path, None, kind, expires_at, args.restricted);
        let Added {
            id,
            url,
            sha1,
            sha256,
            size,
        } = added?;
        if args.json {
            print(
                &json!({"id": id, "url": url, "sha1": sha1, "sha256": sha256, "size": size})
                    .to_string(),
            )?;
        } else {
            print(&format!("{id} {url} {sha1}"))?;
        }
    }
    Ok(())
}

fn get(args: &Get, farm: &Farm) -> Result<(), Error> {
    let download = locate(&args.id_or_url, farm)?;
    if args.output.as_deref() == Some(Path::new("-")) {
        let mut out = output::stdout();
        download.fetch(&mut |chunk| out.write_all(chunk).map_err(Error::Output))?;
        return out.flush().map_err(Error::Output);
    }
    let output = args.output.clone();
    let output = output.unwrap_or_else(|| PathBuf::from(&download.name));
    let parent = output.parent().filter(|dir| !dir.as_os_str().is_empty());
    let mut temp = TempFile::create(parent.unwrap_or_else(|| Path::new(".")))?;
    download.fetch(&mut |chunk| Ok(temp.write_all(chunk)?))?;
    Ok(temp.persist(&output, 0o644)?)
}

fn locate(id_or_url: &str, farm: &Farm) -> Result<Download, Error> {
    if let Ok(id) = id_or_url.parse::<i64>() {
        let db = Db::open(farm.database.url.expose())?;
        return Download::by_number(&db, &farm.librarian.url, id);
    }
    let is_url = id_or_url.starts_with("http://") || id_or_url.starts_with("https://");
    let path = id_or_url.split(['?', '#']).next().unwrap_or(id_or_url);
    let name = path.rsplit('/').next().and_then(name::unquote);
    match name.filter(|name| is_url && name::is_good(name)) {
        Some(name) => Ok(Download {
            url: id_or_url.to_owned(),
            name,
            sha1: None,
        }),
        None => Err(Error::BadFile(id_or_url.to_owned())),
    }
}

fn gc(args: &Gc, farm: &Farm) -> Result<(), Error> {
    let db = Db::open(farm.database.url.expose())?;
    let removed = gc::gc(&db, &farm.librarian.root, clock::now_ms(), args.dry_run)?;
    let verb = if args.dry_run { "would be" } else { "were" };
    print(&removed.lines(verb).join("\n"))
}

fn print(line: &str) -> Result<(), Error> {
    writeln!(output::stdout(), "{line}").map_err(Error::Output)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lifetime_is_a_number_of_days_or_never() {
        assert_eq!(read_lifetime("30"), Ok(Lifetime::Days(30)));
        assert_eq!(read_lifetime("never"), Ok(Lifetime::Never));
        for bad in ["", "0", "-1", "x", "36501"] {
            assert!(read_lifetime(bad).is_err(), "{bad}");
        }
    }
}
