//! The table that `make bench` prints.

use comfy_table::{CellAlignment, Table, presets};

use super::measure::{Sample, Usage, median};

/// One line of the table.
pub(crate) struct Line {
    pub(crate) what: String,
    pub(crate) unit: Unit,
    pub(crate) ours: Vec<Sample>,
    /// As many as ours, or none if there is no reference.
    pub(crate) theirs: Vec<Sample>,
    /// The name of the reference.
    pub(crate) reference: &'static str,
    pub(crate) target: Target,
    /// Whether the worst run counts instead of the median.
    pub(crate) worst: bool,
}

/// The unit of a figure.
#[derive(Clone, Copy)]
pub(crate) enum Unit {
    PerSecond,
    MegabytesPerSecond,
    Seconds,
    Milliseconds,
    Microseconds,
    /// The figure is in bytes.
    Megabytes,
    /// The figure is a part of one.
    Percent,
    Count,
}

/// The target of a row.
#[derive(Clone, Copy)]
pub(crate) enum Target {
    /// A row without a target.
    None,
    RatioAtLeast(f64),
    RatioAtMost(f64),
    AtLeast(f64),
    AtMost(f64),
}

impl Unit {
    fn show(self, figure: f64) -> String {
        match self {
            Self::PerSecond => format!("{figure:.0} /s"),
            Self::MegabytesPerSecond => format!("{figure:.0} MB/s"),
            Self::Seconds => format!("{figure:.2} s"),
            Self::Milliseconds => format!("{figure:.1} ms"),
            Self::Microseconds => format!("{figure:.0} µs"),
            Self::Megabytes => format!("{:.1} MB", figure / 1e6),
            Self::Percent => format!("{:.1} %", figure * 100.0),
            Self::Count => format!("{figure:.0}"),
        }
    }
}

impl Line {
    fn figure(&self, samples: &[Sample]) -> f64 {
        let figures: Vec<f64> = samples.iter().map(|sample| sample.figure).collect();
        if self.worst {
            figures.into_iter().fold(0.0, f64::max)
        } else {
            median(figures)
        }
    }

    fn ratio(&self) -> Option<f64> {
        if self.theirs.is_empty() {
            return None;
        }
        if self.worst {
            return Some(self.figure(&self.ours) / self.figure(&self.theirs));
        }
        let pairs = self.ours.iter().zip(&self.theirs);
        Some(median(
            pairs
                .map(|(ours, theirs)| ours.figure / theirs.figure)
                .collect(),
        ))
    }

    fn target(&self) -> String {
        match self.target {
            Target::None => "-".into(),
            Target::RatioAtLeast(least) => format!(">= {least} x"),
            Target::RatioAtMost(most) => format!("<= {most} x"),
            Target::AtLeast(least) => format!(">= {}", self.unit.show(least)),
            Target::AtMost(most) => format!("<= {}", self.unit.show(most)),
        }
    }

    fn met(&self) -> &'static str {
        let ratio = self.ratio().unwrap_or(f64::NAN);
        let figure = self.figure(&self.ours);
        let met = match self.target {
            Target::None => return "-",
            Target::RatioAtLeast(least) => ratio >= least,
            Target::RatioAtMost(most) => ratio <= most,
            Target::AtLeast(least) => figure >= least,
            Target::AtMost(most) => figure <= most,
        };
        if met { "yes" } else { "NO" }
    }
}

/// Draws the table.
pub(crate) fn render(lines: &[Line]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED);
    table.set_header([
        "what",
        "ours",
        "reference",
        "theirs",
        "ratio",
        "target",
        "met",
        "our CPU",
        "memory",
        "their CPU",
        "memory",
    ]);
    for line in lines {
        let (our_cpu, our_peak) = cost(&line.ours);
        let (their_cpu, their_peak) = cost(&line.theirs);
        let theirs = match line.theirs.is_empty() {
            true => "n/a".into(),
            false => line.unit.show(line.figure(&line.theirs)),
        };
        table.add_row([
            line.what.clone(),
            line.unit.show(line.figure(&line.ours)),
            line.reference.to_owned(),
            theirs,
            line.ratio()
                .map_or_else(|| "n/a".into(), |ratio| format!("{ratio:.2}")),
            line.target(),
            line.met().to_owned(),
            our_cpu,
            our_peak,
            their_cpu,
            their_peak,
        ]);
    }
    for column in [1, 3, 4, 7, 8, 9, 10] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// The processor time of a run, and the peak memory of all.
fn cost(samples: &[Sample]) -> (String, String) {
    let usages: Vec<Usage> = samples.iter().map(|sample| sample.usage).collect();
    let peak = usages
        .iter()
        .map(|usage| usage.peak_bytes)
        .max()
        .unwrap_or(0);
    if peak == 0 {
        return ("n/a".into(), "n/a".into());
    }
    let cpu = median(usages.iter().map(|usage| usage.cpu_secs).collect());
    (
        format!("{cpu:.2} s"),
        format!("{:.1} MB", peak as f64 / 1e6),
    )
}
