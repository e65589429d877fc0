//! Pure: the buildd protocol's types, and the only code that holds its wire strings.
//!
//! `names` checks names that may become paths or arguments, `status` has the states. `call`,
//! `request` and `args` parse calls; `reply`, `record` and `fault` make answers. The slave decides
//! whether a build may start.

mod args;
mod call;
mod fault;
mod names;
mod record;
mod reply;
mod request;
mod status;

pub(crate) use args::BuildArgs;
pub(crate) use call::{Call, Credentials};
pub(crate) use fault::{fault_refused, fault_state, fault_unparsable, fault_unrenderable};
pub(crate) use names::{BuildId, BuildProfile, FileName, Invalid, Sha1Hex, Suite};
pub(crate) use record::{StatusForm, StatusRecord, render_status};
pub(crate) use reply::{
    BUILD_TYPES, Info, SumKind, builder_state, building, ensure_present, parse_building,
    parse_present, render_info, unknown_builder, unknown_sum,
};
pub(crate) use request::{BuildCall, BuildRequest, SourceFiles};
pub(crate) use status::{BuildStatus, BuilderStatus, Verdicts};

use crate::xmlrpc::Value;

/// An error in a call's parameters or in a slave's answer. It never repeats a value that may be
/// secret.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    #[error("expected {expected} parameters, got {given}")]
    Arity { expected: usize, given: usize },
    #[error("{what}: expected {expected}, got {given}")]
    Kind {
        what: String,
        expected: &'static str,
        given: &'static str,
    },
    #[error("{what}: {reason}")]
    Value { what: String, reason: String },
}

impl Error {
    fn kind(what: &str, expected: &'static str, given: &Value) -> Error {
        Error::Kind {
            what: what.to_owned(),
            expected,
            given: given.kind(),
        }
    }

    fn value(what: &str, reason: impl ToString) -> Error {
        Error::Value {
            what: what.to_owned(),
            reason: reason.to_string(),
        }
    }
}
