//! Pure: renders and parses a builder's status in both of its forms (docs/wire.md §1.5).
//!
//! The forms are the tuple of 2008 and the current dict. A record holds only what both forms can
//! express. The slave renders it, the master and the clients parse it.

use super::status::BUILDER_ABORTED;
use super::{BuildId, BuildStatus, BuilderStatus, Error, FileName, Sha1Hex, Verdicts};
use crate::xmlrpc::Value;

/// The form of a status answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StatusForm {
    /// An array, for masters from 2005 to 2014.
    Tuple,
    /// A struct, for masters since 2014.
    Dict,
}

/// A builder's status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum StatusRecord {
    Idle,
    Building {
        id: BuildId,
        /// The last bytes of the log, unfiltered.
        logtail: Vec<u8>,
    },
    Aborting {
        id: BuildId,
    },
    Waiting {
        id: BuildId,
        status: BuildStatus,
        /// The results. Rendered only if the status has results, like `dependencies`.
        files: Vec<(FileName, Sha1Hex)>,
        /// The missing dependencies of a dep-wait, as a Debian relation; else empty.
        dependencies: String,
    },
}

/// The member of the dict with the verdict itself, if `build_status` tells another one.
const EXACT_STATUS: &str = "exact_status";

/// Returns the answer to `status`. Only the dict has the version of this program, and the verdict
/// itself if `verdicts` tells another one.
pub(crate) fn render_status(
    record: &StatusRecord,
    form: StatusForm,
    verdicts: Verdicts,
    version: Option<&str>,
) -> Value {
    match form {
        StatusForm::Tuple => Value::Array(tuple(record, verdicts)),
        StatusForm::Dict => {
            let version = version.map(|version| ("builder_version", version.into()));
            let members = dict(record, verdicts).into_iter().chain(version);
            Value::Struct(
                members
                    .map(|(name, value)| (name.to_owned(), value))
                    .collect(),
            )
        }
    }
}

fn tuple(record: &StatusRecord, verdicts: Verdicts) -> Vec<Value> {
    match record {
        StatusRecord::Idle => vec![BuilderStatus::Idle.wire().into(), "".into()],
        StatusRecord::Building { id, logtail } => vec![
            BuilderStatus::Building.wire().into(),
            id.as_str().into(),
            Value::Base64(logtail.clone()),
        ],
        StatusRecord::Aborting { id } => {
            vec![BuilderStatus::Aborting.wire().into(), id.as_str().into()]
        }
        StatusRecord::Waiting {
            id,
            status: BuildStatus::Aborted,
            ..
        } => {
            vec![BUILDER_ABORTED.into(), id.as_str().into()]
        }
        StatusRecord::Waiting {
            id,
            status,
            files,
            dependencies,
        } => {
            let told = status.told(verdicts);
            let mut items = vec![
                BuilderStatus::Waiting.wire().into(),
                told.wire().into(),
                id.as_str().into(),
            ];
            if told.has_results() {
                items.extend([filemap(files), dependencies.as_str().into()]);
            }
            items
        }
    }
}

fn dict(record: &StatusRecord, verdicts: Verdicts) -> Vec<(&'static str, Value)> {
    let mut members = vec![("builder_status", record.builder_status().wire().into())];
    match record {
        StatusRecord::Idle => {}
        StatusRecord::Building { id, logtail } => members.extend([
            ("build_id", id.as_str().into()),
            ("logtail", Value::Base64(logtail.clone())),
        ]),
        StatusRecord::Aborting { id } => members.push(("build_id", id.as_str().into())),
        StatusRecord::Waiting {
            id,
            status,
            files,
            dependencies,
        } => {
            let told = status.told(verdicts);
            members.extend([
                ("build_id", id.as_str().into()),
                ("build_status", told.wire().into()),
            ]);
            if told != *status {
                members.push((EXACT_STATUS, status.wire().into()));
            }
            if told.has_results() {
                members.extend([
                    ("filemap", filemap(files)),
                    ("dependencies", dependencies.as_str().into()),
                ]);
            }
        }
    }
    members
}

fn filemap(files: &[(FileName, Sha1Hex)]) -> Value {
    let member = |(name, sha1): &(FileName, Sha1Hex)| (name.to_string(), sha1.as_str().into());
    Value::Struct(files.iter().map(member).collect())
}

impl StatusRecord {
    pub(crate) fn builder_status(&self) -> BuilderStatus {
        match self {
            StatusRecord::Idle => BuilderStatus::Idle,
            StatusRecord::Building { .. } => BuilderStatus::Building,
            StatusRecord::Aborting { .. } => BuilderStatus::Aborting,
            StatusRecord::Waiting { .. } => BuilderStatus::Waiting,
        }
    }

    /// Returns whether a build is running or being aborted.
    pub(crate) fn is_busy(&self) -> bool {
        matches!(self, Self::Building { .. } | Self::Aborting { .. })
    }

    /// Returns the current build; `None` if idle.
    pub(crate) fn build_id(&self) -> Option<&BuildId> {
        match self {
            Self::Idle => None,
            Self::Building { id, .. } | Self::Aborting { id } | Self::Waiting { id, .. } => {
                Some(id)
            }
        }
    }

    /// Parses an answer to `status` in either form. Unknown keys are ignored. The verdict itself
    /// counts if the answer has it beside the one that Launchpad is told.
    ///
    /// # Errors
    /// Names a part that is missing, of the wrong kind, or not a valid name. File names from a
    /// builder are checked like any others.
    pub(crate) fn parse(answer: &Value) -> Result<StatusRecord, Error> {
        let (record, skipped) = Self::parse_leniently(answer)?;
        match skipped.into_iter().next() {
            Some(error) => Err(error),
            None => Ok(record),
        }
    }

    /// Like [`parse`](Self::parse), but skips results with an invalid name or SHA-1 and returns
    /// their errors. The package chooses the names, so the builder is not at fault.
    ///
    /// # Errors
    /// As for [`parse`](Self::parse), except for results.
    pub(crate) fn parse_leniently(answer: &Value) -> Result<(StatusRecord, Vec<Error>), Error> {
        let mut skipped = Vec::new();
        let record = match answer {
            Value::Array(items) => Self::parse_tuple(items, &mut skipped),
            Value::Struct(members) => Self::parse_dict(members, &mut skipped),
            other => Err(Error::kind("status", "array or struct", other)),
        }?;
        Ok((record, skipped))
    }

    fn parse_tuple(items: &[Value], skipped: &mut Vec<Error>) -> Result<StatusRecord, Error> {
        let item = |index: usize| items.get(index);
        let word = text("builder status", item(0))?;
        if word == BUILDER_ABORTED {
            return Parts {
                id: item(1),
                ..Parts::default()
            }
            .waiting(BuildStatus::Aborted, skipped);
        }
        let parts = if word == BuilderStatus::Waiting.wire() {
            Parts {
                build_status: item(1),
                id: item(2),
                files: item(3),
                dependencies: item(4),
                logtail: None,
            }
        } else {
            Parts {
                id: item(1),
                logtail: item(2),
                ..Parts::default()
            }
        };
        parts.record(word, skipped)
    }

    fn parse_dict(
        members: &[(String, Value)],
        skipped: &mut Vec<Error>,
    ) -> Result<StatusRecord, Error> {
        let member = |name| {
            members
                .iter()
                .find(|(key, _)| key == name)
                .map(|(_, value)| value)
        };
        let parts = Parts {
            id: member("build_id"),
            logtail: member("logtail"),
            build_status: member(EXACT_STATUS).or_else(|| member("build_status")),
            files: member("filemap"),
            dependencies: member("dependencies"),
        };
        parts.record(text("builder status", member("builder_status"))?, skipped)
    }
}

/// The parts of a record, found in an answer of either form.
#[derive(Default)]
struct Parts<'a> {
    id: Option<&'a Value>,
    logtail: Option<&'a Value>,
    build_status: Option<&'a Value>,
    files: Option<&'a Value>,
    dependencies: Option<&'a Value>,
}

impl Parts<'_> {
    fn record(
        &self,
        builder_status: &str,
        skipped: &mut Vec<Error>,
    ) -> Result<StatusRecord, Error> {
        match BuilderStatus::parse(builder_status) {
            Some(BuilderStatus::Idle) => Ok(StatusRecord::Idle),
            Some(BuilderStatus::Building) => Ok(StatusRecord::Building {
                id: self.id()?,
                logtail: match self.logtail {
                    Some(Value::Base64(bytes)) => bytes.clone(),
                    other => return Err(wrong("log tail", "base64", other)),
                },
            }),
            Some(BuilderStatus::Aborting) => Ok(StatusRecord::Aborting { id: self.id()? }),
            Some(BuilderStatus::Waiting) => {
                let word = text("build status", self.build_status)?;
                let status = BuildStatus::parse(word);
                self.waiting(
                    status.ok_or_else(|| unknown("build status", word))?,
                    skipped,
                )
            }
            None => Err(unknown("builder status", builder_status)),
        }
    }

    fn waiting(
        &self,
        status: BuildStatus,
        skipped: &mut Vec<Error>,
    ) -> Result<StatusRecord, Error> {
        let id = self.id()?;
        let (files, dependencies) = if status.has_results() {
            (
                self.files(skipped)?,
                text("dependencies", self.dependencies)?.to_owned(),
            )
        } else {
            Default::default()
        };
        Ok(StatusRecord::Waiting {
            id,
            status,
            files,
            dependencies,
        })
    }

    fn id(&self) -> Result<BuildId, Error> {
        let id = text("build id", self.id)?;
        BuildId::parse(id).map_err(|invalid| Error::value("build id", invalid))
    }

    fn files(&self, skipped: &mut Vec<Error>) -> Result<Vec<(FileName, Sha1Hex)>, Error> {
        let Some(Value::Struct(members)) = self.files else {
            return Err(wrong("filemap", "struct", self.files));
        };
        let file = |(name, sha1): &(String, Value)| {
            let invalid = |invalid| Error::value("filemap", invalid);
            let sha1 = text("filemap", Some(sha1))?;
            Ok((
                FileName::parse(name).map_err(invalid)?,
                Sha1Hex::parse(sha1).map_err(invalid)?,
            ))
        };
        let mut files = Vec::new();
        for member in members {
            match file(member) {
                Ok(file) => files.push(file),
                Err(error) => skipped.push(error),
            }
        }
        Ok(files)
    }
}

fn text<'a>(what: &str, value: Option<&'a Value>) -> Result<&'a str, Error> {
    match value {
        Some(Value::String(text)) => Ok(text),
        other => Err(wrong(what, "string", other)),
    }
}

fn wrong(what: &str, expected: &'static str, value: Option<&Value>) -> Error {
    match value {
        Some(value) => Error::kind(what, expected, value),
        None => Error::value(what, "missing"),
    }
}

fn unknown(what: &str, word: &str) -> Error {
    Error::value(what, format_args!("unknown word {word:?}"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value as Json, json};

    use super::*;

    const SHA1: &str = "0a4d55a8d778e5022fab701977c5d840bbc486d0";

    fn id() -> BuildId {
        BuildId::parse("8-1").unwrap()
    }

    fn waiting(status: BuildStatus, dependencies: &str) -> StatusRecord {
        let files = if status.has_results() {
            let file = FileName::parse("hello_1_i386.deb").unwrap();
            vec![(file, Sha1Hex::parse(SHA1).unwrap())]
        } else {
            vec![]
        };
        StatusRecord::Waiting {
            id: id(),
            status,
            files,
            dependencies: dependencies.into(),
        }
    }

    /// A record, its tuple form and its dict form.
    type Shape = (StatusRecord, Json, Json);

    /// Every shape of an answer.
    fn shapes() -> Vec<Shape> {
        let mut shapes = vec![idle(), building(), aborting(), aborted()];
        shapes.extend(
            [
                (BuildStatus::Ok, ""),
                (BuildStatus::PackageFail, ""),
                (BuildStatus::DepFail, "libfoo-dev (>= 1.2)"),
            ]
            .map(|(status, dependencies)| with_results(status, dependencies)),
        );
        shapes.extend(
            [
                BuildStatus::GivenBack,
                BuildStatus::ChrootFail,
                BuildStatus::BuilderFail,
            ]
            .map(without_results),
        );
        shapes
    }

    fn idle() -> Shape {
        (
            StatusRecord::Idle,
            json!(["BuilderStatus.IDLE", ""]),
            json!({"builder_status": "BuilderStatus.IDLE"}),
        )
    }

    fn building() -> Shape {
        (
            StatusRecord::Building {
                id: id(),
                logtail: b"\xff\n".into(),
            },
            json!(["BuilderStatus.BUILDING", "8-1", {"base64": "/wo="}]),
            json!({
                "builder_status": "BuilderStatus.BUILDING", "build_id": "8-1",
                "logtail": {"base64": "/wo="},
            }),
        )
    }

    fn aborting() -> Shape {
        (
            StatusRecord::Aborting { id: id() },
            json!(["BuilderStatus.ABORTING", "8-1"]),
            json!({"builder_status": "BuilderStatus.ABORTING", "build_id": "8-1"}),
        )
    }

    fn aborted() -> Shape {
        (
            waiting(BuildStatus::Aborted, ""),
            json!(["BuilderStatus.ABORTED", "8-1"]),
            json!({
                "builder_status": "BuilderStatus.WAITING", "build_id": "8-1",
                "build_status": "BuildStatus.ABORTED",
            }),
        )
    }

    fn with_results(status: BuildStatus, dependencies: &str) -> Shape {
        let word = format!("BuildStatus.{status}");
        let files = json!({"hello_1_i386.deb": SHA1});
        (
            waiting(status, dependencies),
            json!(["BuilderStatus.WAITING", word, "8-1", files, dependencies]),
            json!({
                "builder_status": "BuilderStatus.WAITING", "build_id": "8-1",
                "build_status": word, "filemap": files, "dependencies": dependencies,
            }),
        )
    }

    fn without_results(status: BuildStatus) -> Shape {
        let word = format!("BuildStatus.{status}");
        (
            waiting(status, ""),
            json!(["BuilderStatus.WAITING", word, "8-1"]),
            json!({
                "builder_status": "BuilderStatus.WAITING", "build_id": "8-1",
                "build_status": word,
            }),
        )
    }

    #[test]
    fn launchpad_is_told_another_status_and_this_master_reads_the_verdict() {
        let record = waiting(BuildStatus::GivenBack, "");
        let render = |form| render_status(&record, form, Verdicts::Launchpad, None);
        let dict = render(StatusForm::Dict);
        assert_eq!(
            dict.to_json(),
            json!({
                "builder_status": "BuilderStatus.WAITING", "build_id": "8-1",
                "build_status": "BuildStatus.CHROOTFAIL",
                "exact_status": "BuildStatus.GIVENBACK",
            })
        );
        let StatusRecord::Waiting { status, .. } = StatusRecord::parse(&dict).unwrap() else {
            panic!("other")
        };
        assert_eq!(status, BuildStatus::GivenBack);
        let tuple = json!(["BuilderStatus.WAITING", "BuildStatus.CHROOTFAIL", "8-1"]);
        assert_eq!(render(StatusForm::Tuple).to_json(), tuple);
        assert!(StatusRecord::parse(&render(StatusForm::Tuple)).is_ok());
    }

    #[test]
    fn every_state_round_trips_in_both_forms() {
        for (record, tuple, dict) in shapes() {
            for (form, expected) in [(StatusForm::Tuple, tuple), (StatusForm::Dict, dict)] {
                let rendered = render_status(&record, form, Verdicts::Exact, None);
                assert_eq!(rendered.to_json(), expected);
                assert_eq!(StatusRecord::parse(&rendered), Ok(record.clone()));
            }
        }
    }

    #[test]
    fn only_the_dict_has_the_version_and_unknown_keys_are_ignored() {
        let dict = render_status(
            &StatusRecord::Idle,
            StatusForm::Dict,
            Verdicts::Exact,
            Some("1.2"),
        );
        let expected = json!({"builder_status": "BuilderStatus.IDLE", "builder_version": "1.2"});
        assert_eq!(dict.to_json(), expected);
        assert_eq!(StatusRecord::parse(&dict), Ok(StatusRecord::Idle));

        let tuple = render_status(
            &StatusRecord::Idle,
            StatusForm::Tuple,
            Verdicts::Exact,
            Some("1.2"),
        );
        assert_eq!(tuple.to_json(), json!(["BuilderStatus.IDLE", ""]));
    }

    #[test]
    fn the_current_aborted_tuple_is_parsed() {
        let answer = json!(["BuilderStatus.WAITING", "BuildStatus.ABORTED", "8-1"]);
        let record = StatusRecord::parse(&Value::from_json(answer).unwrap());
        assert_eq!(record, Ok(waiting(BuildStatus::Aborted, "")));
    }

    #[test]
    fn a_status_without_results_omits_files_and_dependencies() {
        let StatusRecord::Waiting { id, files, .. } = waiting(BuildStatus::Ok, "") else {
            panic!("other")
        };
        let status = BuildStatus::Aborted;
        let record = StatusRecord::Waiting {
            id,
            status,
            files,
            dependencies: "x".into(),
        };
        let dict = render_status(&record, StatusForm::Dict, Verdicts::Exact, None).to_json();
        assert_eq!(
            (dict.get("filemap"), dict.get("dependencies")),
            (None, None)
        );
    }

    #[test]
    fn an_invalid_status_is_refused_with_the_name_of_its_part() {
        for (answer, error) in [
            (
                json!("IDLE"),
                "status: expected array or struct, got string",
            ),
            (json!([]), "builder status: missing"),
            (json!([1]), "builder status: expected string, got int"),
            (
                json!(["BuilderStatus.LOST"]),
                "builder status: unknown word \"BuilderStatus.LOST\"",
            ),
            (json!(["BuilderStatus.BUILDING", "b"]), "log tail: missing"),
            (json!(["BuilderStatus.ABORTED"]), "build id: missing"),
            (
                json!(["BuilderStatus.WAITING", "OK", "b"]),
                "build status: unknown word \"OK\"",
            ),
            (
                json!(["BuilderStatus.WAITING", "BuildStatus.OK", "b"]),
                "filemap: missing",
            ),
            (
                json!(["BuilderStatus.WAITING", "BuildStatus.OK", "b", {"../x": SHA1}, ""]),
                "filemap: invalid file name \"../x\"",
            ),
            (
                json!({"builder_status": "BuilderStatus.ABORTING", "build_id": "a/b"}),
                "build id: invalid build id \"a/b\"",
            ),
        ] {
            let answer = Value::from_json(answer).unwrap();
            assert_eq!(StatusRecord::parse(&answer).unwrap_err().to_string(), error);
        }
    }
}
