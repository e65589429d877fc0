//! Pure: parses arguments that are one of several words; help and completions list the words.

use std::ffi::OsStr;
use std::fmt::Display;
use std::str::FromStr;

use clap::builder::{PossibleValue, PossibleValuesParser, StringValueParser, TypedValueParser};
use clap::{Arg, Command, Error};

/// Parses a value of `all` in the way of its type, such as in any case.
pub(super) fn one_of<T>(all: &'static [T]) -> OneOf<T> {
    OneOf(all)
}

/// Parses `yes` or `no`.
pub(super) fn yes_or_no() -> impl TypedValueParser<Value = bool> {
    PossibleValuesParser::new(["yes", "no"]).map(|word| word == "yes")
}

#[derive(Debug, Clone, Copy)]
pub(super) struct OneOf<T: 'static>(&'static [T]);

impl<T> TypedValueParser for OneOf<T>
where
    T: Copy + Display + FromStr<Err = String> + Send + Sync + 'static,
{
    type Value = T;

    fn parse_ref(&self, command: &Command, arg: Option<&Arg>, text: &OsStr) -> Result<T, Error> {
        let parser = StringValueParser::new().try_map(|text| text.parse::<T>());
        parser.parse_ref(command, arg, text)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        let words = self.0.iter().map(ToString::to_string);
        Some(Box::new(words.map(PossibleValue::new)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::master::model::Pocket;

    #[test]
    fn words_are_parsed_in_any_case_and_listed() {
        let pocket = Arg::new("pocket")
            .long("pocket")
            .value_parser(one_of(Pocket::ALL));
        let words = pocket.get_possible_values();
        let words: Vec<&str> = words.iter().map(PossibleValue::get_name).collect();
        assert_eq!(words[..2], ["RELEASE", "SECURITY"]);
        let command = Command::new("x").arg(pocket);
        let parse = |word: &str| {
            let found = command
                .clone()
                .try_get_matches_from(["x", "--pocket", word]);
            found.map(|found| found.get_one::<Pocket>("pocket").copied())
        };
        assert_eq!(parse("security").unwrap(), Some(Pocket::Security));
        let error = parse("x").unwrap_err().to_string();
        assert!(
            error.contains("\"x\" is none of RELEASE, SECURITY"),
            "{error}"
        );
    }
}
