//! Pure: Debian's architectures: which of them a host runs itself, and which need qemu.
//!
//! An emulated architecture has an entry in [`EMULATED`]. The kernel recognizes its programs by the
//! start of the file and runs qemu for them ([`Emulator::registration`]).

use std::fmt::Write as _;

/// Where an ELF file has the number of its program headers, and the type of the one that names an
/// interpreter.
const PHNUM: usize = 56;
const PT_INTERP: u32 = 3;

/// The emulation of an architecture by a program of qemu-user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Emulator {
    /// The end of the program's name: `aarch64` of `qemu-aarch64-static`.
    pub(crate) qemu: &'static str,
    bits: Bits,
    order: Order,
    /// The number of the processor in the header of an ELF file.
    machine: u16,
    /// Bits of the OS and the ABI version in the header that must match.
    os_mask: [u8; 2],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bits {
    B32 = 1,
    B64 = 2,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Little = 1,
    Big = 2,
}

const fn emulator(qemu: &'static str, bits: Bits, order: Order, machine: u16) -> Emulator {
    Emulator {
        qemu,
        bits,
        order,
        machine,
        os_mask: [0x00, 0xff],
    }
}

/// The masks are those of qemu-user-static.
const EMULATED: [(&str, Emulator); 11] = [
    ("amd64", emulator("x86_64", Bits::B64, Order::Little, 62)),
    ("arm64", emulator("aarch64", Bits::B64, Order::Little, 183)),
    ("armel", emulator("arm", Bits::B32, Order::Little, 40)),
    ("armhf", emulator("arm", Bits::B32, Order::Little, 40)),
    ("i386", emulator("i386", Bits::B32, Order::Little, 3)),
    (
        "loong64",
        Emulator {
            os_mask: [0xfc, 0x00],
            ..emulator("loongarch64", Bits::B64, Order::Little, 258)
        },
    ),
    (
        "mips64el",
        Emulator {
            os_mask: [0x00, 0xfe],
            ..emulator("mips64el", Bits::B64, Order::Little, 8)
        },
    ),
    (
        "ppc64",
        Emulator {
            os_mask: [0xfc, 0xff],
            ..emulator("ppc64", Bits::B64, Order::Big, 21)
        },
    ),
    (
        "ppc64el",
        Emulator {
            os_mask: [0xfc, 0xff],
            ..emulator("ppc64le", Bits::B64, Order::Little, 21)
        },
    ),
    (
        "riscv64",
        emulator("riscv64", Bits::B64, Order::Little, 243),
    ),
    (
        "s390x",
        Emulator {
            os_mask: [0xfc, 0xff],
            ..emulator("s390x", Bits::B64, Order::Big, 22)
        },
    ),
];

/// Pairs of a host and another architecture that its processors run.
const ALSO_NATIVE: [(&str, &str); 5] = [
    ("amd64", "i386"),
    ("arm64", "armel"),
    ("arm64", "armhf"),
    ("armhf", "armel"),
    ("mips64el", "mipsel"),
];

/// Returns whether a host of architecture `host` runs programs for `arch` without emulation.
pub(crate) fn is_native(host: &str, arch: &str) -> bool {
    host == arch || ALSO_NATIVE.contains(&(host, arch))
}

/// Returns whether a host of architecture `host` can be told to emulate `arch`. It can for its
/// smaller architectures too, which not every arm64 processor runs; but every amd64 runs i386.
pub(crate) fn may_emulate(host: &str, arch: &str) -> bool {
    host != arch && (host, arch) != ("amd64", "i386") && emulator_of(arch).is_some()
}

/// Returns the emulator of an architecture; `None` if qemu-user has none that is known here.
pub(crate) fn emulator_of(arch: &str) -> Option<Emulator> {
    EMULATED
        .iter()
        .find(|(name, _)| *name == arch)
        .map(|(_, emulator)| *emulator)
}

/// Returns the architectures that can be emulated, for messages.
pub(crate) fn emulated() -> String {
    let names: Vec<&str> = EMULATED.iter().map(|(name, _)| *name).collect();
    names.join(", ")
}

impl Emulator {
    /// Returns the line for the file `register` of `binfmt_misc`. Flags: O passes qemu the program
    /// as an open file, P its `argv[0]`, and F opens `interpreter` now, so that it need not exist
    /// in a chroot.
    pub(crate) fn registration(&self, interpreter: &str) -> String {
        let number = |number: u16| match self.order {
            Order::Little => number.to_le_bytes(),
            Order::Big => number.to_be_bytes(),
        };
        let mut magic = vec![0x7f, b'E', b'L', b'F', self.bits as u8, self.order as u8, 1];
        magic.resize(16, 0);
        // A program of type EXEC (2) or DYN (3).
        magic.extend(number(2));
        magic.extend(number(self.machine));
        let mut mask = vec![0xff; 16];
        mask[7..9].copy_from_slice(&self.os_mask);
        mask.extend(number(0xfffe));
        mask.extend([0xff, 0xff]);
        let name = self.handler();
        format!(
            ":{name}:M::{}:{}:{interpreter}:OPF",
            hex(&magic),
            hex(&mask)
        )
    }

    /// Returns the name of its handler in `binfmt_misc`, the same as in Debian's packages.
    pub(crate) fn handler(&self) -> String {
        format!("qemu-{}", self.qemu)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "\\x{byte:02x}");
        text
    })
}

/// Returns whether the file that begins with `head` is a program of this host that needs no shared
/// libraries. Only such an interpreter works in a chroot.
pub(crate) fn is_static(head: &[u8]) -> bool {
    let number = |at: usize, bytes: usize| -> Option<u64> {
        let bytes = head.get(at..at.checked_add(bytes)?)?;
        let little = cfg!(target_endian = "little");
        let shifted = |number: u64, byte: &u8| number << 8 | u64::from(*byte);
        Some(match little {
            true => bytes.iter().rev().fold(0, shifted),
            false => bytes.iter().fold(0, shifted),
        })
    };
    let headers = || -> Option<bool> {
        let (start, size) = (number(32, 8)?, number(54, 2)?);
        for header in 0..number(PHNUM, 2)? {
            let at = start.checked_add(header.checked_mul(size)?)?;
            if number(usize::try_from(at).ok()?, 4)? == u64::from(PT_INTERP) {
                return Some(false);
            }
        }
        Some(true)
    };
    // Only hosts of 64 bits are known: on others, the package decides.
    head.starts_with(b"\x7fELF") && (head.get(4) != Some(&2) || headers() == Some(true))
}

/// Returns the architecture of a chroot, from its `/var/lib/dpkg/status`: that of its dpkg.
pub(crate) fn of_status(status: &str) -> Option<&str> {
    let mut in_dpkg = false;
    for line in status.lines() {
        if line.is_empty() {
            in_dpkg = false;
        } else if let Some(package) = line.strip_prefix("Package:") {
            in_dpkg = package.trim() == "dpkg";
        } else if let Some(arch) = line.strip_prefix("Architecture:").filter(|_| in_dpkg) {
            let arch = arch.trim();
            let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            return (!arch.is_empty() && arch.chars().all(good)).then_some(arch);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_runs_its_own_and_its_smaller_architecture() {
        for (host, arch, native) in [
            ("amd64", "amd64", true),
            ("amd64", "i386", true),
            ("i386", "amd64", false),
            ("amd64", "arm64", false),
            ("arm64", "armhf", true),
            ("arm64", "amd64", false),
        ] {
            assert_eq!(is_native(host, arch), native, "{host} {arch}");
        }
        assert!(may_emulate("amd64", "arm64") && may_emulate("arm64", "armhf"));
        for (host, arch) in [("amd64", "amd64"), ("amd64", "i386"), ("amd64", "vax")] {
            assert!(!may_emulate(host, arch), "{host} {arch}");
        }
    }

    /// The line of Debian's qemu-user-static, version 1:7.2.
    const AARCH64: &str = r":qemu-aarch64:M::\x7f\x45\x4c\x46\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00:\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff:/usr/bin/qemu:OPF";
    const S390X: &str = r":qemu-s390x:M::\x7f\x45\x4c\x46\x02\x02\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x16:\xff\xff\xff\xff\xff\xff\xff\xfc\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff:/usr/bin/qemu:OPF";
    const LOONG64: &str = r":qemu-loongarch64:M::\x7f\x45\x4c\x46\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x02\x01:\xff\xff\xff\xff\xff\xff\xff\xfc\x00\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff:/usr/bin/qemu:OPF";
    const MIPS64EL: &str = r":qemu-mips64el:M::\x7f\x45\x4c\x46\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x08\x00:\xff\xff\xff\xff\xff\xff\xff\x00\xfe\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff:/usr/bin/qemu:OPF";

    #[test]
    fn registrations_equal_those_of_qemus_package() {
        for (arch, line) in [
            ("arm64", AARCH64),
            ("s390x", S390X),
            ("loong64", LOONG64),
            ("mips64el", MIPS64EL),
        ] {
            let emulator = emulator_of(arch).unwrap();
            assert_eq!(emulator.registration("/usr/bin/qemu"), line, "{arch}");
        }
        assert_eq!(emulator_of("armel"), emulator_of("armhf"));
        assert_eq!(emulator_of("vax"), None);
    }

    #[test]
    fn a_program_with_an_interpreter_is_not_static() {
        let mut elf = vec![0; 64 + 2 * 56];
        elf[..5].copy_from_slice(b"\x7fELF\x02");
        elf[32] = 64;
        elf[54] = 56;
        elf[56] = 2;
        elf[64] = 1;
        assert!(is_static(&elf));
        elf[64 + 56] = 3;
        assert!(!is_static(&elf));
        assert!(!is_static(&elf[..100]), "cut off");
        assert!(!is_static(b"#!/bin/sh\n"));
    }

    #[test]
    fn the_architecture_of_a_chroot_is_that_of_its_dpkg() {
        let status = "Package: libc6\nArchitecture: amd64\n\nPackage: dpkg\nStatus: install ok \
                      installed\nArchitecture: i386\nDescription: x\n Architecture: all\n\n\
                      Package: dpkg-dev\nArchitecture: all\n";
        assert_eq!(of_status(status), Some("i386"));
        assert_eq!(of_status("Package: apt\nArchitecture: amd64\n"), None);
        assert_eq!(of_status("Package: dpkg\nArchitecture: a/../b\n"), None);
    }
}
