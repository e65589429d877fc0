//! Pure: converts XML-RPC documents to values and back.
//!
//! `parse` reads calls and responses, `write` renders them, `value` holds their values. Nothing
//! here depends on builds or HTTP. The limits on a document are enforced here; a caller may have a
//! lower limit on body size.

mod parse;
#[cfg(test)]
mod tests;
mod value;
mod write;

pub(crate) use parse::{parse_call, parse_response};
pub(crate) use value::{Value, decode_base64};
pub(crate) use write::{render_call, render_fault, render_response};

/// Largest accepted document, in bytes. The HTTP limit on bodies is lower by default.
const MAX_DOCUMENT_BYTES: usize = 2 * 1024 * 1024;
/// Deepest accepted nesting of elements: about twenty arrays within arrays.
const MAX_DEPTH: usize = 64;

/// A parsed call; neither its method nor its parameters are checked.
pub(crate) struct MethodCall {
    pub(crate) name: String,
    pub(crate) params: Vec<Value>,
}

/// Shows only the method, because parameters may hold credentials.
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

/// An error answer; its HTTP status is 200, as for every answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) code: i32,
    pub(crate) string: String,
}

/// Why a document or a value is refused. No variant repeats content, which may be secret.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    #[error("document of {0} bytes is larger than {MAX_DOCUMENT_BYTES}")]
    TooLarge(usize),
    #[error("elements are nested deeper than {MAX_DEPTH}")]
    TooDeep,
    #[error("document type declarations are refused")]
    Doctype,
    /// Not XML; the text is the XML parser's message, with line and column.
    #[error("{0}")]
    Xml(String),
    #[error("expected {expected}, found {found}")]
    Unexpected { expected: String, found: String },
    #[error("malformed <{0}>")]
    Malformed(&'static str),
    /// An answer holds only 32-bit integers (docs/wire.md §1.2).
    #[error("int exceeds XML-RPC limits")]
    IntRange,
}
