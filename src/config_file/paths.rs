//! Checks the paths in the configuration against the host, and creates the folders of the slave.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::unistd::{AccessFlags, Uid, eaccess};
use serde::{Deserialize, Serialize};

use crate::config::{Config, Isolation};
use crate::sys;

/// A folder of the slave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Folder {
    /// Its configuration key, with the section.
    pub(crate) key: &'static str,
    pub(crate) path: PathBuf,
    /// The slave creates it if it is absent.
    pub(crate) on_demand: bool,
    /// Other users get no access to it.
    pub(crate) is_private: bool,
}

/// Returns the folders that the slave needs: home first, then its subfolders and the others.
///
/// Every folder at its default path below home is created. An absent file cache elsewhere is an
/// error: its disk is probably not mounted, and masters fetch results from it. The other folders
/// hold nothing that a new build needs, so they are also created elsewhere.
pub(crate) fn folders(config: &Config) -> Vec<Folder> {
    let slave = &config.slave;
    let folder = |key, path: &Path, on_demand| Folder {
        key,
        path: path.to_owned(),
        on_demand,
        is_private: *path != slave.home,
    };
    let is_default = slave.filecache == slave.home.join("filecache");
    let mut folders = vec![
        folder("[slave] home", &slave.home, false),
        folder("[slave] filecache", &slave.filecache, is_default),
        folder("[slave] journal", &slave.journal, true),
    ];
    if slave.isolation == Isolation::Unshare && config.programs.mount.is_none() {
        folders.extend([
            folder("[slave] chroots", &slave.chroots, true),
            folder("[slave] sessions", &slave.sessions, true),
            folder("[gate] cache", &config.gate.cache, true),
        ]);
    }
    folders
}

impl Folder {
    /// Creates the folder if it is absent and may be created; its parent must exist. Closes a
    /// private folder to other users, and returns whether it was open to them.
    pub(crate) fn prepare(&self) -> Result<bool, sys::fs::Error> {
        if self.on_demand {
            sys::fs::make_folder(&self.path)?;
        }
        if self.is_private {
            return sys::fs::make_unreadable(&self.path);
        }
        fs::metadata(&self.path)
            .map(|_| false)
            .map_err(sys::fs::Error::at("examine", &self.path))
    }
}

/// A path in the configuration that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PathProblem {
    /// The configuration key, in most cases with its section.
    pub(crate) key: String,
    pub(crate) path: PathBuf,
    pub(crate) wrong: Wrong,
    /// The user that builds.
    pub(crate) user: String,
}

/// Why a path cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Wrong {
    AbsentFolder,
    /// The folder exists, and its parent cannot be passed, for instance.
    Unreachable(String),
    NotFolder,
    /// `own`: the folder belongs to the user that builds.
    NotWritable {
        own: bool,
        is_link: bool,
    },
    ReadOnlyDisk,
    NoProgram(String),
    NotExecutable,
}

impl fmt::Display for PathProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (shown, user) = (self.path.display(), &self.user);
        write!(f, "{}: {}", self.key, self.found())?;
        match &self.wrong {
            Wrong::AbsentFolder => {
                write!(f, "; try: install -d -m 0700 -o {user} -g {user} {shown}")
            }
            Wrong::Unreachable(_) => write!(f, "; try: namei -l {shown}"),
            Wrong::NotFolder => write!(f, "; try: mv {shown} {shown}.old"),
            Wrong::NotWritable { own: true, .. } => write!(f, "; try: chmod u+rwx {shown}"),
            Wrong::NotWritable { own: false, .. } => write!(f, "; try: chown {user}: {shown}"),
            Wrong::ReadOnlyDisk => write!(f, "; try: findmnt --target {shown}"),
            Wrong::NoProgram(_) => write!(f, "; install it or remove the key"),
            Wrong::NotExecutable => write!(f, "; try: chmod a+x {shown}"),
        }
    }
}

impl PathProblem {
    /// Returns the problem of the path, without its key and the command that mends it.
    pub(crate) fn found(&self) -> String {
        let shown = self.path.display();
        let found = match &self.wrong {
            Wrong::AbsentFolder => "does not exist",
            Wrong::Unreachable(reason) | Wrong::NoProgram(reason) => {
                return format!("{shown}: {reason}");
            }
            Wrong::NotFolder => "is not a directory",
            Wrong::NotWritable { .. } => "is not writable",
            Wrong::ReadOnlyDisk => "is on a file system that is read-only",
            Wrong::NotExecutable => "is not an executable file",
        };
        format!("{shown} {found}")
    }
}

/// Checks the paths in `config`.
///
/// Checks the permissions of the calling process: call it as the user that builds. An absent folder
/// is no problem if the daemon can create it.
pub(crate) fn check_paths(config: &Config) -> Vec<PathProblem> {
    let user = &config.slave.user;
    let problem = |key: &str, path: &Path, wrong| PathProblem {
        key: key.to_owned(),
        path: path.to_owned(),
        wrong,
        user: user.clone(),
    };
    let mut problems = Vec::new();
    let mut missing = Vec::new();
    for folder in folders(config) {
        // Mending home is enough for the folders below it.
        if missing.iter().any(|it| folder.path.starts_with(it)) {
            continue;
        }
        let can_be_created = folder.on_demand && folder.path.parent().is_some_and(can_write_in);
        if folder.path.symlink_metadata().is_ok() || !can_be_created {
            let wrong = check_folder(&folder.path);
            if wrong == Some(Wrong::AbsentFolder) {
                missing.push(folder.path.clone());
            }
            problems.extend(wrong.map(|wrong| problem(folder.key, &folder.path, wrong)));
        }
    }
    for (key, path) in programs(config) {
        problems.extend(check_program(path).map(|wrong| problem(key, path, wrong)));
    }
    problems
}

/// Returns the configured programs with their keys.
pub(crate) fn programs(config: &Config) -> Vec<(&'static str, &Path)> {
    let programs = &config.programs;
    let all = [
        ("[allmanagers] unpackpath", &programs.unpack),
        ("[allmanagers] mountpath", &programs.mount),
        ("[allmanagers] umountpath", &programs.umount),
        ("[allmanagers] cleanpath", &programs.clean),
        ("processscanpath", &programs.process_scan),
        ("[debianmanager] sbuildpath", &programs.sbuild),
        ("[debianmanager] updatepath", &programs.update),
        ("[debianmanager] ogrepath", &programs.ogre),
        ("[debianmanager] sourcespath", &programs.sources),
    ];
    let configured = all.map(|(key, path)| path.as_deref().map(|path| (key, path)));
    configured.into_iter().flatten().collect()
}

fn check_folder(dir: &Path) -> Option<Wrong> {
    match dir.metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Some(Wrong::AbsentFolder),
        Err(error) => Some(Wrong::Unreachable(error.to_string())),
        Ok(found) if !found.is_dir() => Some(Wrong::NotFolder),
        Ok(found) => match eaccess(dir, AccessFlags::W_OK | AccessFlags::X_OK) {
            Ok(()) => None,
            Err(Errno::EROFS) => Some(Wrong::ReadOnlyDisk),
            Err(_) => Some(Wrong::NotWritable {
                own: found.uid() == Uid::effective().as_raw(),
                is_link: fs::symlink_metadata(dir).is_ok_and(|it| it.is_symlink()),
            }),
        },
    }
}

fn can_write_in(dir: &Path) -> bool {
    dir.is_dir() && eaccess(dir, AccessFlags::W_OK | AccessFlags::X_OK).is_ok()
}

fn check_program(path: &Path) -> Option<Wrong> {
    match path.metadata() {
        Err(error) => Some(Wrong::NoProgram(error.to_string())),
        Ok(found) if !found.is_file() || eaccess(path, AccessFlags::X_OK).is_err() => {
            Some(Wrong::NotExecutable)
        }
        Ok(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::config::Defaults;

    fn parse(home: &Path, text: &str) -> Config {
        let defaults = Defaults {
            host_arch: "amd64".to_owned(),
            home: home.to_path_buf(),
            cpus: 1,
        };
        Config::parse("x.conf", text, &defaults).unwrap().0
    }

    #[test]
    fn path_problems_come_with_the_command_that_fixes_them() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path();
        let plain = home.join("plain");
        fs::write(&plain, "not a program").unwrap();
        let check = |text: &str| -> Vec<String> {
            let problems = check_paths(&parse(home, text));
            problems.iter().map(ToString::to_string).collect()
        };
        assert_eq!(check(""), Vec::<String>::new());
        let shown = plain.display();
        for (text, expected) in [
            (format!("[slave]\njournal = {shown}"), "[slave] journal: "),
            (
                format!("[slave]\nchroots = {}/no/such", home.display()),
                "[slave] chroots: ",
            ),
            (
                format!("[slave]\nfilecache = {}/elsewhere", home.display()),
                "[slave] filecache: ",
            ),
            (format!("[gate]\ncache = {shown}"), "[gate] cache: "),
            (
                format!("[debianmanager]\nsbuildpath = {shown}"),
                "[debianmanager] sbuildpath: ",
            ),
            (
                format!("[debianmanager]\nogrepath = {shown}.no"),
                "[debianmanager] ogrepath: ",
            ),
            (
                format!("[debianmanager]\nogrepath = {}", home.display()),
                "[debianmanager] ogrepath",
            ),
        ] {
            let problems = check(&text);
            assert_eq!(problems.len(), 1, "{text}: {problems:#?}");
            assert!(problems[0].starts_with(expected), "{problems:#?}");
        }
    }

    #[test]
    fn folders_below_home_are_created_for_their_user_alone() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("home");
        let config = parse(&home, "");
        let keys = |config: &Config| -> Vec<String> {
            let problems = check_paths(config);
            assert!(problems.iter().all(|it| it.wrong == Wrong::AbsentFolder));
            problems.into_iter().map(|it| it.key).collect()
        };
        // Nothing can be created in an absent home.
        assert_eq!(keys(&config), ["[slave] home"]);
        assert!(folders(&config).iter().all(|it| it.prepare().is_err()));
        assert!(!home.exists());

        fs::create_dir(&home).unwrap();
        assert_eq!(keys(&config), Vec::<String>::new());
        fs::set_permissions(&home, fs::Permissions::from_mode(0o755)).unwrap();
        for folder in folders(&config) {
            folder.prepare().unwrap();
            let mode = folder.path.metadata().unwrap().mode() & 0o7777;
            let expect = if folder.path == home { 0o755 } else { 0o700 };
            assert_eq!(mode, expect, "{}", folder.key);
        }
        let cache = &folders(&config)[1];
        assert_eq!(cache.path, home.join("filecache"));
        fs::set_permissions(&cache.path, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(cache.prepare().unwrap(), "it was open to other users");
        assert!(!cache.prepare().unwrap());

        let elsewhere = dir.path().join("not-mounted");
        let text = format!("[slave]\nfilecache = {}", elsewhere.display());
        let config = parse(&home, &text);
        assert_eq!(keys(&config), ["[slave] filecache"]);
        assert!(folders(&config)[1].prepare().is_err());
        assert!(!elsewhere.exists());
    }
}
