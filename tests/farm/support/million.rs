//! Generates a farm of any size by SQL, up to a million finished builds, on either engine.
//!
//! A row's columns follow from its number and the present time, so two farms of the same size are
//! equal. The rows of a full farm take two or three minutes. Small parts serve ordinary tests.

use super::database::Database;
use super::farm::Farm;

/// Architectures of each series, and series of the distribution.
const ARCHES: i64 = 8;
const SERIES: i64 = 4;
/// Archive 1 is the primary one. Those up to `PUBLIC` are PPAs, those up to `ARCHIVES` private.
const PUBLIC: i64 = 30;
const ARCHIVES: i64 = 50;
/// The time of the newest rows, in milliseconds since 1970.
fn now() -> i64 {
    let since = std::time::UNIX_EPOCH.elapsed().unwrap();
    since.as_millis().try_into().unwrap()
}

/// The number of rows of each kind.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    pub(crate) finished: i64,
    pub(crate) queued: i64,
    /// Jobs on builders, besides the queued ones.
    pub(crate) running: i64,
    pub(crate) builders: i64,
    /// Logs, source files, a twentieth that nothing refers to, and files that expire in years.
    pub(crate) files: i64,
}

impl Size {
    /// The farm of a million finished builds.
    pub(crate) const MILLION: Self = Self {
        finished: 1_000_000,
        queued: 200_000,
        running: 500,
        builders: 5_000,
        files: 2_000_000,
    };

    /// A part of it: one `divisor`th of each kind.
    pub(crate) fn part(divisor: i64) -> Self {
        let Self {
            finished,
            queued,
            running,
            builders,
            files,
        } = Self::MILLION;
        Self {
            finished: finished / divisor,
            queued: queued / divisor,
            running: running / divisor,
            builders: builders / divisor,
            files: files / divisor,
        }
    }

    fn builds(&self) -> i64 {
        self.finished + self.queued + self.running
    }

    /// Each source has a build for every architecture.
    fn sources(&self) -> i64 {
        (self.builds() + ARCHES - 1) / ARCHES
    }

    /// A tenth of the builds shares the name of a source, so that there are ten versions.
    fn names(&self) -> i64 {
        (self.sources() / 5).max(1)
    }
}

impl Farm {
    /// Makes the tables and fills them.
    pub(crate) fn generate(&self, size: Size) {
        self.migrate();
        generate(&self.db, size);
    }
}

/// Fills an empty database that has the tables.
pub(crate) fn generate(db: &Database, size: Size) {
    db.execute(&script(db, size));
    db.skip_ids(&[
        "processor",
        "distribution",
        "series",
        "arch_series",
        "archive",
        "library_content",
        "library_alias",
        "source",
        "publication",
        "builder",
        "build",
        "build_queue",
        "event",
    ]);
    // PostgreSQL plans by statistics, which it gathers by itself some minutes later.
    if let Database::Postgres(_) = db {
        db.run("VACUUM ANALYZE");
    }
}

/// The statements. `n` is a table of the numbers from 1; `sum` makes a hash of a number.
fn script(db: &Database, size: Size) -> String {
    let most = size.files.max(size.builds()).max(1);
    let numbers = match db {
        Database::Sqlite(_) => format!(
            "CREATE TEMP TABLE n (i INTEGER PRIMARY KEY);
             INSERT INTO n WITH RECURSIVE c (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c \
               WHERE i < {most}) SELECT i FROM c;"
        ),
        Database::Postgres(_) => format!(
            "CREATE TEMP TABLE n (i BIGINT PRIMARY KEY) ON COMMIT DROP;
             INSERT INTO n SELECT generate_series(1, {most}); ANALYZE n;"
        ),
    };
    let end = match db {
        Database::Sqlite(_) => "DROP TABLE n",
        Database::Postgres(_) => "SELECT 1",
    };
    let now = now();
    let parts = [
        numbers,
        fixed(),
        library(size, now),
        sources(size, now),
        builders(size, now),
        builds(size, now),
        history(size, now),
        end.to_owned(),
    ];
    parts.join("\n")
}

/// Processors, series, architectures and archives.
fn fixed() -> String {
    format!(
        "INSERT INTO processor (id, name, family)
           SELECT i, 'cpu' || i, 'family' || ((i + 1) / 2) FROM n WHERE i <= {ARCHES};
         INSERT INTO distribution (id, name) VALUES (1, 'ubuntu');
         INSERT INTO series (id, distribution_id, name, version, status)
           SELECT i, 1, 'series' || i, CAST(i AS TEXT), 2 FROM n WHERE i <= {SERIES};
         INSERT INTO arch_series (id, series_id, arch_tag, processor_id, supports_virtualized)
           SELECT i, (i - 1) / {ARCHES} + 1, 'arch' || ((i - 1) % {ARCHES} + 1),
             (i - 1) % {ARCHES} + 1, TRUE
           FROM n WHERE i <= {ARCHES} * {SERIES};
         INSERT INTO archive (id, distribution_id, owner, name, purpose, private,
                              require_virtualized, base_url)
           SELECT i, 1, CASE WHEN i = 1 THEN '' ELSE 'owner' || i END,
             CASE WHEN i = 1 THEN 'primary' ELSE 'ppa' END, CASE WHEN i = 1 THEN 1 ELSE 2 END,
             i > {PUBLIC}, i > 1, 'http://archive.example.org/' || i
           FROM n WHERE i <= {ARCHIVES};"
    )
}

/// Contents and aliases: a chroot for each architecture, the logs, the source files, and files
/// that nothing refers to. They have no blobs.
fn library(size: Size, now: i64) -> String {
    let sum = |width: usize| format!("'{}' || (1000000000 + i)", "0".repeat(width - 10));
    let (sha1, sha256, md5) = (sum(40), sum(64), sum(32));
    let Size {
        finished, files, ..
    } = size;
    let unreferenced = finished + 2 * size.sources() + files / 20;
    format!(
        "INSERT INTO library_content (id, size, sha1, sha256, md5, created_at)
           SELECT i, 1000 + i % 100000, {sha1}, {sha256}, {md5}, {now} - 100000 * i % 7776000000
           FROM n WHERE i <= {files};
         INSERT INTO library_alias (id, content_id, filename, mimetype, restricted, created_at,
                                    expires_at)
           SELECT i, i, CASE WHEN i <= {finished} THEN 'buildlog' || i || '.txt.gz'
               ELSE 'file' || i || '.dsc' END, 'text/plain', i % 20 = 0,
             {now} - 8000000000 - i,
             CASE WHEN i > {unreferenced} AND i <= {files} - {ARCHES} * {SERIES}
               THEN {now} + 100000000000 END
           FROM n WHERE i <= {files};
         INSERT INTO chroot (arch_series_id, pocket, alias_id, updated_at)
           SELECT i, 0, {files} + 1 - i, {now} FROM n WHERE i <= {ARCHES} * {SERIES};"
    )
}

/// Sources with two files each, and their publications. The newest version of a name is published,
/// the others are superseded.
fn sources(size: Size, now: i64) -> String {
    let (sources, names) = (size.sources(), size.names());
    let (first, files) = (size.finished, size.files);
    let archive = format!(
        "CASE WHEN i % 3 > 0 THEN 1 ELSE 2 + i / 3 % {} END",
        ARCHIVES - 1
    );
    let place = format!(
        "SELECT i, 1 + i % {SERIES}, {archive}, 0,
           CASE i % 3 WHEN 0 THEN 'main' WHEN 1 THEN 'universe' ELSE 'multiverse' END,
           CASE WHEN i > {sources} - {names} THEN 2 ELSE 3 END, {now} - ({sources} - i) * 60000
         FROM n WHERE i <= {sources}"
    );
    let file = |nth: i64| {
        format!(
            "INSERT INTO source_file (source_id, alias_id, filetype)
               SELECT i, {first} + 2 * i - {nth}, 3 + {nth} FROM n
               WHERE i <= {sources} AND {first} + 2 * i - {nth} <= {files};"
        )
    };
    format!(
        "INSERT INTO source (id, name, version, component, section, urgency, arch_hint,
                             upload_archive_id, created_at)
           SELECT i, 'source' || (i % {names}), CAST(1 + i / {names} AS TEXT), 'main', 'devel',
             1 + i % 3, 'any', {archive}, {now} - ({sources} - i) * 60000
           FROM n WHERE i <= {sources};
         {} {}
         INSERT INTO publication (source_id, series_id, archive_id, pocket, component, status,
                                  created_at)
           {place};",
        file(0),
        file(1)
    )
}

/// Builders: in service while they have a job or their number is divisible by ten; the others are
/// disabled or manual.
fn builders(size: Size, now: i64) -> String {
    let Size {
        builders, running, ..
    } = size;
    format!(
        "INSERT INTO builder (id, name, url, virtualized, vm_host, vm_reset_protocol, manual,
                              builderok, failnotes, clean_status, created_at)
           SELECT i, 'builder' || i, 'http://127.9.0.1:1/' || i, i % 2 = 0,
             CASE WHEN i % 2 = 0 THEN 'host' END, CASE WHEN i % 2 = 0 THEN 20 END,
             i > {running} AND i % 10 > 6, i <= {running} OR i % 10 = 0 OR i % 10 > 6,
             CASE WHEN i > {running} AND i % 10 BETWEEN 1 AND 6 THEN 'no answer' END,
             CASE WHEN i <= {running} THEN 1 ELSE 0 END, {now}
           FROM n WHERE i <= {builders};
         INSERT INTO builder_processor (builder_id, processor_id)
           SELECT i, 1 + i % {ARCHES} FROM n WHERE i <= {builders};"
    )
}

/// Builds in every state, first the finished ones, then the running, then the queued ones.
fn builds(size: Size, now: i64) -> String {
    let Size {
        finished,
        queued,
        running,
        builders,
        ..
    } = size;
    let builds = size.builds();
    // What the source of build `i` has, as in `sources`.
    let source = format!("((i - 1) / {ARCHES} + 1)");
    let archive = format!(
        "CASE WHEN {source} % 3 > 0 THEN 1 ELSE 2 + {source} / 3 % {} END",
        ARCHIVES - 1
    );
    let arch = format!("(1 + (i - 1) % {ARCHES})");
    let started = format!("{now} - ({builds} - i) * 60000");
    let busy = format!("i > {finished} AND i <= {finished} + {running}");
    format!(
        "INSERT INTO build (id, source_id, arch_series_id, archive_id, pocket, processor_id, state,
                            created_at, first_dispatched_at, started_at, finished_at, estimated_ms,
                            builder_id, log_alias_id, dependencies)
           SELECT i, {source}, ({source} % {SERIES}) * {ARCHES} + {arch}, {archive}, 0, {arch},
             CASE WHEN {busy} THEN 6 WHEN i > {finished} THEN 0 WHEN i % 50 = 7 THEN 3
               WHEN i % 20 = 3 THEN 2 WHEN i % 100 = 9 THEN 4 WHEN i % 1000 = 11 THEN 7
               WHEN i % 200 = 13 THEN 5 ELSE 1 END,
             {started} - 600000, CASE WHEN i <= {finished} THEN {started} END,
             CASE WHEN i <= {finished} + {running} THEN {started} END,
             CASE WHEN i <= {finished} THEN {started} + 300000 + i % 1000 * 600 END,
             300000 + i % 1000 * 600,
             CASE WHEN i <= {finished} THEN 1 + i % {builders} WHEN {busy} THEN i - {finished} END,
             CASE WHEN i <= {finished} THEN i END,
             CASE WHEN i <= {finished} AND i % 50 = 7
               THEN 'libmissing' || (i % 1000) || '-dev (>= 2)' END
           FROM n WHERE i <= {builds};
         INSERT INTO build_queue (id, build_id, status, processor_id, virtualized, lastscore,
                                  manual, created_at, builder_id, buildstart, attempt,
                                  estimated_ms, not_before)
           SELECT i, i, CASE WHEN {busy} THEN 1 ELSE 0 END, {arch}, {archive} > 1,
             i * 7919 % 5000, i % 1000 = 1, {started} - 600000,
             CASE WHEN {busy} THEN i - {finished} END, CASE WHEN {busy} THEN {started} END,
             CASE WHEN {busy} THEN 1 ELSE 0 END, 300000 + i % 1000 * 600,
             CASE WHEN i % 500 = 3 THEN {now} + 100000000000 ELSE 0 END
           FROM n WHERE i > {finished} AND i <= {finished} + {running} + {queued};"
    )
}

/// Two events for each build, none older than the master keeps them. Also the binaries that the
/// archives have.
fn history(size: Size, now: i64) -> String {
    let Size {
        finished, builders, ..
    } = size;
    let builds = size.builds();
    let names = size.names();
    format!(
        "INSERT INTO event (at, level, kind, builder_id, build_id, message)
           SELECT {now} - ({builds} - i) * 5000, 3, 'submitted', NULL, i, 'submitted by somebody'
           FROM n WHERE i <= {builds};
         INSERT INTO event (at, level, kind, builder_id, build_id, message)
           SELECT {now} - ({builds} - i) * 5000, 3, 'dispatched', 1 + i % {builders}, i,
             'dispatched as ' || i || '-1'
           FROM n WHERE i <= {finished};
         INSERT INTO published_binary (arch_series_id, archive_id, name, version, component,
                                       source_name, published_at)
           SELECT i % ({ARCHES} * {SERIES}) + 1, 1, 'lib' || i || '-dev', '1', 'main',
             'source' || i, {now}
           FROM n WHERE i <= {names} * 4;"
    )
}
