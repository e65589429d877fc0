//! Pure: which fault tells a master that its call came to nothing?
//!
//! Keeps the reference's two codes and puts the reason after `error: `, where the reference said
//! only `error` (docs/wire.md §1.3). Masters test for a fault and nothing else; the text is for
//! people. Called by the server and by `call`.

use super::BuilderStatus;
use crate::xmlrpc::{self, Fault};

const UNKNOWN_METHOD: i32 = 8001;
const FAILURE: i32 = 8002;

/// Returns the fault for a method that is not offered; a dot announces a group of methods, of
/// which there are none.
pub(super) fn fault_unknown_method(name: &str) -> Fault {
    let string = match name.split_once('.') {
        Some((group, _)) => format!("no such subHandler {group}"),
        None => format!("procedure {name} not found"),
    };
    Fault {
        code: UNKNOWN_METHOD,
        string,
    }
}

/// Returns the fault for a call that was understood and refused, or failed.
pub(crate) fn fault_refused(method: &str, reason: impl std::fmt::Display) -> Fault {
    Fault {
        code: FAILURE,
        string: format!("error: {method}: {reason}"),
    }
}

/// Returns the fault for a call the builder's state forbids.
pub(crate) fn fault_state(method: &str, wanted: BuilderStatus, state: BuilderStatus) -> Fault {
    fault_refused(method, format_args!("builder is {state}, not {wanted}"))
}

/// Returns the fault for a body that is no XML-RPC call.
pub(crate) fn fault_unparsable(error: &xmlrpc::Error) -> Fault {
    Fault {
        code: FAILURE,
        string: format!("Can't deserialize input: {error}"),
    }
}

/// Returns the fault for an answer XML-RPC cannot carry.
pub(crate) fn fault_unrenderable(error: &xmlrpc::Error) -> Fault {
    Fault {
        code: FAILURE,
        string: format!("Can't serialize output: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_have_the_codes_and_words_of_the_reference() {
        let state = fault_state("build", BuilderStatus::Idle, BuilderStatus::Building);
        let unparsable = xmlrpc::parse_call(b"<methodCall").unwrap_err();
        for (fault, code, string) in [
            (
                fault_unknown_method("frob"),
                8001,
                "procedure frob not found",
            ),
            (
                fault_unknown_method("system.listMethods"),
                8001,
                "no such subHandler system",
            ),
            (state, 8002, "error: build: builder is BUILDING, not IDLE"),
            (
                fault_unrenderable(&xmlrpc::Error::IntRange),
                8002,
                "Can't serialize output: int exceeds XML-RPC limits",
            ),
        ] {
            assert_eq!(
                fault,
                Fault {
                    code,
                    string: string.to_owned()
                }
            );
        }
        let fault = fault_unparsable(&unparsable);
        assert_eq!(fault.code, 8002);
        assert!(
            fault.string.starts_with("Can't deserialize input: 1:"),
            "{}",
            fault.string
        );
    }
}
