//! Tests of every check: grade, finding and mend.

use std::path::Path;

use super::super::facts::{
    AppArmor, Chroots, DiskOf, Forecast, Free, Limits, NoOutside, OverlayModule, Running, Trial,
};
use super::super::finding::Grade;
use super::super::mend::Step;
use super::*;
use crate::config::{Defaults, Overlay};
use crate::config_file::{PathProblem, Wrong};
use crate::session::binfmt::{Lack, Way};

fn config(text: &str) -> Config {
    let defaults = Defaults {
        host_arch: "amd64".to_owned(),
        home: "/var/lib/buildd".into(),
        cpus: 1,
    };
    Config::parse("x.conf", text, &defaults).unwrap().0
}

/// The end of the line of a finding: what mends it.
fn mend_of(finding: &Finding) -> String {
    let line = finding.to_string();
    let (_, mend) = line.split_once("; try: ").unwrap_or_default();
    mend.to_owned()
}

fn is_for_operator(finding: &Finding) -> bool {
    matches!(finding.mend, Some(Mend::Operator(_)))
}

/// A host that can build.
fn host() -> Host {
    let limits = Limits {
        shown: "memory by cgroup v2, processes by cgroup v2".to_owned(),
        by_groups: true,
    };
    Host {
        builder: Builder::Known(7),
        sub_ids: ["buildd:100000:65536\n", "buildd:100000:65536\n"].map(str::to_owned),
        mappers: ["/usr/bin/newuidmap", "/usr/bin/newgidmap"].map(|it| Some((it.into(), true))),
        no_new_privileges: false,
        sysctls: vec![Some("0\n".into()), None, Some("96365\n".into())],
        overlay: OverlayModule::Known,
        apparmor: apparmor_facts(None),
        sbuild: Some("0.89.3".into()),
        programs: vec![Some("/usr/bin/x".into()); PROGRAMS.len()],
        forecast: Forecast {
            unit: Some(limits.clone()),
            by_root: limits,
        },
        unit_runs: true,
        knows_system_calls: true,
        processor: "x86_64",
    }
}

fn apparmor_facts(profile: Option<&str>) -> AppArmor {
    AppArmor {
        profile: profile.map(str::to_owned),
        program: "/usr/bin/buildd-slave".to_owned(),
        has_parser: true,
    }
}

fn seen() -> Seen {
    Seen {
        paths: Vec::new(),
        disks: Vec::new(),
        trial: Trial::Sessions {
            in_memory: Ok(()),
            on_disk: Ok(()),
        },
        chroots: Chroots::default(),
        outside: None,
        emulation: Ok(Vec::new()),
        ports: vec![("127.0.0.1:8221".to_owned(), Port::Own)],
        running: Running::NoDaemon,
        healthy: Some(true),
        label: None,
    }
}

#[test]
fn a_host_that_can_build_has_no_other_finding() {
    let findings = all(&config(""), &host(), Ok(&seen()));
    let bad: Vec<String> = findings
        .iter()
        .filter(|it| it.grade != Grade::Ok || it.mend.is_some())
        .map(ToString::to_string)
        .collect();
    assert_eq!(bad, Vec::<String>::new());
    let own = findings
        .iter()
        .any(|it| it.to_string() == "ok    listening on 127.0.0.1:8221: the running slave does");
    assert!(own);
}

#[test]
fn an_unhealthy_daemon_is_a_failure() {
    let seen = Seen {
        healthy: Some(false),
        ..seen()
    };
    let findings = all(&config(""), &host(), Ok(&seen));
    let failed: Vec<&str> = findings.iter().filter_map(Finding::failed).collect();
    assert_eq!(failed, ["health of the daemon"]);
}

#[test]
fn every_failure_says_what_mends_it() {
    let host = Host {
        builder: Builder::Missing("/var/lib/buildd".into()),
        sub_ids: Default::default(),
        mappers: [None, None],
        no_new_privileges: true,
        sysctls: vec![Some("1".into()), Some("0".into()), Some("0".into())],
        sbuild: None,
        programs: vec![None; PROGRAMS.len()],
        knows_system_calls: false,
        ..host()
    };
    let seen = Seen {
        trial: Trial::NoNamespace("x".into()),
        outside: Some(Err(NoOutside::Pasta("x".into()))),
        ports: vec![
            ("a".into(), Port::Failed("x".into())),
            ("b".into(), Port::InUse),
        ],
        running: Running::Unknown("x".into()),
        healthy: Some(false),
        ..seen()
    };
    for finding in all(&config("[slave]\nnetwork = always"), &host, Ok(&seen)) {
        assert_eq!(
            finding.grade != Grade::Ok,
            finding.mend.is_some(),
            "{finding}"
        );
    }
}

#[test]
fn the_mend_of_a_path_names_the_path_of_the_configuration() {
    let config = config("[slave]\nfilecache = /srv/cache\n[debianmanager]\nogrepath = /x/ogre");
    let grade = |key: &str, wrong: Wrong| {
        let problem = PathProblem {
            key: key.to_owned(),
            path: "/etc".into(),
            wrong,
            user: "root".to_owned(),
        };
        let mut findings = paths::folders(&config, &[problem]);
        let finding = findings.remove(0);
        assert_eq!(finding.grade, Grade::Fail);
        finding
    };
    let not_writable = |own, is_link| Wrong::NotWritable { own, is_link };
    for (key, wrong, expect) in [
        (
            "[slave] home",
            Wrong::AbsentFolder,
            "install -d -m 0755 -o buildd -g buildd /var/lib/buildd",
        ),
        (
            "[slave] filecache",
            Wrong::AbsentFolder,
            "install -d -m 0700 -o buildd -g buildd /srv/cache",
        ),
        (
            "[slave] journal",
            Wrong::AbsentFolder,
            "runuser -u buildd -- mkdir --mode=0700 /var/lib/buildd/journal",
        ),
        (
            "[slave] chroots",
            not_writable(false, false),
            "chown --no-dereference buildd: /var/lib/buildd/chroots",
        ),
        (
            "[slave] home",
            not_writable(true, false),
            "runuser -u buildd -- chmod u+rwx /var/lib/buildd",
        ),
        (
            "[debianmanager] ogrepath",
            Wrong::NotExecutable,
            "chmod a+x /x/ogre",
        ),
    ] {
        assert_eq!(mend_of(&grade(key, wrong)), expect);
    }
    for (key, wrong) in [
        ("[slave] home", not_writable(false, true)),
        ("[slave] home", Wrong::ReadOnlyDisk),
        ("[slave] home", Wrong::NotFolder),
        ("[slave] home", Wrong::Unreachable("x".into())),
        ("[debianmanager] ogrepath", Wrong::NoProgram("x".into())),
        // A key that this configuration does not have.
        ("[debianmanager] sbuildpath", Wrong::NotExecutable),
    ] {
        assert!(is_for_operator(&grade(key, wrong)), "{key}");
    }
    assert_eq!(paths::folders(&config, &[])[0].grade, Grade::Ok);
}

#[test]
fn space_is_graded_as_healthz_does() {
    let limits = config("[limits]\nreserve = 512M\nreserve_inodes = 1000").limits;
    let disk = |bytes, inodes| DiskOf {
        path: "/x".to_owned(),
        free: Some(Free { bytes, inodes }),
        read_only: false,
    };
    let with = |bytes, inodes| paths::space(&disk(bytes, inodes), &limits);
    assert_eq!(
        with(2 << 30, u64::MAX).to_string(),
        "ok    space at /x: 2.0 GiB free"
    );
    for (finding, grade) in [
        (with(1 << 30, 1 << 20), Grade::Warn),
        (with(2 << 30, 5000), Grade::Warn),
        (with(1 << 28, 1 << 20), Grade::Fail),
        (with(2 << 30, 999), Grade::Fail),
        (
            paths::space(
                &DiskOf {
                    read_only: true,
                    ..disk(2 << 40, u64::MAX)
                },
                &limits,
            ),
            Grade::Fail,
        ),
    ] {
        assert_eq!(finding.grade, grade, "{finding}");
        assert!(is_for_operator(&finding), "{finding}");
    }
    let line = with(2 << 30, 999).to_string();
    let expect = "FAIL  space at /x: 2.0 GiB free, 999 inodes free, less than [limits] \
                  reserve_inodes; try: ";
    assert!(line.starts_with(expect), "{line}");
}

#[test]
fn a_missing_user_is_added_and_a_wrong_one_is_for_the_operator() {
    let missing = host::user(&Builder::Missing("/var/lib/b".into()), "b");
    let expect = "useradd --system --user-group --home-dir /var/lib/b --create-home --skel \
                  /dev/null --shell /usr/sbin/nologin b";
    assert_eq!(
        (missing.grade, mend_of(&missing)),
        (Grade::Fail, expect.into())
    );
    let wrong = host::user(&Builder::Wrong("root".into()), "root");
    assert!(wrong.grade == Grade::Fail && is_for_operator(&wrong));
    let other = host::user(&Builder::NotMe("me".into()), "b");
    assert!(other.grade == Grade::Warn && is_for_operator(&other));
}

#[test]
fn an_architecture_without_emulation_gives_a_warning_with_its_mend() {
    let own = Way::Own("/usr/bin/qemu-aarch64-static".into());
    let line = sessions::emulation("arm64", &own).to_string();
    let found = "ok    emulation of arm64: /usr/bin/qemu-aarch64-static, ";
    assert!(line.starts_with(found), "{line}");
    assert_eq!(sessions::emulation("arm64", &Way::Host).grade, Grade::Ok);
    for lack in [Lack::Qemu, Lack::Handler] {
        let finding = sessions::emulation("arm64", &Way::Lacking(lack));
        assert_eq!(finding.grade, Grade::Warn);
        assert_eq!(mend_of(&finding), "apt-get install qemu-user-static");
    }
    let unknown = sessions::emulation("vax", &Way::Lacking(Lack::Unknown));
    assert!(is_for_operator(&unknown));
}

#[test]
fn sysctls_matter_only_if_sessions_fail() {
    let [_, clone, max] = SYSCTLS;
    for (setting, value, works, grade) in [
        (clone, "0\n", false, Grade::Fail),
        (clone, "0\n", true, Grade::Ok),
        (clone, "1\n", false, Grade::Ok),
        (max, "0\n", false, Grade::Fail),
        (max, "96365\n", false, Grade::Ok),
    ] {
        let finding = host::sysctl(setting, value, works);
        assert_eq!(finding.grade, grade, "{setting:?} {value}");
    }
    assert_eq!(
        mend_of(&host::sysctl(max, "0", false)),
        "echo 'user.max_user_namespaces = 65536' >>/etc/sysctl.d/60-buildd-slave.conf && sysctl \
         --load /etc/sysctl.d/60-buildd-slave.conf"
    );
}

#[test]
fn apparmor_needs_a_profile_only_where_it_refuses_this_program() {
    let check = |value, works, label, facts: &AppArmor| {
        host::apparmor(value, works, Some(label), facts, false)
    };
    let none = apparmor_facts(None);
    for (value, works, label, grade) in [
        ("0\n", false, "unconfined\n", Grade::Ok),
        ("1\n", true, "unconfined\n", Grade::Ok),
        ("1\n", false, "buildd-slave (unconfined)\n", Grade::Ok),
        ("1\n", false, "unconfined\n", Grade::Fail),
        ("1\n", false, "unprivileged_userns (enforce)\n", Grade::Fail),
    ] {
        assert_eq!(check(value, works, label, &none).grade, grade, "{label}");
    }
    let load = "apparmor_parser --replace --write-cache /etc/apparmor.d/buildd-slave";
    let steps = |facts: &AppArmor| match check("1", false, "unconfined", facts).mend {
        Some(Mend::Steps(steps)) => steps,
        other => panic!("{other:?}"),
    };
    let installed = apparmor_facts(Some("profile buildd-slave /usr/bin/buildd-slave {}\n"));
    let shown: Vec<String> = steps(&installed).iter().map(ToString::to_string).collect();
    assert_eq!(shown, [load]);
    // The profile is written for the place of the program.
    let elsewhere = AppArmor {
        program: "/usr/local/bin/buildd-slave".into(),
        ..installed
    };
    let [Step::Write { path, text }, _] = &steps(&elsewhere)[..] else {
        panic!("the profile is written and loaded");
    };
    assert_eq!(path, "/etc/apparmor.d/buildd-slave");
    assert!(
        text.contains("\nprofile buildd-slave /usr/local/bin/buildd-slave flags=(unconfined) {")
    );
    let strange = AppArmor {
        program: "/a b/x".into(),
        ..elsewhere
    };
    assert!(is_for_operator(&check("1", false, "unconfined", &strange)));
    let no_parser = AppArmor {
        has_parser: false,
        ..apparmor_facts(None)
    };
    let finding = check("1", false, "unconfined", &no_parser);
    assert_eq!(mend_of(&finding), "apt-get install apparmor");
    let finding = host::apparmor("1", false, Some("unconfined"), &none, true);
    assert!(mend_of(&finding).ends_with(" && systemctl restart buildd-slave"));
}

#[test]
fn a_proposed_range_is_above_all_existing_ones() {
    let subuid = "me:100000:65536\n";
    let subgid = "you:165536:65536\n";
    assert_eq!(host::sub_ids("me", 7, subuid, subuid).grade, Grade::Ok);
    assert_eq!(
        host::sub_ids("me", 7, subuid, subgid).to_string(),
        "FAIL  subordinate ids: no range of 65536 for me in /etc/subgid; \
         try: usermod --add-subgids 231072-296607 me"
    );
    let both = host::sub_ids("me", 7, "", "").to_string();
    let options = "usermod --add-subuids 100000-165535 --add-subgids 100000-165535 me";
    assert!(both.ends_with(options), "{both}");
}

#[test]
fn sbuild_is_compared_as_dpkg_does() {
    for (version, grade) in [
        (None, Grade::Fail),
        (Some("0.78.1-2"), Grade::Fail),
        (Some("0.85.0"), Grade::Ok),
        (Some("0.85~rc1"), Grade::Fail),
        (Some("0.100"), Grade::Ok),
    ] {
        assert_eq!(host::sbuild(version).grade, grade, "{version:?}");
    }
    assert_eq!(mend_of(&host::sbuild(None)), "apt-get install sbuild");
    assert!(is_for_operator(&host::sbuild(Some("0.78"))));
}

#[test]
fn a_mapper_needs_the_setuid_bit_or_working_namespaces() {
    let at = |setuid| Some(("/usr/bin/newuidmap".to_owned(), setuid));
    for (installed, works, grade, mend) in [
        (None, false, Grade::Fail, "apt-get install uidmap"),
        (at(true), false, Grade::Ok, ""),
        (at(false), true, Grade::Ok, ""),
        (
            at(false),
            false,
            Grade::Fail,
            "env DEBIAN_FRONTEND=noninteractive apt-get install --yes --reinstall uidmap",
        ),
    ] {
        let finding = host::id_mapper("newuidmap", installed, works);
        assert_eq!((finding.grade, mend_of(&finding).as_str()), (grade, mend));
    }
}

#[test]
fn missing_programs_are_installed() {
    let [tar, .., mmdebstrap] = PROGRAMS;
    let (tar, mmdebstrap) = (host::program(tar, None), host::program(mmdebstrap, None));
    assert_eq!((tar.grade, mmdebstrap.grade), (Grade::Fail, Grade::Warn));
    assert_eq!(mend_of(&mmdebstrap), "apt-get install mmdebstrap");
}

/// Grades a trial on a kernel that knows overlays.
fn trial(trial: &Trial, overlay: Overlay) -> Vec<Finding> {
    sessions::trial(trial, &[], overlay, &OverlayModule::Known)
}

#[test]
fn a_layer_that_is_not_needed_may_fail() {
    use Grade::{Fail, Ok as Good, Warn};
    let no = || Err("no".to_owned());
    let grades = |it: Trial, overlay| {
        let findings = trial(&it, overlay);
        findings.iter().map(|f| f.grade).collect::<Vec<_>>()
    };
    let layers = |in_memory, on_disk| Trial::Sessions { in_memory, on_disk };
    let (auto, tmpfs) = (Overlay::Auto, Overlay::Tmpfs);
    assert_eq!(grades(Trial::NotTried("no".into()), auto), [Warn]);
    assert_eq!(grades(Trial::NoNamespace("no".into()), auto), [Fail]);
    assert_eq!(grades(layers(no(), Ok(())), auto), [Good, Warn, Good]);
    assert_eq!(grades(layers(no(), Ok(())), tmpfs), [Good, Fail, Good]);
    assert_eq!(grades(layers(Ok(()), no()), auto), [Good, Good, Fail]);
    assert_eq!(grades(layers(Ok(()), no()), tmpfs), [Good, Good, Warn]);
}

#[test]
fn refused_namespaces_point_to_their_cause() {
    let refused = Trial::NoNamespace("No space left on device (os error 28)".into());
    let cause = ["user.max_user_namespaces"];
    let known = OverlayModule::Known;
    let line = sessions::trial(&refused, &cause, Overlay::Auto, &known)[0].to_string();
    assert!(
        line.starts_with("FAIL  user namespaces: refused: the limit of user namespaces is reached"),
        "{line}"
    );
    assert!(!line.contains("No space"), "{line}");
    assert!(
        line.ends_with("; try: the mend of `user.max_user_namespaces`"),
        "{line}"
    );
    // Without a cause here, an outer container has it.
    for reason in ["No space left on device", "Operation not permitted"] {
        let finding = &trial(&Trial::NoNamespace(reason.into()), Overlay::Auto)[0];
        assert!(is_for_operator(finding), "{finding}");
    }
}

#[test]
fn a_kernel_without_overlays_loads_the_module() {
    let failed = Trial::Sessions {
        in_memory: Ok(()),
        on_disk: Err("overlay mount: No such device".into()),
    };
    let on_disk = |module: &OverlayModule| {
        let findings = sessions::trial(&failed, &[], Overlay::Auto, module);
        findings.last().unwrap().clone()
    };
    assert_eq!(
        mend_of(&on_disk(&OverlayModule::Loadable)),
        "modprobe overlay && echo overlay >>/etc/modules-load.d/buildd-slave.conf"
    );
    let absent = on_disk(&OverlayModule::Absent("6.12.1".into()));
    assert!(is_for_operator(&absent));
    assert!(
        mend_of(&absent).contains("the running kernel 6.12.1"),
        "{absent}"
    );
    assert!(on_disk(&OverlayModule::Known).to_string().contains("ext4"));
}

#[test]
fn chroots_that_cannot_be_used_are_named() {
    let chroots = Chroots {
        count: 2,
        unusable: vec!["a belongs to 0:0".into()],
        without_passwd: vec!["b".repeat(40)],
    };
    let running = Running::Unknown("x".into());
    let findings = sessions::store(&chroots, &running, true);
    assert!(
        findings[0]
            .to_string()
            .contains("1 of 2 cannot be used: a belongs")
    );
    assert_eq!(mend_of(&findings[0]), "systemctl restart buildd-slave");
    assert!(findings[1].to_string().contains(&"b".repeat(40)));
    assert!(is_for_operator(&findings[1]));
    for (running, unit) in [(Running::NoDaemon, true), (running, false)] {
        assert!(is_for_operator(
            &sessions::store(&chroots, &running, unit)[0]
        ));
    }
    assert_eq!(
        sessions::store(&Chroots::default(), &Running::NoDaemon, true).len(),
        1
    );
}

#[test]
fn builds_are_connected_by_pasta_and_a_tunnel() {
    assert_eq!(sessions::outside(&Ok(())).grade, Grade::Ok);
    for (lack, mend) in [
        (NoOutside::Pasta("x".into()), "apt-get install passt"),
        (
            NoOutside::Tun("x".into()),
            "modprobe tun && chmod 0666 /dev/net/tun",
        ),
    ] {
        let finding = sessions::outside(&Err(lack));
        assert_eq!(
            (finding.grade, mend_of(&finding).as_str()),
            (Grade::Fail, mend)
        );
    }
}

#[test]
fn limits_are_those_of_the_running_daemon() {
    let of = |by: &str, by_groups| Limits {
        shown: format!("memory by {by}, processes by {by}"),
        by_groups,
    };
    let (groups, none) = (of("cgroup v2", true), of("measurement", false));
    let forecast = |unit: &Limits| Forecast {
        unit: Some(unit.clone()),
        by_root: none.clone(),
    };
    let check = |running: &Running, unit: &Limits, unit_runs| {
        limits::limits(running, &forecast(unit), unit_runs)
    };
    let line = check(&Running::Limits(groups.clone()), &none, true).to_string();
    let expect = "ok    limits of builds: the running daemon has memory by cgroup v2, processes by \
                  cgroup v2";
    assert_eq!(line, expect);
    // The host offers groups, and the daemon has none.
    let without = Running::Limits(none.clone());
    let finding = check(&without, &groups, true);
    assert!(
        finding
            .to_string()
            .starts_with("warn  limits of builds: the running daemon has memory by measurement")
    );
    assert_eq!(mend_of(&finding), "systemctl restart buildd-slave");
    assert!(
        is_for_operator(&check(&without, &groups, false)),
        "started by hand"
    );
    assert!(
        is_for_operator(&check(&without, &none, true)),
        "no groups here"
    );
    let unknown = check(&Running::Unknown("no".into()), &groups, true);
    assert_eq!(unknown.grade, Grade::Warn);
    let line = check(&Running::NoDaemon, &groups, false).to_string();
    let expect = "ok    limits of builds: no daemon runs; started by the shipped unit: memory by \
                  cgroup v2, processes by cgroup v2; by root, by hand: memory by measurement, \
                  processes by measurement";
    assert_eq!(line, expect);
    assert_eq!(check(&Running::NoDaemon, &none, false).grade, Grade::Warn);
}

#[test]
fn what_the_user_sees_survives_the_way_to_root() {
    let seen = Seen {
        paths: vec![PathProblem {
            key: "[slave] home".into(),
            path: Path::new("/x").into(),
            wrong: Wrong::NotFolder,
            user: "u".into(),
        }],
        disks: vec![DiskOf {
            path: "/x".into(),
            free: Some(Free {
                bytes: 1,
                inodes: u64::MAX,
            }),
            read_only: true,
        }],
        outside: Some(Err(NoOutside::Tun("x".into()))),
        ..seen()
    };
    let text = serde_json::to_string(&seen).unwrap();
    let read: Seen = serde_json::from_str(&text).unwrap();
    assert_eq!(format!("{read:?}"), format!("{seen:?}"));
}
