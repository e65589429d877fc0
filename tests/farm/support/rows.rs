//! Rows that a test inserts directly into the database.

use std::fmt::Write as _;
use std::io::Read as _;

use serde_json::Value as Json;

use super::fake::Fake;
use super::farm::Farm;

/// The offset of the id of a queue row from that of its build, so that no test mixes them up.
pub(crate) const QUEUE: i64 = 100_000;
/// Rows of the librarian have ids above this, rows of tests have ids below.
const TOP: i64 = 10_000_000;
/// The hash of every chroot; fakes fetch nothing.
pub(crate) const CHROOT_SUM: &str = "c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0";

impl Farm {
    /// Inserts one series with one architecture, a chroot and a primary archive.
    pub(crate) fn furnish(&self) {
        self.migrate();
        self.db.execute(&format!(
            "INSERT INTO processor (id, name, family) VALUES (1, '386', 'x86');
             INSERT INTO distribution (id, name) VALUES (1, 'ubuntu');
             INSERT INTO series (id, distribution_id, name, version, status, nominated_arch_tag)
               VALUES (1, 1, 'hoary', '5.04', 2, 'i386');
             INSERT INTO arch_series (id, series_id, arch_tag, processor_id) VALUES (1, 1, 'i386', 1);
             INSERT INTO archive (id, distribution_id, name, purpose, base_url)
               VALUES (1, 1, 'primary', 1, 'http://ftpmaster.internal/ubuntu');
             INSERT INTO library_content (id, size, sha1, sha256, md5, created_at)
               VALUES (1, 178859, '{CHROOT_SUM}', '', '', 0), ({TOP}, 1, 'top', '', '', 0);
             INSERT INTO library_alias (id, content_id, filename, mimetype, created_at)
               VALUES (1, 1, 'chroot.tar.gz', 'application/octet-stream', 0),
                 ({TOP}, {TOP}, 'top', 'text/plain', 0);
             INSERT INTO chroot (arch_series_id, pocket, alias_id, updated_at) VALUES (1, 0, 1, 0)",
        ));
        self.db.skip_ids(&[
            "processor",
            "distribution",
            "series",
            "arch_series",
            "archive",
            "library_content",
            "library_alias",
        ]);
    }

    /// Adds a CLEAN builder that can take jobs at once; returns its id.
    pub(crate) fn add_builder(&self, name: &str, fake: &Fake) -> i64 {
        let builder = self.db.number(&format!(
            "INSERT INTO builder (name, url, manual, clean_status, created_at)
             VALUES ('{name}', '{}', FALSE, 0, 0) RETURNING id",
            fake.url(),
        ));
        self.db.execute(&format!(
            "INSERT INTO builder_processor (builder_id, processor_id) VALUES ({builder}, 1)"
        ));
        builder
    }

    /// Adds builds `from..=to` with a published source, a `.dsc` and a waiting queue row each.
    /// `score` returns the score of a build.
    pub(crate) fn add_builds(&self, from: i64, to: i64, score: impl Fn(i64) -> i64) {
        let builds: Vec<i64> = (from..=to).collect();
        for builds in builds.chunks(500) {
            let mut sql = String::new();
            let mut insert = |columns: &str, row: &dyn Fn(i64) -> String| {
                let rows: Vec<String> = builds.iter().map(|&build| row(build)).collect();
                writeln!(sql, "INSERT INTO {columns} VALUES {};", rows.join(",\n")).unwrap();
            };
            insert(
                "source (id, name, version, component, section, arch_hint, upload_archive_id, \
                 created_at)",
                &|id| format!("({id}, 'source{id}', '1.0-{id}', 'main', 'devel', 'any', 1, 0)"),
            );
            insert(
                "library_content (id, size, sha1, sha256, md5, created_at)",
                &|id| format!("({}, 11, '{}', '', '', 0)", id + QUEUE, dsc_sum(id)),
            );
            insert(
                "library_alias (id, content_id, filename, mimetype, created_at)",
                &|id| {
                    let alias = id + QUEUE;
                    format!("({alias}, {alias}, 'source{id}_1.0-{id}.dsc', 'text/plain', 0)")
                },
            );
            insert("source_file (source_id, alias_id, filetype)", &|id| {
                format!("({id}, {}, 3)", id + QUEUE)
            });
            insert(
                "publication (source_id, series_id, archive_id, pocket, component, status, \
                 created_at)",
                &|id| format!("({id}, 1, 1, 0, 'main', 2, 0)"),
            );
            insert(
                "build (id, source_id, arch_series_id, archive_id, pocket, processor_id, state, \
                 created_at)",
                &|id| format!("({id}, {id}, 1, 1, 0, 1, 0, 0)"),
            );
            // The score is manual, so that no chore changes the order.
            insert(
                "build_queue (id, build_id, status, processor_id, lastscore, manual, created_at)",
                &|id| format!("({}, {id}, 0, 1, {}, TRUE, 0)", id + QUEUE, score(id)),
            );
            self.db.execute(&sql);
        }
        self.db
            .skip_ids(&["source", "publication", "build", "build_queue"]);
    }

    /// The state, builder and failure count of a build; then the status and builder of its job.
    pub(crate) fn build(&self, build: i64) -> Json {
        self.db.row(&build_sql(build))
    }

    /// Waits until a build is in a state, given by its number.
    pub(crate) fn wait_state(&self, build: i64, state: i64) {
        let sql = format!("SELECT state FROM build WHERE id = {build}");
        self.wait_row(&sql, &serde_json::json!([state]));
    }

    /// The log of a build from the librarian, decompressed.
    pub(crate) fn stored_log(&self, build: i64) -> String {
        let row = self.db.row(&format!(
            "SELECT a.id, a.filename FROM build b JOIN library_alias a ON a.id = b.log_alias_id
             WHERE b.id = {build}"
        ));
        let name = row[1].as_str().unwrap();
        assert!(
            name.starts_with("buildlog_ubuntu-hoary-i386.source"),
            "{name}"
        );
        let answer = self.library(&format!("/{}/{name}", row[0]));
        assert_eq!(answer.status, 200, "{name}");
        let mut text = String::new();
        let mut unpacker = flate2::read::GzDecoder::new(&answer.body[..]);
        unpacker.read_to_string(&mut text).unwrap();
        text
    }

    /// The name of an attempt at the slave.
    pub(crate) fn cookie(&self, build: i64, attempt: i64) -> String {
        let known = format!("{build}-{}.{attempt}", build + QUEUE);
        let sql = format!(
            "SELECT nonce FROM build_queue WHERE build_id = {build} AND attempt = {attempt}"
        );
        let nonces = self.db.rows(&sql).into_iter();
        let of_job = nonces.filter_map(|row| Some(format!("{known}-{}", row[0].as_str()?)));
        let sql = format!("SELECT leaf FROM build WHERE id = {build} AND leaf IS NOT NULL");
        let leaves = self.db.rows(&sql);
        let sql = format!("SELECT message FROM event WHERE build_id = {build}");
        let events = self.db.rows(&sql);
        let texts = leaves
            .iter()
            .chain(&events)
            .filter_map(|row| row[0].as_str());
        let words = texts.flat_map(str::split_whitespace).map(str::to_owned);
        let random = format!("{known}-");
        of_job
            .chain(words.filter(|word| word.starts_with(&random)))
            .next()
            .unwrap_or(known)
    }
}

fn build_sql(build: i64) -> String {
    format!(
        "SELECT b.state, b.builder_id, b.failure_count, q.status, q.builder_id
         FROM build b LEFT JOIN build_queue q ON q.build_id = b.id WHERE b.id = {build}"
    )
}

/// The hash of the `.dsc` of a build, different for each build.
pub(crate) fn dsc_sum(build: i64) -> String {
    format!("{build:040x}")
}
