//! A site: a temporary folder with a configuration, programs for the stages, a home and a cache.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::unistd::{Uid, User};

use super::mounts;
use super::procs::{self, Process};
use super::{sha1, until};

/// The site programs: section, key, and the name in the tests.
const PROGRAMS: [(&str, &str, &str); 9] = [
    ("allmanagers", "unpackpath", "unpack"),
    ("allmanagers", "mountpath", "mount"),
    ("allmanagers", "umountpath", "umount"),
    ("allmanagers", "cleanpath", "clean"),
    ("debianmanager", "ogrepath", "ogre"),
    ("debianmanager", "sourcespath", "sources"),
    ("debianmanager", "updatepath", "update"),
    ("debianmanager", "sbuildpath", "sbuild"),
    ("debianmanager", "processscanpath", "scan"),
];

const PROGRAM: &str = env!("CARGO_BIN_EXE_buildd-slave");
/// The content of the chroot and of the source of every build.
const CHROOT: &[u8] = b"a chroot";
const DSC: &[u8] = b"Source: hello\nVersion: 1\n";

pub(crate) struct Site {
    dir: tempfile::TempDir,
    user: Option<User>,
    /// Additional environment variables of every command.
    environment: Vec<(&'static str, OsString)>,
}

impl Site {
    /// Makes a site. `more` follows the keys of `[slave]`; it may begin other sections.
    pub(crate) fn new(more: &str) -> Self {
        let user = Uid::effective()
            .is_root()
            .then(|| User::from_name("buildd").unwrap())
            .flatten();
        let dir = tempfile::Builder::new()
            .prefix("buildd-test-")
            .tempdir()
            .unwrap();
        let environment = Vec::new();
        let site = Self {
            dir,
            user,
            environment,
        };
        site.give(&site.path(""));
        for folder in ["bin", "on", "home"] {
            fs::create_dir(site.path(folder)).unwrap();
        }
        let deb = super::deb("hello", "hello", "1", "i386");
        fs::write(site.path("hello_1_i386.deb"), deb).unwrap();
        site.fill_home();
        site.install_programs();
        site.configure(more);
        site
    }

    /// Puts the site program into `bin` under all its names.
    fn install_programs(&self) {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/bin/site-program");
        let (_, _, first) = PROGRAMS[0];
        let copy = self.path("bin").join(first);
        // Another process copies the program: a file cannot be run while a forked child of this
        // process still has it open for writing.
        let mut install = Command::new("install");
        install.arg(&program).arg(&copy);
        assert!(install.status().unwrap().success());
        for (_, _, name) in &PROGRAMS[1..] {
            fs::hard_link(&copy, self.path("bin").join(name)).unwrap();
        }
    }

    /// Fills a new home, which a test may have mounted.
    pub(crate) fn fill_home(&self) {
        fs::create_dir(self.path("home/filecache")).unwrap();
        self.give(&self.path("home"));
        self.fill_cache();
    }

    /// Puts the files of every build into a new cache, which a test may have mounted.
    pub(crate) fn fill_cache(&self) {
        self.give(&self.path("home/filecache"));
        self.add_file(CHROOT);
        self.add_file(DSC);
    }

    /// Checks that the cache has no partial file and no file with a wrong hash.
    pub(crate) fn check_cache(&self) {
        for name in self.names("home/filecache") {
            let bytes = fs::read(self.path("home/filecache").join(&name)).unwrap();
            assert_eq!(name, sha1(&bytes), "{} bytes", bytes.len());
        }
    }

    /// Writes the configuration anew.
    pub(crate) fn configure(&self, more: &str) {
        let mut text = String::new();
        for section in ["allmanagers", "debianmanager"] {
            text.push_str(&format!("[{section}]\n"));
            for (_, key, name) in PROGRAMS.iter().filter(|(of, _, _)| *of == section) {
                let program = self.path("bin").join(name);
                text.push_str(&format!("{key} = {}\n", program.display()));
            }
        }
        text.push_str("sbuildargs = --nolog --batch --archive=ubuntu\n");
        text.push_str(&format!(
            "[slave]\nisolation = none\narchitecturetag = i386\nbindport = 0\nparallel = 3\n\
             user = {}\nhome = {}\n{more}\n",
            self.user_name(),
            self.path("home").display(),
        ));
        fs::write(self.config(), text).unwrap();
    }

    /// Replaces each line of the configuration by `line` of it; `None` deletes the line.
    pub(crate) fn reconfigure(&self, line: impl Fn(&str) -> Option<String>) {
        let text = fs::read_to_string(self.config()).unwrap();
        let lines: Vec<String> = text.lines().filter_map(line).collect();
        fs::write(self.config(), lines.join("\n")).unwrap();
    }

    /// The user that a daemon started by root becomes.
    pub(crate) fn user(&self) -> Option<&User> {
        self.user.as_ref()
    }

    fn user_name(&self) -> String {
        let own = || User::from_uid(Uid::effective()).unwrap().unwrap();
        self.user().cloned().unwrap_or_else(own).name
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.path("buildd-slave.conf")
    }

    /// A path in the site's folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn read(&self, name: &str) -> String {
        let bytes = fs::read(self.path(name)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Makes the daemon's user the owner of `path`.
    pub(crate) fn give(&self, path: &Path) {
        if let Some(user) = &self.user {
            chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw())).unwrap();
        }
    }

    /// Whether file modes restrict the daemon's user, unlike root.
    pub(crate) fn heeds_modes(&self) -> bool {
        self.user.is_some() || !Uid::effective().is_root()
    }

    /// The program under test, with the mark of the site. Root starts it in the build folder, which
    /// the site's user may not be able to read, and the program becomes that user.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let own = self.path("buildd-slave");
        let mut command = match (own.exists(), &self.user) {
            (true, Some(user)) => {
                let mut command = Command::new(own);
                command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
                command
            }
            _ => Command::new(PROGRAM),
        };
        command
            .args(args)
            .current_dir(self.path("home"))
            .env_remove("BUILDD_SLAVE_CONFIG")
            .env_remove("RUST_LOG")
            .env("HOME", self.path("home"))
            .env(procs::MARK, self.dir.path())
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::null());
        command
    }

    /// Makes the site's commands log at level `trace`.
    pub(crate) fn talkative(mut self) -> Self {
        self.environment.push(("RUST_LOG", "trace".into()));
        self
    }

    /// Adds environment variables to all later commands, and starts them as the site's user.
    pub(crate) fn start_with(&mut self, environment: Vec<(&'static str, OsString)>) {
        self.environment = environment;
        let mut copy = Command::new("install");
        copy.arg(PROGRAM).arg(self.path("buildd-slave"));
        assert!(copy.status().unwrap().success());
    }

    /// Sets the shell script of a site program; the fixture has the functions that it may call.
    pub(crate) fn on(&self, program: &str, script: &str) {
        assert!(PROGRAMS.iter().any(|(_, _, name)| *name == program));
        fs::write(self.path("on").join(program), script).unwrap();
    }

    /// Removes all scripts of `on` and the list of calls.
    pub(crate) fn reset(&self) {
        for folder in [self.path("on"), self.path("")] {
            for entry in fs::read_dir(folder).unwrap() {
                let entry = entry.unwrap();
                let name = entry.file_name().into_string().unwrap();
                let is_word = ["at-", "go-", "calls"].iter().any(|w| name.starts_with(w));
                if is_word || PROGRAMS.iter().any(|(_, _, program)| *program == name) {
                    fs::remove_file(entry.path()).unwrap();
                }
            }
        }
    }

    /// Waits until a program is in its `hold`.
    pub(crate) fn wait_at(&self, program: &str) {
        let path = self.path(&format!("at-{program}"));
        until(&format!("{program} at its hold"), || {
            path.exists().then_some(())
        });
    }

    /// Lets a program leave its `hold`.
    pub(crate) fn let_go(&self, program: &str) {
        fs::write(self.path(&format!("go-{program}")), "").unwrap();
    }

    /// Every call of a program: its name and arguments.
    pub(crate) fn calls(&self) -> Vec<Vec<String>> {
        let words = |line: &str| line.split('\t').map(str::to_owned).collect();
        self.read("calls").lines().map(words).collect()
    }

    /// The names of the called programs in order, separated by blanks.
    pub(crate) fn called(&self) -> String {
        let names: Vec<String> = self.calls().iter().map(|call| call[0].clone()).collect();
        names.join(" ")
    }

    /// Writes a file into the cache.
    pub(crate) fn add_file(&self, bytes: &[u8]) -> String {
        let sum = sha1(bytes);
        fs::write(self.path("home/filecache").join(&sum), bytes).unwrap();
        sum
    }

    pub(crate) fn chroot(&self) -> String {
        sha1(CHROOT)
    }

    pub(crate) fn dsc(&self) -> String {
        sha1(DSC)
    }

    /// The sorted names in a folder of the site, without the daemon's lock. A missing folder has
    /// none.
    pub(crate) fn names(&self, folder: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.path(folder)) else {
            return Vec::new();
        };
        let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name();
        let mut names: Vec<String> = entries
            .map(|entry| name(entry).into_string().unwrap())
            .filter(|name| name != ".daemon")
            .collect();
        names.sort();
        names
    }

    /// The paths of all files with `text` in them, relative to the site's folder.
    pub(crate) fn files_holding(&self, text: &str) -> Vec<String> {
        let found = holding(self.dir.path(), text.as_bytes());
        let name = |path: PathBuf| {
            path.strip_prefix(self.dir.path())
                .unwrap()
                .display()
                .to_string()
        };
        found.into_iter().map(name).collect()
    }

    /// The living processes that this site's commands started, directly or not.
    pub(crate) fn processes(&self) -> Vec<Process> {
        procs::marked(self.dir.path())
    }
}

fn holding(folder: &Path, text: &[u8]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            found.extend(holding(&entry.path(), text));
        } else if kind.is_file() {
            let bytes = fs::read(entry.path()).unwrap_or_default();
            if bytes.windows(text.len()).any(|window| window == text) {
                found.push(entry.path());
            }
        }
    }
    found
}

/// Kills all processes and removes all mounts of the site.
impl Drop for Site {
    fn drop(&mut self) {
        procs::kill_marked(self.dir.path());
        mounts::unmount_all(self.dir.path());
    }
}
