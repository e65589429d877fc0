//! Checks the source package of a build before anything is done for it.
//!
//! sbuild finds these mistakes only after the chroot is ready, and some of them it takes for a
//! failure of the chroot.

use crate::dpkg::dsc::Dsc;
use crate::dpkg::source::read_dsc;
use crate::protocol::{BuildRequest, BuildStatus, FileName};

use super::spec::Spec;
use super::stage::Failure;

/// Reads the .dsc of the build and returns the name that sbuild expects for it.
pub(super) fn check(spec: &Spec) -> Result<FileName, Failure> {
    let request = &spec.request;
    let path = spec.settings.filecache.join(request.dsc_sha1().as_str());
    let refused = |problem: String| {
        let reason = format!("Invalid source package: {}: {problem}", request.dsc());
        Failure::new(BuildStatus::PackageFail, reason)
    };
    // A file that cannot be opened is not the package's fault.
    std::fs::File::open(&path).map_err(|error| {
        let reason = format!("cannot read {}: {error}", path.display());
        Failure::new(BuildStatus::BuilderFail, reason)
    })?;
    let dsc = read_dsc(&path).map_err(refused)?;
    match missing_file(&dsc, request) {
        Some(name) => Err(refused(format!(
            "it lists {name}, which is not among the files of the build"
        ))),
        None => dsc.file_name().map_err(|error| refused(error.to_string())),
    }
}

/// Returns the first file that the .dsc lists and the request lacks.
fn missing_file<'a>(dsc: &'a Dsc, request: &BuildRequest) -> Option<&'a FileName> {
    let has = |name: &FileName| request.files.iter().any(|(given, _)| given == name);
    dsc.files
        .iter()
        .map(|file| &file.name)
        .find(|name| !has(name))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;

    use super::*;

    const SHA1: &str = "0a4d55a8d778e5022fab701977c5d840bbc486d0";

    fn check_text(text: &str) -> Result<String, (BuildStatus, String)> {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(SHA1), text).unwrap();
        let mut spec = crate::pipeline::spec::tests::spec(json!({}));
        spec.settings.filecache = dir.path().to_owned();
        let files = json!([["odd.dsc", SHA1], ["x_1.tar.xz", SHA1]]);
        spec.request.files = serde_json::from_value(files).unwrap();
        check(&spec)
            .map(|name| name.to_string())
            .map_err(|failure| (failure.status, failure.reason))
    }

    #[test]
    fn a_dsc_of_any_name_is_accepted_for_what_it_says() {
        let text = "Source: x\nVersion: 2:1-1\nFiles:\n 900150983cd24fb0d6963f7d28e17f72 3 ";
        let good = format!("{text}x_1.tar.xz\n");
        assert_eq!(check_text(&good), Ok("x_1-1.dsc".to_owned()));
        let other = format!("{text}x_2.tar.xz\n");
        let reason = "Invalid source package: odd.dsc: it lists x_2.tar.xz, which is not among \
                      the files of the build";
        let failure = (BuildStatus::PackageFail, reason.to_owned());
        assert_eq!(check_text(&other), Err(failure));
        let reason = "Invalid source package: odd.dsc: no Files field".to_owned();
        assert_eq!(
            check_text("Source: x\nVersion: 1\n"),
            Err((BuildStatus::PackageFail, reason))
        );
    }
}
