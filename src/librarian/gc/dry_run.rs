//! Counts what a collection would remove. It only reads.

use super::candidates::{self, HashWindow, removable_alias, window};
use super::references::{self, Reference};
use super::{NEVER_MS, Pass, Removed, sweep};
use crate::db::{self, params};
use crate::librarian::Error;

/// Counts what all steps would remove now.
pub(super) fn count(pass: &Pass<'_>) -> Result<Removed, Error> {
    let (merged, contents) = contents(pass)?;
    let mut removed = Removed {
        expired: expired(pass)?,
        aliases: aliases(pass)?,
        merged,
        contents,
        ..Removed::default()
    };
    let stays = stays(pass, "$3");
    sweep::count(pass, &stays, &params![pass.before], &mut removed)?;
    Ok(removed)
}

fn expired(pass: &Pass<'_>) -> Result<u64, db::Error> {
    let sql = "SELECT COUNT(*) FROM library_alias WHERE content_id IS NOT NULL AND expires_at < $1";
    let before = pass.before.min(NEVER_MS);
    let count: i64 = pass
        .db
        .read(|tx| tx.query_one(sql, &params![before])?.get(0))?;
    Ok(count.unsigned_abs())
}

fn aliases(pass: &Pass<'_>) -> Result<u64, db::Error> {
    let (mut after, mut count) = (0, 0);
    while let Some(last) = pass.db.read(|tx| window(tx, "library_alias", after))? {
        let found = pass
            .db
            .read(|tx| candidates::aliases(tx, pass, after, last))?;
        count += found.len() as u64;
        after = last;
    }
    Ok(count)
}

/// Returns the numbers of contents that would be merged, and of those without a file then.
fn contents(pass: &Pass<'_>) -> Result<(u64, u64), db::Error> {
    let stays = stays(pass, "$3");
    let (mut after, mut merged, mut unused) = (None, 0, 0);
    while let Some(window) = pass.db.read(|tx| HashWindow::next(tx, after.as_ref()))? {
        let sql = format!(
            "SELECT COUNT(*), SUM(CASE WHEN {stays} THEN 1 ELSE 0 END) FROM library_content c \
             WHERE {} GROUP BY c.sha256, c.size, c.sha1, c.md5",
            window.condition()
        );
        let params = params![window.first(), &window.last, pass.before];
        for group in pass.db.read(|tx| tx.query(&sql, &params))? {
            let (equal, used): (i64, i64) = (group.get(0)?, group.get(1)?);
            merged += equal.unsigned_abs() - 1;
            unused += u64::from(used == 0);
        }
        after = Some(window.last);
    }
    Ok((merged, unused))
}

/// The condition that something refers to content `c` after a collection.
fn stays(pass: &Pass<'_>, time: &str) -> String {
    let is_alias = |reference: &&Reference| reference.table.trim_matches('"') == "library_alias";
    let others = pass.contents.iter().filter(|one| !is_alias(one)).cloned();
    let others: Vec<Reference> = others.collect();
    let removable = removable_alias("a", &pass.aliases, time);
    let by_alias = format!(
        "EXISTS (SELECT 1 FROM library_alias a WHERE a.content_id = c.id \
         AND NOT (a.expires_at IS NOT NULL AND a.expires_at < {time}) AND NOT ({removable}))"
    );
    match others.is_empty() {
        true => by_alias,
        false => format!("({by_alias} OR NOT ({}))", references::none("c", &others)),
    }
}
