//! Refuses system calls that no build needs and that reach beyond the session.
//!
//! The kernel's keyrings belong to no namespace, `TIOCSTI` types on a terminal, and the others have
//! been ways out of a namespace. A filter knows the numbers of one kind of system call only. So
//! there is a program for each kind that this processor runs, and one in front that chooses.
//! A filter also sets `no_new_privs`: set-user-id programs run without the rights of their owner.

use std::collections::BTreeMap;
use std::io;

use nix::errno::Errno;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, sock_filter,
};

/// A condition on the low 32 bits of an argument: its index and the refused value.
type Argument = (u8, u32);

/// The calls that get one error. Without arguments, each of them is refused.
struct Refused {
    errno: Errno,
    calls: &'static [&'static str],
    arguments: &'static [Argument],
}

const REFUSED: [Refused; 3] = [
    Refused {
        // As from a kernel that was built without them: programs then use something else.
        errno: Errno::ENOSYS,
        calls: &[
            "add_key",
            "request_key",
            "keyctl",
            "io_uring_setup",
            "io_uring_enter",
            "io_uring_register",
            "userfaultfd",
            "bpf",
            "kexec_load",
            "kexec_file_load",
            "init_module",
            "finit_module",
            "delete_module",
        ],
        arguments: &[],
    },
    Refused {
        errno: Errno::EPERM,
        calls: &["ioctl"],
        // TIOCSTI and TIOCLINUX: both put text into the input of a terminal.
        arguments: &[(1, 0x5412), (1, 0x541C)],
    },
    Refused {
        errno: Errno::EAFNOSUPPORT,
        calls: &["socket", "socketpair"],
        // AF_ALG and AF_VSOCK.
        arguments: &[(0, 38), (0, 40)],
    },
];

/// A kind of system calls: its mark in the kernel's audit, and the numbers of [`REFUSED`].
struct Kind {
    audit: u32,
    numbers: &'static [(&'static str, i64)],
    /// Added to each number for a second set of calls under the same mark, as x32 has on amd64.
    second: Option<i64>,
}

const AMD64: Kind = Kind {
    audit: 0xC000_003E,
    numbers: &[
        ("ioctl", 16),
        ("socket", 41),
        ("socketpair", 53),
        ("init_module", 175),
        ("delete_module", 176),
        ("kexec_load", 246),
        ("add_key", 248),
        ("request_key", 249),
        ("keyctl", 250),
        ("finit_module", 313),
        ("kexec_file_load", 320),
        ("bpf", 321),
        ("userfaultfd", 323),
        ("io_uring_setup", 425),
        ("io_uring_enter", 426),
        ("io_uring_register", 427),
    ],
    second: Some(0x4000_0000),
};
const I386: Kind = Kind {
    audit: 0x4000_0003,
    numbers: &[
        ("ioctl", 54),
        ("init_module", 128),
        ("delete_module", 129),
        ("kexec_load", 283),
        ("add_key", 286),
        ("request_key", 287),
        ("keyctl", 288),
        ("finit_module", 350),
        ("bpf", 357),
        ("socket", 359),
        ("socketpair", 360),
        ("userfaultfd", 374),
        ("io_uring_setup", 425),
        ("io_uring_enter", 426),
        ("io_uring_register", 427),
    ],
    second: None,
};
/// The numbers of arm64, which riscv64 shares.
const GENERIC: &[(&str, i64)] = &[
    ("ioctl", 29),
    ("kexec_load", 104),
    ("init_module", 105),
    ("delete_module", 106),
    ("socket", 198),
    ("socketpair", 199),
    ("add_key", 217),
    ("request_key", 218),
    ("keyctl", 219),
    ("finit_module", 273),
    ("bpf", 280),
    ("userfaultfd", 282),
    ("kexec_file_load", 294),
    ("io_uring_setup", 425),
    ("io_uring_enter", 426),
    ("io_uring_register", 427),
];
const ARM64: Kind = Kind {
    audit: 0xC000_00B7,
    numbers: GENERIC,
    second: None,
};
const ARM: Kind = Kind {
    audit: 0x4000_0028,
    numbers: &[
        ("ioctl", 54),
        ("init_module", 128),
        ("delete_module", 129),
        ("socket", 281),
        ("socketpair", 288),
        ("add_key", 309),
        ("request_key", 310),
        ("keyctl", 311),
        ("kexec_load", 347),
        ("finit_module", 379),
        ("bpf", 386),
        ("userfaultfd", 388),
        ("kexec_file_load", 401),
        ("io_uring_setup", 425),
        ("io_uring_enter", 426),
        ("io_uring_register", 427),
    ],
    second: None,
};
const RISCV64: Kind = Kind {
    audit: 0xC000_00F3,
    numbers: GENERIC,
    second: None,
};

/// Returns the kinds of system calls on a processor; empty where no filter is known.
fn kinds(processor: &str) -> &'static [Kind] {
    match processor {
        "x86_64" => &[AMD64, I386],
        "aarch64" => &[ARM64, ARM],
        "riscv64" => &[RISCV64],
        _ => &[],
    }
}

/// Returns whether this host's processor has a filter.
pub(crate) fn is_known() -> bool {
    !kinds(std::env::consts::ARCH).is_empty()
}

/// Refuses the calls for this process and for all that it starts.
pub(crate) fn apply() -> io::Result<()> {
    let kinds = kinds(std::env::consts::ARCH);
    if kinds.is_empty() {
        return Ok(());
    }
    for refused in &REFUSED {
        let program = program(kinds, refused).map_err(io::Error::other)?;
        seccompiler::apply_filter(&program)
            .map_err(|error| io::Error::other(format!("seccomp filter: {error}")))?;
    }
    Ok(())
}

/// Instructions of the Berkeley packet filter: load a word, compare and jump, jump, return.
const LOAD: u16 = 0x20;
const JUMP_IF_EQUAL: u16 = 0x15;
const JUMP: u16 = 0x05;
const RETURN: u16 = 0x06;
/// The place of the kind in what a filter reads, and the answer `SECCOMP_RET_ALLOW`.
const KIND: u32 = 4;
const ALLOW: u32 = 0x7fff_0000;
/// The length of the check that each compiled program begins with: it kills all other kinds.
const OWN_CHECK: usize = 3;

const fn instruction(code: u16, k: u32) -> sock_filter {
    sock_filter {
        code,
        jt: 0,
        jf: 0,
        k,
    }
}

/// Joins the programs of all `kinds`: each runs for its own kind, and any other kind is allowed.
fn program(kinds: &[Kind], refused: &Refused) -> Result<BpfProgram, seccompiler::BackendError> {
    let mut whole = vec![instruction(LOAD, KIND)];
    for kind in kinds {
        let compiled = compile(kind, refused)?;
        let body = compiled.get(OWN_CHECK..).unwrap_or_default();
        // A conditional jump is too short to pass over a body, so it passes over a long jump.
        whole.push(sock_filter {
            jt: 1,
            ..instruction(JUMP_IF_EQUAL, kind.audit)
        });
        whole.push(instruction(JUMP, u32::try_from(body.len()).unwrap_or(0)));
        whole.extend_from_slice(body);
    }
    whole.push(instruction(RETURN, ALLOW));
    Ok(whole)
}

/// Compiles the program for one kind. The compiler's own architecture is no matter: its check is
/// cut off.
fn compile(kind: &Kind, refused: &Refused) -> Result<BpfProgram, seccompiler::BackendError> {
    let mut rules = BTreeMap::new();
    let numbers = refused.calls.iter().filter_map(|call| {
        let known = kind.numbers.iter().find(|(name, _)| name == call);
        known.map(|(_, number)| *number)
    });
    for number in numbers {
        for base in [Some(0), kind.second].into_iter().flatten() {
            rules.insert(base + number, conditions(refused.arguments)?);
        }
    }
    let action = SeccompAction::Errno(refused.errno as u32);
    SeccompFilter::new(rules, SeccompAction::Allow, action, TargetArch::x86_64)?.try_into()
}

fn conditions(arguments: &[Argument]) -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
    let rule = |(index, value): &Argument| {
        let equal = SeccompCmpOp::Eq;
        let value = u64::from(*value);
        let condition = SeccompCondition::new(*index, SeccompCmpArgLen::Dword, equal, value)?;
        SeccompRule::new(vec![condition])
    };
    arguments.iter().map(rule).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a program on one system call, as the kernel does.
    fn run(program: &[sock_filter], kind: u32, number: u32, arguments: [u64; 2]) -> u32 {
        let mut data = Vec::from(number.to_le_bytes());
        data.extend(kind.to_le_bytes());
        data.extend([0; 8]);
        arguments
            .iter()
            .for_each(|value| data.extend(value.to_le_bytes()));
        data.resize(64, 0);
        let (mut at, mut register) = (0, 0_u32);
        loop {
            let step = &program[at];
            at += 1;
            match step.code {
                LOAD => {
                    let from = step.k as usize;
                    register = u32::from_le_bytes(data[from..from + 4].try_into().unwrap());
                }
                JUMP_IF_EQUAL => {
                    at += usize::from(if register == step.k { step.jt } else { step.jf })
                }
                JUMP => at += step.k as usize,
                RETURN => return step.k,
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    fn errno(errno: Errno) -> u32 {
        0x0005_0000 | errno as u32
    }

    #[test]
    fn each_kind_of_calls_is_judged_by_its_own_numbers() {
        let kinds = kinds("x86_64");
        let keys = program(kinds, &REFUSED[0]).unwrap();
        assert_eq!(run(&keys, AMD64.audit, 250, [0, 0]), errno(Errno::ENOSYS));
        assert_eq!(
            run(&keys, AMD64.audit, 0x4000_0000 + 250, [0, 0]),
            errno(Errno::ENOSYS)
        );
        assert_eq!(run(&keys, I386.audit, 288, [0, 0]), errno(Errno::ENOSYS));
        // keyctl of one kind is another call of the other.
        assert_eq!(run(&keys, AMD64.audit, 288, [0, 0]), ALLOW);
        assert_eq!(run(&keys, I386.audit, 250, [0, 0]), ALLOW);
        assert_eq!(run(&keys, RISCV64.audit, 219, [0, 0]), ALLOW);
    }

    #[test]
    fn terminals_and_sockets_are_judged_by_their_arguments() {
        let kinds = kinds("x86_64");
        let terminal = program(kinds, &REFUSED[1]).unwrap();
        // The kernel ignores the high half of the argument, and so does the filter.
        for request in [0x5412, 0x541C, 0xFFFF_FFFF_0000_5412] {
            let answer = run(&terminal, AMD64.audit, 16, [0, request]);
            assert_eq!(answer, errno(Errno::EPERM), "{request:#x}");
        }
        assert_eq!(run(&terminal, AMD64.audit, 16, [0, 0x5413]), ALLOW);
        let sockets = program(kinds, &REFUSED[2]).unwrap();
        assert_eq!(
            run(&sockets, I386.audit, 359, [38, 0]),
            errno(Errno::EAFNOSUPPORT)
        );
        assert_eq!(
            run(&sockets, AMD64.audit, 41, [40, 0]),
            errno(Errno::EAFNOSUPPORT)
        );
        assert_eq!(run(&sockets, AMD64.audit, 41, [2, 0]), ALLOW);
    }

    #[test]
    fn every_refused_call_has_a_number_of_each_kind() {
        for kind in [AMD64, I386, ARM64, ARM, RISCV64] {
            for call in REFUSED.iter().flat_map(|refused| refused.calls) {
                let known = kind.numbers.iter().any(|(name, _)| name == call);
                // i386 never had this call.
                assert!(
                    known || (kind.audit == I386.audit && *call == "kexec_file_load"),
                    "{call}"
                );
            }
        }
    }
}
