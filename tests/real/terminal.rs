//! `chroot shell` and `chroot update`: their terminal, and what an interrupted one leaves.

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::machine::{Machine, machine};
use crate::support::until;

const PROGRAM: &str = env!("CARGO_BIN_EXE_buildd-slave");
const DEADLINE: Duration = Duration::from_secs(60);

/// A person at a terminal: `script` runs a shell command with a terminal of its own.
struct Person {
    script: Child,
    pieces: Receiver<Vec<u8>>,
    seen: String,
}

impl Person {
    fn runs(home: &Path, command: &str) -> Self {
        let mut script = Command::new("script")
            .args([
                "--quiet",
                "--return",
                "--flush",
                "--command",
                command,
                "/dev/null",
            ])
            .env("BUILDD_SLAVE_CONFIG", home.join("conf"))
            .env("SHELL", "/bin/bash")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = script.stdout.take().unwrap();
        let (sender, pieces) = channel();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut buffer) {
                if sender.send(buffer[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self {
            script,
            pieces,
            seen: String::new(),
        }
    }

    /// Waits until `text` appears after what was awaited before.
    fn sees(&mut self, text: &str) {
        let end = Instant::now() + DEADLINE;
        while !self.seen.contains(text) {
            let left = end.saturating_duration_since(Instant::now());
            match self.pieces.recv_timeout(left) {
                Ok(piece) => self.seen += &String::from_utf8_lossy(&piece),
                Err(error) => panic!("no {text:?} ({error}) in {:?}", self.seen),
            }
        }
        let at = self.seen.find(text).unwrap();
        self.seen.drain(..at + text.len());
    }

    fn types(&mut self, text: &str) {
        let keyboard = self.script.stdin.as_mut().unwrap();
        keyboard.write_all(text.as_bytes()).unwrap();
        keyboard.flush().unwrap();
    }
}

impl Drop for Person {
    fn drop(&mut self) {
        let _ = self.script.kill();
        let _ = self.script.wait();
    }
}

/// A folder with a configuration, and a copy of the chroot for root.
fn place(machine: &'static Machine, name: &str) -> (PathBuf, String) {
    let home = machine.folder(name);
    let chroots = machine.home.join("chroots");
    let (shown, chroots) = (home.display(), chroots.display());
    fs::write(
        home.join("conf"),
        format!("[slave]\nhome = {shown}\nchroots = {chroots}\n"),
    )
    .unwrap();
    let tar = home.join("copy.tar");
    fs::copy(&machine.chroot, &tar).unwrap();
    machine.give(&tar);
    (home, tar.display().to_string())
}

#[test]
fn a_shell_has_a_terminal_of_its_own() {
    let Some(machine) = machine() else { return };
    let (home, tar) = place(machine, "shell");
    let command = format!(
        "stty rows 33 cols 111; {PROGRAM} chroot shell {tar}; echo code=$?; stty -a | grep icanon"
    );
    let mut person = Person::runs(&home, &command);
    person.sees("# ");
    person.types("tty; stty size; ps -o sid= -p $$ >/dev/null; echo here$((1+1))\n");
    person.sees("/dev/pts/0");
    person.sees("33 111");
    person.sees("here2");
    // Job control: Ctrl-Z and Ctrl-C reach the program in the chroot.
    person.types("sleep 1000\n");
    person.sees("sleep 1000");
    thread::sleep(Duration::from_millis(500));
    person.types("\x1a");
    person.sees("Stopped");
    person.types("fg\n");
    person.sees("sleep 1000");
    thread::sleep(Duration::from_millis(500));
    person.types("\x03");
    person.sees("^C");
    person.types("stty raw; exit 3\n");
    person.sees("code=1");
    person.sees(" icanon");
}

#[test]
fn a_chroot_cannot_type_into_the_terminal_of_its_user() {
    let Some(machine) = machine() else { return };
    let (home, tar) = place(machine, "typing");
    // TIOCSTI is 0x5412.
    let attack = "for my $f (\"/dev/tty\", glob(\"/proc/[0-9]*/fd/*\")) { next unless open(T, \"+<\", \
        $f); ioctl(T, 0x5412, $_) for split //, \"echo TYPED\\n\"; } print \"attacked\\n\";";
    fs::write(
        home.join("attack"),
        format!("perl -e '{attack}'\ntty\nexit 0\n"),
    )
    .unwrap();
    let attack = home.join("attack").display().to_string();
    // On a terminal, and with a terminal as stdout only.
    for input in ["", &format!("< {attack}")] {
        let command = format!(
            "{PROGRAM} chroot shell {tar} {input}; read -r -t 2 line; echo \"line=[$line]\""
        );
        let mut person = Person::runs(&home, &command);
        if input.is_empty() {
            person.sees("# ");
            person.types(&fs::read_to_string(&attack).unwrap());
            person.sees("print");
        }
        person.sees("attacked");
        person.sees("line=[]");
    }
}

#[test]
fn an_interrupted_command_is_cleaned_up_by_the_next() {
    let Some(machine) = machine() else { return };
    let (home, tar) = place(machine, "interrupted");
    let shell = || {
        let mut command = Command::new(PROGRAM);
        command
            .args(["chroot", "shell", &tar])
            .env("BUILDD_SLAVE_CONFIG", home.join("conf"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        command.spawn().unwrap()
    };
    let mut first = shell();
    first
        .stdin
        .as_mut()
        .unwrap()
        .write_all(b"echo ready; sleep 1000\n")
        .unwrap();
    let mut output = first.stdout.take().unwrap();
    let mut seen = Vec::new();
    while !seen.ends_with(b"ready\n") {
        let mut byte = [0];
        assert_eq!(output.read(&mut byte).unwrap(), 1, "the shell ended");
        seen.push(byte[0]);
    }
    let names = || -> Vec<String> {
        let mut names = Vec::new();
        for folder in [home.clone(), home.join("by-hand"), home.join("sessions")] {
            for entry in fs::read_dir(folder).unwrap() {
                let name = entry.unwrap().file_name().into_string().unwrap();
                if name.starts_with(".staging-") || name.starts_with("hand-chroot-") {
                    names.push(name);
                }
            }
        }
        names
    };
    let left = names();
    assert!(left.len() >= 2, "{left:?}");
    // A command beside it touches none of its folders.
    drop(shell().wait_with_output().unwrap());
    assert_eq!(names(), left);
    let session = home.join("sessions");
    let session = session.display().to_string();
    for process in fs::read_dir("/proc").unwrap().flatten() {
        let name = process.file_name();
        let arguments = fs::read(process.path().join("cmdline")).unwrap_or_default();
        let arguments = String::from_utf8_lossy(&arguments);
        if arguments.contains(&tar) && arguments.contains("chroot") && !arguments.contains(&session)
        {
            let kill = Command::new("kill").arg("-KILL").arg(name).status();
            kill.unwrap();
        }
    }
    first.wait().unwrap();
    until("the end of the session", || {
        let output = shell().wait_with_output().unwrap();
        assert!(output.status.success());
        names().is_empty().then_some(())
    });
}
