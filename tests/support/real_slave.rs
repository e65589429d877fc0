//! A daemon for real builds, and the calls of a master, made by `buildd-slave probe`.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Once;
use std::thread;

use serde_json::{Map, Value, json};

use super::machine::{Machine, stdout, sum};
use super::package::Package;

const PROGRAM: &str = env!("CARGO_BIN_EXE_buildd-slave");

/// A daemon with a journal, a file cache and sessions of its own.
pub(crate) struct Slave {
    pub(crate) machine: &'static Machine,
    /// The folder of all files of this daemon but the unpacked chroots.
    pub(crate) dir: PathBuf,
    pub(crate) process: Child,
    pub(crate) url: String,
}

/// The end of a build, with all that a master fetches.
#[derive(Debug)]
pub(crate) struct Ended {
    /// The verdict without its prefix, such as `OK`.
    pub(crate) status: String,
    pub(crate) dependencies: String,
    pub(crate) files: Map<String, Value>,
    pub(crate) log: String,
}

impl Ended {
    /// Asserts the verdict; a failure shows the last line of the log.
    pub(crate) fn assert(&self, status: &str) {
        let reason = self.log.lines().next_back().unwrap_or_default();
        assert_eq!(self.status, status, "{reason}");
    }

    /// Asserts that the log has `text`.
    pub(crate) fn assert_said(&self, text: &str) {
        assert!(self.log.contains(text), "no {text:?} in the log");
    }
}

impl Slave {
    /// Starts a daemon for the test `name` with further lines for `[slave]`.
    pub(crate) fn start(machine: &'static Machine, name: &str, config: &str) -> Self {
        Self::start_with(machine, name, &machine.home.join("chroots"), config)
    }

    /// The same with another store of unpacked chroots.
    pub(crate) fn start_with(
        machine: &'static Machine,
        name: &str,
        chroots: &Path,
        config: &str,
    ) -> Self {
        let dir = machine.folder(name);
        let cache = machine.folder(&format!("{name}/filecache"));
        fs::hard_link(&machine.chroot, cache.join(&machine.chroot_sum)).unwrap();
        let text = format!(
            "[slave]\nhome = {}\nchroots = {}\nbindport = 0\n{config}\n\
             # The archives of tests listen on the loopback.\n[gate]\nprivate = 127.0.0.1\n",
            dir.display(),
            chroots.display()
        );
        fs::write(dir.join("conf"), text).unwrap();
        let (process, url) = serve(&dir);
        Self {
            machine,
            dir,
            process,
            url,
        }
    }

    /// Kills the daemon and no process of a build.
    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Starts the daemon again after [`Slave::kill`].
    pub(crate) fn start_again(&mut self) {
        (self.process, self.url) = serve(&self.dir);
    }

    fn probe(&self, words: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command.arg("probe").arg(&self.url).args(words);
        command
    }

    /// Calls a method and returns its answer.
    pub(crate) fn call(&self, method: &str, parameters: &[Value]) -> Value {
        let words: Vec<String> = parameters.iter().map(Value::to_string).collect();
        let answer = stdout(self.probe(&[method]).args(words));
        serde_json::from_str(&answer).unwrap()
    }

    pub(crate) fn status(&self) -> Value {
        self.call("status", &[])
    }

    /// Sends files into the cache; returns their names and hashes, as `build` expects them.
    pub(crate) fn send(&self, files: &[PathBuf]) -> Value {
        stdout(self.probe(&["send"]).args(files));
        let named = files.iter().map(|file| {
            let name = file.file_name().unwrap().to_str().unwrap();
            (name.to_owned(), json!(sum("sha1sum", file)))
        });
        Value::Object(named.collect())
    }

    /// Begins a build in the chroot of the machine.
    pub(crate) fn begin(&self, files: &[PathBuf], args: Value) {
        let begin = || self.begin_in(&self.machine.chroot_sum, files, args);
        // The first build unpacks the chroot into the shared store, the others wait for it.
        static UNPACKED: Once = Once::new();
        let mut begin = Some(begin);
        UNPACKED.call_once(|| {
            begin.take().unwrap()();
            self.await_log("] MOUNT");
        });
        if let Some(begin) = begin {
            begin();
        }
    }

    /// Begins a build in a cached chroot, given by its hash.
    pub(crate) fn begin_in(&self, chroot: &str, files: &[PathBuf], args: Value) {
        let files = self.send(files);
        self.begin_with(chroot, files, args);
    }

    /// Begins a build of cached files.
    pub(crate) fn begin_with(&self, chroot: &str, files: Value, args: Value) {
        let mut all = json!({"suite": self.machine.suite, "arch_indep": false});
        all.as_object_mut()
            .unwrap()
            .extend(args.as_object().unwrap().clone());
        let parameters = [json!(self.id()), json!("debian"), json!(chroot), files, all];
        let answer = self.call("build", &parameters);
        assert_eq!(answer, json!(["BuilderStatus.BUILDING", self.id()]));
    }

    /// The id of the builds of this daemon.
    pub(crate) fn id(&self) -> String {
        let name = self.dir.file_name().unwrap().to_str().unwrap();
        format!("{name}-1")
    }

    /// Packs a source package, in a folder of its own.
    pub(crate) fn pack(&self, package: &Package) -> Vec<PathBuf> {
        let name = self.dir.file_name().unwrap().to_str().unwrap();
        package.pack(&self.machine.folder(&format!("{name}/source")))
    }

    /// Builds a package and waits for its end.
    pub(crate) fn build(&self, package: &Package, args: Value) -> Ended {
        self.begin(&self.pack(package), args);
        self.end()
    }

    /// Follows the log until it shows `text`.
    pub(crate) fn await_log(&self, text: &str) {
        let mut follow = self
            .probe(&["log", "-f"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(follow.stdout.take().unwrap()).split(b'\n');
        let found = lines
            .map_while(Result::ok)
            .any(|line| String::from_utf8_lossy(&line).contains(text));
        let _ = follow.kill();
        follow.wait().unwrap();
        assert!(found, "no {text:?} in the log");
    }

    pub(crate) fn log(&self) -> String {
        let output = self.probe(&["log"]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Waits for the end of the build.
    pub(crate) fn wait(&self) {
        // The exit code is that of the build, which `status` shows in more detail.
        self.probe(&["wait"]).output().unwrap();
    }

    /// Waits for the end of the build and returns it.
    pub(crate) fn end(&self) -> Ended {
        self.wait();
        let status = self.status();
        let text = |place: usize| status[place].as_str().unwrap_or_default().to_owned();
        assert_eq!(text(0), "BuilderStatus.WAITING", "{status}");
        assert_eq!(text(2), self.id(), "{status}");
        let verdict = text(1);
        Ended {
            status: verdict.trim_start_matches("BuildStatus.").to_owned(),
            dependencies: text(4),
            files: status[3].as_object().cloned().unwrap_or_default(),
            log: self.log(),
        }
    }

    /// Fetches a result into the folder of this test and verifies its hash.
    pub(crate) fn fetch(&self, name: &str, sum: &Value) -> PathBuf {
        let to = self.dir.join(name);
        stdout(self.probe(&["get", sum.as_str().unwrap(), "-o"]).arg(&to));
        to
    }

    /// Cleans the build and checks that only its inputs are left.
    pub(crate) fn clean(&self, ended: &Ended) {
        assert_eq!(self.call("clean", &[]), json!("BuilderStatus.IDLE"));
        assert_eq!(self.status(), json!(["BuilderStatus.IDLE", ""]));
        for (name, sum) in &ended.files {
            let kept = self.dir.join("filecache").join(sum.as_str().unwrap());
            assert!(!kept.exists(), "{name} is still in the cache");
        }
        self.assert_gone();
        assert!(!self.dir.join("journal").join(self.id()).exists());
    }

    /// Asserts that a build that is over left no tree, no session and no mount.
    pub(crate) fn assert_gone(&self) {
        let tree = self.dir.join(format!("build-{}", self.id()));
        assert!(!tree.exists(), "{} is left", tree.display());
        let session = self.dir.join("sessions").join(self.id());
        assert!(!session.exists(), "{} is left", session.display());
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(self.dir.to_str().unwrap()), "{mounts}");
    }
}

/// Ends the build of a failed test, which would slow down the others.
impl Drop for Slave {
    fn drop(&mut self) {
        if thread::panicking() {
            let _ = self.probe(&["abort"]).output();
            let _ = self.probe(&["wait"]).output();
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Starts a daemon and waits until it is ready; it logs to `dir/daemon.log`.
fn serve(dir: &Path) -> (Child, String) {
    // The daemon inherits an open file, which no build may inherit.
    let mut process = Command::new("sh")
        .args(["-c", "exec 9<\"$0\"; exec \"$0\" \"$@\"", PROGRAM])
        .arg("serve")
        .arg("--config")
        .arg(dir.join("conf"))
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut words = BufReader::new(process.stderr.take().unwrap()).lines();
    let mut file = fs::File::options()
        .append(true)
        .create(true)
        .open(dir.join("daemon.log"))
        .unwrap();
    let url = words.by_ref().map_while(Result::ok).find_map(|line| {
        writeln!(file, "{line}").unwrap();
        Some(line.split_once("daemon ready! listening at ")?.1.to_owned())
    });
    thread::spawn(move || {
        for line in words.map_while(Result::ok) {
            let _ = writeln!(file, "{line}");
        }
    });
    let Some(url) = url else {
        let said = fs::read_to_string(dir.join("daemon.log")).unwrap();
        panic!("the daemon does not start: {said}")
    };
    (process, url)
}
