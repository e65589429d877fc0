//! Runs a session in a chroot tarball, and packs the changed tree again.
//!
//! The session's base is the unpacked chroot shared with builds, which is read-only, or a private
//! copy if there is none. Session and private copy are always removed.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus, Stdio};

use crate::arch;
use crate::commands::leftovers::HAND;
use crate::commands::site::{Site, at};
use crate::pipeline::network::BuildNetwork;
use crate::pipeline::spec::GateSettings;
use crate::pipeline::{UPDATE, UPGRADE, apt_proxy};
use crate::protocol::Sha1Hex;
use crate::session::files::{self, NewFile, Task};
use crate::session::idmap::SubIds;
use crate::session::live::{Session, remove_folder};
use crate::session::outer::{Layer, SessionSpec};
use crate::session::store::{self, StoreLimits};
use crate::session::terminal::Terminal;
use crate::session::{self, enter, launch, store_owner};
use crate::sys::locked_folder::LockedFolder;
use crate::sys::{self, output};

use super::detached::{self, Input, copy_to_stderr};
use super::interrupts::Interrupts;
use super::pack::{Packed, compression_of, pack, sha1};
use super::{Error, NEEDED, console};
use crate::session::tree::architecture;
use crate::sys::host;
use crate::sys::pipe::pipe;

/// Configures the proxy in the session; not packed.
const PROXY: &str = "/etc/apt/apt.conf.d/99buildd-slave-proxy";
/// Files that each session writes or needs only temporarily.
const NOT_PACKED: [&str; 8] = [
    "./etc/resolv.conf",
    "./etc/hosts",
    "./etc/hostname",
    "./etc/apt/apt.conf.d/99buildd-slave-proxy",
    "./var/lib/apt/lists/*",
    "./var/cache/apt/*.bin",
    "./root/.bash_history",
    "./tmp/*",
];
/// A session writes this file if the chroot has none.
const POLICY: &str = "usr/sbin/policy-rc.d";

/// Upgrades the packages in `tar` and adds [`NEEDED`]; messages call it `shown`.
pub(super) fn update(site: &Site, tar: &Path, shown: &Path) -> Result<ExitCode, Error> {
    with_chroot(site, tar, shown, |chroot| {
        let strict = ["-oAPT::Update::Error-Mode=any"];
        let refresh: Vec<&str> = UPDATE.into_iter().chain(strict).collect();
        let add = ["install", "--no-install-recommends", NEEDED];
        let before_dist_upgrade = &UPGRADE[..UPGRADE.len() - 1];
        let add: Vec<&str> = before_dist_upgrade.iter().copied().chain(add).collect();
        for words in [&refresh[..], &UPGRADE, &add, &["apt-get", "clean"]] {
            let status = chroot.run(words, Input::Empty)?;
            if !status.success() {
                return Err(failed(&words.join(" "), status, shown));
            }
        }
        chroot.repack(tar, shown)?;
        Ok(ExitCode::SUCCESS)
    })
}

/// Opens a root login shell in `tar`; with `save`, the changed chroot can replace the tarball.
pub(super) fn shell(site: &Site, tar: &Path, shown: &Path, save: bool) -> Result<ExitCode, Error> {
    with_chroot(site, tar, shown, |chroot| {
        let fate = if save { "can be saved" } else { "are lost" };
        print(&format!(
            "Opening a shell in {}. Changes {fate} when the shell exits.",
            shown.display()
        ));
        let status = chroot.login()?;
        // On a terminal, the user is asked: the exit code is that of the last command there.
        let wanted = save && (status.success() || io::stdin().is_terminal());
        if wanted && confirm_save(shown) {
            chroot.repack(tar, shown)?;
            return Ok(ExitCode::SUCCESS);
        }
        if save && !status.success() {
            print(&format!("The shell failed ({status}); nothing was saved."));
        }
        Ok(ExitCode::from(u8::from(!status.success())))
    })
}

/// A session over the tree of a tarball.
struct Chroot {
    session: Session,
    interrupts: Interrupts,
    tree: PathBuf,
    sha1: Sha1Hex,
}

/// Unpacks `tar`, runs `work` in a session over it, and removes both.
fn with_chroot(
    site: &Site,
    tar: &Path,
    shown: &Path,
    work: impl FnOnce(&Chroot) -> Result<ExitCode, Error>,
) -> Result<ExitCode, Error> {
    let interrupts = Interrupts::catch().map_err(at(tar))?;
    site.make_folders()?;
    let ids = launch::own_sub_ids()?;
    let sha1 = sha1(tar)?;
    let name = format!("{HAND}chroot-{}", std::process::id());
    let folder = Folder::create(site.work_folder().join(&name), ids)?;
    let tree = Tree::find(site, &folder, &name, tar, &sha1).map_err(|error| match error {
        Error::Session(session::Error::Tarball { reason, .. }) => {
            let path = shown.to_owned();
            session::Error::Tarball { path, reason }.into()
        }
        other => other,
    })?;
    let arch = architecture(&tree.root).map_err(at(tar))?;
    let emulated = arch.filter(|arch| !arch::is_native(host::debian_arch(), arch));
    let spec = SessionSpec {
        base: tree.root.clone(),
        dir: site.config.slave.sessions.join(name),
        // dpkg may have to rename folders of the chroot, which no overlay allows.
        layer: Layer::Copy,
        resolver: String::new(),
        emulate: emulated.into_iter().collect(),
    };
    let (messages, log) = pipe().map_err(at(tar))?;
    let messages = copy_to_stderr(messages);
    let session = Session::start(ids, &spec, log).inspect_err(|_| {
        let _ = messages.join();
        // Report the first failure, not this one.
        let _ = remove_folder(&spec.dir, ids);
    })?;
    let mut chroot = Chroot {
        session,
        interrupts,
        tree: tree.root.clone(),
        sha1,
    };
    let result = chroot.start_gate(site, tar).and_then(|network| {
        let code = work(&chroot);
        for line in network.refusals() {
            print(&line);
        }
        code
    });
    let removed = chroot.session.remove();
    let code = result?;
    removed?;
    Ok(code)
}

impl Chroot {
    /// Starts the gate to the archives of the chroot's own sources, for apt.
    fn start_gate(&mut self, site: &Site, tar: &Path) -> Result<BuildNetwork, Error> {
        let init = self.session.init_pid();
        let socket = self.session.take_gate().expect("a new session has a gate");
        let start = || {
            let network = BuildNetwork::start(socket, &GateSettings::of(&site.config), false)?;
            network.allow(&files::change(init, &Task::ReadSources)?);
            let file = NewFile {
                path: PROXY.to_owned(),
                content: apt_proxy(&network.url()).into_bytes(),
                mode: 0o644,
            };
            files::change(init, &Task::Write(vec![file]))?;
            Ok(network)
        };
        start().map_err(|error| at(tar)(error).into())
    }

    /// Runs a command in the session, through pipes.
    fn run(&self, words: &[&str], input: Input) -> Result<ExitStatus, Error> {
        self.interrupts.check()?;
        let command = self.command(Terminal::None, words);
        self.ended(detached::run(command, input, &self.interrupts))
    }

    /// Runs a login shell, with a terminal of its own if a person sits at this one.
    fn login(&self) -> Result<ExitStatus, Error> {
        let words = ["bash", "--login"];
        if !console::is_present() {
            return self.run(&words, Input::Stdin);
        }
        self.interrupts.check()?;
        let command = self.command(Terminal::New, &words);
        self.ended(console::run(command, &self.interrupts))
    }

    fn command(&self, terminal: Terminal, words: &[&str]) -> Command {
        let (program, rest) = words.split_first().expect("a command has a name");
        let init = self.session.init_pid();
        let network = enter::Network::Gate(self.session.gate_network());
        let mut command = enter::detached(init, &network, terminal, program);
        command.args(rest);
        command
    }

    fn ended(&self, status: io::Result<ExitStatus>) -> Result<ExitStatus, Error> {
        self.interrupts.check()?;
        Ok(status.map_err(at(&self.tree))?)
    }

    /// Packs the session's tree and replaces `tar` with it, in the same compression.
    fn repack(&self, tar: &Path, shown: &Path) -> Result<(), Error> {
        print(&format!("Packing {}.", shown.display()));
        self.interrupts.check()?;
        let mut command = self.command(Terminal::None, &["tar"]);
        command
            .args(["--create", "--one-file-system", "--numeric-owner"])
            .args(["--sort=name", "--anchored", "--no-wildcards-match-slash"])
            .args(NOT_PACKED.map(|path| format!("--exclude={path}")));
        if !self.tree.join(POLICY).exists() {
            command.arg(format!("--exclude=./{POLICY}"));
        }
        let mut child = command
            .args(["--warning=no-xdev", "--directory=/", "."])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(at(tar))?;
        self.interrupts.attend(&child);
        let stream = child.stdout.take().expect("stdout is piped");
        let messages = copy_to_stderr(child.stderr.take().expect("stderr is piped"));
        let Packed { sha1, size } = pack(stream, compression_of(tar)?, tar, || {
            let status = self.interrupts.wait(&mut child).map_err(at(tar))?;
            let _ = messages.join();
            self.interrupts.check()?;
            if status.success() {
                return Ok(());
            }
            Err(failed("tar", status, shown))
        })?;
        print(&format!("{} -> {sha1}", self.sha1));
        print(&format!("{sha1} {size:>10} {}", shown.display()));
        Ok(())
    }
}

/// The folder of one command, with the private tree if there is one; removed when dropped.
struct Folder {
    place: LockedFolder,
    ids: SubIds,
}

impl Folder {
    fn create(path: PathBuf, ids: SubIds) -> Result<Self, Error> {
        let place = LockedFolder::create(path.clone()).map_err(at(&path))?;
        Ok(Self { place, ids })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = store::remove(self.place.path(), self.ids) {
            log::warn!("{error}");
        }
    }
}

/// The unpacked tree of a tarball.
struct Tree {
    root: PathBuf,
    /// Keeps the shared tree from being evicted.
    _held: Option<store::Held>,
}

impl Tree {
    fn find(
        site: &Site,
        folder: &Folder,
        name: &str,
        tar: &Path,
        sha1: &Sha1Hex,
    ) -> Result<Self, Error> {
        let chroots = &site.config.slave.chroots;
        let root = store::tree(chroots, sha1.as_str());
        if let Some(sentence) = store_owner::discard_unusable(chroots, sha1.as_str(), folder.ids)? {
            print(&sentence);
        }
        let held = store::hold(chroots, sha1.as_str())?;
        if root.is_dir() {
            return Ok(Self {
                root,
                _held: Some(held),
            });
        }
        let tar = std::path::absolute(tar).map_err(at(tar))?;
        // The store locks its folder, which would never end in the locked one.
        let store = folder.place.path().join("store");
        sys::fs::make_private(&store).map_err(crate::commands::site::Error::from)?;
        let (sha1, limits) = (sha1.as_str(), StoreLimits::NONE);
        Ok(Self {
            root: store::unpack(&store, sha1, &tar, name, folder.ids, limits)?,
            _held: None,
        })
    }
}

fn failed(program: &str, status: ExitStatus, tar: &Path) -> Error {
    Error::Program {
        program: program.to_owned(),
        status: status.to_string(),
        tar: tar.to_owned(),
    }
}

/// Prints a line and ignores write errors.
fn print(line: &str) {
    let _ = writeln!(output::stdout(), "{line}");
}

/// Asks on a terminal whether to save; without a terminal, `--save` is the answer.
fn confirm_save(tar: &Path) -> bool {
    if !io::stdin().is_terminal() {
        return true;
    }
    let mut out = output::stdout();
    let _ = write!(out, "Save the changed chroot as {}? [Y/n] ", tar.display());
    let _ = out.flush();
    let mut answer = String::new();
    let read = io::stdin().read_line(&mut answer);
    // A count of 0 is an end of file, not an empty answer.
    read.is_ok_and(|count| count > 0)
        && matches!(answer.trim().to_lowercase().as_str(), "" | "y" | "yes")
}
