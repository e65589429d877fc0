//! A small farm for tests: one series with two architectures, one archive, and any number of
//! builders and jobs.

use crate::db::{Db, Error, Tx, params};
use crate::master::model::{AttemptVerdict, BuildState};
use crate::master::rows::attempts::AttemptEnd;
use crate::master::rows::builders::{self, Builder, Job};
use crate::master::rows::leases::{self, Fence};
use crate::master::rows::queue::{self, Claim, End};

/// The time of every write, unless a test passes another. In ms since 1970.
pub(crate) const NOW: i64 = 1_000_000;
/// The process that holds the leases of [`Farm::builders`].
pub(crate) const ME: &str = "host:1";

/// The ids of the rows of a farm.
#[derive(Clone, Debug)]
pub(crate) struct Farm {
    /// `386` (family `x86`) and `amd64`.
    pub(crate) processors: [i64; 2],
    /// The architectures of `ubuntu hoary`, one for each processor.
    pub(crate) arch_series: [i64; 2],
    pub(crate) archive: i64,
    pub(crate) alias: i64,
}

fn id(tx: &mut Tx<'_>, sql: &str, params: &[crate::db::Value]) -> Result<i64, Error> {
    tx.query_one(&format!("{sql} RETURNING id"), params)?.get(0)
}

/// Makes a farm without builders and jobs.
pub(crate) fn farm(db: &Db) -> Farm {
    db.write(|tx| {
        let content = id(
            tx,
            "INSERT INTO library_content (size, sha1, sha256, md5, created_at)
             VALUES (3, 'sha1-of-it', '', '', 0)",
            &[],
        )?;
        let alias = id(
            tx,
            "INSERT INTO library_alias (content_id, filename, mimetype, created_at)
             VALUES ($1, 'hoary.tar.gz', 'application/octet-stream', 0)",
            &params![content],
        )?;
        let distribution = id(tx, "INSERT INTO distribution (name) VALUES ('ubuntu')", &[])?;
        let series = id(
            tx,
            "INSERT INTO series (distribution_id, name, status) VALUES ($1, 'hoary', 2)",
            &params![distribution],
        )?;
        let archive = id(
            tx,
            "INSERT INTO archive (distribution_id, name, purpose) VALUES ($1, 'primary', 1)",
            &params![distribution],
        )?;
        let mut arch = |tag: &str, processor: &str, family: &str| {
            let sql = "INSERT INTO processor (name, family) VALUES ($1, $2)";
            let processor = id(tx, sql, &params![processor, family])?;
            let arch_series = id(
                tx,
                "INSERT INTO arch_series (series_id, arch_tag, processor_id) VALUES ($1, $2, $3)",
                &params![series, tag, processor],
            )?;
            Ok((processor, arch_series))
        };
        let (i386, amd64) = (
            arch("i386", "386", "x86")?,
            arch("amd64", "amd64", "amd64")?,
        );
        Ok(Farm {
            processors: [i386.0, amd64.0],
            arch_series: [i386.1, amd64.1],
            archive,
            alias,
        })
    })
    .unwrap()
}

impl Farm {
    /// Makes builders `bob1`, `bob2`… of the first processor, ready for jobs and leased to [`ME`].
    pub(crate) fn builders(&self, db: &Db, count: i64) -> Vec<Fence> {
        db.write(|tx| {
            for number in 1..=count {
                let builder = id(
                    tx,
                    "INSERT INTO builder (name, url, manual, clean_status, created_at)
                     VALUES ($1, $2, FALSE, 0, 0)",
                    &params![format!("bob{number}"), format!("http://bob{number}:8221/")],
                )?;
                self.can_run(tx, builder, 0)?;
            }
            leases::take(tx, ME, NOW, NOW + 1000, count)
        })
        .unwrap()
    }

    /// Adds a processor to a builder: `which` is its index in [`Farm::processors`].
    pub(crate) fn can_run(&self, tx: &mut Tx<'_>, builder: i64, which: usize) -> Result<(), Error> {
        let sql = "INSERT INTO builder_processor (builder_id, processor_id) VALUES ($1, $2)";
        tx.execute(sql, &params![builder, self.processors[which]])?;
        Ok(())
    }

    /// Makes a waiting job for a processor and returns the ids of its build and its queue row.
    pub(crate) fn job(&self, db: &Db, name: &str, which: usize, score: i64) -> (i64, i64) {
        db.write(|tx| {
            let source = id(
                tx,
                "INSERT INTO source
                     (name, version, component, urgency, arch_hint, upload_archive_id, created_at)
                 VALUES ($1, '0.9', 'main', 1, 'any', $2, 0)",
                &params![name, self.archive],
            )?;
            tx.execute(
                "INSERT INTO publication
                     (source_id, series_id, archive_id, pocket, component, status, created_at)
                 SELECT $1, series_id, $3, 0, 'universe', 2, 0 FROM arch_series WHERE id = $2",
                &params![source, self.arch_series[which], self.archive],
            )?;
            let build = id(
                tx,
                "INSERT INTO build
                     (source_id, arch_series_id, archive_id, processor_id, created_at)
                 VALUES ($1, $2, $3, $4, 0)",
                &params![
                    source,
                    self.arch_series[which],
                    self.archive,
                    self.processors[which]
                ],
            )?;
            let queue = id(
                tx,
                "INSERT INTO build_queue
                     (build_id, processor_id, lastscore, created_at, logtail)
                 VALUES ($1, $2, $3, $4, 'old tail')",
                &params![build, self.processors[which], score, NOW - 5000],
            )?;
            Ok((build, queue))
        })
        .unwrap()
    }

    /// Makes many waiting jobs for the first processor, with scores from 0 to 999.
    pub(crate) fn jobs(&self, db: &Db, count: i64) {
        db.write(|tx| {
            tx.execute(
                "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < $2)
                 INSERT INTO source
                     (name, version, component, arch_hint, upload_archive_id, created_at)
                 SELECT 'many' || i, '1', 'main', 'any', $1, 0 FROM n",
                &params![self.archive, count],
            )?;
            tx.execute(
                "INSERT INTO build
                     (source_id, arch_series_id, archive_id, processor_id, created_at)
                 SELECT id, $1, $2, $3, 0 FROM source WHERE name LIKE 'many%'",
                &params![self.arch_series[0], self.archive, self.processors[0]],
            )?;
            tx.execute(
                "INSERT INTO build_queue (build_id, processor_id, lastscore, created_at)
                 SELECT b.id, b.processor_id, b.id * 7919 % 1000, 0
                 FROM build b JOIN source s ON s.id = b.source_id WHERE s.name LIKE 'many%'",
                &[],
            )?;
            Ok(())
        })
        .unwrap();
    }
}

/// Returns a builder and its job as they are now.
pub(crate) fn view(db: &Db, fence: Fence) -> (Builder, Option<Job>) {
    let found = db.read(|tx| builders::view(tx, fence.builder));
    found.unwrap().unwrap()
}

/// A successful end.
pub(crate) const BUILT: End<'static> = End {
    state: BuildState::FullyBuilt,
    attempt: AttemptEnd {
        verdict: AttemptVerdict::Ok,
        reason: None,
        stages: Some("UNPACK 1.0 s"),
        dependencies: None,
        log_alias: None,
        leaf: Some("8-1.1"),
        host: Some("host"),
        at: NOW + 60,
    },
};

/// The end of an attempt that returns to the queue.
pub(crate) fn lost() -> AttemptEnd<'static> {
    AttemptEnd::new(AttemptVerdict::Lost, "lost", NOW)
}

/// Claims the best job for a builder, as a dispatch does in two transactions.
pub(crate) fn claim_best(
    tx: &mut Tx<'_>,
    fence: Fence,
    builder: &Builder,
    now: i64,
    emulate_since: i64,
) -> Result<Option<Claim>, Error> {
    let jobs = queue::best_jobs(tx, builder, now, emulate_since)?;
    queue::claim(tx, fence, &jobs, now, emulate_since)
}

/// Counts the jobs that could be claimed, as (processor, virtualized, jobs).
pub(crate) fn waiting_groups(
    tx: &mut Tx<'_>,
    now: i64,
    emulate_since: Option<i64>,
) -> Result<Vec<(i64, bool, i64)>, Error> {
    let mut groups = Vec::new();
    for row in tx.query("SELECT id FROM processor ORDER BY id", &[])? {
        for virtualized in [false, true] {
            let group = (row.get(0)?, virtualized);
            let jobs = queue::claimable_jobs(tx, now, group, emulate_since, 1000)?;
            if jobs > 0 {
                groups.push((group.0, virtualized, jobs));
            }
        }
    }
    Ok(groups)
}

/// Claims the best job for a builder at [`NOW`].
pub(crate) fn claim(db: &Db, fence: Fence) -> Option<Claim> {
    let (builder, _) = view(db, fence);
    let claim = db.write(|tx| claim_best(tx, fence, &builder, NOW, 0));
    claim.unwrap()
}

/// Returns the state of a build.
pub(crate) fn state(db: &Db, build: i64) -> BuildState {
    let sql = "SELECT state FROM build WHERE id = $1";
    let row = db.read(|tx| tx.query_one(sql, &params![build]));
    row.unwrap().get(0).unwrap()
}

/// Runs an update that the program itself never does. At least one row must match.
pub(crate) fn change(db: &Db, sql: &str) {
    let touched = db.write(|tx| tx.execute(sql, &[])).unwrap();
    assert!(touched > 0, "{sql}");
}

/// Returns all rows that a fenced write could change, as text.
pub(crate) fn everything(tx: &mut Tx<'_>) -> Result<String, Error> {
    let mut text = String::new();
    for (table, key) in [
        ("builder", "id"),
        ("build", "id"),
        ("build_queue", "id"),
        ("attempt", "build_id, number"),
    ] {
        for row in tx.query(&format!("SELECT * FROM {table} ORDER BY {key}"), &[])? {
            text.push_str(&format!("{table} {row:?}\n"));
        }
    }
    Ok(text)
}

/// Asserts the invariants of builders, jobs and builds (docs/farm.md §1.4).
pub(crate) fn assert_agree(db: &Db) {
    for (wrong, sql) in [
        (
            "a builder with a job is not DIRTY",
            "SELECT m.id FROM builder m JOIN build_queue q ON q.builder_id = m.id
             WHERE m.clean_status <> 1",
        ),
        (
            "an attempt runs without a builder's job, or a job without an attempt",
            "SELECT q.id FROM build_queue q
             LEFT JOIN attempt a ON a.build_id = q.build_id AND a.ended_at IS NULL
             WHERE (a.number IS NULL) <> (q.builder_id IS NULL)
                 OR a.builder_id <> q.builder_id
             UNION SELECT a.build_id FROM attempt a WHERE a.ended_at IS NULL
                 AND NOT EXISTS (SELECT 1 FROM build_queue q WHERE q.build_id = a.build_id)",
        ),
        (
            "a job is running without a builder, or waiting with one",
            "SELECT id FROM build_queue WHERE (status IN (1, 2)) <> (builder_id IS NOT NULL)
                 OR (builder_id IS NULL) <> (buildstart IS NULL)",
        ),
        (
            "the state or builder of a build contradicts its job",
            "SELECT b.id FROM build b JOIN build_queue q ON q.build_id = b.id
             WHERE (b.state IN (6, 9, 11)) <> (q.builder_id IS NOT NULL)
                OR (q.builder_id IS NULL AND b.state <> 0)
                OR COALESCE(b.builder_id, 0) <> COALESCE(q.builder_id, 0)",
        ),
        (
            "a build without a job has not ended",
            "SELECT b.id FROM build b LEFT JOIN build_queue q ON q.build_id = b.id
             WHERE q.id IS NULL AND (b.state IN (0, 6, 9, 11) OR b.finished_at IS NULL)",
        ),
    ] {
        let rows = db.read(|tx| tx.query(sql, &[])).unwrap();
        assert!(rows.is_empty(), "{wrong}: {rows:?}");
    }
}
