//! Pure: makes the build type and the arguments of the call `build` (docs/farm.md §2.13, §3.7).
//!
//! The name of the type depends on the slave's form of `status`. The arguments are the same for
//! both forms, since slaves ignore unknown ones.

use crate::master::model::ArchivePurpose;
use crate::protocol::{BUILD_TYPES, StatusForm};
use crate::xmlrpc::Value;

/// The only image type: a tarball of a chroot.
const IMAGE_TYPE: &str = "chroot";

/// A build to be dispatched. It has no `Debug`, since `archives` contains passwords.
#[derive(Clone)]
pub(crate) struct Dispatch {
    pub(crate) arch_tag: String,
    /// Whether architecture-independent packages are built too.
    pub(crate) arch_indep: bool,
    pub(crate) series: String,
    pub(crate) suite: String,
    pub(crate) purpose: ArchivePurpose,
    pub(crate) private: bool,
    /// The component of the current publication. For a PPA that needs no virtual builder: the
    /// component in the primary archive.
    pub(crate) component: String,
    /// Lines for apt. If empty, the chroot keeps its own.
    pub(crate) archives: Vec<String>,
    /// OpenPGP keys, each in base64.
    pub(crate) trusted_keys: Vec<String>,
    /// Whether to make packages with debug symbols too.
    pub(crate) debug_symbols: bool,
    /// The active build profiles.
    pub(crate) profiles: Vec<String>,
    /// Whether the builder is virtual: its machine is reset after the build.
    pub(crate) virtualized: bool,
    /// The build's web page.
    pub(crate) build_url: Option<String>,
}

/// Returns the name of the build type for slaves with this form of `status`.
pub(crate) fn build_type(form: StatusForm) -> &'static str {
    match form {
        StatusForm::Tuple => BUILD_TYPES[0],
        StatusForm::Dict => BUILD_TYPES[1],
    }
}

/// Returns the last parameter of `build`.
pub(crate) fn build_args(dispatch: &Dispatch) -> Value {
    let texts =
        |texts: &[String]| Value::Array(texts.iter().map(|text| text.as_str().into()).collect());
    let mut members = vec![
        ("arch_indep", Value::Bool(dispatch.arch_indep)),
        ("arch_tag", dispatch.arch_tag.as_str().into()),
        ("archive_private", Value::Bool(dispatch.private)),
        ("archive_purpose", purpose(dispatch).word().into()),
        ("build_debug_symbols", Value::Bool(dispatch.debug_symbols)),
        ("fast_cleanup", Value::Bool(dispatch.virtualized)),
        ("image_type", IMAGE_TYPE.into()),
        ("ogrecomponent", dispatch.component.as_str().into()),
        ("series", dispatch.series.as_str().into()),
        ("suite", dispatch.suite.as_str().into()),
        ("trusted_keys", texts(&dispatch.trusted_keys)),
    ];
    // launchpad-buildd ignores this argument.
    if !dispatch.profiles.is_empty() {
        members.push(("build_profiles", texts(&dispatch.profiles)));
    }
    if !dispatch.archives.is_empty() {
        members.push(("archives", texts(&dispatch.archives)));
    }
    if let Some(url) = &dispatch.build_url {
        members.push(("build_url", url.as_str().into()));
    }
    let members = members.into_iter();
    Value::Struct(
        members
            .map(|(name, value)| (name.to_owned(), value))
            .collect(),
    )
}

/// Returns the purpose to send: a PPA on a non-virtual builder is built like the primary archive.
fn purpose(dispatch: &Dispatch) -> ArchivePurpose {
    match dispatch.purpose {
        ArchivePurpose::Ppa if !dispatch.virtualized => ArchivePurpose::Primary,
        purpose => purpose,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{BuildArgs, BuildProfile, Suite};

    fn dispatch() -> Dispatch {
        Dispatch {
            arch_tag: "amd64".into(),
            arch_indep: true,
            series: "hoary".into(),
            suite: "hoary-updates".into(),
            purpose: ArchivePurpose::Primary,
            private: true,
            component: "universe".into(),
            archives: vec!["deb http://buildd:k@h/ hoary main".into()],
            trusted_keys: vec!["a2V5".into()],
            debug_symbols: true,
            profiles: vec!["nodoc".into(), "nocheck".into()],
            virtualized: false,
            build_url: Some("http://farm/builds/8".into()),
        }
    }

    fn members(dispatch: &Dispatch) -> Vec<(String, Value)> {
        match build_args(dispatch) {
            Value::Struct(members) => members,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_projects_slave_parses_the_arguments() {
        let word = |text| Some(Suite::parse(text).unwrap());
        let expect = BuildArgs {
            suite: word("hoary-updates"),
            series: word("hoary"),
            arch_tag: word("amd64"),
            arch_indep: true,
            archives: vec!["deb http://buildd:k@h/ hoary main".into()],
            trusted_keys: vec!["a2V5".into()],
            archive_private: true,
            archive_purpose: Some("PRIMARY".into()),
            ogrecomponent: word("universe"),
            build_debug_symbols: true,
            build_profiles: ["nodoc", "nocheck"]
                .map(|name| BuildProfile::parse(name).unwrap())
                .into(),
            build_url: Some("http://farm/builds/8".into()),
            fast_cleanup: false,
            image_type: Some("chroot".into()),
            unknown: Vec::new(),
        };
        let args = BuildArgs::from_value(members(&dispatch())).unwrap();
        assert_eq!(args, expect);
    }

    #[test]
    fn unset_archives_profiles_and_build_url_are_left_out() {
        let bare = Dispatch {
            archives: Vec::new(),
            profiles: Vec::new(),
            build_url: None,
            ..dispatch()
        };
        let members = members(&bare);
        let names = members.iter().map(|(name, _)| name.as_str());
        let names: Vec<&str> = names.collect();
        for name in ["archives", "build_profiles", "build_url"] {
            assert!(!names.contains(&name), "{names:?}");
        }
    }

    #[test]
    fn a_ppa_on_a_non_virtual_builder_is_built_as_primary() {
        for (purpose, virtualized, expect) in [
            (ArchivePurpose::Ppa, true, "PPA"),
            (ArchivePurpose::Ppa, false, "PRIMARY"),
            (ArchivePurpose::Partner, false, "PARTNER"),
            (ArchivePurpose::Primary, true, "PRIMARY"),
        ] {
            let dispatch = Dispatch {
                purpose,
                virtualized,
                ..dispatch()
            };
            let args = BuildArgs::from_value(members(&dispatch)).unwrap();
            assert_eq!(args.archive_purpose.as_deref(), Some(expect));
            assert_eq!(args.fast_cleanup, virtualized);
        }
    }

    #[test]
    fn the_build_type_depends_on_the_form_of_status() {
        assert_eq!(build_type(StatusForm::Tuple), "debian");
        assert_eq!(build_type(StatusForm::Dict), "binarypackage");
    }
}
