//! Many rows in one statement: how do lists get into SQL that has no lists?
//!
//! As `VALUES`, in two sizes only, the rest of a statement filled with NULLs: a connection keeps
//! what it has prepared, and must not come to keep one for every length there is.

use crate::db::{Error, Row, Tx, Value};

/// Rows in a statement.
const LARGE: usize = 500;
const SMALL: usize = 20;

/// Runs `sql` over all of `rows` and returns all answers. `{VALUES}` in it stands for `VALUES` with
/// a part of the rows, whose columns are of the SQL types `types`; parameters of its own come after
/// `fixed`, which are `$1` and on. It may be shown rows of NULLs, which must not match anything.
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

/// Writes the list of parameters. PostgreSQL learns the types from its first row.
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
