//! The steps that remove rows: each reads candidates, then removes them in short transactions.

use super::candidates::{self, HashWindow, WINDOW, removable_alias, window};
use super::references::{self, Reference};
use super::{NEVER_MS, Pass, TOKEN_LIFE_MS};
use crate::db::{Engine, Error, Pace, Tx, Value, params};

/// Takes the content of aliases that expired a week ago; returns their number.
pub(super) fn expire(pass: &Pass<'_>) -> Result<u64, Error> {
    let before = pass.before.min(NEVER_MS);
    let expired = "content_id IS NOT NULL AND expires_at < $1";
    let find = format!(
        "SELECT id FROM library_alias WHERE {expired} ORDER BY expires_at, id LIMIT {WINDOW}"
    );
    let expire = format!("UPDATE library_alias SET content_id = NULL WHERE id = $2 AND {expired}");
    repeat(
        pass,
        |tx| {
            let rows = tx.query(&find, &params![before])?;
            rows.iter().map(|row| row.get(0)).collect()
        },
        |tx, ids: &[i64]| {
            let mut count = 0;
            for id in ids {
                count += tx.execute(&expire, &params![before, *id])?;
            }
            Ok(count)
        },
    )
}

/// Removes unreferenced aliases; returns their number.
pub(super) fn drop_aliases(pass: &Pass<'_>) -> Result<u64, Error> {
    let mut pace = Pace::default();
    let (mut after, mut count) = (0, 0);
    while let Some(last) = pass.db.read(|tx| window(tx, "library_alias", after))? {
        let ids = pass
            .db
            .read(|tx| candidates::aliases(tx, pass, after, last))?;
        count += pace.write(pass.db, &ids, |tx, ids| remove_aliases(tx, pass, ids))?;
        after = last;
    }
    Ok(count)
}

/// Removes aliases of an ascending list, unless something refers to them now.
fn remove_aliases(tx: &mut Tx<'_>, pass: &Pass<'_>, ids: &[i64]) -> Result<u64, Error> {
    let (Some(first), Some(last)) = (ids.first(), ids.last()) else {
        return Ok(0);
    };
    let time = format!("${}", LIST + 1);
    let removable = removable_alias("library_alias", &pass.aliases, &time);
    let count = delete(tx, "library_alias", ids, &removable, &[pass.before.into()])?;
    tx.execute(
        "DELETE FROM library_token WHERE alias_id BETWEEN $1 AND $2
         AND NOT EXISTS (SELECT 1 FROM library_alias a WHERE a.id = alias_id)",
        &params![*first, *last],
    )?;
    Ok(count)
}

/// Ids in a statement. Shorter lists are padded with NULL: a connection caches each statement.
const LIST: usize = 100;

/// Deletes rows that still match a condition, whose parameters come after [`LIST`]. Rows that
/// another transaction has locked stay.
fn delete(
    tx: &mut Tx<'_>,
    table: &str,
    ids: &[i64],
    condition: &str,
    more: &[Value],
) -> Result<u64, Error> {
    let list: Vec<String> = (1..=LIST).map(|number| format!("${number}")).collect();
    let list = list.join(", ");
    let lock = format!("SELECT id FROM {table} WHERE id IN ({list}) {{SKIP LOCKED}}");
    let delete = format!("DELETE FROM {table} WHERE id IN ({list}) AND {condition}");
    let mut count = 0;
    for ids in ids.chunks(LIST) {
        let mut padded: Vec<Value> = ids.iter().map(|id| Value::Int(*id)).collect();
        padded.resize(LIST, Value::Null);
        // A separate statement after the lock sees the references that others have committed.
        if tx.engine() == Engine::Postgres {
            let locked = tx.query(&lock, &padded)?;
            padded = locked
                .iter()
                .map(|row| row.get(0).map(Value::Int))
                .collect::<Result<_, _>>()?;
            padded.resize(LIST, Value::Null);
        }
        padded.extend_from_slice(more);
        count += tx.execute(&delete, &padded)?;
    }
    Ok(count)
}

/// A content, and the newest one that is equal to it.
type Duplicate = (i64, i64);

/// Merges duplicate contents, which simultaneous uploads of the same new bytes create. They share a
/// blob already; all references move to the newest. Returns the number of removed contents.
pub(super) fn merge(pass: &Pass<'_>) -> Result<u64, Error> {
    let mut pace = Pace::default();
    let (mut after, mut count) = (None, 0);
    while let Some(window) = pass.db.read(|tx| HashWindow::next(tx, after.as_ref()))? {
        let found = pass.db.read(|tx| duplicates(tx, &window))?;
        count += pace.write(pass.db, &found, |tx, found| {
            let mut count = 0;
            for duplicate in found {
                count += merge_one(tx, &pass.contents, *duplicate)?;
            }
            Ok(count)
        })?;
        after = Some(window.last);
    }
    Ok(count)
}

/// Returns the duplicates in a window. Rows inserted by a client may have hashes that contradict
/// each other, so all of them are compared.
fn duplicates(tx: &mut Tx<'_>, window: &HashWindow) -> Result<Vec<Duplicate>, Error> {
    let condition = window.condition();
    let groups = tx.query(
        &format!(
            "SELECT c.sha256, c.size, c.sha1, c.md5 FROM library_content c WHERE {condition} \
             GROUP BY c.sha256, c.size, c.sha1, c.md5 HAVING COUNT(*) > 1"
        ),
        &params![window.first(), &window.last],
    )?;
    let mut found = Vec::new();
    for group in groups {
        let (sha256, size): (String, i64) = (group.get(0)?, group.get(1)?);
        let (sha1, md5): (String, String) = (group.get(2)?, group.get(3)?);
        let ids = tx.query(
            "SELECT id FROM library_content WHERE sha256 = $1 AND size = $2 AND sha1 = $3 \
             AND md5 = $4 ORDER BY id DESC",
            &params![sha256, size, sha1, md5],
        )?;
        let mut ids = ids.iter().map(|row| row.get::<i64>(0));
        let newest = ids.next().transpose()?;
        for other in ids {
            found.extend(
                newest
                    .map(|newest| other.map(|other| (other, newest)))
                    .transpose()?,
            );
        }
    }
    Ok(found)
}

fn merge_one(
    tx: &mut Tx<'_>,
    contents: &[Reference],
    (other, newest): Duplicate,
) -> Result<u64, Error> {
    let lock = match tx.engine() {
        Engine::Sqlite => "",
        Engine::Postgres => " FOR UPDATE",
    };
    let both = format!("SELECT id FROM library_content WHERE id IN ($1, $2) ORDER BY id{lock}");
    if tx.query(&both, &params![other, newest])?.len() < 2 {
        return Ok(0);
    }
    for Reference { table, column } in contents {
        tx.execute(
            &format!("UPDATE {table} SET {column} = $1 WHERE {column} = $2"),
            &params![newest, other],
        )?;
    }
    tx.execute("DELETE FROM library_content WHERE id = $1", &params![other])
}

/// Removes contents without an alias; returns their number.
pub(super) fn drop_contents(pass: &Pass<'_>) -> Result<u64, Error> {
    let unused = references::none("library_content", &pass.contents);
    let find = format!(
        "SELECT id FROM library_content WHERE id > $1 AND id <= $2 AND {unused} ORDER BY id"
    );
    let mut pace = Pace::default();
    let (mut after, mut count) = (0, 0);
    while let Some(last) = pass.db.read(|tx| window(tx, "library_content", after))? {
        let ids: Vec<i64> = pass.db.read(|tx| {
            let rows = tx.query(&find, &params![after, last])?;
            rows.iter().map(|row| row.get(0)).collect()
        })?;
        count += pace.write(pass.db, &ids, |tx, ids| {
            delete(tx, "library_content", ids, &unused, &[])
        })?;
        after = last;
    }
    Ok(count)
}

/// Removes expired tokens.
pub(super) fn drop_tokens(pass: &Pass<'_>) -> Result<u64, Error> {
    let before = pass.now - TOKEN_LIFE_MS;
    let find = format!(
        "SELECT alias_id, token_sha256 FROM library_token WHERE created_at <= $1 \
         ORDER BY created_at LIMIT {WINDOW}"
    );
    let delete = "DELETE FROM library_token
        WHERE alias_id = $1 AND token_sha256 = $2 AND created_at <= $3";
    repeat(
        pass,
        |tx| {
            let rows = tx.query(&find, &params![before])?;
            rows.iter()
                .map(|row| Ok((row.get(0)?, row.get(1)?)))
                .collect()
        },
        |tx, tokens: &[(i64, String)]| {
            let mut count = 0;
            for (alias, token) in tokens {
                count += tx.execute(delete, &params![*alias, token, before])?;
            }
            Ok(count)
        },
    )
}

/// Changes what `find` returns, until nothing is left; returns the sum. `change` must make `find`
/// return other items.
fn repeat<T>(
    pass: &Pass<'_>,
    find: impl Fn(&mut Tx<'_>) -> Result<Vec<T>, Error>,
    change: impl Fn(&mut Tx<'_>, &[T]) -> Result<u64, Error>,
) -> Result<u64, Error> {
    let mut pace = Pace::default();
    let mut sum = 0;
    loop {
        let items = pass.db.read(&find)?;
        let count = pace.write(pass.db, &items, &change)?;
        sum += count;
        // Another collection may have been faster.
        if count == 0 {
            return Ok(sum);
        }
    }
}
