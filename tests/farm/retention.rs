//! Nothing stays for ever: what the chores of a master end and remove (docs/farm.md §3.12).

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value as Json, json};

use super::support::farm::on_both_engines;
use super::support::{Engine, Farm, QUICK};
use crate::support::until;

on_both_engines! {
    disk_use_is_the_sum_of_what_is_referenced
    a_removal_that_is_killed_is_completed_by_the_next
    builds_that_can_never_be_built_leave_the_queue
    a_notification_that_hangs_delays_no_other_and_no_chore
    an_archive_shows_and_changes_what_it_keeps
    a_submission_removes_the_version_before_it_from_the_queue
}

const OLD: Duration = Duration::from_secs(30 * 24 * 3600);

fn now() -> i64 {
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis();
    i64::try_from(now).unwrap()
}

fn farm(engine: Engine, more: &str) -> Farm {
    let farm = Farm::new(engine, "");
    farm.configure(&format!("{QUICK}retention_interval = 1\n{more}"));
    farm.furnish();
    farm
}

/// Makes a folder of the master with a file and a subfolder, a month old.
fn old_folder(farm: &Farm, path: &Path, bytes: usize) {
    fs::create_dir_all(path.join("sub")).unwrap();
    fs::write(path.join("file.deb"), vec![b'x'; bytes]).unwrap();
    fs::write(path.join("sub/more"), b"more").unwrap();
    for path in [path.parent().unwrap(), path, &path.join("sub")] {
        farm.give(path);
    }
    age(path);
}

fn age(path: &Path) {
    let then = SystemTime::now() - OLD;
    File::open(path).unwrap().set_modified(then).unwrap();
}

/// The sizes of all files below a folder.
fn disk_use(path: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(path) else {
        return path.symlink_metadata().map_or(0, |found| found.len());
    };
    entries.map(|entry| disk_use(&entry.unwrap().path())).sum()
}

/// A farm of `sources` sources with five versions each; the last one is published. Every version
/// has a file, and a build with five attempts, each with a log and results. All of that is old.
struct Aged {
    farm: Farm,
    host: String,
    sources: i64,
}

const VERSIONS: i64 = 5;
const ATTEMPTS: i64 = 5;
/// Bytes in the results of an attempt.
const RESULTS: usize = 1000;

impl Aged {
    fn new(engine: Engine, sources: i64) -> Self {
        let farm = farm(engine, "");
        let host = nix::unistd::gethostname().unwrap().into_string().unwrap();
        let aged = Self {
            farm,
            host,
            sources,
        };
        let librarian = aged.farm.librarian();
        aged.add_rows();
        librarian.stop();
        aged
    }

    fn incoming(&self) -> PathBuf {
        self.farm.path("home/results/incoming")
    }

    /// Stores a file in the librarian; returns its number.
    fn store(&self, name: &str, text: &str) -> i64 {
        let path = self.farm.path("home").join(name);
        fs::write(&path, text).unwrap();
        let said = self
            .farm
            .ok(&["librarian", "add", &path.display().to_string()]);
        fs::remove_file(path).unwrap();
        said.split(' ').next().unwrap().parse().unwrap()
    }

    fn add_rows(&self) {
        // One log for all: the rows count.
        let log = self.store("log.txt", "the log");
        let mut sql = String::new();
        for source in 0..self.sources {
            for version in 0..VERSIONS {
                let id = source * VERSIONS + version + 1;
                let file = self.store(&format!("s{source}_{version}.dsc"), &format!("dsc {id}"));
                let published = if version == VERSIONS - 1 { 2 } else { 3 };
                sql.push_str(&format!(
                    "INSERT INTO source (id, name, version, component, arch_hint, \
                       upload_archive_id, created_at) \
                       VALUES ({id}, 's{source}', '1:{version}.0~rc1', 'main', 'any', 1, 0); \
                     INSERT INTO source_file (source_id, alias_id, filetype) \
                       VALUES ({id}, {file}, 3); \
                     INSERT INTO publication (source_id, series_id, archive_id, pocket, component, \
                       status, created_at) VALUES ({id}, 1, 1, 0, 'main', {published}, 0); \
                     INSERT INTO build (id, source_id, arch_series_id, archive_id, processor_id, \
                       state, created_at, finished_at, log_alias_id, leaf) \
                       VALUES ({id}, {id}, 1, 1, 1, 1, 0, 1, {log}, '{id}-{id}.{ATTEMPTS}-aa'); \
                     INSERT INTO event (at, level, kind, build_id, message) \
                       VALUES (0, 3, 'ended', {id}, 'x'), ({}, 3, 'ended', {id}, 'x'); ",
                    now()
                ));
                for attempt in 1..=ATTEMPTS {
                    let leaf = format!("{id}-{id}.{attempt}-aa");
                    sql.push_str(&format!(
                        "INSERT INTO attempt (build_id, number, cookie, host, started_at, \
                           ended_at, verdict, log_alias_id, leaf) VALUES \
                           ({id}, {attempt}, '{leaf}', '{}', 0, 1, 0, {log}, '{leaf}'); ",
                        self.host
                    ));
                    old_folder(&self.farm, &self.incoming().join(&leaf), RESULTS);
                }
            }
        }
        self.farm.db.execute(&sql);
        self.farm.db.execute(
            "UPDATE library_alias SET created_at = 0; UPDATE library_content SET created_at = 0",
        );
        for path in blobs(&self.farm.path("home/librarian")) {
            age(&path);
        }
    }

    /// The rows and folders that stay: the newest three versions, and three attempts of each.
    fn check(&self) {
        let builds = self.sources * 3;
        for (table, expect) in [
            ("source", builds),
            ("source_file", builds),
            ("publication", builds),
            ("build", builds),
            ("attempt", builds * 3),
            ("event", builds),
        ] {
            let sql = format!("SELECT COUNT(*) FROM {table}");
            assert_eq!(self.farm.db.number(&sql), expect, "{table}");
        }
        let versions = "SELECT DISTINCT version FROM source ORDER BY version";
        let kept = [["1:2.0~rc1"], ["1:3.0~rc1"], ["1:4.0~rc1"]];
        assert_eq!(json!(self.farm.db.rows(versions)), json!(kept));
        let numbers = "SELECT DISTINCT number FROM attempt ORDER BY number";
        assert_eq!(json!(self.farm.db.rows(numbers)), json!([[3], [4], [5]]));
        let leaves: Vec<Json> = self.farm.db.rows("SELECT leaf FROM attempt ORDER BY leaf");
        let mut leaves: Vec<String> = leaves
            .iter()
            .map(|row| row[0].as_str().unwrap().to_owned())
            .collect();
        leaves.sort();
        let mut folders = self.farm.names("home/results/incoming");
        folders.sort();
        assert_eq!(folders, leaves);
        let expect = leaves.len() as u64 * (RESULTS as u64 + 4);
        assert_eq!(disk_use(&self.incoming()), expect);
    }

    /// Waits for the end of a pass that leaves `more` folders beside the results.
    fn wait_until_removed(&self, more: usize) {
        let expect = usize::try_from(self.sources * 9).unwrap() + more;
        until("the removal of old results", || {
            let left = self.farm.names("home/results/incoming").len();
            (left <= expect).then_some(())
        });
    }

    /// Collects the librarian's garbage; what is left on disk is what the rows say.
    fn check_librarian(&self) {
        self.farm.ok(&["librarian", "gc"]);
        // The chroot and one more file of `furnish` have no blob.
        let sum = "SELECT CAST(SUM(size) AS BIGINT) FROM library_content WHERE sha256 <> ''";
        let used = disk_use(&self.farm.path("home/librarian"));
        assert_eq!(json!(used), self.farm.db.value(sum));
        // The log, and a file of each source.
        let files = "SELECT COUNT(*) FROM library_content WHERE sha256 <> ''";
        assert_eq!(self.farm.db.number(files), self.sources * 3 + 1);
    }
}

fn blobs(root: &Path) -> Vec<PathBuf> {
    let list = |dir: PathBuf| -> Vec<PathBuf> {
        let entries = fs::read_dir(dir).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    };
    let outer = list(root.to_owned()).into_iter();
    let outer = outer.filter(|path| !path.ends_with("incoming"));
    outer.flat_map(list).flat_map(list).collect()
}

fn disk_use_is_the_sum_of_what_is_referenced(engine: Engine) {
    let aged = Aged::new(engine, 3);
    let farm = &aged.farm;
    // The orphans: of an attempt that is gone, of another host, of no build.
    let results = farm.path("home/results");
    for name in [
        "incoming/5-5.9-bb",
        "incoming/99999-1.1-cc",
        "grabbing/5-5.9-bb@3.files",
        "uploading/5-5.9-bb",
    ] {
        old_folder(farm, &results.join(name), 10);
    }
    // No master has made the first; the second is young.
    old_folder(farm, &results.join("incoming/lost+found"), 10);
    // A killed pass has left this one, and has touched it.
    fs::create_dir_all(results.join("incoming/.removing-5-5.8-ee/sub")).unwrap();
    farm.give(&results.join("incoming/.removing-5-5.8-ee"));
    farm.give(&results.join("incoming/.removing-5-5.8-ee/sub"));
    fs::create_dir_all(results.join("incoming/5-5.9-dd")).unwrap();
    let master = farm.master("master");
    aged.wait_until_removed(2);
    until("the end of the pass", || {
        let mut left = farm.names("home/results/uploading");
        left.extend(farm.names("home/results/grabbing"));
        // The uploads keep their lock and the names of their hosts there.
        left.iter().all(|name| name.starts_with('.')).then_some(())
    });
    master.stop();
    let incoming = aged.incoming();
    fs::remove_dir_all(incoming.join("lost+found")).unwrap();
    fs::remove_dir(incoming.join("5-5.9-dd")).unwrap();
    aged.check();
    aged.check_librarian();
}

fn a_removal_that_is_killed_is_completed_by_the_next(engine: Engine) {
    let aged = Aged::new(engine, 4);
    for kill in 0..6_u64 {
        let master = aged.farm.master("master");
        // The first pass begins after a second.
        std::thread::sleep(Duration::from_millis(1000 + 15 * kill));
        master.kill();
        // The lease of a killed process ends after ten minutes.
        aged.farm.db.execute("DELETE FROM singleton");
    }
    let master = aged.farm.master("master");
    aged.wait_until_removed(0);
    let ended = "SELECT COUNT(*) FROM event";
    aged.farm.wait_row(ended, &json!([aged.sources * 3]));
    master.stop();
    aged.check();
    aged.check_librarian();
}

fn builds_that_can_never_be_built_leave_the_queue(engine: Engine) {
    let farm = farm(engine, "");
    farm.add_builds(1, 4, |build| 100 - build);
    farm.db.execute(
        "INSERT INTO archive (id, distribution_id, owner, name, purpose, private) \
           VALUES (7, 1, 'cprov', 'private', 2, TRUE); \
         UPDATE source SET upload_archive_id = 7 WHERE id IN (1, 2); \
         UPDATE build SET archive_id = 7 WHERE id IN (1, 2); \
         UPDATE publication SET archive_id = 7 WHERE source_id IN (1, 2); \
         UPDATE publication SET status = 3 WHERE source_id = 1; \
         UPDATE publication SET status = 4 WHERE source_id = 3; \
         DELETE FROM build_queue WHERE build_id = 3; \
         UPDATE build SET state = 3, dependencies = 'libfoo' WHERE id = 3",
    );
    let why = farm.ok(&["master", "queue", "why", "1"]);
    assert!(why.contains("no longer published"), "{why}");
    let master = farm.master("master");
    farm.wait_row(
        "SELECT COUNT(*) FROM build WHERE id IN (1, 3) AND state = 5",
        &json!([2]),
    );
    let queue = "SELECT COUNT(*) FROM build_queue WHERE build_id IN (2, 4)";
    assert_eq!(farm.db.row(queue), json!([2]));
    assert_eq!(farm.db.row("SELECT COUNT(*) FROM build_queue"), json!([2]));
    let shown = farm.ok(&["master", "show", "1", "--json"]);
    let shown: Json = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["state"], "SUPERSEDED");
    assert_eq!(shown["reason"], "the source is no longer published");
    let events = shown["events"].as_array().unwrap();
    assert_eq!(
        events[0]["message"],
        "SUPERSEDED: the source is no longer published"
    );
    master.stop();
    // A disabled architecture suspends its jobs. An obsolete series ends them.
    farm.ok(&[
        "master",
        "series",
        "set",
        "ubuntu/hoary",
        "--status",
        "OBSOLETE",
    ]);
    farm.db.execute("UPDATE arch_series SET enabled = FALSE");
    let master = farm.master("master");
    farm.wait_row("SELECT COUNT(*) FROM build_queue", &json!([0]));
    let failed = "SELECT COUNT(*) FROM build WHERE state = 2 AND reason IS NOT NULL";
    farm.wait_row(failed, &json!([2]));
    master.stop();
}

fn a_notification_that_hangs_delays_no_other_and_no_chore(engine: Engine) {
    let farm = Farm::new(engine, "");
    let script = farm.path("bin/notify");
    let told = farm.path("home/told");
    // The document of build 1 hangs.
    let text = format!(
        "#!/bin/sh\nread -r line\ncase $line in *'\"build\":1,'*) sleep 25;; esac\n\
         echo \"$line\" >> {}\n",
        told.display()
    );
    fs::write(&script, text).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&script, mode).unwrap();
    farm.configure(&format!("{QUICK}notify = {}\n", script.display()));
    farm.furnish();
    farm.add_builds(1, 20, |_| 1);
    let mut sql = String::new();
    for build in 1..=20 {
        sql.push_str(&format!(
            "INSERT INTO notification (build_id, created_at, document) \
             VALUES ({build}, {}, '{{\"build\":{build},\"state\":\"x\"}}'); ",
            now()
        ));
    }
    farm.db.execute(&sql);
    farm.db
        .execute("DELETE FROM build_queue WHERE build_id = 7");
    let began = Instant::now();
    let master = farm.master("master");
    farm.wait_row("SELECT COUNT(*) FROM notification", &json!([1]));
    // The chore that adds missing jobs did not wait either.
    let queued = "SELECT COUNT(*) FROM build_queue WHERE build_id = 7";
    farm.wait_row(queued, &json!([1]));
    let took = began.elapsed();
    assert!(took < Duration::from_secs(20), "{took:?}");
    let told = fs::read_to_string(told).unwrap();
    assert_eq!(told.lines().count(), 19, "{told}");
    let held = "SELECT owner FROM singleton WHERE name = 'notifications'";
    assert_eq!(farm.db.rows(held).len(), 1);
    master.stop();
}

fn an_archive_shows_and_changes_what_it_keeps(engine: Engine) {
    let farm = farm(engine, "");
    let shown = |args: &[&str]| -> Json {
        serde_json::from_str(&farm.ok(&[args, &["--json"]].concat())).unwrap()
    };
    let kept = |json: &Json| {
        [
            json["keep_attempts"].clone(),
            json["keep_days"].clone(),
            json["keep_versions"].clone(),
        ]
    };
    let show = ["master", "archive", "show", "ubuntu", "primary"];
    assert_eq!(kept(&shown(&show)), [3, 90, 3]);
    let set = ["master", "archive", "set", "ubuntu", "primary"];
    let changed = shown(
        &[
            &set[..],
            &["--keep-attempts", "1", "--keep-days", "forever"],
        ]
        .concat(),
    );
    assert_eq!(kept(&changed), [1, 0, 3]);
    let changed = shown(&[&set[..], &["--keep-versions", "0"]].concat());
    assert_eq!(kept(&changed), [1, 0, 0]);
    let list = shown(&["master", "archive", "list"]);
    assert_eq!(kept(&list[0]), [1, 0, 0]);
    let text = farm.ok(&show);
    assert!(
        text.contains("keep days") && text.contains("forever"),
        "{text}"
    );
    let (code, said) = farm.run(&[&set[..], &["--keep-days", "-1"]].concat());
    assert_eq!(code, Some(2), "{said}");
    let (code, said) = farm.run(&[&set[..], &["--keep-days", "always"]].concat());
    assert_eq!(code, Some(2));
    assert!(said.contains("or forever"), "{said}");
}

fn a_submission_removes_the_version_before_it_from_the_queue(engine: Engine) {
    let farm = farm(engine, "");
    let _librarian = farm.librarian();
    let submit = |version: &str| {
        let dsc = format!(
            "Format: 3.0 (native)\nSource: hello\nBinary: hello\nArchitecture: any\n\
             Version: {version}\nFiles:\n d41d8cd98f00b204e9800998ecf8427e 0 hello_{version}.tar.xz\n"
        );
        fs::write(farm.path(&format!("hello_{version}.tar.xz")), b"").unwrap();
        let path = farm.path(&format!("hello_{version}.dsc"));
        fs::write(&path, dsc).unwrap();
        let path = path.display().to_string();
        farm.run(&["master", "submit", &path, "--series", "ubuntu/hoary"])
    };
    let (code, said) = submit("1");
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = submit("2");
    assert_eq!(code, Some(0), "{said}");
    let rows = "SELECT s.version, b.state, COUNT(q.id) FROM source s \
                JOIN build b ON b.source_id = s.id LEFT JOIN build_queue q ON q.build_id = b.id \
                GROUP BY s.version, b.state ORDER BY s.version";
    assert_eq!(json!(farm.db.rows(rows)), json!([["1", 5, 0], ["2", 0, 1]]));
    farm.ok(&[
        "master",
        "series",
        "set",
        "ubuntu/hoary",
        "--status",
        "OBSOLETE",
    ]);
    let (code, said) = submit("3");
    assert_eq!(code, Some(1));
    assert!(
        said.contains("ubuntu/hoary is OBSOLETE and accepts no builds; submit to another series"),
        "{said}"
    );
}
