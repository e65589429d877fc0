//! Pure: renders and parses the answers to all calls but `status` (docs/wire.md §1.4).
//!
//! The texts equal those of launchpad-buildd, including the boxed ones that masters copy to their
//! logs. The slave renders them, the master and the clients parse them.

use super::{BuildId, BuilderStatus, Error, StatusForm};
use crate::xmlrpc::Value;

/// The protocol version that masters compare; a string.
const PROTOCOL: &str = "1.0";
/// The two names of the only build type: that of 2008 and the current one.
pub(crate) const BUILD_TYPES: [&str; 2] = ["debian", "binarypackage"];

/// Which file of a `build` call is not in the cache.
#[derive(Clone, Copy, Debug)]
pub(crate) enum SumKind {
    Chroot,
    File,
}

/// The start of a word among the build types that names an emulated architecture. Launchpad's
/// masters ignore the build types.
const EMULATE: &str = "emulate:";

/// Returns the answer to `info`: protocol version, architecture tag, build types. The emulated
/// architectures follow the build types.
pub(crate) fn render_info(arch: &str, form: StatusForm, emulated: &[String]) -> Value {
    let build_type = match form {
        StatusForm::Tuple => BUILD_TYPES[0],
        StatusForm::Dict => BUILD_TYPES[1],
    };
    let mut types = vec![Value::from(build_type)];
    let emulated = emulated.iter().map(|arch| format!("{EMULATE}{arch}"));
    types.extend(emulated.map(Value::String));
    Value::Array(vec![PROTOCOL.into(), arch.into(), Value::Array(types)])
}

/// Returns the answer to `ensurepresent`.
pub(crate) fn ensure_present(present: bool, info: &str) -> Value {
    Value::Array(vec![Value::Bool(present), info.into()])
}

/// Returns the answer to `abort` and `clean`: the builder's new state.
pub(crate) fn builder_state(status: BuilderStatus) -> Value {
    status.wire().into()
}

/// Returns the answer to a `build` that has started.
pub(crate) fn building(id: &BuildId) -> Value {
    Value::Array(vec![
        BuilderStatus::Building.wire().into(),
        id.as_str().into(),
    ])
}

/// Returns the answer to a `build` of an unknown type.
pub(crate) fn unknown_builder(build_type: &str, known: &[&str]) -> Value {
    // launchpad-buildd prints a Python list.
    let text = format!("{build_type} not in ['{}']", known.join("', '"));
    Value::Array(vec![
        "BuilderStatus.UNKNOWNBUILDER".into(),
        Value::String(text),
    ])
}

/// Returns the answer to a `build` that needs a file missing from the cache. `info` is the text
/// that `ensurepresent` would return.
pub(crate) fn unknown_sum(kind: SumKind, sha1: &str, info: &str) -> Value {
    let (name, indent) = match kind {
        SumKind::Chroot => ("CHROOTSUM", 12),
        SumKind::File => ("FILESUM", 16),
    };
    let mut text = format!("{name} -> {sha1}");
    for line in ["***** INFO *****", info, "****************"] {
        text.push_str(&format!("\n{:indent$}{line}", ""));
    }
    Value::Array(vec!["BuilderStatus.UNKNOWNSUM".into(), Value::String(text)])
}

/// A slave's answer to `info`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Info {
    /// Version of the protocol, `1.0`.
    pub(crate) version: String,
    pub(crate) arch_tag: String,
    /// The architectures that it builds for by emulation.
    pub(crate) emulated: Vec<String>,
}

impl Info {
    /// Returns whether this program supports the slave's protocol.
    pub(crate) fn is_understood(&self) -> bool {
        self.version == PROTOCOL
    }

    /// Parses an answer to `info`.
    pub(crate) fn parse(answer: &Value) -> Result<Self, Error> {
        match answer {
            Value::Array(items) => match &items[..] {
                [Value::String(version), Value::String(arch_tag), rest @ ..] => Ok(Self {
                    version: version.clone(),
                    arch_tag: arch_tag.clone(),
                    emulated: rest.first().map(emulated).unwrap_or_default(),
                }),
                _ => Err(Error::value(
                    "info",
                    "expected a version, an architecture and the build types",
                )),
            },
            other => Err(Error::kind("info", "array", other)),
        }
    }
}

/// Returns the emulated architectures among the build types.
fn emulated(types: &Value) -> Vec<String> {
    let Value::Array(types) = types else {
        return Vec::new();
    };
    let named = types.iter().filter_map(|word| match word {
        Value::String(word) => word.strip_prefix(EMULATE),
        _ => None,
    });
    named.map(str::to_owned).collect()
}

/// Parses an answer to `ensurepresent`: whether the file is present, and a text.
pub(crate) fn parse_present(answer: &Value) -> Result<(bool, String), Error> {
    match answer {
        Value::Array(items) => match &items[..] {
            [Value::Bool(present), Value::String(info), ..] => Ok((*present, info.clone())),
            _ => Err(Error::value(
                "ensurepresent",
                "expected a boolean and a text",
            )),
        },
        other => Err(Error::kind("ensurepresent", "array", other)),
    }
}

/// Parses an answer to `build`: `None` if the build has started, else the reason on one line.
pub(crate) fn parse_building(answer: &Value) -> Result<Option<String>, Error> {
    let Value::Array(items) = answer else {
        return Err(Error::kind("build", "array", answer));
    };
    match &items[..] {
        [Value::String(word), ..] if word == BuilderStatus::Building.wire() => Ok(None),
        [Value::String(word), Value::String(reason), ..] => {
            let lines = reason
                .lines()
                .map(str::trim)
                .filter(|line| !line.is_empty());
            let reason = lines.collect::<Vec<_>>().join(" ");
            let word = word.trim_start_matches("BuilderStatus.");
            Ok(Some(format!("{word}: {reason}")))
        }
        _ => Err(Error::value("build", "expected a status and a text")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn answers_equal_those_of_launchpad_buildd() {
        let id = BuildId::parse("8-1").unwrap();
        for (answer, expected) in [
            (
                render_info("i386", StatusForm::Tuple, &[]),
                json!(["1.0", "i386", ["debian"]]),
            ),
            (
                render_info("amd64", StatusForm::Dict, &[]),
                json!(["1.0", "amd64", ["binarypackage"]]),
            ),
            (ensure_present(true, "Cache"), json!([true, "Cache"])),
            (
                builder_state(BuilderStatus::Aborting),
                json!("BuilderStatus.ABORTING"),
            ),
            (building(&id), json!(["BuilderStatus.BUILDING", "8-1"])),
            (
                unknown_builder("nosuch", &BUILD_TYPES),
                json!([
                    "BuilderStatus.UNKNOWNBUILDER",
                    "nosuch not in ['debian', 'binarypackage']"
                ]),
            ),
        ] {
            assert_eq!(answer.to_json(), expected);
        }
    }

    #[test]
    fn a_master_parses_the_answers_of_a_slave() {
        let emulated = ["arm64".to_owned(), "riscv64".to_owned()];
        let answer = render_info("i386", StatusForm::Dict, &emulated);
        let types = json!(["binarypackage", "emulate:arm64", "emulate:riscv64"]);
        assert_eq!(answer.to_json()[2], types);
        let info = Info::parse(&answer).unwrap();
        assert_eq!(
            (info.is_understood(), info.arch_tag.as_str()),
            (true, "i386")
        );
        assert_eq!(info.emulated, emulated);
        let plain = Value::Array(vec!["1.0".into(), "i386".into()]);
        assert!(Info::parse(&plain).unwrap().emulated.is_empty());
        assert!(Info::parse(&Value::Array(vec![])).is_err());

        let absent = ensure_present(false, "no");
        assert_eq!(parse_present(&absent), Ok((false, "no".to_owned())));
        assert!(parse_present(&Value::Bool(true)).is_err());

        let id = BuildId::parse("8-1").unwrap();
        assert_eq!(parse_building(&building(&id)), Ok(None));
        let refused = unknown_sum(SumKind::File, "abc", "No URL");
        assert_eq!(
            parse_building(&refused).unwrap().unwrap(),
            "UNKNOWNSUM: FILESUM -> abc ***** INFO ***** No URL ****************"
        );
        assert!(parse_building(&Value::from("x")).is_err());
    }

    #[test]
    fn an_unknown_sum_answers_with_a_boxed_text() {
        let answer = unknown_sum(SumKind::Chroot, "abc", "No URL");
        let text = "CHROOTSUM -> abc\n            ***** INFO *****\n            No URL\n\
                    \x20           ****************";
        assert_eq!(answer.to_json(), json!(["BuilderStatus.UNKNOWNSUM", text]));

        let answer = unknown_sum(SumKind::File, "abc", "No URL");
        let text = text.replace("CHROOTSUM", "FILESUM").replace("\n", "\n    ");
        assert_eq!(answer.to_json(), json!(["BuilderStatus.UNKNOWNSUM", text]));
    }
}
