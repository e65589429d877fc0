//! Pure: XML-RPC as a value language: documents in, values out, and back.
//!
//! `parse` reads calls and responses, `write` renders them, `value` is what they carry. Nothing
//! here knows of builds (`protocol` does) or of HTTP (`server` and the clients do). Every limit on
//! a document except the caller's own body cap is kept here.

mod parse;
#[cfg(test)]
mod tests;
mod value;
mod write;

pub(crate) use parse::{parse_call, parse_response};
pub(crate) use value::{Value, decode_base64};
pub(crate) use write::{render_call, render_fault, render_response};

/// Largest document read, in bytes; HTTP caps bodies lower.
const MAX_DOCUMENT_BYTES: usize = 2 * 1024 * 1024;
/// Deepest nesting of elements read: about twenty arrays within arrays.
const MAX_DEPTH: usize = 64;

/// A call as it arrived: neither the method nor its parameters are checked.
pub(crate) struct MethodCall {
    pub(crate) name: String,
    pub(crate) params: Vec<Value>,
}

/// Shows the method only: parameters may hold credentials.
impl std::fmt::Debug for MethodCall {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "MethodCall({:?}, {} params)",
            self.name,
            self.params.len()
        )
    }
}

/// An error answer; it travels with HTTP status 200 like any other answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) code: i32,
    pub(crate) string: String,
}

/// Says why a document or a value was refused. No variant repeats content, which may be secret.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    #[error("document of {0} bytes is larger than {MAX_DOCUMENT_BYTES}")]
    TooLarge(usize),
    #[error("elements are nested deeper than {MAX_DEPTH}")]
    TooDeep,
    #[error("document type declarations are refused")]
    Doctype,
    /// Not XML; the text is the XML reader's, with line and column.
    #[error("{0}")]
    Xml(String),
    #[error("expected {expected}, found {found}")]
    Unexpected { expected: String, found: String },
    #[error("malformed <{0}>")]
    Malformed(&'static str),
    /// Only 32-bit integers may be returned (docs/wire.md §1.2).
    #[error("int exceeds XML-RPC limits")]
    IntRange,
}
