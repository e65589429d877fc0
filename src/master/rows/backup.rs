//! The rows that a backup treats by themselves: passwords, leases and counts.

use super::numbers::UPLOADING;
use crate::db::{Error, Tx, params};
use crate::master::rows::events::{self, NewEvent};

/// The tables with columns that hold passwords. PostgreSQL's dump leaves their rows out.
pub(crate) const TABLES_WITH_KEYS: [&str; 2] = ["archive", "builder"];

/// SQL that removes the passwords of archives.
pub(crate) const CLEAR_SECRETS: &str = "UPDATE archive SET buildd_secret = NULL";
/// SQL that removes what belongs to the processes of the copied farm.
pub(crate) const CLEAR_PROCESSES: [&str; 3] = [
    "DELETE FROM singleton",
    "DELETE FROM master_process",
    "UPDATE builder SET lease_owner = NULL, lease_until = 0",
];

/// A password in the database.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Key {
    /// The password by which builders read an archive.
    Archive {
        id: i64,
        name: String,
        secret: String,
    },
    /// The URL of a builder, with the password of its slave.
    Builder { id: i64, name: String, url: String },
}

/// Returns the passwords of archives, and the URLs of builders that hold one.
pub(crate) fn keys(tx: &mut Tx<'_>) -> Result<Vec<Key>, Error> {
    let mut keys = Vec::new();
    let sql = "SELECT r.id, d.name, r.owner, r.name, r.buildd_secret FROM archive r
        JOIN distribution d ON d.id = r.distribution_id
        WHERE r.buildd_secret IS NOT NULL ORDER BY r.id";
    for row in tx.query(sql, &[])? {
        let (owner, name): (String, String) = (row.get(2)?, row.get(3)?);
        let name = match owner.is_empty() {
            true => name,
            false => format!("{owner}/{name}"),
        };
        keys.push(Key::Archive {
            id: row.get(0)?,
            name: format!("{} {name}", row.get::<String>(1)?),
            secret: row.get(4)?,
        });
    }
    let sql = "SELECT id, name, url FROM builder WHERE active ORDER BY id";
    for row in tx.query(sql, &[])? {
        let url: String = row.get(2)?;
        if without_password(&url) != url {
            let (id, name) = (row.get(0)?, row.get(1)?);
            keys.push(Key::Builder { id, name, url });
        }
    }
    Ok(keys)
}

/// Returns a text without the passwords of the URLs in it.
pub(crate) fn without_password(text: &str) -> String {
    let mut kept = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("://") {
        kept.push_str(before);
        kept.push_str("://");
        // The password of a database's URL may contain a slash.
        let is_database = before.ends_with("postgresql") || before.ends_with("postgres");
        let word = after.find([' ', '\t', '\n', '"']).unwrap_or(after.len());
        let host = after.find(['/', ' ', '\t', '\n', '"']);
        let at = match is_database {
            true => after[..word].find('@'),
            false => after[..host.unwrap_or(after.len())].rfind('@'),
        };
        rest = match at {
            Some(at) => {
                kept.push_str(after[..at].split(':').next().unwrap_or_default());
                &after[at..]
            }
            None => after,
        };
    }
    kept + rest
}

/// Writes the passwords back.
pub(crate) fn set_keys(tx: &mut Tx<'_>, keys: &[Key]) -> Result<(), Error> {
    for key in keys {
        match key {
            Key::Archive { id, secret, .. } => tx.execute(
                "UPDATE archive SET buildd_secret = $2 WHERE id = $1",
                &params![*id, secret],
            )?,
            Key::Builder { id, url, .. } => tx.execute(
                "UPDATE builder SET url = $2 WHERE id = $1",
                &params![*id, url],
            )?,
        };
    }
    Ok(())
}

/// Removes the passwords from the URLs of builders.
pub(crate) fn clear_urls(tx: &mut Tx<'_>, keys: &[Key]) -> Result<(), Error> {
    for key in keys {
        if let Key::Builder { id, url, .. } = key {
            let sql = "UPDATE builder SET url = $2 WHERE id = $1";
            tx.execute(sql, &params![*id, without_password(url)])?;
        }
    }
    Ok(())
}

/// Counts for the manifest, by their names.
pub(crate) fn counts(tx: &mut Tx<'_>) -> Result<Vec<(&'static str, i64)>, Error> {
    // The largest number that was given out stands for the rows of a large table.
    let mut counts = Vec::new();
    for (name, sql) in [
        ("archives", "SELECT COUNT(*) FROM archive"),
        ("builders", "SELECT COUNT(*) FROM builder WHERE active"),
        ("newest_build", "SELECT COALESCE(MAX(id), 0) FROM build"),
        (
            "newest_file",
            "SELECT COALESCE(MAX(id), 0) FROM library_alias",
        ),
        ("newest_event", "SELECT COALESCE(MAX(id), 0) FROM event"),
    ] {
        counts.push((name, tx.query_one(sql, &[])?.get(0)?));
    }
    Ok(counts)
}

/// Returns the version of the schema.
pub(crate) fn schema(tx: &mut Tx<'_>) -> Result<i64, Error> {
    tx.query_one("SELECT version FROM schema_version", &[])?
        .get(0)
}

/// Returns the folders of results that wait for the uploader of these hosts, with their builds.
pub(crate) fn waiting_results(
    tx: &mut Tx<'_>,
    hosts: &[String],
) -> Result<Vec<(i64, String)>, Error> {
    let mut found = Vec::new();
    let sql = format!(
        "SELECT b.id, b.leaf FROM build b JOIN attempt n ON n.build_id = b.id AND n.leaf = b.leaf
         WHERE b.state = {UPLOADING} AND n.host = $1 ORDER BY b.id"
    );
    for host in hosts {
        for row in tx.query(&sql, &params![host])? {
            found.push((row.get(0)?, row.get(1)?));
        }
    }
    Ok(found)
}

/// The kind of the event that a restore leaves.
const RESTORED: &str = "restored";

/// Records from which backup the database was restored.
pub(crate) fn note_restored(tx: &mut Tx<'_>, backup: &str, now: i64) -> Result<(), Error> {
    events::add(tx, &NewEvent::info(now, RESTORED, backup))
}

/// Returns whether the database was restored from this backup, and nothing has happened since.
pub(crate) fn is_restored_from(tx: &mut Tx<'_>, backup: &str) -> Result<bool, Error> {
    let sql = "SELECT kind, message FROM event WHERE id = (SELECT MAX(id) FROM event)";
    let Some(row) = tx.query_opt(sql, &[])? else {
        return Ok(false);
    };
    Ok(row.get::<String>(0)? == RESTORED && row.get::<String>(1)? == backup)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_of_urls_are_removed() {
        for (text, kept) in [
            ("http://a.b:8221/", "http://a.b:8221/"),
            ("http://u:p@a.b:8221/x", "http://u@a.b:8221/x"),
            ("http://u:p@q@a.b/", "http://u@a.b/"),
            (
                "url = postgresql://farm:hu%40sh@db/farm?sslmode=require",
                "url = postgresql://farm@db/farm?sslmode=require",
            ),
            ("a http://u:p@h b http://v:q@i", "a http://u@h b http://v@i"),
            ("postgres://farm:a/b?c@db/farm", "postgres://farm@db/farm"),
            ("http://a.b:80/x@y", "http://a.b:80/x@y"),
            ("user@host", "user@host"),
        ] {
            assert_eq!(without_password(text), kept);
        }
    }
}
