//! `master backup` of a running farm, and `master restore` elsewhere (docs/farm.md §6.5).

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use serde_json::json;

use super::schema_fixture::{build_of, used_farm};
use super::support::backups::{
    back_up, backed_up, fetch_all, folder, manifest, newest, restore, stored, upload, verify,
};
use super::support::farm::on_both_engines;
use super::support::{Engine, Fake, Farm, QUICK, Work};
use crate::support::sha1;

on_both_engines! {
    a_backup_of_a_running_farm_serves_every_file_elsewhere_and_builds_on
    garbage_collection_waits_for_a_backup
    passwords_are_in_a_backup_only_with_keys
    a_later_backup_copies_only_new_files_and_old_ones_go
    a_farm_in_use_is_never_overwritten
    results_are_restored_with_their_builds
}

/// Counts that no look at a builder changes.
const COUNTS: &str = "SELECT (SELECT COUNT(*) FROM build), (SELECT COUNT(*) FROM source),
    (SELECT COUNT(*) FROM library_alias), (SELECT COUNT(*) FROM publication),
    (SELECT COUNT(*) FROM published_binary), (SELECT COUNT(*) FROM builder)";

fn a_backup_of_a_running_farm_serves_every_file_elsewhere_and_builds_on(engine: Engine) {
    let farm = used_farm(engine);
    let librarian = farm.librarian();
    for number in 0..40 {
        upload(&farm, &format!("file {number}"), &vec![number; 40_000]);
    }
    let master = farm.master("later");
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // The farm writes and collects garbage all the time.
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                farm.ok(&["librarian", "gc"]);
                upload(&farm, "young", b"young");
            }
        });
        let done = std::panic::catch_unwind(|| backed_up(&farm, &[]));
        is_over.store(true, Ordering::Relaxed);
        done.unwrap();
    });
    assert_eq!(verify(&farm).0, Some(0));
    let counts = farm.db.row(COUNTS);
    let of_backup = manifest(&farm);
    let newest_build = farm.db.value("SELECT MAX(id) FROM build");
    assert_eq!(of_backup["counts"]["newest_build"], newest_build);
    master.stop();
    librarian.stop();

    let other = Farm::new(engine, QUICK);
    let (code, said) = restore(&other, &farm, &[]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("let no master of the old farm run"), "{said}");
    let (mut found, mut before) = (other.db.row(COUNTS), counts);
    // Files came and went during the backup.
    let (files, files_before) = (found[2].take(), before[2].take());
    assert!(files.as_i64() <= files_before.as_i64());
    assert_eq!(found, before);
    let processes =
        "SELECT (SELECT COUNT(*) FROM singleton), (SELECT COUNT(*) FROM master_process),
        (SELECT COUNT(*) FROM builder WHERE lease_owner IS NOT NULL)";
    assert_eq!(other.db.row(processes), json!([0, 0, 0]));
    // Again: nothing has happened since, so the restore finds everything in place.
    let (code, said) = restore(&other, &farm, &[]);
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("was restored before; 0 files put in place"),
        "{said}"
    );

    let _librarian = other.librarian();
    assert!(fetch_all(&other) >= 45);
    // A slave builds the next job of the restored queue.
    let fake = Fake::start("amd64");
    fake.works(Work::ends("OK"));
    let add = ["master", "builder", "add", "new", &fake.url()];
    other.ok(&[&add[..], &["--processor", "amd64"]].concat());
    let master = other.master("master");
    other.wait_state(build_of(&other, "queued"), 1);
    master.stop();
}

fn age_blobs(farm: &Farm) {
    let then = SystemTime::now() - Duration::from_secs(30 * 24 * 3600);
    for path in blobs(&farm.path("home/librarian")) {
        fs::File::open(path).unwrap().set_modified(then).unwrap();
    }
}

/// The blobs below a folder, by their names of 64 digits.
fn blobs(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        match path.is_dir() {
            true => found.extend(blobs(&path)),
            false if entry.file_name().len() == 64 => found.push(path),
            false => {}
        }
    }
    found.sort();
    found
}

fn garbage_collection_waits_for_a_backup(engine: Engine) {
    let farm = Farm::new(engine, QUICK);
    let _librarian = farm.librarian();
    let id = upload(&farm, "a", b"a");
    farm.db.execute(&format!(
        "DELETE FROM library_alias WHERE id = {id}; DELETE FROM library_content"
    ));
    age_blobs(&farm);
    // The lease of another backup, which ends in an hour.
    let hour = SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_millis()
        + 3_600_000;
    farm.db.execute(&format!(
        "INSERT INTO singleton (name, owner, until) VALUES ('backup:host:1:2', 'x', {hour})"
    ));
    let said = farm.ok(&["librarian", "gc"]);
    assert!(said.contains("0 blobs (0 bytes) were removed"), "{said}");
    assert_eq!(blobs(&farm.path("home/librarian")).len(), 1);
    // A backup ends its own lease, and no other.
    backed_up(&farm, &[]);
    assert_eq!(farm.db.number("SELECT COUNT(*) FROM singleton"), 1);
    // The lease of a killed backup ends by itself.
    farm.db.execute("UPDATE singleton SET until = 1");
    let said = farm.ok(&["librarian", "gc"]);
    assert!(said.contains("1 blobs (1 bytes) were removed"), "{said}");
}

/// Whether any file below a folder has a text. Dumps of PostgreSQL are unpacked.
fn holds(folder: &Path, text: &str) -> bool {
    let entries = fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().path()).any(|path| {
        if path.is_dir() {
            return holds(&path, text);
        }
        let bytes = match path.extension().is_some_and(|end| end == "pgdump") {
            true => {
                let mut program = Command::new("pg_restore");
                program.arg("--file=-").arg(&path).output().unwrap().stdout
            }
            false => fs::read(&path).unwrap(),
        };
        bytes
            .windows(text.len())
            .any(|window| window == text.as_bytes())
    })
}

fn passwords_are_in_a_backup_only_with_keys(engine: Engine) {
    const SECRETS: [&str; 3] = ["archive-secret", "builder-secret", "library-secret"];
    let farm = Farm::new(engine, QUICK);
    farm.furnish();
    farm.db.execute(
        "UPDATE archive SET private = TRUE, buildd_secret = 'archive-secret';
         INSERT INTO builder (name, url, created_at)
           VALUES ('bob', 'http://farm:builder-secret@bob:8221/', 0)",
    );
    let keys = "[librarian]\nusername = farm\npassword = library-secret\n";
    let text = farm
        .read("buildd-slave.conf")
        .replace("[librarian]\n", keys);
    fs::write(farm.config(), text).unwrap();
    let (code, said) = back_up(&farm, &[]);
    assert_eq!(code, Some(0), "{said}");
    for expected in [
        "`master archive set ubuntu primary --secret-file FILE`",
        "the password of the builder bob",
        "the passwords in ",
    ] {
        assert!(said.contains(expected), "{expected}: {said}");
    }
    for secret in SECRETS {
        assert!(!holds(&folder(&farm), secret), "{secret}");
    }
    let conf = fs::read_to_string(newest(&farm).join("conf/buildd-slave.conf")).unwrap();
    assert!(conf.contains("username = farm"), "{conf}");

    let with_keys = backed_up(&farm, &["--with-keys"]);
    for secret in SECRETS {
        assert!(holds(&with_keys.join("keys"), secret), "{secret}");
    }
    for path in [folder(&farm), with_keys.clone(), with_keys.join("keys")] {
        assert_eq!(fs::metadata(path).unwrap().mode() & 0o777, 0o700);
    }
    let rows = "SELECT r.buildd_secret, b.url FROM archive r, builder b";
    for (backup, archive, url) in [
        (
            with_keys,
            json!("archive-secret"),
            "http://farm:builder-secret@bob:8221/",
        ),
        (oldest(&farm), json!(null), "http://farm@bob:8221/"),
    ] {
        let other = Farm::new(engine, QUICK);
        let name = backup.file_name().unwrap().to_str().unwrap().to_owned();
        let (code, said) = restore(&other, &farm, &["--backup", &name]);
        assert_eq!(code, Some(0), "{said}");
        assert_eq!(other.db.row(rows), json!([archive, url]));
        let is_told = said.contains("set the password of the archive ubuntu primary");
        assert_eq!(is_told, archive.is_null(), "{said}");
        // The restored farm gives out new numbers.
        let sql = "INSERT INTO builder (name, url, created_at) VALUES ('x', 'y', 0)";
        other.db.execute(sql);
    }
}

fn oldest(farm: &Farm) -> PathBuf {
    let names = farm.names("home/backups");
    let first = names.into_iter().find(|name| name.ends_with('Z'));
    folder(farm).join(first.unwrap())
}

fn a_later_backup_copies_only_new_files_and_old_ones_go(engine: Engine) {
    let farm = Farm::new(engine, QUICK);
    let _librarian = farm.librarian();
    let old = upload(&farm, "old", b"old");
    upload(&farm, "kept", b"kept");
    let made = |more: &[&str]| {
        let (code, said) = back_up(&farm, &[&["--json"], more].concat());
        assert_eq!(code, Some(0), "{said}");
        let json = said.lines().find(|line| line.starts_with('{')).unwrap();
        serde_json::from_str::<serde_json::Value>(json).unwrap()
    };
    let new = |made: &serde_json::Value| {
        made["files_linked"].as_i64().unwrap() + made["files_copied"].as_i64().unwrap()
    };
    let first = made(&[]);
    assert_eq!((new(&first), &first["files_kept"]), (2, &json!(0)));
    farm.db.execute(&format!(
        "DELETE FROM library_alias WHERE id = {old};
         DELETE FROM library_content WHERE sha1 = '{}'",
        sha1(b"old")
    ));
    upload(&farm, "new", b"new");
    let second = made(&[]);
    assert_eq!((new(&second), &second["files_kept"]), (1, &json!(1)));
    assert_eq!(blobs(&folder(&farm)).len(), 3);
    let third = made(&["--keep", "2"]);
    assert_eq!(third["removed_backups"], json!(1));
    assert_eq!(
        (&third["removed_files"], &third["removed_bytes"]),
        (&json!(1), &json!(3))
    );
    let left: BTreeSet<usize> = blobs(&folder(&farm))
        .iter()
        .map(|path| fs::read(path).unwrap().len())
        .collect();
    assert_eq!(left, BTreeSet::from([3, 4]));
    assert_eq!(verify(&farm).0, Some(0));
    // Only the list: the restored farm needs the files by other means.
    made(&["--no-files", "--keep", "1"]);
    let other = Farm::new(engine, QUICK);
    let (code, said) = restore(&other, &farm, &[]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("(kept); the backup has no files"), "{said}");
    fs::remove_dir_all(other.path("home/librarian")).unwrap();
    let mut copy = Command::new("cp");
    copy.arg("-a")
        .arg(farm.path("home/librarian"))
        .arg(other.path("home/librarian"));
    assert!(copy.status().unwrap().success());
    let (code, said) = restore(&other, &farm, &[]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("2 were there"), "{said}");
}

fn a_farm_in_use_is_never_overwritten(engine: Engine) {
    let farm = Farm::new(engine, QUICK);
    farm.furnish();
    backed_up(&farm, &[]);
    // The schema alone is as good as nothing.
    let other = Farm::new(engine, QUICK);
    other.migrate();
    let master = other.master("master");
    let (code, said) = restore(&other, &farm, &[]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("a master is running"), "{said}");
    master.stop();
    let (code, said) = restore(&other, &farm, &[]);
    assert_eq!(code, Some(0), "{said}");
    // Something has happened since.
    other.ok(&[
        "master",
        "builder",
        "add",
        "bob",
        "http://bob:8221/",
        "--processor",
        "386",
    ]);
    other
        .db
        .execute("INSERT INTO event (at, level, kind, message) VALUES (1, 1, 'x', 'y')");
    let (code, said) = restore(&other, &farm, &[]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("has rows in the table arch_series"), "{said}");
    assert_eq!(other.db.number("SELECT COUNT(*) FROM builder"), 1);

    let another = Farm::new(engine, QUICK);
    another.db.run("CREATE TABLE theirs (x INTEGER)");
    if engine == Engine::Sqlite {
        another.give(&another.path("home/farm.db"));
    }
    let (code, said) = restore(&another, &farm, &[]);
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("has the table theirs, which is not of this program"),
        "{said}"
    );
    // A newer schema, and another engine.
    let manifest = newest(&farm).join("manifest.json");
    let text = fs::read_to_string(&manifest).unwrap();
    let third = Farm::new(engine, QUICK);
    for (from, to, expected) in [
        (
            "\"schema\": ",
            "\"schema\": 9",
            "is of a newer buildd-slave",
        ),
        ("\"format\": ", "\"format\": 9", "upgrade this program"),
        ("\"sqlite\"", "\"postgresql\"", "names SQLite"),
        ("\"postgresql\"", "\"sqlite\"", "names PostgreSQL"),
    ] {
        let changed = text.replace(from, to);
        if changed != text {
            fs::write(&manifest, changed).unwrap();
            let (code, said) = restore(&third, &farm, &[]);
            assert_eq!(code, Some(1), "{said}");
            assert!(said.contains(expected), "{said}");
        }
    }
    fs::write(&manifest, text).unwrap();
    assert_eq!(restore(&third, &farm, &[]).0, Some(0));
}

fn results_are_restored_with_their_builds(engine: Engine) {
    let farm = Farm::new(engine, QUICK);
    farm.furnish();
    let librarian = farm.librarian();
    let fake = Fake::start("i386");
    farm.add_builder("bob", &fake);
    farm.add_builds(1, 1, |_| 1);
    let master = farm.master("master");
    farm.wait_state(1, 1);
    master.stop();
    librarian.stop();
    let cookie = farm.cookie(1, 1);
    let incoming = format!("home/results/incoming/{cookie}");
    let names = farm.names(&incoming);
    assert!(!names.is_empty());
    // No row names these.
    for orphan in ["999-9.1", "notes"] {
        let folder = farm.path("home/results/incoming").join(orphan);
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("x"), "orphan").unwrap();
    }
    backed_up(&farm, &[]);
    let (backed, stays) = (manifest(&farm)["results"].clone(), names.len());
    assert_eq!(backed, json!(stays));
    let other = Farm::new(engine, QUICK);
    let (code, said) = restore(&other, &farm, &[]);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(other.names(&incoming), names);
    assert_eq!(other.names("home/results/incoming"), [&*cookie]);
    for name in names {
        let path = format!("{incoming}/{name}");
        assert_eq!(other.read(&path), farm.read(&path));
        let mode = |farm: &Farm| fs::metadata(farm.path(&path)).unwrap().permissions().mode();
        assert_eq!(mode(&other), mode(&farm), "{name}");
    }
    // A copy of the uploader's own must not change with the farm's.
    let file = stored(&farm, &sha256_of_first(&farm));
    assert_eq!(fs::metadata(file).unwrap().nlink(), 1);
}

/// The SHA-256 of the first file of results in the newest backup.
fn sha256_of_first(farm: &Farm) -> String {
    let list = fs::read_to_string(newest(farm).join("results.jsonl")).unwrap();
    let first: serde_json::Value = serde_json::from_str(list.lines().next().unwrap()).unwrap();
    first["sha256"].as_str().unwrap().to_owned()
}
