//! Pure: finds full scans of large tables in the query plans of both engines.
//!
//! Builds for tests look at the plan of every statement that the program runs (docs/debugging.md).

use super::Engine;

/// The tables that grow with the age of a farm. A statement must find their rows by an index.
const LARGE: [&str; 10] = [
    "attempt",
    "build",
    "build_queue",
    "event",
    "library_alias",
    "library_content",
    "library_token",
    "notification",
    "publication",
    "source_file",
];

/// In an index with so few rows, a search is no cheaper than a scan, and the planner chooses
/// either.
const FEW_ROWS: f64 = 10.0;

/// Partial indexes that have a row for each builder at most.
const SMALL_INDEXES: [&str; 1] = ["build_queue_one_job_per_builder"];

/// The conditions of searches in SQLite's indexes that find a large part of a table.
const WIDE: [&str; 8] = [
    "archive_id=?",
    "archive_id=? AND state=?",
    "arch_series_id=?",
    "arch_series_id=? AND state=?",
    "processor_id=?",
    "state=?",
    "status=?",
    "virtualized=? AND processor_id=?",
];
/// States and statuses that many rows have, as statements name them: builds that wait and that are
/// built, jobs that wait. `$` is any.
const COMMON: [&str; 5] = [
    "state = 0",
    "state = 1",
    "state = $",
    "status = 0",
    "status IN (0",
];

/// Returns the part of a plan that reads a large table from its beginning to its end. `lines` are
/// the lines of `EXPLAIN`, or of `EXPLAIN QUERY PLAN`.
///
/// A scan in the order of an index is none if the statement has a limit, because it ends there. The
/// scan of an index that has only a few of the rows is none either. On SQLite, a search that finds
/// a large part of the table counts as a scan, unless the index alone serves it.
pub(super) fn full_scan(engine: Engine, sql: &str, lines: &[String]) -> Option<String> {
    let limited = sql.contains("LIMIT");
    let found = match engine {
        Engine::Sqlite => scan_of_sqlite(sql, lines, limited),
        Engine::Postgres => scan_of_postgres(lines, limited),
    };
    found.map(|line| line.trim().to_owned())
}

/// SQLite's lines are `SCAN b`, `SCAN b USING INDEX x` or `SEARCH b USING INDEX x (y=?)`, with the
/// alias of the table.
fn scan_of_sqlite<'a>(sql: &str, lines: &'a [String], limited: bool) -> Option<&'a String> {
    let is_large = |alias: &str| LARGE.iter().any(|table| names(sql, table, alias));
    let is_sorted = lines
        .iter()
        .any(|line| line.contains("TEMP B-TREE FOR ORDER BY"));
    let ends_at_limit = limited && !is_sorted;
    lines.iter().find(|line| {
        if let Some(rest) = line.trim().strip_prefix("SEARCH ") {
            let alias = rest.split(' ').next().unwrap_or_default();
            return is_large(alias) && is_wide(rest, sql) && !ends_at_limit;
        }
        let Some(rest) = line.trim().strip_prefix("SCAN ") else {
            return false;
        };
        let mut words = rest.split(' ');
        let alias = words.next().unwrap_or_default();
        let by_index = words.next() == Some("USING");
        is_large(alias) && !(by_index && (limited || is_small(line)))
    })
}

/// Returns whether a search of SQLite finds a large part of its table, and reads the rows.
fn is_wide(search: &str, sql: &str) -> bool {
    let condition = search
        .rsplit_once(" (")
        .map(|(_, rest)| rest.trim_end_matches(')'));
    let Some(condition) = condition.filter(|condition| WIDE.contains(condition)) else {
        return false;
    };
    let by_state = condition.ends_with("state=?") || condition == "status=?";
    !search.contains(" COVERING ") && (!by_state || COMMON.iter().any(|state| has(sql, state)))
}

/// Returns whether a statement has a condition, and not only one that begins like it.
fn has(sql: &str, condition: &str) -> bool {
    let mut rest = sql;
    while let Some((_, after)) = rest.split_once(condition) {
        if condition.ends_with('$') || !after.starts_with(|next: char| next.is_ascii_digit()) {
            return true;
        }
        rest = after;
    }
    false
}

/// Returns whether a line is about an index that has few rows.
fn is_small(line: &str) -> bool {
    let mut words = line.split_whitespace();
    words.any(|word| SMALL_INDEXES.contains(&word))
}

/// Returns whether `alias` stands for `table` in the statement.
fn names(sql: &str, table: &str, alias: &str) -> bool {
    if alias == table {
        return true;
    }
    let words: Vec<&str> = sql.split([' ', '\n', '(', ')', ',']).collect();
    let words: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
    let pairs = words.windows(2);
    let is_alias = |pair: &&[&str]| pair[0] == table && pair[1] == alias;
    let with_as = |three: &[&str]| three[0] == table && three[1] == "AS" && three[2] == alias;
    pairs.clone().any(|pair| is_alias(&pair)) || words.windows(3).any(with_as)
}

/// Returns the cost of a line of PostgreSQL's plan: about the rows of the index that it reads, with
/// the settings of `plan_log`. A line without a cost costs everything.
fn cost(line: &str) -> f64 {
    let total = line
        .split_once("cost=")
        .and_then(|(_, rest)| rest.split_once(".."))
        .and_then(|(_, rest)| rest.split(' ').next());
    total
        .and_then(|text| text.parse().ok())
        .unwrap_or(f64::INFINITY)
}

/// PostgreSQL's lines are `->  Seq Scan on build b  (cost=…)` or `->  Index Scan using x on build`,
/// with the condition of the index in the lines that follow. Sequential scans are forbidden to the
/// planner while it is asked, so that it chooses one only if no index serves.
fn scan_of_postgres(lines: &[String], limited: bool) -> Option<&String> {
    let on_large = |line: &str| {
        let (_, rest) = line.split_once(" on ")?;
        let table = rest.split(' ').next()?;
        LARGE.contains(&table).then_some(())
    };
    for (index, line) in lines.iter().enumerate() {
        let text = line.trim_start().trim_start_matches("->").trim_start();
        if on_large(text).is_none() {
            continue;
        }
        if text.starts_with("Seq Scan") || text.starts_with("Parallel Seq Scan") {
            return Some(line);
        }
        let by_index = text.starts_with("Index Scan") || text.starts_with("Index Only Scan");
        let indent = |line: &str| line.len() - line.trim_start().len();
        let mut below = lines[index + 1..].iter();
        let has_condition = below
            .by_ref()
            .take_while(|next| indent(next) > indent(line) && !next.contains("->"))
            .any(|next| next.trim_start().starts_with("Index Cond"));
        if by_index && !has_condition && !limited && !is_small(line) && cost(line) > FEW_ROWS {
            return Some(line);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(engine: Engine, sql: &str, plan: &str) -> Option<String> {
        let lines: Vec<String> = plan.lines().map(str::to_owned).collect();
        full_scan(engine, sql, &lines)
    }

    #[test]
    fn scans_of_large_tables_are_found_in_plans_of_sqlite() {
        let sql = "SELECT 1 FROM build b JOIN builder m ON m.id = b.builder_id";
        for (plan, scan) in [
            ("SCAN b", true),
            ("SCAN b USING COVERING INDEX build_state", true),
            (
                "SCAN m\nSEARCH b USING INDEX build_builder (builder_id=?)",
                false,
            ),
            ("CORRELATED SCALAR SUBQUERY 1\nSCAN p", false),
            ("SCAN b USING INDEX build_queue_one_job_per_builder", false),
        ] {
            assert_eq!(found(Engine::Sqlite, sql, plan).is_some(), scan, "{plan}");
        }
        // A search by a common state is wide, one by a rare state is not.
        let search = "SEARCH b USING INDEX build_state (state=?)";
        for (condition, wide) in [
            ("WHERE b.state = 0", true),
            ("WHERE b.state = $1", true),
            ("WHERE b.state = 8", false),
            ("WHERE b.state = 10", false),
        ] {
            let sql = format!("{sql} {condition}");
            let scan = found(Engine::Sqlite, &sql, search);
            assert_eq!(scan.is_some(), wide, "{condition}");
            let covering = search.replace("INDEX", "COVERING INDEX");
            assert_eq!(found(Engine::Sqlite, &sql, &covering), None, "{condition}");
            let limited = format!("{sql} ORDER BY b.id LIMIT $2");
            assert_eq!(found(Engine::Sqlite, &limited, search), None, "{condition}");
            let sorted = format!("{search}\nUSE TEMP B-TREE FOR ORDER BY");
            let scan = found(Engine::Sqlite, &limited, &sorted);
            assert_eq!(scan.is_some(), wide, "{condition}");
        }
        let limited = format!("{sql} ORDER BY b.id LIMIT $1");
        let plan = "SCAN b USING INDEX build_created";
        assert_eq!(found(Engine::Sqlite, &limited, plan), None);
        assert!(found(Engine::Sqlite, &limited, "SCAN b").is_some());
        for (sql, plan) in [
            ("DELETE FROM event WHERE at < $1", "SCAN event"),
            ("SELECT 1 FROM build_queue\n AS q", "SCAN q"),
            ("SELECT 1 FROM x, library_alias a", "SCAN a"),
        ] {
            assert_eq!(found(Engine::Sqlite, sql, plan).as_deref(), Some(plan));
        }
    }

    #[test]
    fn scans_of_large_tables_are_found_in_plans_of_postgresql() {
        let find = |sql: &str, plan: &str| found(Engine::Postgres, sql, plan);
        let by_index = "\
Nested Loop  (cost=0.28..16.33 rows=1 width=8)
  ->  Seq Scan on builder m  (cost=0.00..1.01 rows=1 width=8)
  ->  Index Scan using build_builder on build b  (cost=0.28..88.29 rows=1 width=16)
        Index Cond: (builder_id = m.id)
        Filter: (state = 1)";
        assert_eq!(find("SELECT", by_index), None);
        let whole = by_index.replace("        Index Cond: (builder_id = m.id)\n", "");
        let line =
            "->  Index Scan using build_builder on build b  (cost=0.28..88.29 rows=1 width=16)";
        assert_eq!(find("SELECT", &whole).as_deref(), Some(line));
        assert_eq!(find("SELECT … LIMIT 1", &whole), None);
        let scan = "Seq Scan on build b  (cost=10000000000.00..10000000001.01 rows=1 width=8)";
        assert!(find("SELECT … LIMIT 1", scan).is_some());
        let bitmap = "\
Bitmap Heap Scan on build b  (cost=4.16..9.50 rows=2 width=8)
  Recheck Cond: (state = 1)
  ->  Bitmap Index Scan on build_state  (cost=0.00..4.16 rows=2 width=0)
        Index Cond: (state = 1)";
        assert_eq!(find("SELECT", bitmap), None);
        let below = "\
Merge Anti Join  (cost=0.28..16.33 rows=1 width=8)
  ->  Index Only Scan using build_queue_build_id_key on build_queue q  (cost=0.1..88.2 rows=1)
  ->  Index Scan using build_state on build b  (cost=0.1..8.2)
        Index Cond: (state = 0)";
        assert!(find("SELECT", below).is_some());
    }
}
