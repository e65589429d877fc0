//! SQL for contents, aliases and tokens.
//!
//! All functions run in the caller's transaction, so that the master's rows and a file's are
//! committed together.

use sha2::{Digest as _, Sha256};

use super::blobs::Content;
use crate::sys::digest::hex;
use crate::sys::random;

use crate::db::{self, Engine, Tx, params};

/// Lifetime of a token.
pub(super) const TOKEN_LIFE_MS: i64 = 24 * 3600 * 1000;
/// Random bytes of a token, written as two digits each.
const TOKEN_BYTES: usize = 16;

/// The alias to create for an upload.
#[derive(Clone, Debug)]
pub(super) struct NewAlias {
    pub(super) name: String,
    pub(super) content_type: String,
    pub(super) restricted: bool,
    /// Milliseconds since 1970; without it, `gc` removes the file when it is unreferenced.
    pub(super) expires_at: Option<i64>,
}

/// An alias with its content.
#[derive(Debug)]
pub(super) struct StoredFile {
    pub(super) name: String,
    pub(super) content_type: String,
    pub(super) restricted: bool,
    /// Milliseconds since 1970.
    pub(super) created_at: i64,
    pub(super) size: i64,
    pub(super) sha1: String,
    pub(super) sha256: String,
}

/// Inserts an alias, and its content unless an equal one exists. Returns the ids of content and
/// alias.
pub(super) fn insert(
    tx: &mut Tx<'_>,
    content: &Content,
    alias: &NewAlias,
    now: i64,
) -> Result<(i64, i64), db::Error> {
    // Lock the content until the alias exists, or gc could remove it.
    let lock = match tx.engine() {
        Engine::Sqlite => "",
        Engine::Postgres => " FOR KEY SHARE",
    };
    let size = i64::try_from(content.size).unwrap_or(i64::MAX);
    let known = tx.query_opt(
        &format!(
            "SELECT id FROM library_content WHERE sha256 = $1 AND size = $2 ORDER BY id DESC \
             LIMIT 1{lock}"
        ),
        &params![&content.sha256, size],
    )?;
    let content_id: i64 = match known {
        Some(row) => row.get(0)?,
        None => tx
            .query_one(
                "INSERT INTO library_content (size, sha1, sha256, md5, created_at) \
                 VALUES ($1, $2, $3, $4, $5) RETURNING id",
                &params![size, &content.sha1, &content.sha256, &content.md5, now],
            )?
            .get(0)?,
    };
    let alias_id = tx
        .query_one(
            "INSERT INTO library_alias (content_id, filename, mimetype, restricted, created_at, \
             expires_at) VALUES ($1, $2, $3, $4, $5, $6) RETURNING id",
            &params![
                content_id,
                &alias.name,
                &alias.content_type,
                alias.restricted,
                now,
                alias.expires_at
            ],
        )?
        .get(0)?;
    Ok((content_id, alias_id))
}

/// Returns whether a content with that id exists.
pub(super) fn has_content(tx: &mut Tx<'_>, id: i64) -> Result<bool, db::Error> {
    let row = tx.query_opt("SELECT 1 FROM library_content WHERE id = $1", &params![id])?;
    Ok(row.is_some())
}

/// Returns an alias with its content; `None` if either is absent.
pub(super) fn find(tx: &mut Tx<'_>, alias_id: i64) -> Result<Option<StoredFile>, db::Error> {
    let row = tx.query_opt(
        "SELECT a.filename, a.mimetype, a.restricted, a.created_at, c.size, c.sha1, c.sha256 \
         FROM library_alias a JOIN library_content c ON c.id = a.content_id WHERE a.id = $1",
        &params![alias_id],
    )?;
    row.map(|row| {
        Ok(StoredFile {
            name: row.get(0)?,
            content_type: row.get(1)?,
            restricted: row.get(2)?,
            created_at: row.get(3)?,
            size: row.get(4)?,
            sha1: row.get(5)?,
            sha256: row.get(6)?,
        })
    })
    .transpose()
}

/// Returns id and name of each alias whose content has that SHA-1.
pub(super) fn search(
    tx: &mut Tx<'_>,
    sha1: &str,
    restricted: bool,
) -> Result<Vec<(i64, String)>, db::Error> {
    let rows = tx.query(
        "SELECT a.id, a.filename FROM library_content c JOIN library_alias a ON a.content_id = c.id \
         WHERE c.sha1 = $1 AND a.restricted = $2 ORDER BY a.id",
        &params![sha1, restricted],
    )?;
    rows.iter()
        .map(|row| Ok((row.get(0)?, row.get(1)?)))
        .collect()
}

/// Issues a token for one restricted file. A client sends it as `?token=`, or as the password of
/// HTTP Basic without a user name. Only its hash is stored.
pub(crate) fn issue_token(tx: &mut Tx<'_>, alias_id: i64, now: i64) -> Result<String, db::Error> {
    let token = random::word(TOKEN_BYTES);
    tx.execute(
        "INSERT INTO library_token (alias_id, token_sha256, created_at) VALUES ($1, $2, $3)",
        &params![alias_id, sha256(&token), now],
    )?;
    Ok(token)
}

/// Returns whether the token is valid for that file at `now`.
pub(super) fn is_valid_token(
    tx: &mut Tx<'_>,
    alias_id: i64,
    token: &str,
    now: i64,
) -> Result<bool, db::Error> {
    let row = tx.query_opt(
        "SELECT 1 FROM library_token WHERE alias_id = $1 AND token_sha256 = $2 AND created_at > $3",
        &params![alias_id, sha256(token), now - TOKEN_LIFE_MS],
    )?;
    Ok(row.is_some())
}

fn sha256(token: &str) -> String {
    hex(&Sha256::digest(token))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::tests::scratch;

    fn content(sha256: &str) -> Content {
        Content {
            size: 5,
            sha1: "aa".to_owned(),
            sha256: sha256.to_owned(),
            md5: "cc".to_owned(),
        }
    }

    fn alias(name: &str, restricted: bool) -> NewAlias {
        NewAlias {
            name: name.to_owned(),
            content_type: "text/plain".to_owned(),
            restricted,
            expires_at: None,
        }
    }

    #[test]
    fn equal_bytes_are_one_content() {
        let scratch = scratch();
        let add = |sha256: &str, name: &str| {
            scratch
                .db
                .write(|tx| insert(tx, &content(sha256), &alias(name, name == "secret"), 1000))
                .unwrap()
        };
        let first = add("x", "a");
        let second = add("x", "secret");
        let third = add("y", "a");
        assert_eq!(first.0, second.0);
        assert_ne!(first.1, second.1);
        assert_ne!(first.0, third.0);
        scratch
            .db
            .read(|tx| {
                let found = find(tx, second.1)?.unwrap();
                assert_eq!((found.name.as_str(), found.size), ("secret", 5));
                assert!(found.restricted && found.sha256 == "x" && found.created_at == 1000);
                assert!(find(tx, 99)?.is_none());
                let names = |restricted| search(tx, "aa", restricted);
                let (public, secret) = ([false, true].map(names)).into();
                assert_eq!(public?, [(first.1, "a".into()), (third.1, "a".into())]);
                assert_eq!(secret?, [(second.1, "secret".into())]);
                assert!(has_content(tx, first.0)? && !has_content(tx, 99)?);
                Ok(())
            })
            .unwrap();
    }

    #[test]
    fn a_token_is_valid_for_one_file_and_one_day() {
        let scratch = scratch();
        let (token, other) = scratch
            .db
            .write(|tx| Ok((issue_token(tx, 7, 1000)?, issue_token(tx, 8, 1000)?)))
            .unwrap();
        assert_eq!(token.len(), 32);
        assert_ne!(token, other);
        scratch
            .db
            .read(|tx| {
                let end = 1000 + TOKEN_LIFE_MS;
                for (alias, given, now, expect) in [
                    (7, &token, 1000, true),
                    (7, &token, end - 1, true),
                    (7, &token, end, false),
                    (8, &token, 1000, false),
                    (7, &other, 1000, false),
                    (7, &String::new(), 1000, false),
                ] {
                    let valid = is_valid_token(tx, alias, given, now)?;
                    assert_eq!(valid, expect, "{alias} {given} {now}");
                }
                let stored = tx.query("SELECT token_sha256 FROM library_token", &[])?;
                assert!(!format!("{stored:?}").contains(&token));
                Ok(())
            })
            .unwrap();
    }
}
