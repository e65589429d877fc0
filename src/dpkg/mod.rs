//! Debian's formats and rules: control files, source packages, architectures, relations.
//!
//! This folder knows nothing of builds or of the farm.

pub(crate) mod arch;
pub(crate) mod changes;
pub(crate) mod control;
pub(crate) mod deb;
pub(crate) mod decompress;
pub(crate) mod dsc;
pub(crate) mod expected;
pub(crate) mod packages;
pub(crate) mod relations;
pub(crate) mod source;

use std::path::PathBuf;

/// Why a control file or a source package is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The file exceeds the limit, in bytes.
    #[error("larger than {0} bytes")]
    TooLarge(u64),
    /// A line that is not part of a valid field.
    #[error("line {line}: {problem}")]
    Line { line: usize, problem: &'static str },
    /// A mandatory field is absent.
    #[error("no {0} field")]
    NoField(&'static str),
    /// A field that cannot be parsed.
    #[error("{field}, line {line}: {problem}")]
    Field {
        field: &'static str,
        line: usize,
        problem: String,
    },
    /// The source or version gives no file name.
    #[error("{0}")]
    Name(String),
    /// A source package that is unreadable or incomplete.
    #[error("{}: {problem}", path.display())]
    Source { path: PathBuf, problem: String },
}
