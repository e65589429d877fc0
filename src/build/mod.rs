//! One build: from a checked request to a verdict, a log and files in the cache.
//!
//! `rundir` is what a build has on disk, `shim` the process that does it: it asks `plan` for the
//! next stage and has `stages` do it, each command under the clocks of `exec`. `logscan` reads the
//! log as it goes by, `verdict` decides what the end of sbuild means, `depwait` what the archive
//! lacks (`wildcard`: for which architecture); `changes`, `collect` and `gather` bring in the
//! results. `dsc` and `source` are what is built from, for those who are given a .dsc.

mod apt;
pub(crate) mod autopsy;
pub(crate) mod buildlog;
pub(crate) mod changes;
mod collect;
pub(crate) mod deb822;
mod depwait;
mod disk;
pub(crate) mod dsc;
mod exec;
mod gather;
pub(crate) mod leftovers;
mod logscan;
mod plan;
pub(crate) mod rundir;
mod runner;
mod sbuild;
mod scrub;
pub(crate) mod shim;
pub(crate) mod source;
pub(crate) mod spec;
mod stages;
mod verdict;
pub(crate) mod wildcard;

use std::path::PathBuf;

use crate::protocol::FileName;

pub(crate) use apt::{UPDATE, UPGRADE};
pub(crate) use plan::Stage;

/// Why a control file or a result of the build was refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The file is larger than any real one.
    #[error("larger than {0} bytes")]
    TooLarge(u64),
    /// A line which is neither a field nor part of one.
    #[error("line {line}: {problem}")]
    Line { line: usize, problem: &'static str },
    /// A field which must be there is not.
    #[error("no {0} field")]
    NoField(&'static str),
    /// A field that cannot be read.
    #[error("{field}, line {line}: {problem}")]
    Field {
        field: &'static str,
        line: usize,
        problem: String,
    },
    /// A result file that is missing, is not a plain file, or is not what the .changes says.
    #[error("{file}: {problem}")]
    Result { file: FileName, problem: String },
    /// A source package that cannot be built from.
    #[error("{}: {problem}", path.display())]
    Source { path: PathBuf, problem: String },
}
