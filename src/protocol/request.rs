//! Pure: checks a `build` call in two steps, in the protocol's order (docs/wire.md §1.4).
//!
//! A `BuildCall` gives its build type and hashes, which may be unknown without being an error. Then
//! `into_request` checks all other parameters and returns a `BuildRequest`. The slave uses both
//! steps, and so does a build without a master.

use serde::{Deserialize, Serialize};

use super::{BuildArgs, BuildId, Error, FileName, Invalid, Sha1Hex};
use crate::xmlrpc::Value;

/// The parameters of a `build` call. Only the kind of the build type is checked, because an unknown
/// type is answered whatever the others are.
pub(crate) struct BuildCall {
    pub(super) build_id: Value,
    pub(super) build_type: String,
    pub(super) chroot_sha1: Value,
    pub(super) files: Value,
    pub(super) args: Value,
}

impl BuildCall {
    pub(crate) fn build_type(&self) -> &str {
        &self.build_type
    }

    /// Returns the SHA-1 of the chroot, a text that may be no SHA-1.
    ///
    /// # Errors
    /// It is no text.
    pub(crate) fn chroot_sha1(&self) -> Result<&str, Error> {
        text("parameter 3 (chroot sum)", &self.chroot_sha1)
    }

    /// Returns name and SHA-1 of each source file, unchecked texts in the order of the call.
    ///
    /// # Errors
    /// Names the first part of the wrong kind.
    pub(crate) fn files(&self) -> Result<Vec<(&str, &str)>, Error> {
        let Value::Struct(files) = &self.files else {
            return Err(Error::kind("parameter 4 (filemap)", "struct", &self.files));
        };
        let mut texts = Vec::with_capacity(files.len());
        for (name, sha1) in files {
            let sha1 = text(&format!("parameter 4 (filemap), {name:?}"), sha1)?;
            texts.push((name.as_str(), sha1));
        }
        Ok(texts)
    }

    /// Checks the call and returns the build to run.
    ///
    /// # Errors
    /// Names the first invalid parameter, in this order: build id, chroot, files, arguments.
    pub(crate) fn into_request(self) -> Result<BuildRequest, Error> {
        let build_id = BuildId::parse(text("parameter 1 (build id)", &self.build_id)?)
            .map_err(|invalid| Error::value("parameter 1 (build id)", invalid))?;
        let chroot = Sha1Hex::parse(self.chroot_sha1()?)
            .map_err(|invalid| Error::value("parameter 3 (chroot sum)", invalid))?;
        let files = self
            .files()?
            .into_iter()
            .map(|(name, sha1)| Ok((FileName::parse(name)?, Sha1Hex::parse(sha1)?)))
            .collect::<Result<Vec<_>, Invalid>>()
            .map_err(|invalid| Error::value("parameter 4 (filemap)", invalid))?;
        let files = SourceFiles::try_from(files)?;
        let Value::Struct(args) = self.args else {
            return Err(Error::kind("parameter 5 (args)", "struct", &self.args));
        };
        Ok(BuildRequest {
            build_id,
            chroot,
            files,
            args: BuildArgs::from_value(args)?,
        })
    }
}

fn text<'a>(what: &str, value: &'a Value) -> Result<&'a str, Error> {
    match value {
        Value::String(text) => Ok(text),
        other => Err(Error::kind(what, "string", other)),
    }
}

/// A checked request for one build.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BuildRequest {
    pub(crate) build_id: BuildId,
    pub(crate) chroot: Sha1Hex,
    pub(crate) files: SourceFiles,
    pub(crate) args: BuildArgs,
}

impl BuildRequest {
    /// Returns the name of the source package's `.dsc` file.
    pub(crate) fn dsc(&self) -> &FileName {
        let (name, _) = self.files.dsc();
        name
    }

    pub(crate) fn dsc_sha1(&self) -> &Sha1Hex {
        let (_, sha1) = self.files.dsc();
        sha1
    }

    /// Gives the `.dsc` file another name, which must end in `.dsc` too.
    pub(crate) fn rename_dsc(&mut self, name: FileName) {
        if let Some(entry) = self.files.0.iter_mut().find(|(old, _)| is_dsc(old)) {
            entry.0 = name;
        }
    }
}

/// The files of one source package: exactly one `.dsc` and the files it lists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    try_from = "Vec<(FileName, Sha1Hex)>",
    into = "Vec<(FileName, Sha1Hex)>"
)]
pub(crate) struct SourceFiles(Vec<(FileName, Sha1Hex)>);

impl SourceFiles {
    fn dsc(&self) -> &(FileName, Sha1Hex) {
        self.0
            .iter()
            .find(|(name, _)| is_dsc(name))
            .expect("SourceFiles has one .dsc")
    }
}

impl TryFrom<Vec<(FileName, Sha1Hex)>> for SourceFiles {
    type Error = Error;

    fn try_from(files: Vec<(FileName, Sha1Hex)>) -> Result<Self, Error> {
        match files.iter().filter(|(name, _)| is_dsc(name)).count() {
            1 => Ok(SourceFiles(files)),
            count => {
                let reason = format!("expected one .dsc file, got {count}");
                Err(Error::value("source files", reason))
            }
        }
    }
}

impl From<SourceFiles> for Vec<(FileName, Sha1Hex)> {
    fn from(files: SourceFiles) -> Self {
        files.0
    }
}

impl std::ops::Deref for SourceFiles {
    type Target = [(FileName, Sha1Hex)];

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

fn is_dsc(name: &FileName) -> bool {
    name.as_str().ends_with(".dsc")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const SHA1: &str = "0a4d55a8d778e5022fab701977c5d840bbc486d0";

    fn call(build_id: serde_json::Value, chroot: &str, files: &[(&str, &str)]) -> BuildCall {
        BuildCall {
            build_id: Value::from_json(build_id).unwrap(),
            build_type: "debian".into(),
            chroot_sha1: chroot.into(),
            files: Value::Struct(
                files
                    .iter()
                    .map(|&(name, sha1)| (name.into(), sha1.into()))
                    .collect(),
            ),
            args: Value::Struct(vec![("suite".into(), "sid".into())]),
        }
    }

    #[test]
    fn a_valid_call_becomes_a_request_that_can_be_stored() {
        let files = [("hello_1.orig.tar.gz", SHA1), ("hello_1.dsc", SHA1)];
        let request = call(json!("8-1"), SHA1, &files).into_request().unwrap();
        assert_eq!(request.build_id.as_str(), "8-1");
        assert_eq!(request.dsc().as_str(), "hello_1.dsc");
        assert_eq!(request.files[0].0.as_str(), "hello_1.orig.tar.gz");
        assert_eq!(request.args.suite.as_ref().unwrap().as_str(), "sid");

        let stored = serde_json::to_string(&request).unwrap();
        assert_eq!(
            serde_json::from_str::<BuildRequest>(&stored).unwrap(),
            request
        );
        let without_dsc = stored.replace("hello_1.dsc", "hello_1.txt");
        assert!(serde_json::from_str::<BuildRequest>(&without_dsc).is_err());
    }

    #[test]
    fn an_error_names_the_first_invalid_parameter() {
        let dsc = [("a.dsc", SHA1)];
        for (call, error) in [
            (
                call(json!(null), "x", &[]),
                "parameter 1 (build id): expected string, got nil",
            ),
            (
                call(json!(0), SHA1, &dsc),
                "parameter 1 (build id): expected string, got int",
            ),
            (
                call(json!(""), SHA1, &dsc),
                "parameter 1 (build id): invalid build id \"\"",
            ),
            (
                call(json!("a/b"), SHA1, &dsc),
                "parameter 1 (build id): invalid build id \"a/b\"",
            ),
            (
                call(json!("b"), "x", &[]),
                "parameter 3 (chroot sum): invalid sha-1 \"x\"",
            ),
            (
                call(json!("b"), SHA1, &[("a.dsc", SHA1), ("../evil", SHA1)]),
                "parameter 4 (filemap): invalid file name \"../evil\"",
            ),
            (
                call(json!("b"), SHA1, &[]),
                "source files: expected one .dsc file, got 0",
            ),
            (
                call(json!("b"), SHA1, &[("a.dsc", SHA1), ("b.dsc", SHA1)]),
                "source files: expected one .dsc file, got 2",
            ),
            (
                BuildCall {
                    chroot_sha1: Value::Nil,
                    ..call(json!("b"), SHA1, &dsc)
                },
                "parameter 3 (chroot sum): expected string, got nil",
            ),
            (
                BuildCall {
                    files: Value::Array(Vec::new()),
                    ..call(json!("b"), SHA1, &dsc)
                },
                "parameter 4 (filemap): expected struct, got array",
            ),
            (
                BuildCall {
                    files: Value::Struct(vec![("a.dsc".into(), Value::Int(1))]),
                    ..call(json!("b"), SHA1, &dsc)
                },
                "parameter 4 (filemap), \"a.dsc\": expected string, got int",
            ),
            (
                BuildCall {
                    args: Value::Nil,
                    ..call(json!("b"), SHA1, &dsc)
                },
                "parameter 5 (args): expected struct, got nil",
            ),
        ] {
            assert_eq!(call.into_request().unwrap_err().to_string(), error);
        }
    }
}
