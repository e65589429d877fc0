//! What does nobody need any more, and how does it go without taking what somebody does?
//! (docs/farm.md §4.5)
//!
//! In this order: files that expired a week ago lose their content; aliases that nothing refers to
//! and nobody asked to keep go, with their tokens; contents of equal bytes become one; contents
//! without alias go; then blobs without content, a day old. What refers to a row is asked of the
//! database itself, so that a table added later is not forgotten. Rows go in short transactions, each
//! of which locks what it is to remove and then looks again whether it may.

use std::collections::BTreeSet;
use std::path::Path;

use super::Error;
use super::blobs::Blobs;
use super::rows::TOKEN_LIFE_MS;

use crate::db::{self, Db, Engine, Tx, params};

const DAY_MS: i64 = 24 * 3600 * 1000;
/// How long after its end, or its making, a file still counts as somebody's.
const GRACE_MS: i64 = 7 * DAY_MS;
/// 2038-01-01: that, or later, means never (docs/farm.md §4.5).
pub(super) const NEVER_MS: i64 = 2_145_916_800_000;
/// Rows of one transaction.
const BATCH: u32 = 500;
/// Columns that refer to aliases: source files, chroots, and the two logs of builds. Fewer means
/// that the database was not understood.
const LEAST_REFERENCES: usize = 4;

/// What was removed, or would be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Swept {
    /// Aliases that lost their content.
    pub(crate) expired: u64,
    /// Aliases that nothing referred to.
    pub(crate) aliases: u64,
    /// Contents that were another one's double.
    pub(crate) merged: u64,
    /// Contents without alias.
    pub(crate) contents: u64,
    pub(crate) blobs: u64,
    /// Of the blobs.
    pub(crate) bytes: u64,
}

/// Removes what nobody needs at `now`, or only says what that is: then nothing is changed.
pub(crate) fn gc(db: &Db, root: &Path, now: i64, dry_run: bool) -> Result<Swept, Error> {
    let aliases = db.read(|tx| references(tx, "library_alias"))?;
    let contents = db.read(|tx| references(tx, "library_content"))?;
    if aliases.len() < LEAST_REFERENCES || contents.is_empty() {
        return Err(Error::References {
            found: aliases.len(),
            least: LEAST_REFERENCES,
        });
    }
    let pass = Pass {
        now,
        aliases,
        contents,
    };
    let blobs = Blobs::open(root, 0)?;
    let mut swept = Swept::default();
    if dry_run {
        let mut freed = Freed::new();
        let tried = db.write(|tx| {
            (swept, freed) = (Swept::default(), Freed::new());
            for step in STEPS {
                while step(&pass, tx, &mut swept, &mut freed)? > 0 {}
            }
            for sum in freed.clone() {
                if is_named(tx, &sum)? {
                    freed.remove(&sum);
                }
            }
            // So that all of it is taken back.
            Err::<(), _>(db::Error::Refused("a dry run".to_owned()))
        });
        match tried {
            Err(db::Error::Refused(_)) | Ok(()) => {}
            Err(error) => return Err(error.into()),
        }
        sweep_blobs(db, &blobs, now, Some(&freed), &mut swept)?;
    } else {
        for step in STEPS {
            loop {
                let (count, so_far) = db.write(|tx| {
                    let mut so_far = swept;
                    let count = step(&pass, tx, &mut so_far, &mut Freed::new())?;
                    Ok((count, so_far))
                })?;
                swept = so_far;
                if count == 0 {
                    break;
                }
            }
        }
        sweep_blobs(db, &blobs, now, None, &mut swept)?;
    }
    Ok(swept)
}

/// The SHA-256 of contents that went.
type Freed = BTreeSet<String>;

/// A column that refers to rows of another table; both quoted as the engine wants them.
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

/// `AND NOT EXISTS …` for each reference to the row of `table`.
fn unreferenced(table: &str, references: &[Reference]) -> String {
    let mut sql = String::new();
    for Reference { table: of, column } in references {
        sql.push_str(&format!(
            " AND NOT EXISTS (SELECT 1 FROM {of} r WHERE r.{column} = {table}.id)"
        ));
    }
    sql
}

/// What all steps of one run go by.
struct Pass {
    now: i64,
    /// To aliases, and to contents.
    aliases: Vec<Reference>,
    contents: Vec<Reference>,
}

/// Does at most a batch, and returns how much it was: 0 means done.
type Step = fn(&Pass, &mut Tx<'_>, &mut Swept, &mut Freed) -> Result<u64, db::Error>;

const STEPS: &[Step] = &[expire, drop_aliases, merge, drop_contents, drop_tokens];

fn expire(
    pass: &Pass,
    tx: &mut Tx<'_>,
    swept: &mut Swept,
    _: &mut Freed,
) -> Result<u64, db::Error> {
    let count = tx.execute(
        &format!(
            "UPDATE library_alias SET content_id = NULL WHERE id IN (SELECT id FROM library_alias \
             WHERE content_id IS NOT NULL AND expires_at < $1 LIMIT {BATCH})"
        ),
        &params![(pass.now - GRACE_MS).min(NEVER_MS)],
    )?;
    swept.expired += count;
    Ok(count)
}

fn drop_aliases(
    pass: &Pass,
    tx: &mut Tx<'_>,
    swept: &mut Swept,
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
        let gone = tx.execute(&delete, &params![id])?;
        if gone > 0 {
            tx.execute(
                "DELETE FROM library_token WHERE alias_id = $1",
                &params![id],
            )?;
        }
        count += gone;
    }
    swept.aliases += count;
    Ok(count)
}

/// Two uploads of the same new bytes at the same moment make two contents. They share a blob: all
/// there is to do is to let the newest have the aliases of all.
fn merge(pass: &Pass, tx: &mut Tx<'_>, swept: &mut Swept, _: &mut Freed) -> Result<u64, db::Error> {
    let hold = match tx.engine() {
        Engine::Sqlite => "",
        Engine::Postgres => " FOR UPDATE",
    };
    // Sums that do not agree with each other were given by a client that inserts its own rows.
    let doubles = tx.query(
        &format!(
            "SELECT sha256, size, sha1, md5 FROM library_content GROUP BY sha256, size, sha1, md5 \
             HAVING COUNT(*) > 1 LIMIT {BATCH}"
        ),
        &[],
    )?;
    let mut count = 0;
    for row in doubles {
        let (sha256, size): (String, i64) = (row.get(0)?, row.get(1)?);
        let (sha1, md5): (String, String) = (row.get(2)?, row.get(3)?);
        let same = tx.query(
            &format!(
                "SELECT id FROM library_content WHERE sha256 = $1 AND size = $2 AND sha1 = $3 \
                 AND md5 = $4 ORDER BY id DESC{hold}"
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
    swept.merged += count;
    Ok(count)
}

fn drop_contents(
    pass: &Pass,
    tx: &mut Tx<'_>,
    swept: &mut Swept,
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
        for gone in tx.query(&delete, &params![id])? {
            freed.insert(gone.get(0)?);
            count += 1;
        }
    }
    swept.contents += count;
    Ok(count)
}

fn drop_tokens(
    pass: &Pass,
    tx: &mut Tx<'_>,
    _: &mut Swept,
    _: &mut Freed,
) -> Result<u64, db::Error> {
    tx.execute(
        "DELETE FROM library_token WHERE created_at <= $1",
        &params![pass.now - TOKEN_LIFE_MS],
    )
}

/// Removes the blobs that no content names. In a dry run those whose contents are `freed` count,
/// and nothing goes.
fn sweep_blobs(
    db: &Db,
    blobs: &Blobs,
    now: i64,
    freed: Option<&Freed>,
    swept: &mut Swept,
) -> Result<(), Error> {
    blobs.each_old(now, DAY_MS, |sums| {
        // The sums of a folder lie next to each other.
        let (Some(first), Some(last)) = (sums.iter().min(), sums.iter().max()) else {
            return Ok(());
        };
        let named = db.read(|tx| {
            let rows = tx.query(
                "SELECT DISTINCT sha256 FROM library_content WHERE sha256 BETWEEN $1 AND $2",
                &params![first, last],
            )?;
            rows.iter()
                .map(|row| row.get(0))
                .collect::<Result<BTreeSet<String>, _>>()
        })?;
        for sum in sums {
            let size = match freed {
                Some(freed) => {
                    (freed.contains(sum) || !named.contains(sum)).then(|| blobs.size(sum))
                }
                None if named.contains(sum) => None,
                None => {
                    blobs.remove_old(sum, now, DAY_MS, || Ok(!db.read(|tx| is_named(tx, sum))?))?
                }
            };
            if let Some(size) = size {
                swept.blobs += 1;
                swept.bytes += size;
            }
        }
        Ok(())
    })
}

fn is_named(tx: &mut Tx<'_>, sha256: &str) -> Result<bool, db::Error> {
    let sql = "SELECT 1 FROM library_content WHERE sha256 = $1 LIMIT 1";
    Ok(tx.query_opt(sql, &params![sha256])?.is_some())
}
