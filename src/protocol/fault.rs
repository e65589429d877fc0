//! Pure: makes the faults that answer a failed call (docs/wire.md §1.3).
//!
//! The two codes are those of launchpad-buildd. The text has the reason after `error: `, where
//! launchpad-buildd has only `error`. Masters check only that the answer is a fault; people read
//! the text.

use super::BuilderStatus;
use crate::xmlrpc::{self, Fault};

const UNKNOWN_METHOD: i32 = 8001;
const FAILURE: i32 = 8002;

/// Returns the fault for an unknown method. A dot in its name separates a method group, and there
/// are no groups.
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

/// Returns the fault for a known method that is refused or fails.
pub(crate) fn fault_refused(method: &str, reason: impl std::fmt::Display) -> Fault {
    Fault {
        code: FAILURE,
        string: format!("error: {method}: {reason}"),
    }
}

/// Returns the fault for a call that the builder's state does not allow.
pub(crate) fn fault_state(method: &str, wanted: BuilderStatus, state: BuilderStatus) -> Fault {
    fault_refused(method, format_args!("builder is {state}, not {wanted}"))
}

/// Returns the fault for a body that is not an XML-RPC call.
pub(crate) fn fault_unparsable(error: &xmlrpc::Error) -> Fault {
    Fault {
        code: FAILURE,
        string: format!("Can't deserialize input: {error}"),
    }
}

/// Returns the fault for an answer that XML-RPC cannot represent.
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
    fn faults_have_the_codes_of_launchpad_buildd_and_a_reason() {
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
