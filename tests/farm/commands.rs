//! The operator's commands that set up a farm and submit sources: what they change, show and
//! refuse.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value as Json, json};

use super::support::fake_slave::md5;
use super::support::farm::{Process, on_both_engines};
use super::support::{Engine, Farm, QUICK};
use crate::support::sha1;

on_both_engines! {
    a_command_names_the_step_that_is_missing
    chroots_architectures_and_series_are_listed_as_set
    an_unknown_or_ambiguous_name_is_refused_with_a_suggestion
    the_secret_of_a_private_archive_is_not_shown
    an_archive_asks_for_debug_symbols_and_profiles
    a_submitted_source_becomes_stored_files_and_builds
    a_dsc_is_stored_under_the_name_that_sbuild_expects
    a_known_broken_or_changed_source_adds_no_files
    a_newer_version_supersedes_the_older
}

impl Farm {
    /// Runs a command that must succeed; returns its JSON.
    pub(crate) fn json(&self, args: &[&str]) -> Json {
        let printed = self.ok(&[args, &["--json"]].concat());
        // Hints on stderr may follow.
        let mut values = serde_json::Deserializer::from_str(&printed).into_iter();
        let first: Option<Result<Json, _>> = values.next();
        first
            .unwrap()
            .unwrap_or_else(|error| panic!("{args:?}: {error}: {printed}"))
    }

    /// Runs a command that must fail with exit code 1; returns its output.
    pub(crate) fn refused(&self, args: &[&str]) -> String {
        let (code, printed) = self.run(args);
        assert_eq!(code, Some(1), "{args:?}: {printed}");
        printed.trim_end().to_owned()
    }

    /// Writes a source package; returns the path of its .dsc.
    pub(crate) fn dsc(&self, name: &str, version: &str, hint: &str, more: &str) -> String {
        let folder = self.path("sources");
        fs::create_dir_all(&folder).unwrap();
        let tarball = format!("{name}_{version}.tar.gz");
        let bytes = format!("the content of {tarball}");
        fs::write(folder.join(&tarball), &bytes).unwrap();
        let dsc = folder.join(format!("{name}_{version}.dsc"));
        let text = format!(
            "Format: 3.0 (native)\nSource: {name}\nBinary: {name}\nArchitecture: {hint}\n\
             Version: {version}\nMaintainer: A B <a@example.org>\n{more}Checksums-Sha1:\n {} {size} \
             {tarball}\nFiles:\n {} {size} {tarball}\n",
            sha1(bytes.as_bytes()),
            md5(bytes.as_bytes()),
            size = bytes.len()
        );
        fs::write(&dsc, text).unwrap();
        dsc.display().to_string()
    }

    /// Sets up ubuntu hoary for i386 and amd64, with a chroot each.
    pub(crate) fn set_up(&self) {
        let chroot = self.path("chroot.tar.gz");
        fs::write(&chroot, "a chroot").unwrap();
        let chroot = chroot.display().to_string();
        self.ok(&[
            "master",
            "series",
            "add",
            "ubuntu",
            "hoary",
            "--nominated",
            "i386",
        ]);
        for arch in ["i386", "amd64"] {
            self.ok(&["master", "arch", "add", "hoary", arch]);
            self.ok(&["master", "chroot", "set", "hoary", arch, &chroot]);
        }
    }
}

fn a_command_names_the_step_that_is_missing(engine: Engine) {
    let farm = Farm::new(engine, QUICK);
    let said = farm.ok(&["master", "series", "list"]);
    assert!(said.contains("`buildd-slave master series add"), "{said}");
    let said = farm.refused(&["master", "arch", "add", "hoary", "i386"]);
    assert!(said.contains("none exists yet"), "{said}");
    add_hoary(&farm);
    let said = farm.refused(&["master", "chroot", "set", "hoary", "i386", &chroot(&farm)]);
    assert!(
        said.contains("is `buildd-slave librarian serve` running there?"),
        "{said}"
    );
    assert_eq!(farm.json(&["master", "chroot", "list"]), json!([]));
}

/// A farm with ubuntu hoary 5.04 for i386, without a chroot.
fn with_hoary(engine: Engine) -> Farm {
    let farm = Farm::new(engine, QUICK);
    add_hoary(&farm);
    farm
}

fn add_hoary(farm: &Farm) {
    let version = ["--version", "5.04"];
    farm.ok(&[
        &["master", "series", "add", "ubuntu", "hoary"],
        &version[..],
    ]
    .concat());
    let processor = ["--processor", "386", "--family", "x86"];
    farm.ok(&[&["master", "arch", "add", "hoary", "i386"], &processor[..]].concat());
}

/// Writes a chroot tarball; returns its path.
fn chroot(farm: &Farm) -> String {
    let chroot = farm.path("c.tar.gz");
    fs::write(&chroot, "a chroot").unwrap();
    chroot.display().to_string()
}

fn chroots_architectures_and_series_are_listed_as_set(engine: Engine) {
    let farm = with_hoary(engine);
    let _librarian = farm.librarian();
    let set = farm.json(&["master", "chroot", "set", "hoary", "i386", &chroot(&farm)]);
    assert_eq!(set["sha1"], sha1(b"a chroot"));
    let path = set["url"]
        .as_str()
        .unwrap()
        .strip_prefix(&farm.library_url())
        .unwrap();
    assert_eq!(farm.library(&format!("/{path}")).text(), "a chroot");
    let id = set["alias"].to_string();
    farm.ok(&[
        "master", "chroot", "set", "hoary", "i386", &id, "--pocket", "security",
    ]);
    farm.ok(&["master", "chroot", "set", "hoary", "i386", &id]);
    let list = farm.json(&["master", "chroot", "list"]);
    let pockets: Vec<&Json> = list
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["pocket"])
        .collect();
    assert_eq!(pockets, ["RELEASE", "SECURITY"]);
    farm.ok(&[
        "master", "chroot", "remove", "hoary", "i386", "--pocket", "SECURITY",
    ]);
    let said = farm.refused(&["master", "chroot", "set", "hoary", "i386", "999"]);
    assert!(said.contains("no file 999 in the librarian"), "{said}");
    let arches = farm.json(&["master", "arch", "list"]);
    let expect = json!([{"series": "ubuntu/hoary", "arch": "i386", "processor": "386",
        "family": "x86", "enabled": true, "virtualized": false, "nominated": false,
        "chroots": ["RELEASE"]}]);
    assert_eq!(arches, expect);
    let changes = ["--nominated", "i386", "--status", "FROZEN"];
    farm.ok(&[&["master", "series", "set", "hoary"], &changes[..]].concat());
    let series = farm.json(&["master", "series", "list"]);
    let expect = json!([{"distribution": "ubuntu", "series": "hoary", "version": "5.04",
        "status": "FROZEN", "nominated": "i386", "architectures": ["i386"]}]);
    assert_eq!(series, expect);
}

fn an_unknown_or_ambiguous_name_is_refused_with_a_suggestion(engine: Engine) {
    let farm = with_hoary(engine);
    let said = farm.refused(&["master", "arch", "disable", "haory", "i386"]);
    assert_eq!(
        said,
        "buildd-slave: no series \"haory\"; did you mean hoary? (known: hoary)"
    );
    let said = farm.refused(&["master", "arch", "disable", "hoary", "i368"]);
    assert!(said.contains("did you mean i386?"), "{said}");
    farm.ok(&["master", "series", "add", "kubuntu", "hoary"]);
    let said = farm.refused(&["master", "arch", "list", "hoary"]);
    assert!(
        said.contains("write kubuntu/hoary or ubuntu/hoary"),
        "{said}"
    );
    farm.ok(&["master", "arch", "disable", "ubuntu/hoary", "i386"]);
    let arches = farm.json(&["master", "arch", "list", "ubuntu/hoary"]);
    assert_eq!(arches[0]["enabled"], json!(false));
    let said = farm.refused(&["master", "series", "add", "ubuntu", "hoary"]);
    assert!(said.contains("already exists"), "{said}");
    let (code, said) = farm.run(&["master", "series", "add", "Ubuntu", "hoary"]);
    assert_eq!(code, Some(2), "{said}");
    let (code, said) = farm.run(&["master", "series", "set", "ubuntu/hoary", "--status", "OLD"]);
    assert!(
        code == Some(2) && said.contains("none of EXPERIMENTAL, "),
        "{said}"
    );
}

fn an_archive_asks_for_debug_symbols_and_profiles(engine: Engine) {
    let farm = with_hoary(engine);
    let set = ["master", "archive", "set", "ubuntu", "primary"];
    let shown = |more: &[&str]| {
        let done = farm.json(&[&set[..], more].concat());
        (done["debug_symbols"].clone(), done["profiles"].clone())
    };
    let asked = shown(&["--debug-symbols", "yes", "--profiles", "nodoc,nocheck"]);
    assert_eq!(asked, (json!(true), json!("nodoc nocheck")));
    // Other settings stay.
    assert_eq!(shown(&["--score", "3"]), asked);
    let list = farm.json(&["master", "archive", "list"]);
    assert_eq!(list[0]["profiles"], json!("nodoc nocheck"));
    let none = shown(&["--debug-symbols", "no", "--profiles", ""]);
    assert_eq!(none, (json!(false), json!("")));
    let (code, said) = farm.run(&[&set[..], &["--profiles", "!nodoc"]].concat());
    assert!(
        code == Some(2) && said.contains("invalid build profile"),
        "{said}"
    );
}

fn the_secret_of_a_private_archive_is_not_shown(engine: Engine) {
    let farm = with_hoary(engine);
    let secret = farm.path("secret");
    fs::write(&secret, "s3cret\n").unwrap();
    let secret = secret.display().to_string();
    let add = [
        "master",
        "archive",
        "add",
        "ubuntu",
        "embargo",
        "--private",
        "--url",
        "http://a/b",
    ];
    let said = farm.refused(&add);
    assert!(said.contains("give --secret-file"), "{said}");
    let said = farm.ok(&[&add[..], &["--secret-file", &secret, "--score", "-5"]].concat());
    let list = farm.json(&["master", "archive", "list"]);
    assert!(!said.contains("s3cret") && !list.to_string().contains("s3cret"));
    let embargo = list
        .as_array()
        .unwrap()
        .iter()
        .find(|one| one["name"] == "embargo");
    let embargo = embargo.unwrap();
    assert_eq!(
        (&embargo["private"], &embargo["score"]),
        (&json!(true), &json!(-5))
    );
    let kept = farm
        .db
        .value("SELECT buildd_secret FROM archive WHERE name = 'embargo'");
    assert_eq!(kept, "s3cret");
    farm.ok(&[
        "master",
        "archive",
        "set",
        "ubuntu",
        "primary",
        "--url",
        "http://a/ubuntu/",
    ]);
    let url = farm
        .db
        .value("SELECT base_url FROM archive WHERE name = 'primary' ORDER BY id LIMIT 1");
    assert!(url == "http://a/ubuntu" || url == "", "{url}");
}

const HELLO: &str = "Package-List:\n hello deb universe/misc optional\n";

/// A farm whose hoary has chroots for amd64 and i386 and none for hppa; a source `hello 1` that has
/// been submitted to it.
struct Submitted {
    farm: Farm,
    _librarian: Process,
    dsc: String,
    /// The output of `submit`.
    done: Json,
    /// The ids of the builds for amd64 and i386.
    ids: [i64; 2],
}

impl Submitted {
    fn new(engine: Engine) -> Self {
        let farm = Farm::new(engine, QUICK);
        let librarian = farm.librarian();
        farm.set_up();
        farm.ok(&["master", "arch", "add", "hoary", "hppa"]);
        let dsc = farm.dsc("hello", "1", "any all", HELLO);
        let done = farm.json(&["master", "submit", &dsc, "--series", "hoary"]);
        let ids = [0, 1].map(|place: usize| done["builds"][place]["id"].as_i64().unwrap());
        Self {
            farm,
            _librarian: librarian,
            dsc,
            done,
            ids,
        }
    }

    fn submit(&self) -> [&str; 5] {
        ["master", "submit", &self.dsc, "--series", "hoary"]
    }

    /// The number of files that the librarian has.
    fn files(&self) -> i64 {
        self.farm.db.number("SELECT count(*) FROM library_alias")
    }
}

/// A build of `hello`, as `submit` prints it.
fn hello(id: i64, arch: &str, all: bool, new: bool) -> Json {
    json!({"id": id, "arch": arch, "arch_indep": all, "state": "NEEDSBUILD", "score": 3255,
        "new": new})
}

fn a_submitted_source_becomes_stored_files_and_builds(engine: Engine) {
    let submitted = Submitted::new(engine);
    let Submitted {
        farm, done, ids, ..
    } = &submitted;
    let (amd64, i386) = (&done["builds"][0], &done["builds"][1]);
    assert_eq!(*amd64, hello(ids[0], "amd64", false, true));
    assert_eq!(*i386, hello(ids[1], "i386", true, true));
    let left_out = json!([{"arch": "hppa", "reason": "it has no chroot for RELEASE"}]);
    assert_eq!(done["left_out"], left_out);
    assert_eq!(
        (&done["component"], &done["known"]),
        (&json!("universe"), &json!(false))
    );

    // A slave would fetch exactly the submitted files.
    let shown = farm.json(&["master", "show", &ids[1].to_string()]);
    let files = shown["source_files"].as_array().unwrap();
    assert_eq!(files.len(), 2);
    for file in files {
        let url = file["url"].as_str().unwrap();
        let path = url.strip_prefix(&farm.library_url()).unwrap();
        let name = file["filename"].as_str().unwrap();
        let bytes = fs::read(farm.path("sources").join(name)).unwrap();
        assert_eq!(farm.library(&format!("/{path}")).body, bytes, "{name}");
    }
    assert_eq!(
        (&shown["state"], &shown["score"]),
        (&json!("NEEDSBUILD"), &json!(3255))
    );
}

fn a_dsc_is_stored_under_the_name_that_sbuild_expects(engine: Engine) {
    let submitted = Submitted::new(engine);
    let farm = &submitted.farm;
    let dsc = PathBuf::from(farm.dsc("odd", "1", "any", ""));
    let text = fs::read_to_string(&dsc).unwrap();
    let (start, sha1_line) = text.split_once("Checksums-Sha1:\n").unwrap();
    let (_, files) = sha1_line.split_once("Files:\n").unwrap();
    let md5_only = |files: &str| {
        let other = dsc.with_file_name("other.dsc");
        let text = format!("{start}Files:\n{files}").replace("Version: 1", "Version: 3:1");
        fs::write(&other, text).unwrap();
        other.display().to_string()
    };
    let (md5, rest) = files.trim_start().split_once(' ').unwrap();
    let wrong: String = md5.chars().rev().collect();
    let path = md5_only(&format!(" {wrong} {rest}"));
    let said = farm.refused(&["master", "submit", &path, "--series", "hoary"]);
    assert!(said.contains("odd_1.tar.gz: its MD5 is not"), "{said}");

    let path = md5_only(files);
    let done = farm.json(&["master", "submit", &path, "--series", "hoary"]);
    assert_eq!(done["version"], json!("3:1"));
    let id = done["builds"][0]["id"].to_string();
    let shown = farm.json(&["master", "show", &id]);
    let names = shown["source_files"].as_array().unwrap().iter();
    let names: Vec<_> = names.map(|file| &file["filename"]).collect();
    assert_eq!(names, ["odd_1.dsc", "odd_1.tar.gz"]);
}

fn a_known_broken_or_changed_source_adds_no_files(engine: Engine) {
    let submitted = Submitted::new(engine);
    let Submitted { farm, ids, .. } = &submitted;
    let files = submitted.files();
    let again = farm.json(&submitted.submit());
    assert_eq!(again["known"], json!(true));
    assert_eq!(again["builds"][1], hello(ids[1], "i386", true, false));
    assert_eq!(submitted.files(), files);

    let dsc = PathBuf::from(farm.dsc("broken", "1", "any", ""));
    let tarball = dsc.with_file_name("broken_1.tar.gz");
    let bytes = fs::read(&tarball).unwrap();
    let path = dsc.display().to_string();
    let submit = ["master", "submit", &path, "--series", "hoary"];
    fs::remove_file(&tarball).unwrap();
    let said = farm.refused(&submit);
    assert!(
        said.contains("broken_1.tar.gz: the .dsc names it; No such file"),
        "{said}"
    );
    fs::write(&tarball, &bytes[1..]).unwrap();
    let said = farm.refused(&submit);
    assert!(
        said.contains("bytes by the .dsc") || said.contains("by the .dsc"),
        "{said}"
    );
    let mut other = bytes.clone();
    other[0] ^= 1;
    fs::write(&tarball, other).unwrap();
    let said = farm.refused(&submit);
    assert!(said.contains("broken_1.tar.gz: its SHA-1 is "), "{said}");
    fs::write(&tarball, bytes).unwrap();
    let said = farm.refused(&[&submit[..4], &["hory"]].concat());
    assert!(said.contains("did you mean hoary?"), "{said}");
    let said = farm.refused(&[&submit[..], &["--pocket", "UPDATES"]].concat());
    assert!(said.contains("accepts no builds for UPDATES"), "{said}");
    assert_eq!(submitted.files(), files);
    assert_eq!(
        farm.db
            .number("SELECT count(*) FROM source WHERE name = 'broken'"),
        0
    );

    // The name and version are known, and the bytes are others.
    let changed = farm.dsc("hello", "1", "any all", "Homepage: http://x\n");
    let said = farm.refused(&["master", "submit", &changed, "--series", "hoary"]);
    assert!(said.contains("with a different hello_1.dsc"), "{said}");
    assert_eq!(submitted.files(), files);
}

fn a_newer_version_supersedes_the_older(engine: Engine) {
    let submitted = Submitted::new(engine);
    let Submitted { farm, ids, .. } = &submitted;
    let newer = farm.dsc("hello", "2", "i386", "");
    let said = farm.ok(&["master", "submit", &newer, "--series", "hoary"]);
    for expect in [
        "hello 2 for ubuntu/hoary RELEASE (primary, main)\nsupersedes 1\n",
        "\nno build for amd64: the source is for i386\n\
         no build for hppa: it has no chroot for RELEASE\n",
    ] {
        assert!(said.contains(expect), "{said}");
    }
    let said = farm.refused(&submitted.submit());
    assert!(
        said.contains("hello 1: the newer 2 is already published in hoary RELEASE"),
        "{said}"
    );
    let why = farm.json(&["master", "queue", "why", &ids[0].to_string()]);
    let ended = "It ended as SUPERSEDED; build it again with `master retry`.";
    assert_eq!(why["why"], ended);
}

#[test]
fn a_missing_database_is_reported_with_its_configuration_key() {
    let farm = Farm::new(Engine::Sqlite, "");
    let path = farm.path("no/such/folder/farm.db");
    let config = farm.path("none.conf");
    fs::write(&config, format!("[database]\nurl = {}\n", path.display())).unwrap();
    let config = config.display().to_string();
    let mut command = farm.command(&["master", "queue", "--config", &config]);
    let output = command.output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        said.contains("does its folder exist") && said.contains("[database] url"),
        "{said}"
    );
}
