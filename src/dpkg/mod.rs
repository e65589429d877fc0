//! Debian's formats and rules: control files, source packages, architectures, relations.
//!
//! Nothing here knows of a build or of the farm.

pub(crate) mod arch;
pub(crate) mod changes;
pub(crate) mod control;
pub(crate) mod dsc;
pub(crate) mod relations;
pub(crate) mod source;

use std::path::PathBuf;

/// Why a control file or a source package was refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The file is larger than any real one.
    #[error("larger than {0} bytes")]
    TooLarge(u64),
    /// A line which is neither a field nor part of one.
    #[error("line {line}: {problem}")]
    Line { line: usize, problem: &'static str },
    /// A mandatory field is absent.
    #[error("no {0} field")]
    NoField(&'static str),
    /// A field that cannot be read.
    #[error("{field}, line {line}: {problem}")]
    Field {
        field: &'static str,
        line: usize,
        problem: String,
    },
    /// A source package that cannot be built from.
    #[error("{}: {problem}", path.display())]
    Source { path: PathBuf, problem: String },
}
