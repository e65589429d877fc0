//! A virtualisation server for sbuild's `autopkgtest` mode: gives it the existing session.
//!
//! sbuild runs `internal virt PROGRAM PID NETWORK…` and speaks a line protocol on stdin and stdout;
//! see autopkgtest's README.virtualisation-server. sbuild waits for an answer without timeout, so
//! every line gets one.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::io::{self, BufRead, Write};

use super::enter::namespace_of;

/// Percent-encodes one argument for `print-execute-command`.
fn encode(argument: &str) -> String {
    let mut out = String::new();
    for byte in argument.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_./:".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

/// Returns the answer to one line; `None` ends the protocol.
fn answer(line: &str, execute: &[String], alive: bool) -> Option<String> {
    let command = line.split_whitespace().next().unwrap_or_default();
    Some(match command {
        "capabilities" => "ok revert root-on-testbed has_internet isolation-container".into(),
        "open" if alive => "ok /tmp".into(),
        "open" => "bug the session has ended".into(),
        "print-execute-command" => {
            let words: Vec<String> = execute.iter().map(|word| encode(word)).collect();
            format!("ok {}", words.join(","))
        }
        "close" => "ok".into(),
        "quit" => return None,
        _ => format!("bug unknown command {}", encode(command)),
    })
}

/// Speaks the protocol until `quit` or the end of the input. `args` are the path of this program,
/// the pid of the session's init, and the words of the network (see [`super::enter`]).
pub(crate) fn run(args: &[OsString]) -> io::Result<()> {
    let [program, pid, network @ ..] = args else {
        return Err(io::Error::other("virt: PROGRAM PID NETWORK…"));
    };
    let mut words = vec![
        program.as_os_str(),
        "internal".as_ref(),
        "enter".as_ref(),
        pid,
    ];
    words.extend(network.iter().map(OsString::as_os_str));
    words.push("--".as_ref());
    // sbuild adds the variables of each command. The package gets no others.
    words.extend(["env", "-i"].map(OsStr::new));
    let execute: Vec<String> = words
        .iter()
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let mut out = io::stdout().lock();
    writeln!(out, "ok")?;
    for line in io::stdin().lock().lines() {
        let Some(reply) = answer(&line?, &execute, namespace_of(pid, "mnt").is_ok()) else {
            break;
        };
        writeln!(out, "{reply}")?;
        out.flush()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_request_of_sbuild_gets_an_answer() {
        let execute = ["/usr/bin/buildd-slave".to_owned(), "a b,c".to_owned()];
        let ask = |line| answer(line, &execute, true);
        assert_eq!(ask("open").as_deref(), Some("ok /tmp"));
        assert!(ask("capabilities").unwrap().contains(" root-on-testbed "));
        assert_eq!(
            ask("print-execute-command").as_deref(),
            Some("ok /usr/bin/buildd-slave,a%20b%2Cc")
        );
        assert_eq!(ask("close").as_deref(), Some("ok"));
        assert!(ask("").unwrap().starts_with("bug "));
        assert!(ask("rm -rf /").unwrap().starts_with("bug "));
        assert_eq!(ask("quit"), None);
        assert!(answer("open", &execute, false).unwrap().starts_with("bug "));
    }
}
