//! The seed scenario of 2008 with this program in every part (docs/farm.md §5).
//!
//! A slave, a librarian, and one pass of a master over the sample data.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::{Mutex, PoisonError};

use serde_json::{Value as Json, json};

use super::seed_rows::{self, FROG, TAIL};
use super::support::farm::on_both_engines;
use super::support::{Engine, Fake, Farm, QUICK};
use crate::support::{Daemon, Site, exchange, sha1};

on_both_engines! {
    the_seed_scenario_resets_a_forgotten_job_with_its_warning
    a_pass_probes_enabled_builders_only
    a_pass_fails_unreachable_builders
    a_pass_fails_builders_of_another_architecture
    a_pass_leaves_the_job_of_an_unreachable_slave
    a_running_master_resets_a_forgotten_job
    passes_build_the_jobs_of_the_sample_data
}

const HELLO: &str = "Hello World";
/// The end of the warning for a job that bob has forgotten.
const FORGOT: &str = "about build i386 build of mozilla-firefox 0.9 in ubuntu hoary RELEASE -- \
                      resetting buildqueue record";

/// A slave for i386, at port 8221 if it is free.
fn start_slave() -> Daemon {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _port_is_looked_for = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let site = Site::new("");
    if TcpListener::bind(("127.0.0.1", 8221)).is_ok() {
        let text = site.read("buildd-slave.conf");
        let text = text.replace("bindport = 0", "bindport = 8221");
        fs::write(site.config(), text).unwrap();
    }
    Daemon::start_in(site)
}

fn url_of(slave: &Daemon) -> String {
    format!("http://localhost:{}/", slave.port)
}

/// Steps 9 and 10: the chroots of hoary and warty, which no slave downloads.
fn set_chroots(farm: &Farm) {
    for series in ["ubuntu/hoary", "ubuntu/warty"] {
        farm.ok(&["master", "chroot", "set", series, "i386", "1"]);
    }
    let sql = "SELECT arch_series_id, pocket, alias_id FROM chroot ORDER BY arch_series_id";
    assert_eq!(farm.db.rows(sql), [json!([1, 0, 1]), json!([6, 0, 1])]);
}

fn forgot(bob: &str) -> String {
    format!("WARN root.builders.x86: Builder {bob} forgot {FORGOT}")
}

/// The columns of the job and of its build.
fn job(farm: &Farm) -> Json {
    farm.db.row(
        "SELECT q.builder_id, q.buildstart, q.lastscore, q.created_at, q.logtail, b.state,
                b.builder_id
         FROM build_queue q JOIN build b ON b.id = q.build_id WHERE q.id = 1",
    )
}

fn builder(farm: &Farm, id: i64) -> Json {
    farm.db.row(&format!(
        "SELECT builderok, failnotes, manual, failure_count FROM builder WHERE id = {id}"
    ))
}

/// The job in the sample data.
fn untouched() -> Json {
    let (started, created) = (1_118_827_212_820_i64, 1_118_826_852_820_i64);
    json!([1, started, 1, created, TAIL, 6, null])
}

/// The job after a pass has reset it: the builder, the start and the state have changed.
fn reset() -> Json {
    json!([null, null, 1, 1_118_826_852_820_i64, TAIL, 0, null])
}

/// The farm of the seed before step 9; `bob` is the URL of the builder bob.
fn farm_with(engine: Engine, bob: &str) -> Farm {
    let farm = Farm::new(engine, "");
    seed_rows::insert(&farm, bob);
    farm
}

fn the_seed_scenario_resets_a_forgotten_job_with_its_warning(engine: Engine) {
    // Steps 1 to 3 call a slave.
    let mut slave = start_slave();
    let bob = url_of(&slave);
    let call = |method: &str, params: &[Json]| slave.ok(method, params);
    assert_eq!(call("echo", &[json!(HELLO)]), json!([HELLO]));
    assert_eq!(call("info", &[]), json!(["1.0", "i386", ["debian"]]));
    assert_eq!(call("status", &[]), json!(["BuilderStatus.IDLE", ""]));

    // Steps 4 to 6 store a file, which the librarian serves once its rows exist.
    let farm = farm_with(engine, &bob);
    let librarian = farm.librarian();
    let (content, alias) = (901, 902);
    store(&farm, content, alias);
    let path = format!("/{alias}/HelloWorld.txt");
    assert_eq!(fetch(&farm, &path).0, 404);
    let sum = "0a4d55a8d778e5022fab701977c5d840bbc486d0";
    assert_eq!(sha1(HELLO.as_bytes()), sum);
    farm.db.execute(&format!(
        "INSERT INTO library_content (id, size, sha1, sha256, md5, created_at)
           VALUES ({content}, 11, '{sum}',
             'a591a6d40bf420404a011733cfb7b190d62c65bf0bcda32b57b277d9ad9f146e',
             'b10a8db164e0754105b7a99be72e3fe5', 0);
         INSERT INTO library_alias (id, content_id, filename, mimetype, created_at)
           VALUES ({alias}, {content}, 'HelloWorld.txt', 'text/plain', 0)"
    ));
    assert_eq!(fetch(&farm, &path), (200, HELLO.to_owned()));
    assert_eq!(fetch(&farm, &format!("/{alias}/HelloWorld.doc")).0, 404);

    // In steps 7 and 8 the slave fetches the file.
    let url = format!("{}{alias}/HelloWorld.txt", farm.library_url());
    let params = [sum, &url, "", ""].map(|text| json!(text));
    assert_eq!(call("ensurepresent", &params), json!([true, "Download"]));
    assert_eq!(call("ensurepresent", &params), json!([true, "Cache"]));
    let answer = slave.get(&format!("/filecache/{sum}"));
    assert_eq!((answer.status, answer.text().as_str()), (200, HELLO));

    // Steps 9 to 13: the pass resets the job that bob has forgotten, warns once and changes no
    // more.
    set_chroots(&farm);
    let queue_2 = "SELECT * FROM build_queue WHERE id = 2";
    let (bob_before, queue_2_before) = (builder(&farm, 1), farm.db.row(queue_2));
    assert_eq!(job(&farm), untouched());
    assert_eq!(farm.scan().warnings(), [forgot(&bob)]);
    assert_eq!(job(&farm), reset());
    assert_eq!(builder(&farm, 1), bob_before);
    assert_eq!(farm.db.row(queue_2), queue_2_before);
    assert_eq!(farm.scan().warnings(), [""; 0]);
    assert_eq!(job(&farm), reset());
    assert_eq!(call("status", &[]), json!(["BuilderStatus.IDLE", ""]));
    librarian.stop();

    // Steps 14 and 15 stop the slave.
    let port = slave.port;
    slave.stop();
    drop(slave);
    let error = exchange(port, b"").unwrap_err();
    assert_eq!(error.raw_os_error(), Some(nix::libc::ECONNREFUSED));
}

/// The calls to a disabled and to an enabled builder. Bob is manual, as the seed dispatches no job.
fn a_pass_probes_enabled_builders_only(engine: Engine) {
    for fake in [Fake::start("i386"), Fake::start_2008("i386")] {
        let farm = farm_with(engine, &fake.url());
        set_chroots(&farm);
        farm.scan();
        assert_eq!(fake.methods(), "info status");
        fake.forget();
        farm.scan();
        assert_eq!(fake.methods(), "");

        let farm = farm_with(engine, &fake.url());
        set_chroots(&farm);
        farm.db
            .execute("UPDATE builder SET builderok = TRUE, manual = TRUE WHERE id = 1");
        assert_eq!(farm.scan().warnings(), [forgot(&fake.url())]);
        assert_eq!(fake.methods(), "echo info status info status");
        assert_eq!(job(&farm), reset());
        assert_eq!(builder(&farm, 1), json!([1, null, 1, 0]));
        assert_eq!(builder(&farm, 2), json!([0, null, 0, 0]));
    }
}

fn a_pass_fails_unreachable_builders(engine: Engine) {
    let fake = Fake::start_2008("i386");
    let farm = farm_with(engine, &fake.url());
    set_chroots(&farm);
    farm.db.execute(
        "UPDATE builder SET builderok = TRUE; UPDATE builder SET manual = TRUE WHERE id = 1",
    );
    let warnings = farm.scan().warnings();
    assert_eq!(warnings.len(), 2, "{warnings:#?}");
    let frog = &warnings[0];
    assert!(
        frog.starts_with("WARN root.builders.x86: ")
            && frog.contains(FROG)
            && frog.contains("frog"),
        "{frog}"
    );
    assert_eq!(warnings[1], forgot(&fake.url()));
    let row = builder(&farm, 2);
    assert_eq!(row[0], 0);
    let notes = row[1].as_str().unwrap();
    assert!(notes.contains("refused"), "{notes}");
    assert_eq!(builder(&farm, 1)[0], 1);
    assert_eq!(job(&farm), reset());
}

fn a_pass_fails_builders_of_another_architecture(engine: Engine) {
    let fake = Fake::start_2008("amd64");
    let farm = farm_with(engine, &fake.url());
    set_chroots(&farm);
    farm.db
        .execute("UPDATE builder SET builderok = TRUE WHERE id = 1");
    let warnings = farm.scan().warnings();
    assert_eq!(warnings.len(), 2, "{warnings:#?}");
    assert!(
        warnings[0].contains("amd64") && warnings[0].contains("i386"),
        "{}",
        warnings[0]
    );
    assert_eq!(warnings[1], forgot(&fake.url()));
    let row = builder(&farm, 1);
    assert_eq!(row[0], 0);
    assert!(row[1].as_str().unwrap().contains("amd64"), "{row}");
    assert_eq!(job(&farm), reset());
    assert_eq!(fake.accepted(), [""; 0]);
}

fn a_pass_leaves_the_job_of_an_unreachable_slave(engine: Engine) {
    let fake = Fake::start_2008("i386");
    let farm = farm_with(engine, &fake.url());
    set_chroots(&farm);
    fake.vanish();
    assert_eq!(farm.scan().warnings(), [""; 0]);
    assert_eq!(job(&farm), untouched());
    assert_eq!(builder(&farm, 1), json!([0, null, 0, 0]));
}

fn a_running_master_resets_a_forgotten_job(engine: Engine) {
    // A disabled builder gets no call.
    let fake = Fake::start("i386");
    let farm = Farm::new(engine, QUICK);
    seed_rows::insert(&farm, &fake.url());
    set_chroots(&farm);
    let master = farm.master("master");
    farm.wait_row(
        "SELECT builder_id, status FROM build_queue WHERE id = 1",
        &json!([null, 0]),
    );
    farm.wait_row("SELECT state FROM build WHERE id = 8", &json!([0]));
    assert!(master.said().0.contains("disabled"), "{}", master.said().0);
    assert_eq!(fake.methods(), "");
    master.stop();

    // An enabled, idle builder has lost the job.
    let farm = Farm::new(engine, QUICK);
    seed_rows::insert(&farm, &fake.url());
    set_chroots(&farm);
    farm.db
        .execute("UPDATE builder SET builderok = TRUE, manual = TRUE WHERE id = 1");
    let master = farm.master("master");
    farm.wait_row(
        "SELECT builder_id, status FROM build_queue WHERE id = 1",
        &json!([null, 0]),
    );
    farm.wait_row("SELECT state FROM build WHERE id = 8", &json!([0]));
    let lost = "lost: expected '8-1', got none";
    master.wait_said(lost);
    // The builder is CLEAN after one `status`.
    farm.wait_row("SELECT clean_status FROM builder WHERE id = 1", &json!([0]));
    assert_eq!(fake.methods(), "status");
    master.stop();
}

fn passes_build_the_jobs_of_the_sample_data(engine: Engine) {
    let slave = start_slave();
    // The package has the name of the source.
    slave.on(
        "sbuild",
        "for dsc; do :; done; version=${dsc%.dsc}; version=${version#*_}; name=${dsc%.dsc}_i386\n\
         printf Hello > $work/$name.bin\n\
         changes $name.bin\n\
         sed \"s/^Source: .*/Source: ${dsc%_*}/; s/^Version: .*/Version: $version/\" \
         $work/hello_1_i386.changes > $work/$name.changes",
    );
    let farm = Farm::new(engine, QUICK);
    seed_rows::insert(&farm, &url_of(&slave));
    let librarian = farm.librarian();
    for (series, file) in [
        ("ubuntu/hoary", "chroot.tar.gz"),
        ("ubuntu/warty", "chroot.tar.gz"),
    ] {
        fs::write(farm.path(file), "a chroot, of a kind").unwrap();
        let path = farm.path(file).display().to_string();
        farm.ok(&["master", "chroot", "set", series, "i386", &path]);
    }
    // The sample data has no blobs, so the sources are stored here.
    for (source, name) in [
        (14, "mozilla-firefox_0.9.dsc"),
        (33, "alsa-utils_1.0.9a-4.dsc"),
    ] {
        let (package, version) = name.strip_suffix(".dsc").unwrap().split_once('_').unwrap();
        let dsc = format!("Source: {package}\nVersion: {version}\n");
        fs::write(farm.path(name), dsc).unwrap();
        let path = farm.path(name).display().to_string();
        let printed = farm.ok(&["librarian", "add", &path]);
        let alias: i64 = printed.split_whitespace().next().unwrap().parse().unwrap();
        farm.db.execute(&format!(
            "UPDATE source_file SET alias_id = {alias} WHERE source_id = {source}"
        ));
    }
    assert_eq!(farm.scan().warnings(), [forgot(&url_of(&slave))]);
    farm.ok(&["master", "builder", "enable", "bob"]);

    // One pass dispatches the job with the higher score to bob. The next pass collects it and
    // dispatches the other.
    for (build, source) in [(11, "alsa-utils"), (8, "mozilla-firefox")] {
        farm.scan();
        let state = farm.build(build);
        assert_eq!(state[0], 6, "{source}: {state}");
        assert_eq!(
            slave.wait_over()["build_status"],
            "BuildStatus.OK",
            "{}",
            slave.log()
        );
    }
    farm.scan();
    for build in [8, 11] {
        assert_eq!(farm.build(build), json!([1, 1, 0, null, null]));
        let log = format!("SELECT log_alias_id FROM build WHERE id = {build}");
        assert!(farm.db.number(&log) > 0);
    }
    let unpacked: Vec<_> = slave
        .calls()
        .into_iter()
        .filter(|call| call[0] == "unpack")
        .collect();
    let cookies: Vec<_> = unpacked.iter().map(|call| call[1].as_str()).collect();
    assert!(cookies[0].starts_with("11-2.1-"), "{cookies:?}");
    assert!(cookies[1].starts_with("8-1.1-"), "{cookies:?}");
    assert_eq!(farm.names("home/results/incoming"), cookies);
    let raw = format!(
        "home/results/incoming/{}/mozilla-firefox_0.9_i386.bin",
        cookies[1]
    );
    assert_eq!(farm.read(&raw), "Hello");
    assert_eq!(slave.state(), "IDLE");
    librarian.stop();
}

/// Stores the file as a client of 2008, which chose the ids.
fn store(farm: &Farm, content: i64, alias: i64) {
    let address = (farm.address(), farm.ports[1]);
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    let request = format!(
        "STORE 11 HelloWorld.txt\r\nDatabase-Name: farm\r\nFile-Content-ID: {content}\r\n\
         File-Alias-ID: {alias}\r\n\r\n{HELLO}"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).unwrap();
    assert_eq!(answer, "200\r\n");
}

/// Fetches from the librarian: the status and the body.
fn fetch(farm: &Farm, path: &str) -> (u16, String) {
    let answer = farm.library(path);
    (answer.status, answer.text())
}
