//! Reads the tables of areas and layers in `src/ARCHITECTURE.md`.

use std::fs;

use crate::sources::root;

/// The rows of the table of areas: the name of each, and what it may import.
pub(crate) fn areas() -> Vec<(String, Vec<String>)> {
    let rows = table("| area |");
    let read = |row: Vec<String>| (quoted(&row[0])[0].clone(), quoted(&row[2]));
    let rows: Vec<_> = rows.into_iter().map(read).collect();
    assert!(rows.len() > 15, "the table of areas is gone");
    rows
}

/// The rows of the table of the master's layers: number and place.
pub(crate) fn layers() -> Vec<(u32, String)> {
    let read = |row: Vec<String>| (row[0].parse().unwrap(), quoted(&row[1])[0].clone());
    let rows: Vec<_> = table("| layer |").into_iter().map(read).collect();
    assert!(rows.len() > 5, "the table of layers is gone");
    rows
}

/// The cells of the table in `src/ARCHITECTURE.md` that begins with `head`.
fn table(head: &str) -> Vec<Vec<String>> {
    let text = fs::read_to_string(root().join("src/ARCHITECTURE.md")).unwrap();
    let start = text.find(head).expect("the map has the table");
    text[start..]
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .map(|line| {
            let cells = line.trim_matches('|').split('|');
            cells.map(|cell| cell.trim().to_owned()).collect()
        })
        .collect()
}

/// The words in backticks.
pub(crate) fn quoted(cell: &str) -> Vec<String> {
    let odd = cell.split('`').skip(1).step_by(2);
    odd.map(str::to_owned).collect()
}
