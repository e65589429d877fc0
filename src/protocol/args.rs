//! Pure: parses the last parameter of `build`, a struct of arguments (docs/wire.md §3.3).
//!
//! A value of the wrong kind is refused before a build starts. Only the name of an unknown argument
//! is stored, because its value may be a secret.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{BuildProfile, Error, Suite};
use crate::xmlrpc::{Value, decode_base64};

/// The only supported kind of base image.
const IMAGE_TYPE: &str = "chroot";

/// The checked arguments of a build. An argument that is absent or nil has its default.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct BuildArgs {
    /// The suite to build for; masters of 2008 may omit it.
    pub(crate) suite: Option<Suite>,
    pub(crate) series: Option<Suite>,
    /// Overrides the configured architecture.
    pub(crate) arch_tag: Option<Suite>,
    /// Whether to build the architecture-independent packages too.
    pub(crate) arch_indep: bool,
    /// Lines that replace the chroot's apt sources, in order; they may hold passwords.
    pub(crate) archives: Vec<String>,
    /// OpenPGP keys for apt, each as base64 text.
    pub(crate) trusted_keys: Vec<String>,
    /// Whether the log may show credentials and must be scrubbed.
    pub(crate) archive_private: bool,
    pub(crate) archive_purpose: Option<String>,
    pub(crate) ogrecomponent: Option<Suite>,
    pub(crate) build_debug_symbols: bool,
    /// The active build profiles; an argument of this project's masters only.
    pub(crate) build_profiles: Vec<BuildProfile>,
    /// The first line of the log.
    pub(crate) build_url: Option<String>,
    /// Whether to leave the mounts and the work tree, because the machine is discarded afterwards.
    pub(crate) fast_cleanup: bool,
    pub(crate) image_type: Option<String>,
    /// Names of the unknown arguments.
    pub(crate) unknown: Vec<String>,
}

impl BuildArgs {
    /// Parses the members of the struct.
    ///
    /// # Errors
    /// Names the first argument that has the wrong kind or an invalid value.
    pub(crate) fn from_value(members: Vec<(String, Value)>) -> Result<BuildArgs, Error> {
        let mut args = Members(members);
        args.0.retain(|(_, value)| *value != Value::Nil);
        Ok(BuildArgs {
            suite: args.word("suite")?,
            series: args.word("series")?,
            arch_tag: args.word("arch_tag")?,
            arch_indep: args.flag("arch_indep")?,
            archives: args.lines("archives")?,
            trusted_keys: args.keys("trusted_keys")?,
            archive_private: args.flag("archive_private")?,
            archive_purpose: args.line("archive_purpose")?,
            ogrecomponent: args.word("ogrecomponent")?,
            build_debug_symbols: args.flag("build_debug_symbols")?,
            build_profiles: args.profiles("build_profiles")?,
            build_url: args.line("build_url")?,
            fast_cleanup: args.flag("fast_cleanup")?,
            image_type: args.image_type("image_type")?,
            unknown: args.0.into_iter().map(|(name, _)| name).collect(),
        })
    }
}

/// Shows the number of values that may be secret, not the values.
impl fmt::Debug for BuildArgs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BuildArgs")
            .field("suite", &self.suite)
            .field("series", &self.series)
            .field("arch_tag", &self.arch_tag)
            .field("arch_indep", &self.arch_indep)
            .field("archives", &format_args!("<{} lines>", self.archives.len()))
            .field(
                "trusted_keys",
                &format_args!("<{} keys>", self.trusted_keys.len()),
            )
            .field("archive_private", &self.archive_private)
            .field("archive_purpose", &self.archive_purpose)
            .field("ogrecomponent", &self.ogrecomponent)
            .field("build_debug_symbols", &self.build_debug_symbols)
            .field("build_profiles", &self.build_profiles)
            .field("build_url", &self.build_url)
            .field("fast_cleanup", &self.fast_cleanup)
            .field("image_type", &self.image_type)
            .field("unknown", &self.unknown)
            .finish()
    }
}

/// The members that are not parsed yet.
struct Members(Vec<(String, Value)>);

impl Members {
    fn take(&mut self, name: &str) -> Option<Value> {
        let index = self.0.iter().position(|(member, _)| member == name)?;
        Some(self.0.remove(index).1)
    }

    fn flag(&mut self, name: &str) -> Result<bool, Error> {
        match self.take(name) {
            None | Some(Value::Bool(false) | Value::Int(0)) => Ok(false),
            // Masters older than XML-RPC's boolean send an integer.
            Some(Value::Bool(true) | Value::Int(1)) => Ok(true),
            Some(value) => Err(Error::kind(name, "bool", &value)),
        }
    }

    fn text(&mut self, name: &str) -> Result<Option<String>, Error> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(value) => Err(Error::kind(name, "string", &value)),
        }
    }

    fn word(&mut self, name: &str) -> Result<Option<Suite>, Error> {
        let Some(text) = self.text(name)? else {
            return Ok(None);
        };
        Suite::parse(&text)
            .map(Some)
            .map_err(|invalid| Error::value(name, invalid))
    }

    fn line(&mut self, name: &str) -> Result<Option<String>, Error> {
        let text = self.text(name)?;
        text.map(|text| one_line(name, text)).transpose()
    }

    fn image_type(&mut self, name: &str) -> Result<Option<String>, Error> {
        match self.text(name)? {
            Some(other) if other != IMAGE_TYPE => Err(Error::value(
                name,
                format_args!("{other:?} is not {IMAGE_TYPE:?}"),
            )),
            image_type => Ok(image_type),
        }
    }

    fn texts(&mut self, name: &str) -> Result<Vec<String>, Error> {
        match self.take(name) {
            None => Ok(Vec::new()),
            Some(Value::Array(items)) => {
                let texts = items
                    .into_iter()
                    .enumerate()
                    .map(|(index, item)| match item {
                        Value::String(text) => Ok(text),
                        other => Err(Error::kind(&item_name(name, index), "string", &other)),
                    });
                texts.collect()
            }
            Some(value) => Err(Error::kind(name, "array", &value)),
        }
    }

    fn lines(&mut self, name: &str) -> Result<Vec<String>, Error> {
        let texts = self.texts(name)?.into_iter().enumerate();
        texts
            .map(|(index, text)| one_line(&item_name(name, index), text))
            .collect()
    }

    fn profiles(&mut self, name: &str) -> Result<Vec<BuildProfile>, Error> {
        let texts = self.texts(name)?.into_iter().enumerate();
        texts
            .map(|(index, text)| {
                let invalid = |invalid| Error::value(&item_name(name, index), invalid);
                BuildProfile::parse(&text).map_err(invalid)
            })
            .collect()
    }

    fn keys(&mut self, name: &str) -> Result<Vec<String>, Error> {
        let keys = self.texts(name)?;
        match keys.iter().position(|key| decode_base64(key).is_none()) {
            Some(index) => Err(Error::value(&item_name(name, index), "not base64")),
            None => Ok(keys),
        }
    }
}

/// Refuses control characters, which could end a line of a file or control a terminal.
fn one_line(name: &str, text: String) -> Result<String, Error> {
    if text.contains(|c: char| c.is_control() && c != '\t') {
        return Err(Error::value(
            name,
            "holds a newline or another control character",
        ));
    }
    Ok(text)
}

fn item_name(name: &str, index: usize) -> String {
    format!("{name}[{index}]")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(args: serde_json::Value) -> Result<BuildArgs, Error> {
        let Value::Struct(members) = Value::from_json(args).unwrap() else {
            panic!("no struct")
        };
        BuildArgs::from_value(members)
    }

    #[test]
    fn the_arguments_of_current_masters_are_parsed() {
        let args = parse(json!({
            "arch_indep": true,
            "arch_tag": "amd64",
            "archive_private": true,
            "archive_purpose": "PPA",
            "archives": ["deb http://buildd:secret@h/ jammy main", "deb http://h/ jammy\tuniverse"],
            "build_debug_symbols": false,
            "build_profiles": ["nodoc", "pkg.hello.small"],
            "build_url": "https://h/1",
            "builder_constraints": ["gpu"],
            "distribution": "ubuntu",
            "fast_cleanup": false,
            "image_type": "chroot",
            "launchpad_instance": null,
            "ogrecomponent": "universe",
            "secrets": {"token": "hidden"},
            "series": "jammy",
            "suite": "jammy-proposed",
            "trusted_keys": ["a2V5"],
        }));
        let args = args.unwrap();
        let word = |text| Some(Suite::parse(text).unwrap());
        let expected = BuildArgs {
            suite: word("jammy-proposed"),
            series: word("jammy"),
            arch_tag: word("amd64"),
            arch_indep: true,
            archives: vec![
                "deb http://buildd:secret@h/ jammy main".into(),
                "deb http://h/ jammy\tuniverse".into(),
            ],
            trusted_keys: vec!["a2V5".into()],
            archive_private: true,
            archive_purpose: Some("PPA".into()),
            ogrecomponent: word("universe"),
            build_debug_symbols: false,
            build_profiles: ["nodoc", "pkg.hello.small"]
                .map(|name| BuildProfile::parse(name).unwrap())
                .into(),
            build_url: Some("https://h/1".into()),
            fast_cleanup: false,
            image_type: Some("chroot".into()),
            unknown: ["builder_constraints", "distribution", "secrets"]
                .map(String::from)
                .into(),
        };
        assert_eq!(args, expected);

        let stored = serde_json::to_string(&args).unwrap();
        assert!(!stored.contains("hidden"));
        assert_eq!(serde_json::from_str::<BuildArgs>(&stored).unwrap(), args);
    }

    #[test]
    fn nil_and_absent_arguments_have_their_default() {
        assert_eq!(parse(json!({})).unwrap(), BuildArgs::default());
        let all_nil = json!({
            "suite": null, "arch_indep": null, "archives": null, "trusted_keys": null,
            "build_url": null, "image_type": null,
        });
        assert_eq!(parse(all_nil).unwrap(), BuildArgs::default());
        assert_eq!(
            serde_json::from_str::<BuildArgs>("{}").unwrap(),
            BuildArgs::default()
        );
    }

    #[test]
    fn flags_may_be_integers() {
        let args = parse(json!({"arch_indep": 1, "archive_private": 0})).unwrap();
        assert!(args.arch_indep && !args.archive_private);
    }

    #[test]
    fn an_invalid_argument_is_named_without_its_value() {
        for (args, error) in [
            (json!({"suite": 1}), "suite: expected string, got int"),
            (
                json!({"arch_indep": 2}),
                "arch_indep: expected bool, got int",
            ),
            (
                json!({"arch_indep": "yes"}),
                "arch_indep: expected bool, got string",
            ),
            (
                json!({"archives": "deb"}),
                "archives: expected array, got string",
            ),
            (
                json!({"archives": ["a", 1]}),
                "archives[1]: expected string, got int",
            ),
            (
                json!({"archives": ["deb http://u:p@h/ s\ndeb"]}),
                "archives[0]: holds a newline or another control character",
            ),
            (
                json!({"archive_purpose": "PPA\u{0}"}),
                "archive_purpose: holds a newline or another control character",
            ),
            (
                json!({"trusted_keys": ["a2V5", "%"]}),
                "trusted_keys[1]: not base64",
            ),
            (
                json!({"build_profiles": ["nodoc", "a b"]}),
                "build_profiles[1]: invalid build profile \"a b\"",
            ),
            (
                json!({"image_type": "lxd"}),
                "image_type: \"lxd\" is not \"chroot\"",
            ),
            (
                json!({"ogrecomponent": "--x"}),
                "ogrecomponent: invalid name \"--x\"",
            ),
        ] {
            assert_eq!(parse(args).unwrap_err().to_string(), error);
        }
    }

    #[test]
    fn debug_shows_no_secret() {
        let args = json!({"archives": ["deb http://u:secret@h/ s"], "trusted_keys": ["a2V5"]});
        let shown = format!("{:?}", parse(args).unwrap());
        assert!(
            shown.contains("archives: <1 lines>, trusted_keys: <1 keys>"),
            "{shown}"
        );
    }
}
