//! Source packages for tests: they build in a second, without debhelper, and run a given script.

use std::fs;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::machine::stdout;

/// A source package that makes one binary package of the same name, `1.0`.
pub(crate) struct Package {
    pub(crate) name: &'static str,
    pub(crate) architecture: &'static str,
    pub(crate) build_depends: &'static str,
    pub(crate) build_conflicts: &'static str,
    /// The script that `debian/rules build` runs by `sh -e`.
    pub(crate) script: String,
}

impl Package {
    /// A package that builds if `script` succeeds.
    pub(crate) fn new(name: &'static str, script: impl Into<String>) -> Self {
        Self {
            name,
            architecture: "any",
            build_depends: "",
            build_conflicts: "",
            script: script.into(),
        }
    }

    /// Packs the source below `dir`; returns its files, the `.dsc` first.
    pub(crate) fn pack(&self, dir: &Path) -> Vec<PathBuf> {
        let name = self.name;
        let tree = dir.join(name);
        let debian = tree.join("debian");
        fs::create_dir_all(debian.join("source")).unwrap();
        let write = |file: &str, text: &str| fs::write(debian.join(file), text).unwrap();
        write("source/format", "3.0 (native)\n");
        let field = |name: &str, value: &str| match value {
            "" => String::new(),
            some => format!("{name}: {some}\n"),
        };
        let depends = field("Build-Depends", self.build_depends)
            + &field("Build-Conflicts", self.build_conflicts);
        let arch = self.architecture;
        write(
            "control",
            &format!(
                "Source: {name}\nMaintainer: Test <test@example.org>\nStandards-Version: 4.6.2\n\
                 Rules-Requires-Root: no\n{depends}\n\
                 Package: {name}\nArchitecture: {arch}\nDescription: made by a test\n"
            ),
        );
        write(
            "changelog",
            &format!(
                "{name} (1.0) unstable; urgency=low\n\n  * Made by a test.\n\n \
                 -- Test <test@example.org>  Thu, 01 Jan 2026 00:00:00 +0000\n"
            ),
        );
        write("build.sh", &self.script);
        let (working, idle) = if arch == "all" {
            ("indep", "arch")
        } else {
            ("arch", "indep")
        };
        write(
            "rules",
            &format!(
                "#!/usr/bin/make -f\n\
                 build build-arch build-indep:\n\tsh -e debian/build.sh\n\
                 clean:\n\trm -rf debian/tmp debian/files\n\
                 binary-{working}: build\n\
                 \tmkdir -p debian/tmp/DEBIAN debian/tmp/usr/share/{name}\n\
                 \tcp debian/build.sh debian/tmp/usr/share/{name}/\n\
                 \tdpkg-gencontrol\n\
                 \tdpkg-deb --root-owner-group --build debian/tmp ..\n\
                 binary-{idle}:\n\
                 binary: binary-arch binary-indep\n\
                 .PHONY: build build-arch build-indep clean binary binary-arch binary-indep\n"
            ),
        );
        fs::set_permissions(debian.join("rules"), Permissions::from_mode(0o755)).unwrap();
        stdout(
            Command::new("dpkg-source")
                .args(["--build", name])
                .current_dir(dir),
        );
        ["dsc", "tar.xz"]
            .map(|ending| dir.join(format!("{name}_1.0.{ending}")))
            .into()
    }
}
