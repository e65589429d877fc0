//! Creates a chroot tarball with mmdebstrap, by default from the host's own archives.

use std::collections::VecDeque;
use std::fs;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{ChildStderr, Stdio};
use std::thread;
use std::time::Instant;

use crate::arch;
use crate::commands::leftovers::BOOTSTRAP;
use crate::commands::site::at;
use crate::protocol::Suite;
use crate::session::bootstrap::Bootstrap;
use crate::session::{launch, store};
use crate::sys::compression::Compression;
use crate::sys::locked_folder::LockedFolder;
use crate::sys::{exe, host, output};

use super::interrupts::Interrupts;
use super::pack::pack;
use super::{Error, NEEDED, archives, running_release};

/// Number of mmdebstrap's last lines that an error repeats.
const KEPT_LINES: usize = 12;

/// The content of a chroot.
#[derive(Debug)]
pub(super) struct Recipe {
    pub(super) suite: Suite,
    pub(super) arch: String,
    /// Lines of sources.list. If empty: the host's lines for the suite, else mmdebstrap's default.
    pub(super) archives: Vec<String>,
    pub(super) include: Vec<String>,
}

/// Creates the tarball `to`; messages call it `shown`.
pub(super) fn create(mut recipe: Recipe, to: &Path, shown: &Path) -> Result<(), Error> {
    let begun = Instant::now();
    if recipe.archives.is_empty() {
        recipe.archives = host_archives(recipe.suite.as_str());
    }
    let name = to.to_string_lossy();
    let compression = Compression::by_name(&name).unwrap_or(Compression::None);
    let interrupts = Interrupts::catch().map_err(at(to))?;
    if exe::find_program("mmdebstrap").is_none() {
        return Err(Error::NoProgram {
            program: "mmdebstrap",
            package: "mmdebstrap uidmap",
            source: io::ErrorKind::NotFound.into(),
        });
    }
    // It runs programs of packages, which must not reach this terminal.
    let place = Place::create().map_err(at(&std::env::temp_dir()))?;
    let work = place.work().map_err(at(place.0.path()))?;
    let ids = launch::check_host()?;
    let mut mmdebstrap = bootstrap(&recipe).start(ids, &work, Stdio::piped())?;
    interrupts.attend(mmdebstrap.child());
    let stream = mmdebstrap.stdout()?;
    let stderr = mmdebstrap.stderr().expect("stderr is piped");
    let printer = thread::spawn(|| print_progress(stderr));
    let packed = pack(stream, compression, to, || {
        let status = interrupts.wait(mmdebstrap.child()).map_err(at(to))?;
        let lines = printer.join().unwrap_or_default();
        interrupts.check()?;
        if status.success() {
            return Ok(());
        }
        let output = lines.iter().map(|line| format!("\n  | {line}")).collect();
        let status = status.to_string();
        Err(Error::Mmdebstrap { status, output })
    });
    let packed = packed.inspect_err(|_| interrupts.end(mmdebstrap.child()))?;
    let seconds = begun.elapsed().as_secs();
    // The tarball is complete even if stdout is closed.
    let _ = writeln!(
        output::stdout(),
        "{} {:>10} {} ({seconds} s)",
        packed.sha1,
        packed.size,
        shown.display()
    );
    Ok(())
}

/// The folder in which mmdebstrap works; removed when dropped.
struct Place(LockedFolder);

impl Place {
    fn create() -> io::Result<Self> {
        let name = format!("{BOOTSTRAP}{}", std::process::id());
        let folder = LockedFolder::create(std::env::temp_dir().join(name))?;
        // mmdebstrap's mapped root must pass it.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o711))?;
        Ok(Self(folder))
    }

    /// Creates the folder that mmdebstrap gets.
    fn work(&self) -> io::Result<PathBuf> {
        let work = self.0.path().join("work");
        fs::create_dir(&work)?;
        Ok(work)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // What mmdebstrap left belongs to subordinate ids.
        let removed = launch::own_sub_ids().and_then(|ids| store::remove(self.0.path(), ids));
        if let Err(error) = removed {
            log::warn!("{error}");
        }
    }
}

/// Returns the description of mmdebstrap's namespace, where programs of the chroot run.
fn bootstrap(recipe: &Recipe) -> Bootstrap {
    let mut argv = vec!["mmdebstrap".to_owned()];
    argv.extend(arguments(recipe));
    let is_native = arch::is_native(host::debian_arch(), &recipe.arch);
    let emulate = (!is_native).then(|| recipe.arch.clone());
    Bootstrap {
        argv,
        emulate: emulate.into_iter().collect(),
    }
}

/// Returns the arguments of mmdebstrap, which writes an uncompressed tarball to its stdout.
fn arguments(recipe: &Recipe) -> Vec<String> {
    let mut words = vec![
        // It runs as root of a user namespace.
        "--mode=root".to_owned(),
        // That namespace emulates the architecture, which mmdebstrap's check needs not confirm.
        "--skip=check/qemu".to_owned(),
        "--variant=buildd".to_owned(),
        "--format=tar".to_owned(),
        // Keep the package lists: UPDATE then downloads only the changes.
        "--skip=cleanup/apt/lists".to_owned(),
        format!("--architectures={}", recipe.arch),
    ];
    let mut include = recipe.include.clone();
    include.push(NEEDED.to_owned());
    if recipe.archives.iter().any(|line| line.contains("https://")) {
        include.push("ca-certificates".to_owned());
    }
    words.push(format!("--include={}", include.join(",")));
    words.extend([recipe.suite.to_string(), "-".to_owned()]);
    words.extend(recipe.archives.iter().cloned());
    words
}

/// Returns the host's archive lines for a suite, else those of its own release with the suite's
/// name; none if the host uses another distribution.
fn host_archives(suite: &str) -> Vec<String> {
    let lines = configured_archives(suite);
    match (lines.is_empty(), running_release()) {
        (true, Ok(own)) => {
            let lines = configured_archives(own.as_str());
            archives::for_other_suite(&lines, own.as_str(), suite)
        }
        _ => lines,
    }
}

/// Returns the host's archive lines for a suite; none unless they include the suite itself.
fn configured_archives(suite: &str) -> Vec<String> {
    let mut lines = Vec::new();
    for (path, text) in host::apt_sources() {
        lines.extend(match path.extension() {
            Some(kind) if kind == "sources" => archives::in_deb822(&text, suite),
            _ => archives::in_list(&text, suite),
        });
    }
    lines.dedup();
    if archives::include_suite(&lines, suite) {
        lines
    } else {
        Vec::new()
    }
}

/// Prints mmdebstrap's progress lines; returns its last lines.
fn print_progress(stderr: ChildStderr) -> VecDeque<String> {
    let mut last = VecDeque::new();
    for line in BufReader::new(stderr).lines().map_while(Result::ok) {
        if line.starts_with("I: ") {
            let _ = writeln!(output::stdout(), "{line}");
        }
        last.push_back(line);
        if last.len() > KEPT_LINES {
            last.pop_front();
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mmdebstrap_writes_an_uncompressed_tarball_from_the_given_archives() {
        let mut recipe = Recipe {
            suite: Suite::parse("bookworm").unwrap(),
            arch: "arm64".into(),
            archives: vec!["deb http://h/debian bookworm main".into()],
            include: vec!["ccache".into()],
        };
        assert_eq!(
            arguments(&recipe).join("|"),
            "--mode=root|--skip=check/qemu|--variant=buildd|--format=tar|--skip=cleanup/apt/lists|\
             --architectures=arm64|--include=ccache,passwd|bookworm|-|\
             deb http://h/debian bookworm main"
        );
        recipe.include.clear();
        recipe.archives = vec!["deb https://h/debian bookworm main".into()];
        assert!(arguments(&recipe).contains(&"--include=passwd,ca-certificates".to_owned()));
        recipe.archives.clear();
        assert_eq!(arguments(&recipe).last().unwrap(), "-");
    }
}
