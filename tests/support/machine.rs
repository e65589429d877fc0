//! The machine for real builds: a chroot tarball, a store of unpacked chroots, and a folder.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use nix::unistd::{User, geteuid};

/// The machine, prepared by `make real`.
pub(crate) struct Machine {
    /// The tarball, within `home`.
    pub(crate) chroot: PathBuf,
    pub(crate) chroot_sum: String,
    /// The folder with the source of Debian's `hello`.
    pub(crate) hello: PathBuf,
    /// A folder of the user that builds, empty at the start.
    pub(crate) home: PathBuf,
    pub(crate) arch: String,
    pub(crate) suite: String,
    user: User,
}

/// Returns the machine. If none was prepared, prints `NOT RUN` and returns `None`.
pub(crate) fn machine() -> Option<&'static Machine> {
    static MACHINE: OnceLock<Option<Machine>> = OnceLock::new();
    MACHINE.get_or_init(Machine::prepared).as_ref()
}

impl Machine {
    fn prepared() -> Option<Self> {
        let path = |name| std::env::var_os(name).map(PathBuf::from);
        let Some(tarball) = path("BUILDD_TEST_CHROOT") else {
            // The test harness does not capture this, unlike `eprintln!`.
            let loud = "\n*** NOT RUN: real builds (set up by make real) ***\n";
            std::io::stderr().write_all(loud.as_bytes()).unwrap();
            return None;
        };
        let user = User::from_name("buildd").unwrap().expect("a user buildd");
        assert!(
            geteuid().is_root() || geteuid() == user.uid,
            "real builds need root or the user buildd"
        );
        let home = path("BUILDD_TEST_HOME").expect("BUILDD_TEST_HOME, as .ci/real sets it");
        let chroot = home.join("chroot.tar");
        fs::copy(tarball, &chroot).unwrap();
        let release = fs::read_to_string("/etc/os-release").unwrap();
        let suite = release
            .lines()
            .find_map(|line| line.strip_prefix("VERSION_CODENAME="));
        let machine = Self {
            chroot_sum: sum("sha1sum", &chroot),
            hello: path("BUILDD_TEST_HELLO").expect("BUILDD_TEST_HELLO, as .ci/real sets it"),
            arch: stdout(Command::new("dpkg").arg("--print-architecture")),
            suite: suite.expect("a release with a code name").to_owned(),
            chroot,
            home,
            user,
        };
        machine.give(&machine.chroot);
        machine.folder("chroots");
        Some(machine)
    }

    /// Makes a folder of the user that builds.
    pub(crate) fn folder(&self, name: &str) -> PathBuf {
        let path = self.home.join(name);
        fs::create_dir(&path).unwrap();
        self.give(&path);
        path
    }

    /// Gives a file or folder to the user that builds.
    pub(crate) fn give(&self, path: &Path) {
        if geteuid().is_root() {
            let (uid, gid) = (self.user.uid.as_raw(), self.user.gid.as_raw());
            chown(path, Some(uid), Some(gid)).unwrap();
        }
    }

    /// The Debian archive of this machine, as lines for the `archives` of a build.
    pub(crate) fn archives(&self) -> Vec<String> {
        let format = "deb $(REPO_URI) $(RELEASE) $(COMPONENT)";
        let mut command = Command::new("apt-get");
        command.args(["indextargets", "--format", format, "Created-By: Packages"]);
        let lines = stdout(&mut command);
        let of_the_release = lines
            .lines()
            .filter(|line| line.contains(&format!(" {}", self.suite)));
        of_the_release.map(str::to_owned).collect()
    }
}

/// Runs a command that must succeed; returns its output without the final newline.
pub(crate) fn stdout(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {complaint}");
    String::from_utf8(output.stdout).unwrap().trim_end().into()
}

/// Returns the hash of a file, computed by `program`, such as `sha1sum`.
pub(crate) fn sum(program: &str, file: &Path) -> String {
    let line = stdout(Command::new(program).arg(file));
    line.split(' ').next().unwrap().to_owned()
}
