//! Pure: parses sections `[allmanagers]` and `[debianmanager]`, and checks which keys are set
//! together.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Isolation;
use super::reader::Reader;

/// `[allmanagers]` and `[debianmanager]`: the site's programs. Each replaces a built-in stage.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Programs {
    pub(crate) unpack: Option<PathBuf>,
    pub(crate) mount: Option<PathBuf>,
    pub(crate) umount: Option<PathBuf>,
    pub(crate) clean: Option<PathBuf>,
    /// From either section; `[debianmanager]` takes precedence.
    pub(crate) process_scan: Option<PathBuf>,
    pub(crate) sbuild: Option<PathBuf>,
    pub(crate) sbuild_args: Vec<String>,
    pub(crate) update: Option<PathBuf>,
    pub(crate) ogre: Option<PathBuf>,
    pub(crate) sources: Option<PathBuf>,
}

impl Programs {
    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        let all_managers = reader.path("allmanagers", "processscanpath");
        Self {
            unpack: reader.path("allmanagers", "unpackpath"),
            mount: reader.path("allmanagers", "mountpath"),
            umount: reader.path("allmanagers", "umountpath"),
            clean: reader.path("allmanagers", "cleanpath"),
            process_scan: reader
                .path("debianmanager", "processscanpath")
                .or(all_managers),
            sbuild: reader.path("debianmanager", "sbuildpath"),
            sbuild_args: reader.words("debianmanager", "sbuildargs"),
            update: reader.path("debianmanager", "updatepath"),
            ogre: reader.path("debianmanager", "ogrepath"),
            sources: reader.path("debianmanager", "sourcespath"),
        }
    }

    /// Checks that, without the built-in session, site programs exist for all stages that work in
    /// the session.
    pub(super) fn check(&self, reader: &mut Reader<'_>, isolation: Isolation) {
        let problem = if isolation == Isolation::None {
            "missing, since [slave] isolation = none leaves these stages to site programs"
        } else if self.unpack.is_some() || self.mount.is_some() {
            "missing, since unpackpath or mountpath is set and built-in stages need the built-in \
             session"
        } else {
            return;
        };
        let fix = "set unpackpath, mountpath, sbuildpath and updatepath together, or none of them \
                   with isolation = unshare";
        for (section, key, program) in [
            ("allmanagers", "unpackpath", &self.unpack),
            ("allmanagers", "mountpath", &self.mount),
            ("debianmanager", "sbuildpath", &self.sbuild),
            ("debianmanager", "updatepath", &self.update),
        ] {
            if program.is_none() {
                reader.error(section, key, problem, None, fix);
            }
        }
    }
}
