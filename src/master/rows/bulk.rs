//! Passes a list of rows to one SQL statement, as `VALUES`.
//!
//! A connection caches every prepared statement. So a list has one of two sizes, padded with NULLs,
//! instead of a statement for each length.

use crate::db::{Error, Row, Tx, Value};

/// Rows in a statement with many or few rows.
const LARGE: usize = 500;
const SMALL: usize = 60;

/// Runs `sql` once per part of `rows` and returns the rows of all answers. `{VALUES}` in `sql`
/// stands for the part, with columns of the SQL types `types`. The parameters `fixed` are `$1` and
/// on. A part may contain rows of NULLs; `sql` must not match them.
pub(super) fn query<const N: usize>(
    tx: &mut Tx<'_>,
    sql: &str,
    types: [&str; N],
    fixed: &[Value],
    rows: impl IntoIterator<Item = [Value; N]>,
) -> Result<Vec<Row>, Error> {
    let rows: Vec<[Value; N]> = rows.into_iter().collect();
    let mut found = Vec::new();
    for part in rows.chunks(LARGE) {
        let size = if part.len() > SMALL { LARGE } else { SMALL };
        let text = sql.replace("{VALUES}", &values(types, fixed.len(), size));
        let mut params = fixed.to_vec();
        params.extend(part.iter().flatten().cloned());
        params.resize(fixed.len() + N * size, Value::Null);
        found.extend(tx.query(&text, &params)?);
    }
    Ok(found)
}

/// Runs `sql` once per part of `ids` and returns the rows of all answers. `{LIST}` in `sql` stands
/// for the ids of the part; it may contain NULLs. The parameters `fixed` are `$1` and on.
/// PostgreSQL finds the rows of such a list by an index, but joins a long `VALUES` with the whole
/// table.
pub(super) fn query_ids(
    tx: &mut Tx<'_>,
    sql: &str,
    fixed: &[Value],
    ids: &[i64],
) -> Result<Vec<Row>, Error> {
    let mut found = Vec::new();
    for part in ids.chunks(LARGE) {
        let size = if part.len() > SMALL { LARGE } else { SMALL };
        let first = fixed.len() + 1;
        let marks: Vec<String> = (first..first + size).map(|n| format!("${n}")).collect();
        let mut params = fixed.to_vec();
        params.extend(part.iter().map(|&id| Value::Int(id)));
        params.resize(fixed.len() + size, Value::Null);
        found.extend(tx.query(&sql.replace("{LIST}", &marks.join(", ")), &params)?);
    }
    Ok(found)
}

/// The `VALUES` list, with `before` parameters before it. PostgreSQL takes the types from the first
/// row.
fn values<const N: usize>(types: [&str; N], before: usize, size: usize) -> String {
    let row = |row: usize| {
        let column = |(index, ty): (usize, &&str)| {
            let number = before + row * N + index + 1;
            match row {
                0 => format!("CAST(${number} AS {ty})"),
                _ => format!("${number}"),
            }
        };
        let columns: Vec<String> = types.iter().enumerate().map(column).collect();
        format!("({})", columns.join(", "))
    };
    let rows: Vec<String> = (0..size).map(row).collect();
    format!("VALUES {}", rows.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_follow_those_of_the_statement() {
        assert_eq!(
            values(["BIGINT", "TEXT"], 1, 2),
            "VALUES (CAST($2 AS BIGINT), CAST($3 AS TEXT)), ($4, $5)"
        );
    }
}
