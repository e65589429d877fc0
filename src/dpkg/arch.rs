//! Pure: matches Debian architectures against wildcards such as `linux-any` and `any-i386`.
//!
//! The rules give the answers of `dpkg-architecture -i`. An architecture has four parts: ABI,
//! C library, system and processor. A name that dpkg does not know is Linux on that processor.
//! Used for `[arch]` lists and for the architectures that a source is built on.

/// True if `arch` equals `pattern` or matches it as a wildcard.
pub(crate) fn matches(arch: &str, pattern: &str) -> bool {
    let given: Vec<&str> = pattern.splitn(4, '-').collect();
    let wanted = if given.contains(&"any") {
        // A short wildcard leaves out its first parts.
        let mut parts = ["any"; 4];
        parts[4 - given.len()..].copy_from_slice(&given);
        parts
    } else {
        tuple(pattern)
    };
    let fits = |(have, want): (&str, &str)| want == "any" || have == want;
    tuple(arch).into_iter().zip(wanted).all(fits)
}

/// Returns ABI, C library, system and processor.
fn tuple(arch: &str) -> [&str; 4] {
    let parts: Vec<&str> = arch.split('-').collect();
    let (libc, system, name) = match parts[..] {
        // An old spelling: `linux-i386` is `i386`.
        ["linux", name] => ("gnu", "linux", name),
        [system, name] => (default_libc(system), system, name),
        [libc, system, name] => (libc, system, name),
        _ => ("gnu", "linux", arch),
    };
    let (abi, cpu) = match (libc, system, name) {
        (_, _, "armel") => ("eabi", "arm"),
        (_, _, "armhf") => ("eabihf", "arm"),
        ("gnu", "linux", "x32") => ("x32", "amd64"),
        ("gnu", "linux", "arm64ilp32") => ("ilp32", "arm64"),
        ("gnu", "linux", "powerpcspe") => ("spe", "powerpc"),
        ("gnu", "linux", "mipsn32") => ("abin32", "mips64"),
        ("gnu", "linux", "mipsn32el") => ("abin32", "mips64el"),
        ("gnu", "linux", "mipsn32r6") => ("abin32", "mips64r6"),
        ("gnu", "linux", "mipsn32r6el") => ("abin32", "mips64r6el"),
        ("gnu", "linux", "mips64" | "mips64el" | "mips64r6" | "mips64r6el") => ("abi64", name),
        _ => ("base", name),
    };
    [abi, libc, system, cpu]
}

/// Returns the C library of `system` if the architecture names none.
fn default_libc(system: &str) -> &'static str {
    match system {
        "darwin" | "dragonflybsd" | "freebsd" | "netbsd" | "openbsd" => "bsd",
        "aix" | "solaris" => "sysv",
        "uclinux" => "uclibc",
        "mint" => "tos",
        _ => "gnu",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::process::Command;

    use super::*;

    #[test]
    fn wildcards_match_their_architectures() {
        for (arch, pattern, expect) in [
            ("amd64", "any", true),
            ("amd64", "amd64", true),
            ("amd64", "i386", false),
            ("amd64", "linux-any", true),
            ("amd64", "linux-amd64", true),
            ("amd64", "any-amd64", true),
            ("amd64", "gnu-any-any", true),
            ("amd64", "base-gnu-linux-any", true),
            ("amd64", "kfreebsd-any", false),
            ("amd64", "musl-any-any", false),
            ("i386", "any-amd64", false),
            ("i386", "any-i386", true),
            ("kfreebsd-amd64", "any-amd64", true),
            ("kfreebsd-amd64", "linux-any", false),
            ("hurd-i386", "any-i386", true),
            ("hurd-amd64", "hurd-any", true),
            ("hurd-amd64", "linux-any", false),
            ("armel", "any-arm", true),
            ("armhf", "any-arm", true),
            ("armhf", "eabihf-any-any-any", true),
            ("armel", "eabihf-any-any-any", false),
            ("armhf", "any-armhf", false),
            ("arm64", "any-arm", false),
            ("arm64", "any-arm64", true),
            ("ppc64el", "any-ppc64el", true),
            ("s390x", "linux-any", true),
            ("riscv64", "any-riscv64", true),
            ("mips64el", "any-mips64el", true),
            ("loong64", "any-loong64", true),
            ("x32", "any-amd64", true),
            ("x32", "any-x32", false),
            ("musl-linux-amd64", "musl-any-any", true),
            ("musl-linux-armhf", "any-arm", true),
            ("musl-linux-armhf", "gnu-any-any", false),
            ("nextcpu", "linux-any", true),
            ("nextcpu", "any-nextcpu", true),
        ] {
            assert_eq!(matches(arch, pattern), expect, "{arch} {pattern}");
        }
    }

    fn dpkg_architecture(args: &[&str]) -> BTreeSet<String> {
        let output = Command::new("dpkg-architecture").args(args).output();
        let output = output.expect("dpkg-architecture (package dpkg-dev) is installed");
        assert!(output.status.success(), "{args:?}: {output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn matches_agrees_with_dpkg_on_all_its_architectures() {
        let all = dpkg_architecture(&["-L"]);
        for wildcard in [
            "any",
            "any-any",
            "any-any-any",
            "any-any-any-any",
            "linux-any",
            "hurd-any",
            "kfreebsd-any",
            "darwin-any",
            "uclinux-any",
            "any-amd64",
            "any-i386",
            "any-arm",
            "any-arm64",
            "any-mips64el",
            "any-mips64r6",
            "any-powerpc",
            "any-s390x",
            "any-m68k",
            "gnu-any-any",
            "musl-any-any",
            "uclibc-any-any",
            "bsd-any-any",
            "sysv-any-any",
            "gnu-linux-any",
            "musl-linux-any",
            "gnu-any-amd64",
            "any-linux-mips64el",
            "base-any-any-any",
            "eabi-any-any-any",
            "eabihf-gnu-any-any",
            "abi64-any-linux-any",
            "abin32-any-any-any",
            "x32-any-any-any",
            "any-gnu-linux-arm",
            "armhf",
            "x32",
            "linux-i386",
            "hurd-amd64",
            "musl-linux-armhf",
        ] {
            let ours: BTreeSet<String> = all
                .iter()
                .filter(|arch| matches(arch, wildcard))
                .cloned()
                .collect();
            let theirs = dpkg_architecture(&["-L", "-W", wildcard]);
            let differ: Vec<_> = ours.symmetric_difference(&theirs).collect();
            assert!(differ.is_empty(), "{wildcard}: {differ:?}");
        }
    }
}
