//! Pure: the command line, configuration and environment of sbuild.
//!
//! For the sbuild of Debian 12 (0.85) and Debian 13 (0.89). An unknown variable in the
//! configuration is fatal to sbuild, so the configuration depends on the version.

use std::path::Path;

use super::spec::Spec;
use crate::protocol::BuildProfile;

/// The environment of sbuild itself. Only what [`configuration`] lets through reaches the package.
pub(crate) const ENVIRONMENT: [(&str, &str); 4] = [
    ("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
    ("LANG", "C.UTF-8"),
    ("LC_ALL", "C.UTF-8"),
    ("TZ", "UTC"),
];

/// The folder in which a source is unpacked and built: that of Debian's own builders, and the
/// default of sbuild since 0.87.1.
const BUILD_PATH: &str = "/build/reproducible-path";

/// Returns the minor number of a Debian version of sbuild, such as 85 for `0.85.0`.
pub(crate) fn minor(version: &str) -> u32 {
    version
        .split('.')
        .nth(1)
        .and_then(|part| {
            let digits: String = part.chars().take_while(char::is_ascii_digit).collect();
            digits.parse().ok()
        })
        .unwrap_or(85)
}

/// Returns the configuration file for a session that is ready. The package gets the environment
/// that plain sbuild gives it, without the settings of a user (docs/wire.md §3.4).
pub(crate) fn configuration(minor: u32) -> String {
    let mut lines = vec![
        // Without this mode the exit codes 2 and 3 never occur.
        "$sbuild_mode = 'buildd';",
        "$mailto = '';",
        // The maintainer of the .changes. It does not name the host, which packages could record.
        "$maintainer_name = 'Build Daemon <buildd@localhost>';",
        "$apt_update = 0;",
        "$apt_distupgrade = 0;",
        "$apt_allow_unauthenticated = 0;",
        "$resolve_alternatives = 1;",
        "$build_environment = {};",
        // sbuild adds LC_ALL, HOME, SHELL, and the build's PATH.
        "$environment_filter = ['^PATH$', '^DEB_BUILD_OPTIONS$'];",
        "$purge_build_deps = 'never';",
        "$purge_build_directory = 'never';",
        "$run_lintian = 0;",
        "$run_piuparts = 0;",
        "$run_autopkgtest = 0;",
        "$check_space = 0;",
        // The default explainer installs a package and so changes stage and exit.
        "$bd_uninstallable_explainer = '';",
        "$log_filter = 0;",
        "$log_colour = 0;",
        // The shim enforces the silence timeout.
        "$stalled_pkg_timeout = 0;",
    ];
    let build_path = format!("$build_path = '{BUILD_PATH}';");
    lines.push(&build_path);
    if minor >= 87 {
        lines.push("$unshare_mmdebstrap_auto_create = 0;");
    }
    lines.push("1;\n");
    lines.join("\n")
}

/// Returns the arguments of sbuild. `program` is the path of this binary, `init` the pid of the
/// session's init.
pub(crate) fn arguments(
    spec: &Spec,
    minor: u32,
    program: &Path,
    init: i32,
    network: &[String],
) -> Vec<String> {
    let program = program.display().to_string();
    let init = init.to_string();
    let virt = ["internal", "virt", &program, &init];
    let virt = virt.into_iter().chain(network.iter().map(String::as_str));
    let virt = virt.map(|word| format!("--autopkgtest-virt-server-opt={word}"));
    let mut arguments: Vec<String> = [
        "--chroot-mode=autopkgtest",
        "--nolog",
        "--no-apt-update",
        "--no-apt-upgrade",
        "--no-apt-distupgrade",
        "--no-run-lintian",
        "--no-source",
        "--purge-deps=never",
        "--purge-build=never",
        "--bd-uninstallable-explainer=none",
    ]
    .map(str::to_owned)
    .to_vec();
    arguments.push(format!("--autopkgtest-virt-server={program}"));
    arguments.extend(virt);
    arguments.push(format!("--dist={}", spec.suite()));
    arguments.push(format!("--arch={}", spec.arch()));
    arguments.push(
        if spec.request.args.arch_indep {
            "--arch-all"
        } else {
            "--no-arch-all"
        }
        .to_owned(),
    );
    let profiles = &spec.request.args.build_profiles;
    if !profiles.is_empty() {
        let profiles: Vec<&str> = profiles.iter().map(BuildProfile::as_str).collect();
        let profiles = profiles.join(",");
        arguments.push(format!("--profiles={profiles}"));
    }
    if minor >= 91 {
        arguments.push("--no-apt-distclean".to_owned());
    }
    arguments.push(spec.request.dsc().to_string());
    arguments
}

/// Returns DEB_BUILD_OPTIONS: `noautodbgsym` unless debug symbols are wanted (docs/wire.md §3.4).
pub(crate) fn build_options(spec: &Spec) -> String {
    let mut options = Vec::new();
    if !spec.request.args.build_debug_symbols {
        options.push("noautodbgsym".to_owned());
    }
    if spec.settings.parallel > 1 {
        options.push(format!("parallel={}", spec.settings.parallel));
    }
    options.join(" ")
}

/// Returns the arguments of the 2008 `sbuild-package` (docs/wire.md §4.3).
pub(crate) fn site_arguments(spec: &Spec) -> Vec<String> {
    let args = &spec.request.args;
    let mut arguments = vec![spec.request.build_id.to_string()];
    arguments.extend(spec.settings.programs.sbuild_args.iter().cloned());
    if args.arch_indep {
        arguments.push("-A".to_owned());
    }
    arguments.extend(
        args.archive_purpose
            .as_ref()
            .map(|purpose| format!("--purpose={purpose}")),
    );
    arguments.push(format!("--dist={}", spec.suite()));
    arguments.extend(
        args.ogrecomponent
            .as_ref()
            .map(|component| format!("--comp={component}")),
    );
    arguments.push(spec.request.dsc().to_string());
    arguments
}

/// Returns `/CurrentlyBuilding`, which pkgbinarymangler reads; `Package` must come first.
pub(crate) fn currently_building(spec: &Spec) -> String {
    let args = &spec.request.args;
    let dsc = spec.request.dsc().to_string();
    let source = dsc.split('_').next().unwrap_or_default();
    let mut text = format!("Package: {source}\n");
    if let Some(component) = &args.ogrecomponent {
        text.push_str(&format!("Component: {component}\n"));
    }
    text.push_str(&format!("Suite: {}\n", spec.suite()));
    if let Some(purpose) = &args.archive_purpose {
        text.push_str(&format!("Purpose: {purpose}\n"));
    }
    if args.build_debug_symbols {
        text.push_str("Build-Debug-Symbols: yes\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::pipeline::spec::tests::spec;

    #[test]
    fn the_minor_version_is_parsed_from_debian_versions() {
        for (version, expect) in [
            ("0.85.0", 85),
            ("0.89.3+deb13u4", 89),
            ("0.91~bpo1", 91),
            ("", 85),
        ] {
            assert_eq!(minor(version), expect, "{version:?}");
        }
    }

    #[test]
    fn arguments_for_sbuild_and_for_the_site_program_of_2008() {
        let plain = spec(json!({"suite": "bookworm"}));
        let line = arguments(&plain, 85, Path::new("/proc/1/exe"), 42, &[]).join(" ");
        assert!(
            line.ends_with("--dist=bookworm --arch=amd64 --no-arch-all hello_2.10-3.dsc"),
            "{line}"
        );
        assert!(line.contains("--autopkgtest-virt-server=/proc/1/exe"));
        let full = spec(json!({
            "suite": "noble", "arch_tag": "armhf", "arch_indep": true,
            "archive_purpose": "PPA", "ogrecomponent": "main"
        }));
        let line = arguments(&full, 91, Path::new("/x"), 42, &[]).join(" ");
        assert!(
            line.ends_with(
                "--dist=noble --arch=armhf --arch-all --no-apt-distclean hello_2.10-3.dsc"
            )
        );
        assert_eq!(
            site_arguments(&full).join(" "),
            "8-1 --nolog --batch -A --purpose=PPA --dist=noble --comp=main hello_2.10-3.dsc"
        );
        assert!(site_arguments(&spec(json!({}))).contains(&"--dist=autobuild".to_owned()));
    }

    #[test]
    fn currently_building_begins_with_the_package() {
        let full = spec(json!({
            "suite": "noble", "archive_purpose": "PPA", "ogrecomponent": "main",
            "build_debug_symbols": true
        }));
        assert_eq!(
            currently_building(&full),
            "Package: hello\nComponent: main\nSuite: noble\nPurpose: PPA\n\
             Build-Debug-Symbols: yes\n"
        );
        assert_eq!(build_options(&full), "parallel=4");
        assert_eq!(build_options(&spec(json!({}))), "noautodbgsym parallel=4");
    }

    #[test]
    fn the_configuration_fits_the_version_and_names_no_host() {
        let old = configuration(85);
        assert!(!old.contains("unshare_mmdebstrap"));
        assert!(old.contains("$build_path = '/build/reproducible-path';\n"));
        assert!(old.contains("<buildd@localhost>"));
        assert!(old.ends_with("\n1;\n"));
        assert!(configuration(89).contains("$unshare_mmdebstrap_auto_create = 0;"));
    }

    #[test]
    fn profiles_reach_sbuild() {
        let line = |args| arguments(&spec(args), 85, Path::new("/x"), 42, &[]).join(" ");
        assert!(!line(json!({})).contains("--profiles"));
        let two = line(json!({"build_profiles": ["nodoc", "pkg.hello.small"]}));
        assert!(two.contains(" --profiles=nodoc,pkg.hello.small "), "{two}");
    }
}
