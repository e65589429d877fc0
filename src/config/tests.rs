//! Accepted and refused configurations, and the error messages.

use std::time::Duration;

use super::*;

const SHIPPED: &str = include_str!("../../buildd-slave.conf");

fn defaults() -> Defaults {
    Defaults {
        host_arch: "amd64".to_owned(),
        home: "/home/buildd".into(),
        cpus: 2,
    }
}

fn parse(text: &str) -> Config {
    let (config, warnings) = Config::parse("x.conf", text, &defaults()).unwrap();
    assert_eq!(warnings, [], "{text}");
    config
}

fn errors(text: &str) -> Vec<String> {
    let errors = Config::parse("x.conf", text, &defaults()).unwrap_err();
    errors.iter().map(ToString::to_string).collect()
}

fn error(text: &str) -> String {
    let errors = errors(text);
    assert_eq!(errors.len(), 1, "{errors:#?}");
    errors.into_iter().next().unwrap()
}

/// The shipped file with its `#key = default` lines uncommented.
fn uncommented() -> String {
    let is_key = |line: &str| {
        line.strip_prefix('#')
            .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase()))
    };
    let lines = SHIPPED
        .lines()
        .map(|line| if is_key(line) { &line[1..] } else { line });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn the_shipped_file_states_the_defaults() {
    assert_eq!(parse(SHIPPED), parse(""));
    assert_eq!(parse(&uncommented()), parse(""));
    let farm = |text: &str| Farm::parse("x.conf", text, &defaults()).unwrap();
    assert_eq!(farm(&uncommented()), farm(""));
}

/// Every section and key that the configuration reads, sorted.
pub(crate) fn known_keys() -> Vec<(String, String)> {
    let mut errors = Vec::new();
    let mut reader = Reader::new(raw::Sections::default(), &mut errors);
    let config = Config::read(&mut reader, &defaults());
    Farm::read(&mut reader, &config);
    let mut known = Vec::new();
    for (section, keys) in &reader.known {
        known.extend(
            keys.iter()
                .map(|key| (section.to_string(), key.to_string())),
        );
    }
    known.sort_unstable();
    known
}

#[test]
fn the_shipped_file_names_every_key_once() {
    let shipped = uncommented();
    let mut section = "";
    let mut named = Vec::new();
    for line in shipped.lines().filter(|line| !line.starts_with('#')) {
        if let Some(name) = line
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
        {
            section = name;
        } else if let Some((key, _)) = line.split_once(" =") {
            named.push((section.to_owned(), key.to_owned()));
        }
    }
    named.sort_unstable();
    assert_eq!(named, known_keys());
}

#[test]
fn the_2008_configuration_works() {
    let config = parse(
        "[slave]\narchitecturetag = i386\nfilecache = /var/tmp/buildd/filecache\n\
         bindhost = localhost\nbindport = 8221\n\n\
         [allmanagers]\nunpackpath = /b/unpack-chroot\ncleanpath = /b/remove-build\n\
         mountpath = /b/mount-chroot\numountpath = /b/umount-chroot\n\n\
         [debianmanager]\nsbuildpath = /b/sbuild-package\n\
         sbuildargs = -dautobuild --nolog --batch\nupdatepath = /b/update-debian-chroot\n\
         processscanpath = /b/scan-for-processes\nsourcespath = /b/override-sources-list\n",
    );
    assert_eq!(config.slave.architecturetag, "i386");
    assert_eq!(config.slave.bindhost, ["localhost"]);
    assert_eq!(
        config.programs.sbuild_args,
        ["-dautobuild", "--nolog", "--batch"]
    );
    assert_eq!(config.programs.unpack, Some("/b/unpack-chroot".into()));
}

#[test]
fn hosts_of_the_gate_are_checked() {
    let config =
        parse("[slave]\nhome = /srv\n[gate]\nredirect_to = CDN.example *.a.example:8080\n");
    let hosts: Vec<String> = config
        .gate
        .redirect_to
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(hosts, ["cdn.example", "*.a.example:8080"]);
    assert_eq!(config.gate.cache, std::path::Path::new("/srv/aptcache"));
    assert_eq!(
        error("[gate]\nprivate = localhost http://a.example/"),
        "x.conf: [gate] private: not understood (given \"http://a.example/\"); write hosts such as \
         cdn.example.org, cdn.example.org:8080 or *.example.org, separated by spaces"
    );
    assert!(error("[gate]\nredirect_to = 127.1").contains("not understood"));
}

#[test]
fn obsolete_keys_give_a_warning() {
    let text = "[builder]\nntphost: ntp\nsharepath = /usr/share/launchpad-buildd\n\
                [snapmanager]\nproxyport = 8222\n[proxy]\nsnapstore = http://x/\n";
    let (_, warnings) = Config::parse("x.conf", text, &defaults()).unwrap();
    let warnings: Vec<String> = warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        [
            "x.conf: [builder] ntphost: has no effect here; ignored",
            "x.conf: [builder] sharepath: has no effect here; ignored",
            "x.conf: [proxy] snapstore: has no effect here; ignored",
            "x.conf: [snapmanager]: belongs to an unsupported build type; ignored",
        ]
    );
}

#[test]
fn old_section_names_are_read() {
    let text = "[builder]\nbindport = 1\n[binarypackagemanager]\nsbuildpath = /b/s\n";
    let (config, warnings) = Config::parse("x.conf", text, &defaults()).unwrap();
    assert_eq!(config.slave.bindport, 1);
    assert_eq!(config.programs.sbuild, Some("/b/s".into()));
    assert_eq!(warnings.len(), 1);
}

#[test]
fn the_form_of_status_and_its_verdicts_follow_the_master() {
    use StatusForm::{Dict, Tuple};
    use Verdicts::{Exact, Launchpad};
    for (text, expected) in [
        ("", (Tuple, Exact)),
        ("[slave]\n", (Tuple, Exact)),
        ("[slave]\nstatusform = dict\n", (Dict, Launchpad)),
        ("[slave]\nverdicts = launchpad\n", (Tuple, Launchpad)),
        (
            "[slave]\nstatusform = dict\nverdicts = exact\n",
            (Dict, Exact),
        ),
        ("[builder]\n", (Dict, Launchpad)),
        ("[builder]\nstatusform =\nverdicts =\n", (Dict, Launchpad)),
        ("[builder]\nverdicts = exact\n", (Dict, Exact)),
        ("[builder]\nstatusform = tuple\n", (Tuple, Exact)),
    ] {
        let slave = parse(text).slave;
        assert_eq!((slave.statusform, slave.verdicts), expected, "{text}");
    }
    assert_eq!(
        error("[builder]\nverdicts = none\n"),
        "x.conf: [slave] verdicts: not understood (given \"none\"); write exact or launchpad"
    );
}

#[test]
fn values_of_every_kind_are_parsed() {
    let config = parse(
        "\u{feff}[slave]\nHOME = /srv\nbindhost = ::1, 10.0.0.1\n  10.0.0.2\n\
         allow = 10.0.0.0/8 ::1\nusername = u\npassword = p;#%(x)s\n\
         statusform = dict\nnetwork: always\noverlay = tmpfs\nparallel = 7\n\
         [limits]\nbody = 4M\nsilence = 2h\nfetch_retries = 0\n\
         [allmanagers]\nprocessscanpath = /all\n[proxy]\napt = http://proxy:3128/\n",
    );
    assert_eq!(config.slave.filecache, PathBuf::from("/srv/filecache"));
    assert_eq!(config.slave.bindhost, ["::1", "10.0.0.1", "10.0.0.2"]);
    assert_eq!(config.slave.allow.len(), 2);
    assert_eq!(
        config.slave.credentials.as_ref().unwrap().password.expose(),
        "p;#%(x)s"
    );
    assert_eq!(config.slave.statusform, StatusForm::Dict);
    assert_eq!(config.slave.parallel, 7);
    assert_eq!(config.limits.body, 4 << 20);
    assert_eq!(config.limits.silence, Duration::from_secs(7200));
    assert_eq!(config.limits.fetch_retries, 0);
    assert_eq!(config.programs.process_scan, Some("/all".into()));
    assert_eq!(
        config.apt_proxy.as_ref().unwrap().expose(),
        "http://proxy:3128/"
    );
    assert!(!format!("{config:?}").contains("p;#"));
}

/// Each text has exactly one error, with the place, the problem and the fix in its message.
fn assert_messages(cases: &[(&str, &str)]) {
    for (text, expected) in cases {
        assert_eq!(error(text), *expected);
    }
}

#[test]
fn a_bad_value_is_quoted_with_the_accepted_form() {
    assert_messages(&[
        (
            "[slave]\nbindport = many",
            "x.conf: [slave] bindport: not understood (given \"many\"); write a port number, 0 to \
             65535",
        ),
        (
            "[slave]\nisolation = schroot",
            "x.conf: [slave] isolation: not understood (given \"schroot\"); write unshare or none \
             (schroot is not supported)",
        ),
        (
            "[slave]\nusername = u",
            "x.conf: [slave] password: missing; set username and password, or neither",
        ),
        (
            "[slave]\nallow = 10.0.0.0/8 office",
            "x.conf: [slave] allow: not understood (given \"office\"); write addresses such as \
             192.0.2.1 or 192.0.2.0/24, separated by spaces",
        ),
        (
            "[proxy]\napt = https://user:secret@proxy/",
            "x.conf: [proxy] apt: not an http URL; write http://HOST:PORT/",
        ),
        (
            "[limits]\nbody = 0",
            "x.conf: [limits] body: not understood (given \"0\"); write a number of bytes such as \
             512, 64 KiB, 200 MiB or 2 GiB",
        ),
    ]);
}

#[test]
fn an_unknown_name_comes_with_the_nearest_known_one() {
    assert_messages(&[
        (
            "[slave]\nbindprot = 1",
            "x.conf: [slave] bindprot: unknown key; did you mean bindport?",
        ),
        (
            "[slave]\nzzzzzz = 1",
            "x.conf: [slave] zzzzzz: unknown key; remove it, or see buildd-slave.conf for a key \
             that exists",
        ),
        (
            "[limit]\nbody = 1",
            "x.conf: [limit]: unknown section; did you mean limits?",
        ),
    ]);
}

#[test]
fn duplicates_are_refused() {
    assert_messages(&[
        (
            "[slave]\nbindport = 1\nBindPort = 2",
            "x.conf: [slave] bindport: given twice; keep one of them",
        ),
        (
            "[binarypackagemanager]\nsbuildpath=/a\n[debianmanager]\nsbuildpath=/b",
            "x.conf: [debianmanager] sbuildpath: given twice; keep one of them",
        ),
        (
            "[slave]\n[builder]",
            "x.conf: [slave]: present beside [builder], which is the same section; move all keys \
             to one of them",
        ),
    ]);
}

#[test]
fn syntax_errors_name_the_place_and_the_fix() {
    assert_messages(&[
        (
            "bindport = 1",
            "x.conf: text: keys outside of any section; put [slave] or another section above them",
        ),
        (
            "[slave]\nbindport",
            "x.conf: [slave] bindport: has no value; write key = value",
        ),
        (
            "[slave]\n[oops",
            "x.conf: line 2: Found opening bracket for section name but no closing bracket; write \
             [section] and key = value lines",
        ),
        (
            "[slave]\nfilecache = %(top)s/x",
            "x.conf: [slave] filecache: %(name)s is not replaced here (given \"%(top)s/x\"); write \
             the value out",
        ),
        (
            "[slave]\nuser = a\n  bindport = 1",
            "x.conf: [slave] user: more than one line (given \"a\\nbindport = 1\"); start every key \
             at the left margin: an indented line continues the last",
        ),
    ]);
}

#[test]
fn values_of_the_wrong_form_are_refused() {
    for line in [
        "bindport = 65536",
        "bindport = 8221 ; the default",
        "filecache = filecache",
        "architecturetag = @ARCHTAG@",
        "bindhost = -x",
        "user = a:b",
        "parallel = 0",
        "statusform = Tuple",
    ] {
        assert!(
            error(&format!("[slave]\n{line}")).contains("not understood"),
            "{line}"
        );
    }
}

#[test]
fn only_architectures_that_need_and_have_an_emulator_are_taken() {
    let config = parse("[slave]\nemulate = arm64 armhf, riscv64 arm64\n");
    assert_eq!(config.slave.emulate, ["arm64", "armhf", "riscv64"]);
    for (arch, why) in [("vax", "unknown"), ("i386", "native"), ("amd64", "native")] {
        let error = error(&format!("[slave]\nemulate = arm64 {arch}"));
        let given = format!("[slave] emulate: not understood (given {arch:?})");
        assert!(error.contains(&given), "{why}: {error}");
        assert!(error.contains("of amd64, arm64, armel, "), "{error}");
    }
}

#[test]
fn all_errors_are_reported_at_once() {
    let text = "[slave]\nbindport = x\nbindhots = y\nparallel = 0\n[limits]\nbody = z\n[nosuch]\n";
    assert_eq!(errors(text).len(), 5, "{:#?}", errors(text));
}

#[test]
fn site_programs_are_set_together() {
    for (text, missing) in [
        ("[slave]\nisolation = none", 4),
        ("[allmanagers]\nmountpath = /m", 3),
        ("[allmanagers]\nmountpath = /m\nunpackpath = /u", 2),
        (
            "[allmanagers]\nmountpath = /m\n[debianmanager]\nsbuildpath = /s\nupdatepath = /u",
            1,
        ),
    ] {
        let errors = errors(text);
        assert_eq!(errors.len(), missing, "{text}: {errors:#?}");
        assert!(
            errors.iter().all(|error| error.contains("missing, since ")),
            "{errors:#?}"
        );
    }
    parse("[debianmanager]\nsbuildpath = /s");
}

#[test]
fn fuzz_configurations() {
    let sample = include_str!("../../buildd-slave.conf");
    let set: String = sample
        .lines()
        .map(|line| line.trim_start_matches('#').to_owned() + "\n")
        .collect();
    let seeds = [
        sample.as_bytes(),
        set.as_bytes(),
        "\u{feff}[slave]\nbindport: %(x\n\té=\n".as_bytes(),
    ];
    crate::fuzz::fuzz("configurations", &seeds, |input| {
        let _ = Config::parse("x.conf", &String::from_utf8_lossy(input), &defaults());
    });
}
