//! Backups that are damaged, interrupted or have no space, and what the commands say
//! (docs/farm.md §6.5).

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use super::support::backups::{
    back_up, backed_up, fetch_all, folder, newest, restore, stored, upload, verify,
};
use super::support::database::Database;
use super::support::farm::on_both_engines;
use super::support::tls_server::TlsServer;
use super::support::{Engine, Farm, QUICK, from_env};
use crate::support::mounts::{may_mount, mount_tmpfs, unmount};
use crate::support::run;

on_both_engines! {
    damage_is_named_and_everything_else_is_restored
    a_backup_that_is_killed_is_never_taken_for_a_complete_one
    a_full_disk_and_a_read_only_folder_leave_no_backup
    files_that_the_farm_lacks_are_named
    many_files_need_little_memory
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Replaces a file, whatever its mode is and whoever has a link to it.
fn rewrite(path: &Path, bytes: &[u8]) {
    fs::remove_file(path).unwrap();
    fs::write(path, bytes).unwrap();
}

/// A farm with four files and a backup.
fn with_backup(engine: Engine) -> Farm {
    let farm = Farm::new(engine, QUICK);
    farm.furnish();
    let librarian = farm.librarian();
    for name in ["whole", "short", "flipped", "gone"] {
        upload(&farm, name, name.repeat(1000).as_bytes());
    }
    librarian.stop();
    backed_up(&farm, &[]);
    farm
}

fn path_of(farm: &Farm, name: &str) -> PathBuf {
    stored(farm, &sha256(name.repeat(1000).as_bytes()))
}

fn damage_is_named_and_everything_else_is_restored(engine: Engine) {
    let farm = with_backup(engine);
    let (code, said) = verify(&farm);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("all sums are right; 4 files read"), "{said}");
    rewrite(&path_of(&farm, "short"), b"short");
    let mut flipped = "flipped".repeat(1000).into_bytes();
    flipped[3000] ^= 1;
    rewrite(&path_of(&farm, "flipped"), &flipped);
    fs::remove_file(path_of(&farm, "gone")).unwrap();
    let path = |name| path_of(&farm, name).display().to_string();
    let (code, said) = verify(&farm);
    assert_eq!(code, Some(1), "{said}");
    for line in [
        format!(
            "damaged: {} (short): 5 bytes instead of 5000",
            path("short")
        ),
        format!(
            "damaged: {} (flipped): its SHA-256 is another",
            path("flipped")
        ),
        format!("missing: {} (gone)", path("gone")),
        "3 files are damaged or missing; 3 files read".to_owned(),
    ] {
        assert!(said.contains(&line), "{line}: {said}");
    }
    let other = Farm::new(engine, QUICK);
    let (code, said) = restore(&other, &farm, &[]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("1 files put in place"), "{said}");
    assert!(
        said.contains(&format!("missing: {} (gone)", path("gone"))),
        "{said}"
    );
    // The farm's own files are whole: the next backup heals what it can see, and a restore that is
    // repeated puts the rest in place.
    for name in ["flipped", "short"] {
        rewrite(&path_of(&farm, name), name.repeat(1000).as_bytes());
    }
    rewrite_gone(&farm);
    let (code, said) = restore(&other, &farm, &[]);
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("3 files put in place, 1 were there"),
        "{said}"
    );
    let _librarian = other.librarian();
    assert_eq!(fetch_all(&other), 4);

    damage_of_the_backup_itself(engine, &farm);
}

fn rewrite_gone(farm: &Farm) {
    fs::write(path_of(farm, "gone"), "gone".repeat(1000)).unwrap();
}

fn damage_of_the_backup_itself(engine: Engine, farm: &Farm) {
    let backup = newest(farm);
    let database = match engine {
        Engine::Sqlite => "database.sqlite",
        Engine::Postgres => "database.pgdump",
    };
    let third = Farm::new(engine, QUICK);
    for name in [database, "blobs.jsonl", "conf/buildd-slave.conf"] {
        let path = backup.join(name);
        let whole = fs::read(&path).unwrap();
        let mut bytes = whole.clone();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        for damaged in [bytes, whole[..middle].to_vec()] {
            fs::write(&path, damaged).unwrap();
            let line = format!("damaged: {}: its SHA-256 is another", path.display());
            for (code, said) in [verify(farm), restore(&third, farm, &[])] {
                assert_eq!(code, Some(1), "{said}");
                assert!(said.contains(&line), "{line}: {said}");
            }
        }
        fs::remove_file(&path).unwrap();
        let (code, said) = verify(farm);
        assert_eq!(code, Some(1));
        assert!(
            said.contains(&format!("missing: {}", path.display())),
            "{said}"
        );
        fs::write(&path, whole).unwrap();
    }
    let manifest = backup.join("manifest.json");
    let text = fs::read(&manifest).unwrap();
    fs::write(&manifest, &text[..40]).unwrap();
    let (code, said) = verify(farm);
    assert_eq!(code, Some(1));
    assert!(
        said.contains(&format!("damaged: {}", manifest.display())),
        "{said}"
    );
    // Half a copy of a backup has no manifest.
    fs::remove_file(&manifest).unwrap();
    let (code, said) = verify(farm);
    assert_eq!(code, Some(1));
    assert!(said.contains("has no complete backup"), "{said}");
    fs::write(&manifest, text).unwrap();
    assert_eq!(verify(farm).0, Some(0));
    assert_eq!(restore(&third, farm, &[]).0, Some(0));
}

fn a_backup_that_is_killed_is_never_taken_for_a_complete_one(engine: Engine) {
    let farm = Farm::new(engine, QUICK);
    farm.furnish();
    farm.add_builds(1, 500, |_| 1);
    let librarian = farm.librarian();
    for number in 0..30 {
        upload(&farm, &format!("f{number}"), &vec![number; 300_000]);
    }
    let dir = folder(&farm).display().to_string();
    let (mut during, mut complete) = (0, 0);
    for round in 0..400_u64 {
        let mut command = farm.farm_command(&["master", "backup", &dir]);
        let mut child = command
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        // The pace of the kills.
        std::thread::sleep(Duration::from_millis(20 + round * 25));
        child.kill().unwrap();
        let is_killed = !child.wait().unwrap().success();
        let names = farm.names("home/backups");
        let is_left = names.iter().any(|name| name.starts_with(".incomplete-"));
        during += u32::from(is_killed && is_left);
        let whole = names.iter().filter(|name| name.ends_with('Z')).count();
        let (code, said) = verify(&farm);
        match whole {
            _ if names.is_empty() => assert_eq!(code, Some(1), "{said}"),
            0 => {
                assert_eq!(code, Some(1), "{said}");
                assert!(said.contains("which was interrupted: run"), "{said}");
            }
            _ => assert_eq!(code, Some(0), "{said}"),
        }
        complete += u32::from(whole > 0);
        if complete > 3 {
            break;
        }
    }
    assert!(during >= 3, "only {during} kills during backups");
    // The next backup cleans up, and reads the files that the killed ones left.
    let half = fs::read_dir(folder(&farm).join("files"))
        .unwrap()
        .flatten()
        .find(|one| one.path().is_dir());
    let half = fs::read_dir(half.unwrap().path())
        .unwrap()
        .flatten()
        .next()
        .unwrap()
        .path();
    let length = fs::metadata(&half).unwrap().len();
    rewrite(&half, &vec![255; usize::try_from(length).unwrap()]);
    fs::create_dir_all(folder(&farm).join(".incomplete-1")).unwrap();
    farm.give(&folder(&farm).join(".incomplete-1"));
    backed_up(&farm, &[]);
    let names = farm.names("home/backups");
    assert!(!names.iter().any(|name| name.starts_with('.')), "{names:?}");
    let (code, said) = verify(&farm);
    assert_eq!(code, Some(0), "{said}");
    librarian.stop();
    let other = Farm::new(engine, QUICK);
    assert_eq!(restore(&other, &farm, &[]).0, Some(0));
    let _librarian = other.librarian();
    assert_eq!(fetch_all(&other), 30);
}

fn a_full_disk_and_a_read_only_folder_leave_no_backup(engine: Engine) {
    if !may_mount("a backup on a full disk") {
        return;
    }
    let farm = Farm::new(engine, QUICK);
    let librarian = farm.librarian();
    for number in 0..20 {
        upload(&farm, &format!("f{number}"), &vec![number; 200_000]);
    }
    librarian.stop();
    fs::create_dir(folder(&farm)).unwrap();
    // Sizes at which the database and, later, the files do not fit.
    for kib in [100, 2000] {
        mount_tmpfs(&folder(&farm), kib);
        farm.give(&folder(&farm));
        let (code, said) = back_up(&farm, &[]);
        assert_eq!(code, Some(1), "{kib}: {said}");
        assert!(
            said.contains("No space left") || said.contains("full"),
            "{kib}: {said}"
        );
        assert!(said.contains("home/backups"), "{kib}: {said}");
        let (code, said) = verify(&farm);
        assert_eq!(code, Some(1), "{kib}: {said}");
        assert!(said.contains("which was interrupted"), "{kib}: {said}");
        // What a failed backup wrote of the database is gone.
        for name in farm.names("home/backups") {
            let is_empty = farm.names(&format!("home/backups/{name}")).is_empty();
            assert!(name == "files" || is_empty, "{kib}: {name}");
        }
        unmount(&folder(&farm));
    }
    if farm.heeds_modes() {
        let mode = |mode| fs::Permissions::from_mode(mode);
        fs::set_permissions(folder(&farm), mode(0o555)).unwrap();
        let (code, said) = back_up(&farm, &[]);
        assert_eq!(code, Some(1), "{said}");
        assert!(
            said.contains("cannot ") && said.contains("home/backups"),
            "{said}"
        );
        let advice = format!("-m 700 {}", folder(&farm).display());
        assert!(
            said.contains("try: install -d -o ") && said.contains(&advice),
            "{said}"
        );
        fs::set_permissions(folder(&farm), mode(0o755)).unwrap();
    }
    farm.give(&folder(&farm));
    fs::write(folder(&farm).join("photo.jpg"), "").unwrap();
    let (code, said) = back_up(&farm, &[]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("has other files"), "{said}");
    fs::remove_file(folder(&farm).join("photo.jpg")).unwrap();
    backed_up(&farm, &[]);
}

fn files_that_the_farm_lacks_are_named(engine: Engine) {
    let farm = Farm::new(engine, QUICK);
    let librarian = farm.librarian();
    for name in ["whole", "gone", "flipped"] {
        upload(&farm, name, name.repeat(1000).as_bytes());
    }
    librarian.stop();
    let blob = |name: &str| {
        let sum = sha256(name.repeat(1000).as_bytes());
        farm.path("home/librarian")
            .join(&sum[..2])
            .join(&sum[2..4])
            .join(sum)
    };
    fs::remove_file(blob("gone")).unwrap();
    rewrite(&blob("flipped"), "flippeD".repeat(1000).as_bytes());
    farm.give(&blob("flipped"));
    let (code, said) = back_up(&farm, &[]);
    assert_eq!(code, Some(1), "{said}");
    for line in [
        format!(
            "missing in the librarian: {} (gone)",
            blob("gone").display()
        ),
        format!(
            "damaged in the librarian: {} (flipped)",
            blob("flipped").display()
        ),
        "the farm lacks 2 files; the backup is complete apart from these".to_owned(),
    ] {
        assert!(said.contains(&line), "{line}: {said}");
    }
    // The backup is as good as the farm was.
    let (code, said) = verify(&farm);
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("2 files were missing in the farm already"),
        "{said}"
    );
    let other = Farm::new(engine, QUICK);
    let (code, said) = restore(&other, &farm, &[]);
    assert_eq!(code, Some(0), "{said}");
}

fn many_files_need_little_memory(engine: Engine) {
    let files: usize = from_env("BUILDD_BACKUP_FILES", 30_000);
    /// A process with an empty farm needs about 20 MiB. 100,000 files were
    /// measured at 31 MiB on SQLite and 25 on PostgreSQL.
    const MOST_KIB: u64 = 35 << 10;
    let farm = Farm::new(engine, QUICK);
    farm.migrate();
    let root = farm.path("home/librarian");
    let mut rows = Vec::new();
    for number in 0..files {
        let bytes = number.to_string();
        let sum = sha256(bytes.as_bytes());
        let folder = root.join(&sum[..2]).join(&sum[2..4]);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(&sum), &bytes).unwrap();
        rows.push(format!(
            "({}, {}, '{}', '{sum}', '', 0)",
            number + 1,
            bytes.len(),
            &sum[..40]
        ));
    }
    let mut give = std::process::Command::new("chown");
    give.arg("-R")
        .arg("--reference")
        .arg(farm.path("home"))
        .arg(&root);
    assert!(give.status().unwrap().success());
    for rows in rows.chunks(5000) {
        let rows = rows.join(",\n");
        farm.db.execute(&format!(
            "INSERT INTO library_content (id, size, sha1, sha256, md5, created_at) VALUES {rows}"
        ));
    }
    farm.db.execute(
        "INSERT INTO library_alias (content_id, filename, mimetype, created_at)
         SELECT id, 'a file with a long name, number ' || CAST(id AS TEXT), 'text/plain', 0
         FROM library_content",
    );
    let dir = folder(&farm).display().to_string();
    let other = Farm::new(engine, QUICK);
    for (at, args) in [
        (&farm, vec!["master", "backup", &dir]),
        (&farm, vec!["master", "backup", &dir, "--keep", "1"]),
        (&farm, vec!["master", "restore", &dir, "--verify"]),
        (&other, vec!["master", "restore", &dir]),
    ] {
        let peak = peak_kib(at, &args);
        assert!(peak < MOST_KIB, "{args:?}: {peak} KiB");
    }
}

/// Runs a command that must succeed; returns the largest resident memory that it had.
fn peak_kib(farm: &Farm, args: &[&str]) -> u64 {
    let mut command = farm.farm_command(args);
    let mut child = command
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::inherit())
        .spawn()
        .unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    loop {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let number = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
        peak = number.unwrap_or(peak).max(peak);
        if let Some(ended) = child.try_wait().unwrap() {
            assert!(ended.success(), "{args:?}: {ended}");
            eprintln!("{args:?}: {peak} KiB");
            return peak;
        }
        // The pace of the measurements.
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A program in place of PostgreSQL's, in a folder for `PATH`.
fn fake_program(farm: &Farm, name: &str, script: &str) -> PathBuf {
    let folder = farm.path("programs");
    fs::create_dir_all(&folder).unwrap();
    let path = folder.join(name);
    let mut file = fs::File::create(&path).unwrap();
    file.write_all(script.as_bytes()).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

#[test]
fn pg_dump_gets_the_password_by_a_private_file_and_the_sslmode() {
    let Some(url) = super::support::postgres::database() else {
        return;
    };
    let mut farm = Farm::new(Engine::Postgres, QUICK);
    let with_password = url.replace("postgres@", "postgres:hu%3Ash%5C@");
    farm.db = Database::Postgres(format!("{with_password}?sslmode=disable"));
    farm.configure(QUICK);
    farm.migrate();
    let dir = folder(&farm).display().to_string();
    let with_path = |path: &Path| {
        let mut command = farm.farm_command(&["master", "backup", &dir]);
        command.env("PATH", format!("{}:/usr/bin:/bin", path.display()));
        command
            .env("PGPASSWORD", "other")
            .env("PGHOST", "elsewhere");
        run(command)
    };
    let said = farm.path("home/said").display().to_string();
    let script = format!(
        "#!/bin/sh\n[ $1 = --version ] && exec /usr/bin/pg_dump --version\n\
         {{ echo \"$@\"; env; stat -c %a $PGPASSFILE; cat $PGPASSFILE; }} >{said}\n\
         exec /usr/bin/pg_dump \"$@\"\n"
    );
    let programs = fake_program(&farm, "pg_dump", &script);
    let (code, printed) = with_path(&programs);
    assert_eq!(code, Some(0), "{printed}");
    let said = farm.read("home/said");
    let (public, file) = said.split_once("\n600\n").expect(&said);
    assert_eq!(file.trim_end(), r"*:*:*:*:hu\:sh\\");
    assert!(!public.contains("hu"), "{public}");
    assert!(public.contains("PGSSLMODE=disable"), "{public}");
    assert!(
        !public.contains("PGPASSWORD") && !public.contains("elsewhere"),
        "{public}"
    );
    let left: Vec<String> = farm.files_holding(r"hu\:sh");
    assert_eq!(left, ["home/said"]);

    fake_program(
        &farm,
        "pg_dump",
        "#!/bin/sh\necho 'pg_dump (PostgreSQL) 9.6.1'\n",
    );
    let (code, printed) = with_path(&programs);
    assert_eq!(code, Some(1), "{printed}");
    assert!(
        printed.contains("pg_dump is of version 9, older than the server's"),
        "{printed}"
    );
    let script = "#!/bin/sh\n[ $1 = --version ] && exec /usr/bin/pg_dump --version\n\
                  echo 'no such thing' >&2; exit 1\n";
    fake_program(&farm, "pg_dump", script);
    let (code, printed) = with_path(&programs);
    assert_eq!(code, Some(1), "{printed}");
    assert!(printed.contains("no such thing"), "{printed}");
    let mut command = farm.farm_command(&["master", "backup", &dir]);
    command.env("PATH", "/nonexistent");
    let (code, printed) = run(command);
    assert_eq!(code, Some(1), "{printed}");
    assert!(
        printed.contains("install the package postgresql-client"),
        "{printed}"
    );
    assert_eq!(verify(&farm).0, Some(0), "the first backup");
}

#[test]
fn pg_dump_checks_the_certificate_of_the_server() {
    let mut farm = Farm::new(Engine::Sqlite, QUICK);
    let key = farm.path("server.key");
    let certificate = farm.path("server.crt");
    let mut openssl = std::process::Command::new("openssl");
    openssl.args([
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
    ]);
    openssl.args(["-nodes", "-days", "2", "-subj", "/CN=localhost"]);
    openssl.args(["-addext", "subjectAltName=DNS:localhost"]);
    openssl.args(["-addext", "basicConstraints=critical,CA:FALSE"]);
    openssl
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&certificate);
    if !openssl.output().is_ok_and(|output| output.status.success()) {
        crate::support::mounts::not_run("pg_dump over TLS", "the package openssl");
        return;
    }
    farm.give(&key);
    let Some(server) = TlsServer::start(&certificate, &key) else {
        return;
    };
    let parameters = format!("sslmode=require&sslrootcert={}", certificate.display());
    farm.db = Database::Postgres(server.url("localhost", "sslmode=require"));
    farm.configure(QUICK);
    backed_up(&farm, &[]);
    // By the program's own name for the mode.
    server.allow_only("hostnossl");
    let (code, said) = back_up(&farm, &[]);
    assert_eq!(code, Some(1), "{parameters}: {said}");
}
