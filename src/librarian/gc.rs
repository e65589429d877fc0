//! Garbage collection: removes unreferenced files, safely alongside uploads (docs/farm.md §4.5).
//!
//! The steps, in order:
//!
//! * Aliases that expired a week ago lose their content.
//! * Unreferenced aliases are removed with their tokens, if they are older than a week, and have no
//!   expiry date or expired a week ago.
//! * Duplicate contents are merged.
//! * Contents without an alias are removed.
//! * Tokens older than a day are removed.
//! * Blobs without a content are removed once they are a day old.
//!
//! The foreign keys are read from the database, so that a table added later is covered. Rows are
//! removed in short transactions. Each locks its rows and checks them again before it removes them.

use std::collections::BTreeSet;
use std::path::Path;

use super::Error;
use super::blobs::Blobs;
use super::rows::TOKEN_LIFE_MS;

use crate::db::{self, Db, Engine, Tx, params};

const DAY_MS: i64 = 24 * 3600 * 1000;
/// Time that a file is kept after its expiry or its creation.
const GRACE_MS: i64 = 7 * DAY_MS;
/// 2038-01-01: this date or a later one means never (docs/farm.md §4.5).
pub(super) const NEVER_MS: i64 = 2_145_916_800_000;
/// Maximum number of rows in one transaction.
const BATCH: u32 = 500;
/// Columns that refer to aliases: source files, chroots, and the two logs of builds. If fewer are
/// found, the query for them is wrong, and nothing may be removed.
const MIN_REFERENCES: usize = 4;

/// The counts of a collection; a dry run counts without removing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Removed {
    /// Aliases that lost their content.
    pub(crate) expired: u64,
    /// Unreferenced aliases.
    pub(crate) aliases: u64,
    /// Duplicate contents.
    pub(crate) merged: u64,
    /// Contents without alias.
    pub(crate) contents: u64,
    pub(crate) blobs: u64,
    /// Size of the blobs.
    pub(crate) bytes: u64,
}

/// Runs all steps. A dry run changes nothing and returns what would be removed.
pub(crate) fn gc(db: &Db, root: &Path, now: i64, dry_run: bool) -> Result<Removed, Error> {
    let aliases = db.read(|tx| references(tx, "library_alias"))?;
    let contents = db.read(|tx| references(tx, "library_content"))?;
    if aliases.len() < MIN_REFERENCES || contents.is_empty() {
        return Err(Error::References {
            found: aliases.len(),
            least: MIN_REFERENCES,
        });
    }
    let pass = Pass {
        now,
        aliases,
        contents,
    };
    let blobs = Blobs::open(root, 0)?;
    let mut removed = Removed::default();
    if dry_run {
        let mut freed = Freed::new();
        let tried = db.write(|tx| {
            (removed, freed) = (Removed::default(), Freed::new());
            for step in STEPS {
                while step(&pass, tx, &mut removed, &mut freed)? > 0 {}
            }
            for sha256 in freed.clone() {
                if has_content(tx, &sha256)? {
                    freed.remove(&sha256);
                }
            }
            // An error rolls the transaction back.
            Err::<(), _>(db::Error::Refused("a dry run".to_owned()))
        });
        match tried {
            Err(db::Error::Refused(_)) | Ok(()) => {}
            Err(error) => return Err(error.into()),
        }
        sweep_blobs(db, &blobs, now, Some(&freed), &mut removed)?;
    } else {
        for step in STEPS {
            loop {
                let (count, so_far) = db.write(|tx| {
                    let mut so_far = removed;
                    let count = step(&pass, tx, &mut so_far, &mut Freed::new())?;
                    Ok((count, so_far))
                })?;
                removed = so_far;
                if count == 0 {
                    break;
                }
            }
        }
        sweep_blobs(db, &blobs, now, None, &mut removed)?;
    }
    Ok(removed)
}

/// The SHA-256 hashes of removed contents.
type Freed = BTreeSet<String>;

/// A foreign key column. Both names are quoted for the engine.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Reference {
    table: String,
    column: String,
}

/// Returns every column with a foreign key to `table`.
fn references(tx: &mut Tx<'_>, table: &str) -> Result<Vec<Reference>, db::Error> {
    let sql = match tx.engine() {
        Engine::Sqlite => {
            r#"SELECT '"' || replace(m.name, '"', '""') || '"', '"' || replace(f."from", '"', '""') || '"'
               FROM sqlite_master m JOIN pragma_foreign_key_list(m.name) f
               WHERE m.type = 'table' AND lower(f."table") = $1 ORDER BY 1, 2"#
        }
        Engine::Postgres => {
            "SELECT CAST(CAST(c.conrelid AS REGCLASS) AS TEXT), CAST(quote_ident(a.attname) AS TEXT) \
             FROM pg_constraint c \
             JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = ANY (c.conkey) \
             WHERE c.contype = 'f' AND c.confrelid = CAST(CAST($1 AS TEXT) AS REGCLASS) ORDER BY 1, 2"
        }
    };
    let rows = tx.query(sql, &params![table])?;
    rows.iter()
        .map(|row| {
            Ok(Reference {
                table: row.get(0)?,
                column: row.get(1)?,
            })
        })
        .collect()
}

/// Returns ` AND NOT EXISTS …` for each reference to a row of `table`.
fn unreferenced(table: &str, references: &[Reference]) -> String {
    let mut sql = String::new();
    for Reference { table: of, column } in references {
        sql.push_str(&format!(
            " AND NOT EXISTS (SELECT 1 FROM {of} r WHERE r.{column} = {table}.id)"
        ));
    }
    sql
}

/// The input of all steps.
struct Pass {
    now: i64,
    /// References to aliases.
    aliases: Vec<Reference>,
    /// References to contents.
    contents: Vec<Reference>,
}

/// Processes at most one batch and returns the number of rows; 0 means done.
type Step = fn(&Pass, &mut Tx<'_>, &mut Removed, &mut Freed) -> Result<u64, db::Error>;

const STEPS: &[Step] = &[expire, drop_aliases, merge, drop_contents, drop_tokens];

fn expire(
    pass: &Pass,
    tx: &mut Tx<'_>,
    removed: &mut Removed,
    _: &mut Freed,
) -> Result<u64, db::Error> {
    let count = tx.execute(
        &format!(
            "UPDATE library_alias SET content_id = NULL WHERE id IN (SELECT id FROM library_alias \
             WHERE content_id IS NOT NULL AND expires_at < $1 LIMIT {BATCH})"
        ),
        &params![(pass.now - GRACE_MS).min(NEVER_MS)],
    )?;
    removed.expired += count;
    Ok(count)
}

fn drop_aliases(
    pass: &Pass,
    tx: &mut Tx<'_>,
    removed: &mut Removed,
    _: &mut Freed,
) -> Result<u64, db::Error> {
    let unreferenced = unreferenced("library_alias", &pass.aliases);
    let candidates = tx.query(
        &format!(
            "SELECT id FROM library_alias WHERE created_at < $1 \
             AND (expires_at IS NULL OR expires_at < $2){unreferenced} \
             ORDER BY id LIMIT {BATCH} {{SKIP LOCKED}}"
        ),
        &params![pass.now - GRACE_MS, (pass.now - GRACE_MS).min(NEVER_MS)],
    )?;
    let mut count = 0;
    let delete = format!("DELETE FROM library_alias WHERE id = $1{unreferenced}");
    for row in candidates {
        let id: i64 = row.get(0)?;
        let deleted = tx.execute(&delete, &params![id])?;
        if deleted > 0 {
            tx.execute(
                "DELETE FROM library_token WHERE alias_id = $1",
                &params![id],
            )?;
        }
        count += deleted;
    }
    removed.aliases += count;
    Ok(count)
}

/// Merges duplicate contents, which simultaneous uploads of the same new bytes create. They share a
/// blob already; all references move to the newest.
fn merge(
    pass: &Pass,
    tx: &mut Tx<'_>,
    removed: &mut Removed,
    _: &mut Freed,
) -> Result<u64, db::Error> {
    let lock = match tx.engine() {
        Engine::Sqlite => "",
        Engine::Postgres => " FOR UPDATE",
    };
    // Rows inserted by a client may have hashes that contradict each other; compare all of them.
    let duplicates = tx.query(
        &format!(
            "SELECT sha256, size, sha1, md5 FROM library_content GROUP BY sha256, size, sha1, md5 \
             HAVING COUNT(*) > 1 LIMIT {BATCH}"
        ),
        &[],
    )?;
    let mut count = 0;
    for row in duplicates {
        let (sha256, size): (String, i64) = (row.get(0)?, row.get(1)?);
        let (sha1, md5): (String, String) = (row.get(2)?, row.get(3)?);
        let same = tx.query(
            &format!(
                "SELECT id FROM library_content WHERE sha256 = $1 AND size = $2 AND sha1 = $3 \
                 AND md5 = $4 ORDER BY id DESC{lock}"
            ),
            &params![sha256, size, sha1, md5],
        )?;
        let ids: Vec<i64> = same
            .iter()
            .map(|row| row.get(0))
            .collect::<Result<_, _>>()?;
        let Some((newest, others)) = ids.split_first() else {
            continue;
        };
        for other in others {
            for Reference { table, column } in &pass.contents {
                tx.execute(
                    &format!("UPDATE {table} SET {column} = $1 WHERE {column} = $2"),
                    &params![*newest, *other],
                )?;
            }
            count += tx.execute(
                "DELETE FROM library_content WHERE id = $1",
                &params![*other],
            )?;
        }
    }
    removed.merged += count;
    Ok(count)
}

fn drop_contents(
    pass: &Pass,
    tx: &mut Tx<'_>,
    removed: &mut Removed,
    freed: &mut Freed,
) -> Result<u64, db::Error> {
    let unreferenced = unreferenced("library_content", &pass.contents);
    let candidates = tx.query(
        &format!(
            "SELECT id FROM library_content WHERE id > 0{unreferenced} ORDER BY id LIMIT {BATCH} \
             {{SKIP LOCKED}}"
        ),
        &[],
    )?;
    let mut count = 0;
    let delete =
        format!("DELETE FROM library_content WHERE id = $1{unreferenced} RETURNING sha256");
    for row in candidates {
        let id: i64 = row.get(0)?;
        for deleted in tx.query(&delete, &params![id])? {
            freed.insert(deleted.get(0)?);
            count += 1;
        }
    }
    removed.contents += count;
    Ok(count)
}

fn drop_tokens(
    pass: &Pass,
    tx: &mut Tx<'_>,
    _: &mut Removed,
    _: &mut Freed,
) -> Result<u64, db::Error> {
    tx.execute(
        "DELETE FROM library_token WHERE created_at <= $1",
        &params![pass.now - TOKEN_LIFE_MS],
    )
}

/// Removes blobs without a content. In a dry run, it only counts them, and the contents in `freed`
/// count as removed.
fn sweep_blobs(
    db: &Db,
    blobs: &Blobs,
    now: i64,
    freed: Option<&Freed>,
    removed: &mut Removed,
) -> Result<(), Error> {
    blobs.each_old(now, DAY_MS, |hashes| {
        // The hashes of one folder share their first digits.
        let (Some(first), Some(last)) = (hashes.iter().min(), hashes.iter().max()) else {
            return Ok(());
        };
        let with_content = db.read(|tx| {
            let rows = tx.query(
                "SELECT DISTINCT sha256 FROM library_content WHERE sha256 BETWEEN $1 AND $2",
                &params![first, last],
            )?;
            rows.iter()
                .map(|row| row.get(0))
                .collect::<Result<BTreeSet<String>, _>>()
        })?;
        for sha256 in hashes {
            let size = match freed {
                Some(freed) => (freed.contains(sha256) || !with_content.contains(sha256))
                    .then(|| blobs.size(sha256)),
                None if with_content.contains(sha256) => None,
                None => blobs.remove_old(sha256, now, DAY_MS, || {
                    Ok(!db.read(|tx| has_content(tx, sha256))?)
                })?,
            };
            if let Some(size) = size {
                removed.blobs += 1;
                removed.bytes += size;
            }
        }
        Ok(())
    })
}

fn has_content(tx: &mut Tx<'_>, sha256: &str) -> Result<bool, db::Error> {
    let sql = "SELECT 1 FROM library_content WHERE sha256 = $1 LIMIT 1";
    Ok(tx.query_opt(sql, &params![sha256])?.is_some())
}
