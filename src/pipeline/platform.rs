//! Pure: checks the architecture of the chroot against that of the build, and decides how its
//! programs run.

use crate::arch;
use crate::protocol::BuildStatus;

use super::stage::Failure;

/// The settings of this host that matter for an architecture.
#[derive(Debug)]
pub(super) struct Host<'a> {
    /// Its own architecture.
    pub(super) arch: &'a str,
    /// `[slave] architecturetag`.
    pub(super) tag: &'a str,
    /// `[slave] emulate`.
    pub(super) emulate: &'a [String],
}

/// How the programs of a chroot run on this host.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Platform {
    /// The architecture, if qemu runs its programs.
    pub(super) emulated: Option<String>,
}

impl Platform {
    /// Decides for a build for `wanted` in a chroot of architecture `chroot`; `None` if the chroot
    /// has no dpkg, which a later stage reports.
    pub(super) fn of(wanted: &str, chroot: Option<&str>, host: &Host<'_>) -> Result<Self, Failure> {
        if let Some(found) = chroot.filter(|found| *found != wanted) {
            let reason = format!(
                "the chroot is for {found}, the build is for {wanted}: give the build a chroot for \
                 {wanted}"
            );
            return Err(Failure::new(BuildStatus::ChrootFail, reason));
        }
        let listed = host.emulate.iter().any(|arch| arch == wanted);
        if !listed && arch::is_native(host.arch, wanted) {
            return Ok(Self { emulated: None });
        }
        // A builder whose own tag it is was meant for the architecture.
        if !listed && host.tag != wanted {
            let reason = format!(
                "this builder runs no programs for {wanted}; to emulate it, add {wanted} to \
                 [slave] emulate"
            );
            return Err(Failure::new(BuildStatus::BuilderFail, reason));
        }
        Ok(Self {
            emulated: Some(wanted.to_owned()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Decides on an amd64 host that emulates arm64.
    fn decide(wanted: &str, chroot: Option<&str>, tag: &str) -> Result<Platform, Failure> {
        let host = Host {
            arch: "amd64",
            tag,
            emulate: &["arm64".to_owned()],
        };
        Platform::of(wanted, chroot, &host)
    }

    #[test]
    fn native_programs_run_as_they_are() {
        let native = decide("amd64", Some("amd64"), "amd64").unwrap();
        assert_eq!(native, Platform::default());
        let native = decide("i386", Some("i386"), "amd64").unwrap();
        assert_eq!(native, Platform::default());
        assert!(decide("amd64", None, "amd64").is_ok());
    }

    #[test]
    fn listed_architectures_and_the_own_tag_are_emulated() {
        for (arch, tag) in [("arm64", "amd64"), ("riscv64", "riscv64")] {
            let emulated = decide(arch, Some(arch), tag).unwrap();
            assert_eq!(emulated.emulated.as_deref(), Some(arch));
        }
        let failure = decide("riscv64", Some("riscv64"), "amd64").unwrap_err();
        assert_eq!(failure.status, BuildStatus::BuilderFail);
        assert!(failure.reason.contains("[slave] emulate"));
    }

    #[test]
    fn a_chroot_of_another_architecture_is_refused() {
        let failure = decide("amd64", Some("i386"), "amd64").unwrap_err();
        assert_eq!(failure.status, BuildStatus::ChrootFail);
        let expected = "the chroot is for i386, the build is for amd64";
        assert!(failure.reason.starts_with(expected), "{}", failure.reason);
    }
}
