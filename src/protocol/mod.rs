//! Pure: the buildd vocabulary, and the only place that spells its wire strings.
//!
//! Names that may become paths or arguments (`names`), states (`status`), what a master may ask
//! (`call`, `request`, `args`) and what it is told (`reply`, `record`, `fault`). Decides nothing:
//! whether a build may start is the slave's business. Used by slave, master and the clients.

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
pub(crate) use names::{BuildId, FileName, Invalid, Sha1Hex, Suite};
pub(crate) use record::{StatusForm, StatusRecord, render_status};
pub(crate) use reply::{
    BUILD_TYPES, Info, SumKind, builder_state, building, ensure_present, parse_building,
    parse_present, render_info, unknown_builder, unknown_sum,
};
pub(crate) use request::{BuildCall, BuildRequest, SourceFiles};
pub(crate) use status::{BuildStatus, BuilderStatus};

use crate::xmlrpc::Value;

/// Says what is wrong with a call's parameters, or with a slave's status. Values that may be
/// secret are never repeated.
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
