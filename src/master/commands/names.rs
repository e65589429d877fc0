//! Pure: matches names from the command line with series, architectures and archives.
//!
//! An unknown name is an error that lists the known names and suggests the closest. An ambiguous
//! name is an error that lists the full names. New names are checked here too.

use crate::master::model::Archive;
use crate::master::rows::series::{ArchSeries, Series};

/// Maximum number of known names in an error message.
const MAX_NAMES: usize = 12;

/// Finds a series by `NAME` or `DISTRIBUTION/NAME`.
pub(super) fn series<'a>(all: &'a [Series], word: &str) -> Result<&'a Series, String> {
    let named: Vec<&Series> = all
        .iter()
        .filter(|series| series.name == word || series.full_name() == word)
        .collect();
    match named[..] {
        [series] => Ok(series),
        [] => {
            let names = all.iter().map(|series| match word.contains('/') {
                true => series.full_name(),
                false => series.name.clone(),
            });
            let hint = "`master series add DISTRIBUTION SERIES` adds one";
            Err(unknown("series", word, names.collect(), hint))
        }
        _ => {
            let names: Vec<String> = named.iter().map(|series| series.full_name()).collect();
            let names = names.join(" or ");
            Err(format!("series {word} is ambiguous: write {names}"))
        }
    }
}

pub(super) fn architecture<'a>(
    all: &'a [ArchSeries],
    series: &Series,
    word: &str,
) -> Result<&'a ArchSeries, String> {
    let of_series = || all.iter().filter(|arch| arch.series_id == series.id);
    of_series().find(|arch| arch.tag == word).ok_or_else(|| {
        let kind = format!("architecture of {}", series.name);
        let hint = format!("`master arch add {} ARCH` adds one", series.full_name());
        let tags = of_series().map(|arch| arch.tag.clone()).collect();
        unknown(&kind, word, tags, &hint)
    })
}

/// Finds an archive of a distribution by `OWNER/NAME`, or by `NAME` if that is unambiguous.
pub(super) fn archive<'a>(
    all: &'a [Archive],
    distribution: &str,
    word: &str,
) -> Result<&'a Archive, String> {
    let candidates = || all.iter().filter(|one| one.distribution == distribution);
    if let Some(found) = candidates().find(|archive| archive.short_name() == word) {
        return Ok(found);
    }
    match candidates()
        .filter(|archive| archive.name == word)
        .collect::<Vec<_>>()[..]
    {
        [archive] => Ok(archive),
        [] => {
            let names = candidates().map(Archive::short_name).collect();
            let hint = format!("`master archive add {distribution} NAME` adds one");
            let kind = format!("archive of {distribution}");
            Err(unknown(&kind, word, names, &hint))
        }
        ref several => {
            let names: Vec<String> = several.iter().map(|one| one.short_name()).collect();
            let names = names.join(" or ");
            Err(format!("archive {word} is ambiguous: write {names}"))
        }
    }
}

/// Returns the message for an unknown name: a suggestion, and the known names. `hint` is for the
/// case that none exists.
pub(super) fn unknown(kind: &str, word: &str, existing: Vec<String>, hint: &str) -> String {
    let closest = existing
        .iter()
        .map(|name| (distance(word, name), name))
        .min()
        .filter(|(distance, name)| *distance <= name.chars().count().min(word.len()) / 3 + 1);
    let suggestion = match closest {
        Some((_, name)) => format!("; did you mean {name}?"),
        None => String::new(),
    };
    let shown: Vec<&str> = existing
        .iter()
        .take(MAX_NAMES)
        .map(String::as_str)
        .collect();
    let list = match existing.len() {
        0 => format!("none exists yet; {hint}"),
        1..=MAX_NAMES => format!("known: {}", shown.join(", ")),
        more => format!("known: {} and {} more", shown.join(", "), more - MAX_NAMES),
    };
    format!("no {kind} {word:?}{suggestion} ({list})")
}

/// Edit distance: the number of letters changed, added, removed or swapped with their neighbour.
fn distance(from: &str, to: &str) -> usize {
    let (from, to): (Vec<char>, Vec<char>) = (from.chars().collect(), to.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=to.len()).collect()];
    for (i, a) in from.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, b) in to.iter().enumerate() {
            let mut best = (rows[i][j] + usize::from(a != b))
                .min(rows[i][j + 1] + 1)
                .min(row[j] + 1);
            if i > 0 && j > 0 && *a == to[j - 1] && from[i - 1] == *b {
                best = best.min(rows[i - 1][j - 1] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[from.len()][to.len()]
}

const NAME_RULE: &str =
    "use lower-case letters, digits, +, - and ., and begin with a letter or digit";

/// Checks a new name. It becomes part of suites, URLs and file names.
pub(super) fn new_name(text: &str) -> Result<String, String> {
    let is_good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "+-.".contains(c);
    let begins_well = text.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    match begins_well && text.chars().all(is_good) {
        true => Ok(text.to_owned()),
        false => Err(NAME_RULE.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::master::model::SeriesStatus;

    fn all() -> Vec<Series> {
        [
            ("ubuntu", "hoary"),
            ("ubuntu", "warty"),
            ("kubuntu", "warty"),
        ]
        .iter()
        .zip(1..)
        .map(|((distribution, name), id)| Series {
            id,
            distribution_id: 1,
            distribution: (*distribution).to_owned(),
            name: (*name).to_owned(),
            version: String::new(),
            status: SeriesStatus::Development,
            nominated: None,
        })
        .collect()
    }

    #[test]
    fn unknown_and_ambiguous_series_are_explained() {
        let all = all();
        for (word, expect) in [
            ("hoary", Ok(1)),
            ("ubuntu/hoary", Ok(1)),
            ("kubuntu/warty", Ok(3)),
            (
                "warty",
                Err("series warty is ambiguous: write ubuntu/warty or kubuntu/warty"),
            ),
            (
                "haory",
                Err("no series \"haory\"; did you mean hoary? (known: hoary, warty, warty)"),
            ),
            (
                "ubuntu/haory",
                Err(
                    "no series \"ubuntu/haory\"; did you mean ubuntu/hoary? (known: ubuntu/hoary, \
                     ubuntu/warty, kubuntu/warty)",
                ),
            ),
            ("sid", Err("no series \"sid\" (known: hoary, warty, warty)")),
        ] {
            let found = series(&all, word).map(|series| series.id);
            assert_eq!(found, expect.map_err(str::to_owned), "{word}");
        }
        let none = series(&[], "sid").unwrap_err();
        let expect = "no series \"sid\" (none exists yet; `master series add DISTRIBUTION \
                      SERIES` adds one)";
        assert_eq!(none, expect);
    }

    #[test]
    fn distance_counts_edits() {
        for (a, b, expect) in [
            ("", "ab", 2),
            ("hoary", "haory", 1),
            ("sid", "side", 1),
            ("a", "a", 0),
        ] {
            assert_eq!(distance(a, b), expect, "{a} {b}");
        }
    }

    #[test]
    fn new_names_are_valid_in_suites_and_paths() {
        for good in ["hoary", "breezy-autotest", "7.0", "g++"] {
            assert_eq!(new_name(good), Ok(good.to_owned()));
        }
        for bad in ["", "Hoary", "-x", "a/b", "a b", ".."] {
            assert!(new_name(bad).is_err(), "{bad}");
        }
    }
}
