//! Makes the fixture of the current schema: a database as this version of the program leaves it.
//!
//! `cargo test --test suites farm::schema_fixture -- --ignored` writes it to
//! `tests/fixtures/schema/`, for each engine. `src/db/tests/upgrade.rs` upgrades each fixture.

use std::fs;
use std::path::Path;
use std::process::Command;

use nix::unistd::gethostname;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::support::database::Database;
use super::support::fake_slave::Plans;
use super::support::farm::on_both_engines;
use super::support::{Does, Engine, Fake, Farm, QUICK, Work};
use crate::support::{Gate, until};

mod written {
    use super::*;

    #[test]
    #[ignore = "writes tests/fixtures/schema"]
    fn sqlite() {
        write(Engine::Sqlite, "sqlite");
    }

    #[test]
    #[ignore = "writes tests/fixtures/schema"]
    fn postgresql() {
        write(Engine::Postgres, "postgresql");
    }
}

on_both_engines! {
    the_fixture_has_builds_in_every_state_and_rows_in_every_table
}

/// The sources whose builds end, with their verdicts.
const ENDED: [(&str, &str); 8] = [
    ("works", "OK"),
    ("uploading", "OK"),
    ("unloaded", "OK"),
    ("fails", "PACKAGEFAIL"),
    ("waits", "DEPFAIL"),
    ("chroot", "CHROOTFAIL"),
    ("back", "GIVENBACK"),
    ("breaks", "BUILDERFAIL"),
];
/// The sources whose builds run until the test ends.
const RUNNING: [&str; 3] = ["running", "gathering", "stopping"];

/// The first build of a source.
pub(super) fn build_of(farm: &Farm, source: &str) -> i64 {
    let sql = "SELECT MIN(b.id) FROM build b JOIN source s ON s.id = b.source_id WHERE s.name = ";
    farm.db.number(&format!("{sql}'{source}'"))
}

/// Adds four builders. Their slaves answer `abort` when the gate opens.
fn add_builders(farm: &Farm, gate: &Gate) -> [Fake; 4] {
    let plans = Plans::default();
    for (source, verdict) in ENDED {
        let mut work = Work::ends(verdict).log(&format!("the log of {source}\n"));
        if verdict == "DEPFAIL" {
            work.dependencies = "libfoo-dev (>= 1.2)".to_owned();
        }
        plans.add(&format!("{source}_1"), work);
    }
    for source in RUNNING {
        plans.add(&format!("{source}_1"), Work::goes_on());
    }
    let fakes = [(); 4].map(|()| Fake::start("i386"));
    for (number, fake) in fakes.iter().enumerate() {
        fake.slave(|slave| slave.plans = plans.clone());
        fake.on("abort", Does::Late(gate.clone()));
        let (name, url) = (format!("builder{number}"), fake.url());
        farm.ok(&[
            "master",
            "builder",
            "add",
            &name,
            &url,
            "--processor",
            "i386",
        ]);
    }
    fakes
}

fn submit_sources(farm: &Farm) {
    let submit = |source: &str, version: &str, arch: &str| {
        let dsc = farm.dsc(source, version, arch, "");
        farm.ok(&["master", "submit", &dsc, "--series", "hoary"]);
    };
    for source in RUNNING {
        submit(source, "1", "i386");
    }
    for (source, _) in ENDED {
        submit(source, "1", "i386");
    }
    // No builder can run these.
    for source in ["queued", "suspended", "cancelled", "old"] {
        submit(source, "1", "amd64");
    }
    submit("old", "2", "amd64");
    let packages = farm.path("Packages");
    fs::write(
        &packages,
        "Package: libfoo\nVersion: 1\nArchitecture: i386\nProvides: foo-api\n\n",
    )
    .unwrap();
    let packages = packages.display().to_string();
    farm.ok(&["master", "published", "add", "hoary", "i386", &packages]);
    let cancelled = build_of(farm, "cancelled").to_string();
    farm.ok(&["master", "cancel", &cancelled]);
}

/// A farm after some work, whose master was killed.
pub(super) fn used_farm(engine: Engine) -> Farm {
    let keys = format!("{QUICK}notify = false\ngive_back_delay = 600\n");
    let farm = Farm::new(engine, &keys);
    let _librarian = farm.librarian();
    farm.set_up();
    let gate = Gate::default();
    let fakes = add_builders(&farm, &gate);
    submit_sources(&farm);
    let master = farm.master("master");
    for source in RUNNING {
        farm.wait_state(build_of(&farm, source), 6);
    }
    until("the end of the others", || {
        let sql = "SELECT COUNT(*) FROM build WHERE log_alias_id IS NOT NULL";
        (farm.db.number(sql) >= 7).then_some(())
    });
    let stopping = build_of(&farm, "stopping").to_string();
    farm.ok(&["master", "cancel", &stopping]);
    until("abort", || {
        let asked = fakes.iter().any(|fake| !fake.called("abort").is_empty());
        asked.then_some(())
    });
    master.kill();
    gate.open();
    change_by_sql(&farm);
    farm
}

/// Makes the states that need an uploader, a private archive, or another moment.
fn change_by_sql(farm: &Farm) {
    for (source, columns) in [
        ("gathering", "state = 11"),
        ("uploading", "state = 8"),
        ("unloaded", "state = 7, upload_log_alias_id = log_alias_id"),
        ("old", "state = 5"),
    ] {
        let build = build_of(farm, source);
        farm.db
            .execute(&format!("UPDATE build SET {columns} WHERE id = {build}"));
    }
    let (old, suspended) = (build_of(farm, "old"), build_of(farm, "suspended"));
    farm.db.execute(&format!(
        "DELETE FROM build_queue WHERE build_id = {old};
         UPDATE build_queue SET status = 3 WHERE build_id = {suspended};
         INSERT INTO library_token (alias_id, token_sha256, created_at)
           SELECT MIN(id), 'hash', 1 FROM library_alias"
    ));
}

fn the_fixture_has_builds_in_every_state_and_rows_in_every_table(engine: Engine) {
    let farm = used_farm(engine);
    let states = farm
        .db
        .rows("SELECT DISTINCT state FROM build ORDER BY state");
    let all: Vec<_> = (0..=11).map(|state| json!([state])).collect();
    assert_eq!(states, all);
    let statuses = farm
        .db
        .rows("SELECT DISTINCT status FROM build_queue ORDER BY status");
    assert_eq!(statuses, [0, 1, 2, 3].map(|status| json!([status])));
    let tables = match engine {
        Engine::Sqlite => "SELECT name FROM sqlite_master WHERE type = 'table'",
        Engine::Postgres => {
            "SELECT CAST(table_name AS TEXT) FROM information_schema.tables
             WHERE table_schema = 'public'"
        }
    };
    for table in farm.db.rows(tables) {
        let table = table[0].as_str().unwrap();
        let rows = farm.db.number(&format!("SELECT COUNT(*) FROM {table}"));
        assert!(
            rows > 0,
            "{table} is empty: let the fixture have rows in it"
        );
    }
}

/// Writes the dump of a used farm. A fixture of a landed migration never changes, so an existing
/// one stays.
fn write(engine: Engine, name: &str) {
    let farm = used_farm(engine);
    let version = farm.db.number("SELECT version FROM schema_version");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = root.join(format!("tests/fixtures/schema/{version:04}.{name}.sql"));
    assert!(!path.exists(), "{} exists", path.display());
    let migration = root.join(format!("src/db/migrations/{version:04}.sql"));
    let sum = Sha256::digest(fs::read(migration).unwrap());
    let sum: String = sum.iter().map(|byte| format!("{byte:02x}")).collect();
    let host = gethostname().unwrap().into_string().unwrap();
    let dump = dump(&farm.db)
        .replace(&farm.path("").display().to_string(), "/srv/farm/")
        .replace(&format!("'{host}:"), "'host.example.org:")
        .replace(&format!("'{host}'"), "'host.example.org'");
    let text = format!("-- SHA-256 of migration {version:04}: {sum}\n{dump}");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn dump(db: &Database) -> String {
    let mut program = match db {
        Database::Sqlite(path) => {
            let mut program = Command::new("sqlite3");
            program.arg(path).arg(".dump");
            program
        }
        Database::Postgres(url) => {
            let mut program = Command::new("pg_dump");
            program.args(["--inserts", "--no-owner", "--no-privileges", url]);
            program
        }
    };
    let output = program.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    // Settings and commands that other versions of PostgreSQL do not have.
    let is_kept = |line: &&str| {
        let skipped = ["--", "SET ", "SELECT pg_catalog.set_config", "\\"];
        !line.is_empty() && !skipped.iter().any(|start| line.starts_with(start))
    };
    let lines: Vec<&str> = text.lines().filter(is_kept).collect();
    lines.join("\n") + "\n"
}
