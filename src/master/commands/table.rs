//! Pure: formats tables and sheets, as text or as JSON.
//!
//! A cell has both its text and its JSON value. In text, long cells wrap to fit the given width;
//! without a width, nothing wraps. In JSON, a table is an array of objects, a sheet one object.

use std::fmt::Display;

use comfy_table::{ColumnConstraint, ContentArrangement};
use serde_json::{Map, Value, json};

use super::units;

/// A column of a table.
#[derive(Clone, Copy)]
pub(super) struct Column {
    /// Key in JSON.
    key: &'static str,
    /// Title in text; `None` if the column is only in JSON.
    title: Option<&'static str>,
    /// Long cells may wrap.
    wraps: bool,
}

/// A column that never wraps.
pub(super) const fn column(key: &'static str, title: &'static str) -> Column {
    Column {
        key,
        title: Some(title),
        wraps: false,
    }
}

/// A column that wraps if the terminal is too narrow.
pub(super) const fn wrapping(key: &'static str, title: &'static str) -> Column {
    Column {
        key,
        title: Some(title),
        wraps: true,
    }
}

/// A column that is only in JSON.
pub(super) const fn hidden(key: &'static str) -> Column {
    Column {
        key,
        title: None,
        wraps: false,
    }
}

/// A value, as text and as JSON.
#[derive(Clone, Debug)]
pub(super) struct Cell {
    text: String,
    json: Value,
}

/// Text of an empty cell.
const EMPTY: &str = "-";

impl Cell {
    /// A cell whose text and JSON differ. Control characters in the text are replaced.
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

    /// A list: comma-separated in text, an array in JSON.
    pub(super) fn list<T: Display>(items: impl IntoIterator<Item = T>) -> Self {
        let items: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
        let text = match items.is_empty() {
            true => EMPTY.to_owned(),
            false => items.join(", "),
        };
        Self::new(text, items)
    }

    /// A time in milliseconds: its age in text, RFC 3339 in JSON.
    pub(super) fn ago(at: Option<i64>, now: i64) -> Self {
        at.map_or_else(Self::none, |at| {
            Self::new(units::span(now - at), units::time(at))
        })
    }

    /// A duration in milliseconds: with units in text, whole seconds in JSON.
    pub(super) fn span(ms: Option<i64>) -> Self {
        ms.map_or_else(Self::none, |ms| Self::new(units::span(ms), ms / 1000))
    }

    /// A size in bytes: with units in text, a number in JSON.
    pub(super) fn size(bytes: Option<i64>) -> Self {
        bytes.map_or_else(Self::none, |bytes| Self::new(units::size(bytes), bytes))
    }
}

/// Replaces control characters except newlines. A text from a slave could otherwise send escape
/// sequences to the terminal.
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

    /// Adds a row; panics unless it has one cell for each column.
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

    /// Returns the table as lines with their newlines, wrapped to `width` as far as its columns
    /// allow. An empty table is an empty string.
    pub(super) fn text(&self, width: Option<u16>) -> String {
        if self.is_empty() {
            return String::new();
        }
        let shown: Vec<usize> = (0..self.columns.len())
            .filter(|&index| self.columns[index].title.is_some())
            .collect();
        let mut table = comfy_table::Table::new();
        table.load_preset(comfy_table::presets::NOTHING);
        table.force_no_tty();
        table.set_header(shown.iter().filter_map(|&index| self.columns[index].title));
        for row in &self.rows {
            // Without a width, each row is one line.
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
        for (position, &index) in shown.iter().enumerate() {
            let Some(column) = table.column_mut(position) else {
                continue;
            };
            let right = if position + 1 == shown.len() { 0 } else { 2 };
            column.set_padding((0, right));
            if !self.columns[index].wraps {
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

/// The properties of one object, as labelled lines, tables and texts.
#[derive(Default)]
pub(super) struct Sheet(Vec<Entry>);

enum Entry {
    /// Key, label (`None` if the line is only in JSON), value.
    Line(&'static str, Option<&'static str>, Cell),
    /// Key, heading, rows.
    Table(&'static str, &'static str, Table),
    /// Key, heading, text with several lines.
    Text(&'static str, &'static str, String),
}

impl Sheet {
    /// Adds a line.
    pub(super) fn line(&mut self, key: &'static str, label: &'static str, cell: Cell) {
        self.0.push(Entry::Line(key, Some(label), cell));
    }

    /// Adds a line that text output omits if the cell is empty.
    pub(super) fn line_if_any(&mut self, key: &'static str, label: &'static str, cell: Cell) {
        let label = (cell.text != EMPTY).then_some(label);
        self.0.push(Entry::Line(key, label, cell));
    }

    /// Adds a value that is only in JSON.
    pub(super) fn hidden(&mut self, key: &'static str, cell: Cell) {
        self.0.push(Entry::Line(key, None, cell));
    }

    /// Adds a table below a heading; text output omits both if the table is empty.
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
            wrapping("title", "TITLE"),
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
    fn text_wraps_only_to_a_given_width() {
        let expect = "\
ID  TITLE                          OK
8   i386 build of mozilla-firefox  yes
11  short                          -
";
        assert_eq!(table().text(None), expect);
        let wrapped = table().text(Some(28));
        assert!(wrapped.lines().all(|line| line.len() <= 28), "{wrapped}");
        assert_eq!(wrapped.lines().count(), 4, "{wrapped}");
        for whole in ["ID  TITLE", "11  short", "yes"] {
            assert!(wrapped.contains(whole), "{wrapped}");
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
    fn cells_have_text_and_json() {
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
    fn a_sheet_aligns_its_values() {
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
