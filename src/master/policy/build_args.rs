//! Pure: what is a slave told about a build?
//!
//! The second and the last parameter of `build` (docs/farm.md §2.13, §3.7): the type's name in
//! either generation, and the arguments, which are the same in both, as slaves pass over what they
//! do not know. Which values they have is decided elsewhere.

use crate::master::model::ArchivePurpose;
use crate::protocol::{BUILD_TYPES, StatusForm};
use crate::xmlrpc::Value;

/// The one kind of base image in a chroot's tarball.
const IMAGE_TYPE: &str = "chroot";

/// A build that is about to start. Not to be shown: its archives hold passwords.
#[derive(Clone)]
pub(crate) struct Dispatch {
    pub(crate) arch_tag: String,
    /// Architecture-independent packages are built too.
    pub(crate) arch_indep: bool,
    pub(crate) series: String,
    pub(crate) suite: String,
    pub(crate) purpose: ArchivePurpose,
    pub(crate) private: bool,
    /// Of the current publication; for a PPA that needs no virtual builder, what the package has
    /// in the primary archive.
    pub(crate) component: String,
    /// Lines for apt. None at all: the chroot keeps its own.
    pub(crate) archives: Vec<String>,
    /// OpenPGP keys, each as base64 text.
    pub(crate) trusted_keys: Vec<String>,
    /// The builder is virtual: its machine is thrown away afterwards.
    pub(crate) virtualized: bool,
    /// Where people can look the build up.
    pub(crate) build_url: Option<String>,
}

/// Returns the name of the build type in a generation.
pub(crate) fn build_type(form: StatusForm) -> &'static str {
    match form {
        StatusForm::Tuple => BUILD_TYPES[0],
        StatusForm::Dict => BUILD_TYPES[1],
    }
}

/// Returns the arguments of a build.
pub(crate) fn build_args(dispatch: &Dispatch) -> Value {
    let texts =
        |texts: &[String]| Value::Array(texts.iter().map(|text| text.as_str().into()).collect());
    let mut members = vec![
        ("arch_indep", Value::Bool(dispatch.arch_indep)),
        ("arch_tag", dispatch.arch_tag.as_str().into()),
        ("archive_private", Value::Bool(dispatch.private)),
        ("archive_purpose", purpose(dispatch).word().into()),
        ("build_debug_symbols", Value::Bool(false)),
        ("fast_cleanup", Value::Bool(dispatch.virtualized)),
        ("image_type", IMAGE_TYPE.into()),
        ("ogrecomponent", dispatch.component.as_str().into()),
        ("series", dispatch.series.as_str().into()),
        ("suite", dispatch.suite.as_str().into()),
        ("trusted_keys", texts(&dispatch.trusted_keys)),
    ];
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

/// A PPA trusted with real builders is built as the distribution's own.
fn purpose(dispatch: &Dispatch) -> ArchivePurpose {
    match dispatch.purpose {
        ArchivePurpose::Ppa if !dispatch.virtualized => ArchivePurpose::Primary,
        purpose => purpose,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{BuildArgs, Suite};

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
    fn our_own_slave_understands_them() {
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
            build_debug_symbols: false,
            build_url: Some("http://farm/builds/8".into()),
            fast_cleanup: false,
            image_type: Some("chroot".into()),
            unknown: Vec::new(),
        };
        let args = BuildArgs::from_value(members(&dispatch())).unwrap();
        assert_eq!(args, expect);
    }

    #[test]
    fn what_is_not_known_is_left_out() {
        let bare = Dispatch {
            archives: Vec::new(),
            build_url: None,
            ..dispatch()
        };
        let members = members(&bare);
        let names = members.iter().map(|(name, _)| name.as_str());
        let names: Vec<&str> = names.collect();
        for name in ["archives", "build_url"] {
            assert!(!names.contains(&name), "{names:?}");
        }
    }

    #[test]
    fn purposes_and_virtual_builders() {
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
    fn each_generation_has_its_name_for_the_type() {
        assert_eq!(build_type(StatusForm::Tuple), "debian");
        assert_eq!(build_type(StatusForm::Dict), "binarypackage");
    }
}
