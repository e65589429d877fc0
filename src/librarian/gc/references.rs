//! Finds the foreign keys of the database, so that a table added later is covered.

use crate::db::{Engine, Error, Tx, params};

/// A foreign key column. Both names are quoted for the engine.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Reference {
    pub(super) table: String,
    pub(super) column: String,
}

/// Returns every column with a foreign key to `table`.
pub(super) fn to(tx: &mut Tx<'_>, table: &str) -> Result<Vec<Reference>, Error> {
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

/// The condition that no reference names the row of `table`, which is the name or alias of a table
/// in the query.
pub(super) fn none(table: &str, references: &[Reference]) -> String {
    let each = |Reference { table: of, column }: &Reference| {
        format!("NOT EXISTS (SELECT 1 FROM {of} r WHERE r.{column} = {table}.id)")
    };
    let all: Vec<String> = references.iter().map(each).collect();
    all.join(" AND ")
}
