//! Pure: how do rows look to a person, and to a program?
//!
//! What is to be told is put together once, each cell with its text and its JSON. As text a table
//! fits the width it is given, long cells going on below; without a width nothing is folded. As
//! JSON it is an array of objects, a sheet is one object.

use std::fmt::Display;

use comfy_table::{ColumnConstraint, ContentArrangement};
use serde_json::{Map, Value, json};

use super::units;

/// A column: its key in JSON, and its title as text.
#[derive(Clone, Copy)]
pub(super) struct Column {
    key: &'static str,
    /// None: for programs only.
    title: Option<&'static str>,
    /// May be folded to fit.
    folds: bool,
}

/// A column that is never folded.
pub(super) const fn column(key: &'static str, title: &'static str) -> Column {
    Column {
        key,
        title: Some(title),
        folds: false,
    }
}

/// A column that is folded where the width asks for it.
pub(super) const fn folding(key: &'static str, title: &'static str) -> Column {
    Column {
        key,
        title: Some(title),
        folds: true,
    }
}

/// A column for programs only.
pub(super) const fn hidden(key: &'static str) -> Column {
    Column {
        key,
        title: None,
        folds: false,
    }
}

/// What is told at one place.
#[derive(Clone, Debug)]
pub(super) struct Cell {
    text: String,
    json: Value,
}

/// What stands where there is nothing.
const EMPTY: &str = "-";

impl Cell {
    /// A cell whose text and JSON differ.
    pub(super) fn new(text: impl Display, json: impl Into<Value>) -> Self {
        Self {
            text: printable(&text.to_string()),
            json: json.into(),
        }
    }

    pub(super) fn text(text: impl Display) -> Self {
        let text = text.to_string();
        match text.as_str() {
            "" => Self::new(EMPTY, ""),
            _ => Self::new(&text, text.clone()),
        }
    }

    /// Text, or nothing.
    pub(super) fn maybe(text: Option<impl Display>) -> Self {
        text.map_or_else(Self::none, Self::text)
    }

    pub(super) fn none() -> Self {
        Self::new(EMPTY, Value::Null)
    }

    pub(super) fn number(number: i64) -> Self {
        Self::new(number, number)
    }

    pub(super) fn flag(flag: bool) -> Self {
        Self::new(if flag { "yes" } else { EMPTY }, flag)
    }

    /// Words, one after the other.
    pub(super) fn list<T: Display>(items: impl IntoIterator<Item = T>) -> Self {
        let items: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
        let text = match items.is_empty() {
            true => EMPTY.to_owned(),
            false => items.join(", "),
        };
        Self::new(text, items)
    }

    /// A time: how long ago for people, when for programs.
    pub(super) fn ago(at: Option<i64>, now: i64) -> Self {
        at.map_or_else(Self::none, |at| {
            Self::new(units::span(now - at), units::time(at))
        })
    }

    /// A span: in words for people, in seconds for programs.
    pub(super) fn span(ms: Option<i64>) -> Self {
        ms.map_or_else(Self::none, |ms| Self::new(units::span(ms), ms / 1000))
    }

    /// A size in bytes.
    pub(super) fn size(bytes: Option<i64>) -> Self {
        bytes.map_or_else(Self::none, |bytes| Self::new(units::size(bytes), bytes))
    }
}

/// Takes from a text what would move the cursor or worse; it may come from a slave.
pub(super) fn printable(text: &str) -> String {
    let plain = |c: char| {
        if c.is_control() && c != '\n' {
            '\u{fffd}'
        } else {
            c
        }
    };
    text.chars().map(plain).collect()
}

/// Rows with the same columns.
pub(super) struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    pub(super) fn new(columns: &[Column]) -> Self {
        Self {
            columns: columns.to_vec(),
            rows: Vec::new(),
        }
    }

    /// Adds a row: a cell for each column.
    pub(super) fn row(&mut self, cells: Vec<Cell>) {
        assert_eq!(cells.len(), self.columns.len(), "a cell for each column");
        self.rows.push(cells);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Returns the rows as an array of objects.
    pub(super) fn json(&self) -> Value {
        let object = |row: &Vec<Cell>| {
            let members = self.columns.iter().zip(row);
            let members = members.map(|(column, cell)| (column.key.to_owned(), cell.json.clone()));
            Value::Object(members.collect())
        };
        self.rows.iter().map(object).collect()
    }

    /// Returns the lines of the table, each with its end, no wider than `width` if its unfolded
    /// columns can be; a table without rows has none.
    pub(super) fn text(&self, width: Option<u16>) -> String {
        if self.is_empty() {
            return String::new();
        }
        let shown: Vec<usize> = (0..self.columns.len())
            .filter(|&index| self.columns[index].title.is_some())
            .collect();
        let mut table = comfy_table::Table::new();
        table.load_style(comfy_table::presets::NOTHING);
        table.force_no_tty();
        table.set_header(shown.iter().filter_map(|&index| self.columns[index].title));
        for row in &self.rows {
            // Without a width, a row is a line.
            let text = |&index: &usize| match width {
                Some(_) => row[index].text.clone(),
                None => row[index].text.replace('\n', " "),
            };
            table.add_row(shown.iter().map(text));
        }
        match width {
            Some(width) => table
                .set_content_arrangement(ContentArrangement::Dynamic)
                .set_width(width),
            None => table.set_content_arrangement(ContentArrangement::Disabled),
        };
        for (place, &index) in shown.iter().enumerate() {
            let Some(column) = table.column_mut(place) else {
                continue;
            };
            let right = if place + 1 == shown.len() { 0 } else { 2 };
            column.set_padding((0, right));
            if !self.columns[index].folds {
                column.set_constraint(ColumnConstraint::ContentWidth);
            }
        }
        table.lines().fold(String::new(), |mut text, line| {
            text.push_str(line.trim_end());
            text.push('\n');
            text
        })
    }
}

/// What there is to say of one thing.
#[derive(Default)]
pub(super) struct Sheet(Vec<Entry>);

enum Entry {
    /// Key, label (none: for programs only), and what there is to say.
    Line(&'static str, Option<&'static str>, Cell),
    /// Key, heading, rows.
    Table(&'static str, &'static str, Table),
    /// Key, heading, text of several lines.
    Text(&'static str, &'static str, String),
}

impl Sheet {
    /// Adds a line.
    pub(super) fn line(&mut self, key: &'static str, label: &'static str, cell: Cell) {
        self.0.push(Entry::Line(key, Some(label), cell));
    }

    /// Adds a line that people do not see where it says nothing.
    pub(super) fn line_if_any(&mut self, key: &'static str, label: &'static str, cell: Cell) {
        let label = (cell.text != EMPTY).then_some(label);
        self.0.push(Entry::Line(key, label, cell));
    }

    /// Adds what programs see only.
    pub(super) fn hidden(&mut self, key: &'static str, cell: Cell) {
        self.0.push(Entry::Line(key, None, cell));
    }

    /// Adds rows below a heading, which people do not see when there are none.
    pub(super) fn table(&mut self, key: &'static str, heading: &'static str, table: Table) {
        self.0.push(Entry::Table(key, heading, table));
    }

    /// Adds a text below a heading.
    pub(super) fn lines(&mut self, key: &'static str, heading: &'static str, text: &str) {
        self.0.push(Entry::Text(key, heading, printable(text)));
    }

    pub(super) fn json(&self) -> Value {
        let mut object = Map::new();
        for entry in &self.0 {
            let (key, value) = match entry {
                Entry::Line(key, _, cell) => (key, cell.json.clone()),
                Entry::Table(key, _, table) => (key, table.json()),
                Entry::Text(key, _, text) => (key, json!(text)),
            };
            object.insert((*key).to_owned(), value);
        }
        Value::Object(object)
    }

    pub(super) fn text(&self, width: Option<u16>) -> String {
        let labels = self.0.iter().filter_map(|entry| match entry {
            Entry::Line(_, Some(label), _) => Some(label.len()),
            _ => None,
        });
        let widest = labels.max().unwrap_or(0);
        let mut text = String::new();
        for entry in &self.0 {
            match entry {
                Entry::Line(_, None, _) => {}
                Entry::Line(_, Some(label), cell) => {
                    let label = format!("{label}:");
                    let value = cell.text.trim_end().replace('\n', "\n  ");
                    text.push_str(&format!("{label:<0$} {value}\n", widest + 1));
                }
                Entry::Table(_, _, table) if table.is_empty() => {}
                Entry::Table(_, heading, table) => {
                    text.push_str(&format!("\n{heading}:\n{}", table.text(width)));
                }
                Entry::Text(_, heading, lines) => {
                    text.push_str(&format!("\n{heading}:\n{}\n", lines.trim_end()));
                }
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(&[
            column("id", "ID"),
            folding("title", "TITLE"),
            hidden("created_at"),
            column("ok", "OK"),
        ]);
        for (id, title) in [(8, "i386 build of mozilla-firefox"), (11, "short")] {
            table.row(vec![
                Cell::number(id),
                Cell::text(title),
                Cell::text("x"),
                Cell::flag(id == 8),
            ]);
        }
        table
    }

    #[test]
    fn text_is_folded_to_a_width_and_else_not_at_all() {
        let expect = "\
ID  TITLE                          OK
8   i386 build of mozilla-firefox  yes
11  short                          -
";
        assert_eq!(table().text(None), expect);
        let folded = table().text(Some(28));
        assert!(folded.lines().all(|line| line.len() <= 28), "{folded}");
        assert_eq!(folded.lines().count(), 4, "{folded}");
        for whole in ["ID  TITLE", "11  short", "yes"] {
            assert!(folded.contains(whole), "{folded}");
        }
    }

    #[test]
    fn json_has_every_key() {
        let json = table().json();
        let expect = json!({"id": 8, "title": "i386 build of mozilla-firefox",
            "created_at": "x", "ok": true});
        assert_eq!(json[0], expect);
        assert_eq!(Table::new(&[column("id", "ID")]).json(), json!([]));
    }

    #[test]
    fn cells_for_people_and_for_programs() {
        for (cell, text, json) in [
            (Cell::text(""), "-", json!("")),
            (Cell::maybe(None::<&str>), "-", json!(null)),
            (Cell::list(["a", "b"]), "a, b", json!(["a", "b"])),
            (
                Cell::ago(Some(0), 300_000),
                "5 min",
                json!("1970-01-01T00:00:00Z"),
            ),
            (Cell::span(Some(90_000)), "1 min", json!(90)),
            (Cell::size(Some(2048)), "2 KiB", json!(2048)),
        ] {
            assert_eq!((cell.text.as_str(), cell.json), (text, json));
        }
        let cell = Cell::text("\u{1b}[2Jx");
        assert_eq!(cell.text, "\u{fffd}[2Jx");
    }

    #[test]
    fn a_sheet_lines_up_its_labels() {
        let mut sheet = Sheet::default();
        sheet.line("name", "Name", Cell::text("bob"));
        sheet.line_if_any("notes", "Notes", Cell::none());
        sheet.line("processors", "Processors", Cell::list(["386"]));
        sheet.table("events", "Events", Table::new(&[column("at", "AT")]));
        sheet.lines("logtail", "Log", "one\ntwo\n");
        let text = "Name:       bob\nProcessors: 386\n\nLog:\none\ntwo\n";
        assert_eq!(sheet.text(None), text);
        let json = json!({"name": "bob", "notes": null, "processors": ["386"], "events": [],
            "logtail": "one\ntwo\n"});
        assert_eq!(sheet.json(), json);
    }
}
