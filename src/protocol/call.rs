//! Pure: parses a method call into one of the protocol's calls (docs/wire.md §1.4).
//!
//! An unknown method becomes the fault to answer. The number and kinds of parameters are checked,
//! the builder's state is not.

use std::fmt;

use super::fault::{fault_refused, fault_unknown_method};
use super::{BuildCall, Error};
use crate::xmlrpc::{Fault, MethodCall, Value};

/// A call of the protocol.
pub(crate) enum Call {
    Echo(Vec<Value>),
    Info,
    Status,
    /// `status` in the dict form, independent of the configured form.
    StatusDict,
    EnsurePresent {
        /// Unchecked: a malformed SHA-1 gets an answer, not a fault.
        sha1: String,
        /// `None` only asks whether the file is present.
        url: Option<String>,
        credentials: Option<Credentials>,
    },
    Build(BuildCall),
    Abort,
    Clean,
    ProxyInfo,
}

/// Credentials for the server of a file. One part may be empty, but not both.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Credentials {
    pub(crate) username: String,
    pub(crate) password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(..)")
    }
}

impl Call {
    /// Parses a method call.
    ///
    /// # Errors
    /// The fault to answer: an unknown method, or parameters of the wrong number or kind.
    pub(crate) fn parse(call: MethodCall) -> Result<Call, Fault> {
        let MethodCall { name, params } = call;
        let parsed = match name.as_str() {
            "echo" => Ok(Call::Echo(params)),
            "info" => without_params(Call::Info, params),
            "status" => without_params(Call::Status, params),
            "status_dict" => without_params(Call::StatusDict, params),
            "ensurepresent" => ensure_present(params),
            "build" => build(params),
            "abort" => without_params(Call::Abort, params),
            "clean" => without_params(Call::Clean, params),
            "proxy_info" => without_params(Call::ProxyInfo, params),
            _ => return Err(fault_unknown_method(&name)),
        };
        parsed.map_err(|error| fault_refused(&name, error))
    }

    /// Returns whether a call is an `ensurepresent`, which may take as long as a download.
    pub(crate) fn may_download(call: &MethodCall) -> bool {
        call.name == "ensurepresent"
    }

    pub(crate) fn method(&self) -> &'static str {
        match self {
            Call::Echo(_) => "echo",
            Call::Info => "info",
            Call::Status => "status",
            Call::StatusDict => "status_dict",
            Call::EnsurePresent { .. } => "ensurepresent",
            Call::Build(_) => "build",
            Call::Abort => "abort",
            Call::Clean => "clean",
            Call::ProxyInfo => "proxy_info",
        }
    }
}

/// Shows only the method, because URLs and arguments may hold credentials.
impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.method())
    }
}

fn without_params(call: Call, params: Vec<Value>) -> Result<Call, Error> {
    let [] = exactly(params)?;
    Ok(call)
}

fn ensure_present(params: Vec<Value>) -> Result<Call, Error> {
    let [sha1, url, username, password] = exactly(params)?;
    let sha1 = string("parameter 1 (sum)", sha1)?;
    let url = optional_string("parameter 2 (url)", url)?;
    // Masters that cannot send nil send an empty string.
    let username = optional_string("parameter 3 (username)", username)?.unwrap_or_default();
    let password = optional_string("parameter 4 (password)", password)?.unwrap_or_default();
    let given = !(username.is_empty() && password.is_empty());
    let credentials = given.then_some(Credentials { username, password });
    Ok(Call::EnsurePresent {
        sha1,
        url,
        credentials,
    })
}

fn build(params: Vec<Value>) -> Result<Call, Error> {
    let [build_id, build_type, chroot_sha1, files, args] = exactly(params)?;
    let build_type = string("parameter 2 (build type)", build_type)?;
    Ok(Call::Build(BuildCall {
        build_id,
        build_type,
        chroot_sha1,
        files,
        args,
    }))
}

fn exactly<const N: usize>(params: Vec<Value>) -> Result<[Value; N], Error> {
    let arity = |params: Vec<Value>| Error::Arity {
        expected: N,
        given: params.len(),
    };
    params.try_into().map_err(arity)
}

fn string(what: &str, value: Value) -> Result<String, Error> {
    match value {
        Value::String(text) => Ok(text),
        other => Err(Error::kind(what, "string", &other)),
    }
}

fn optional_string(what: &str, value: Value) -> Result<Option<String>, Error> {
    match value {
        Value::Nil => Ok(None),
        other => string(what, other).map(Some),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::xmlrpc;

    const SHA1: &str = "0a4d55a8d778e5022fab701977c5d840bbc486d0";

    fn parse(name: &str, params: serde_json::Value) -> Result<Call, Fault> {
        let Value::Array(params) = Value::from_json(params).unwrap() else {
            panic!("no array")
        };
        Call::parse(MethodCall {
            name: name.to_owned(),
            params,
        })
    }

    fn refusal(name: &str, params: serde_json::Value) -> String {
        let fault = parse(name, params).unwrap_err();
        assert_eq!(fault.code, 8002);
        fault.string
    }

    #[test]
    fn calls_without_parameters_refuse_parameters() {
        for name in [
            "info",
            "status",
            "status_dict",
            "abort",
            "clean",
            "proxy_info",
        ] {
            assert_eq!(parse(name, json!([])).unwrap().method(), name);
            let error = format!("error: {name}: expected 0 parameters, got 1");
            assert_eq!(refusal(name, json!([1])), error);
        }
    }

    #[test]
    fn echo_takes_any_parameters() {
        for params in [json!([]), json!(["Hello World", null, {"a": [1]}])] {
            let Call::Echo(echoed) = parse("echo", params.clone()).unwrap() else {
                panic!("other")
            };
            assert_eq!(Value::Array(echoed).to_json(), params);
        }
    }

    #[test]
    fn an_unknown_method_is_fault_8001() {
        for name in ["frob", "system.listMethods", "", "Echo"] {
            assert_eq!(parse(name, json!([])).unwrap_err().code, 8001, "{name}");
        }
    }

    #[test]
    fn credentials_need_a_user_name_or_a_password() {
        let credentials = |username: &str, password: &str| {
            Some(Credentials {
                username: username.to_owned(),
                password: password.to_owned(),
            })
        };
        for (username, password, expected) in [
            (json!(""), json!(""), None),
            (json!(null), json!(null), None),
            (
                json!("buildd"),
                json!("secret"),
                credentials("buildd", "secret"),
            ),
            (json!(""), json!("macaroon"), credentials("", "macaroon")),
            (json!("buildd"), json!(null), credentials("buildd", "")),
        ] {
            let call = parse(
                "ensurepresent",
                json!([SHA1, "http://h/", username, password]),
            );
            let Call::EnsurePresent {
                sha1,
                url,
                credentials,
            } = call.unwrap()
            else {
                panic!("other")
            };
            assert_eq!((sha1.as_str(), url.as_deref()), (SHA1, Some("http://h/")));
            assert_eq!(credentials, expected);
        }
    }

    #[test]
    fn an_empty_url_is_not_an_absent_url() {
        for (given, expected) in [(json!(null), None), (json!(""), Some(""))] {
            let call = parse("ensurepresent", json!(["../x", given, "", ""])).unwrap();
            let Call::EnsurePresent { sha1, url, .. } = call else {
                panic!("other")
            };
            assert_eq!((sha1.as_str(), url.as_deref()), ("../x", expected));
        }
    }

    #[test]
    fn parameters_of_the_wrong_kind_are_named() {
        for (name, params, reason) in [
            (
                "ensurepresent",
                json!([SHA1, null]),
                "expected 4 parameters, got 2",
            ),
            (
                "ensurepresent",
                json!([1, null, "", ""]),
                "parameter 1 (sum): expected string, got int",
            ),
            (
                "ensurepresent",
                json!([SHA1, 7, "", ""]),
                "parameter 2 (url): expected string, got int",
            ),
            (
                "build",
                json!(["b1", "debian", SHA1, {}]),
                "expected 5 parameters, got 4",
            ),
            (
                "build",
                json!(["b1", 1, SHA1, {}, {}]),
                "parameter 2 (build type): expected string, got int",
            ),
        ] {
            assert_eq!(refusal(name, params), format!("error: {name}: {reason}"));
        }
    }

    #[test]
    fn fuzz_calls() {
        let build = json!(["b1", "debian", SHA1, {"a.dsc": SHA1}, {"ogrecomponent": "main",
            "archives": ["deb http://u:p@h/ hardy main"], "arch_indep": true}]);
        let ensure = json!([SHA1, "http://h/a%20b", "u", "p"]);
        let render = |name: &str, params: serde_json::Value| {
            let Value::Array(params) = Value::from_json(params).unwrap() else {
                panic!("an array");
            };
            xmlrpc::render_call(name, &params)
        };
        let documents = [
            render("build", build),
            render("ensurepresent", ensure),
            render("status", json!([])),
            include_bytes!("../../tests/fixtures/xmlrpc/every_type.call.xml").to_vec(),
            include_bytes!("../../tests/fixtures/xmlrpc/latin1.call.xml").to_vec(),
            b"<!DOCTYPE a [<!ENTITY b 'c'>]><methodCall><!-- -- --><?p i?><![CDATA[x]]>&b;&#65;"
                .to_vec(),
        ];
        let seeds: Vec<&[u8]> = documents.iter().map(Vec::as_slice).collect();
        crate::fuzz::fuzz("calls", &seeds, |input| {
            let Ok(call) = xmlrpc::parse_call(input) else {
                return;
            };
            // A rendered call parses to the same call.
            let rendered = xmlrpc::render_call(&call.name, &call.params);
            let again = xmlrpc::parse_call(&rendered).expect("a rendered call can be parsed");
            let twice = xmlrpc::render_call(&again.name, &again.params);
            assert_eq!(
                String::from_utf8_lossy(&twice),
                String::from_utf8_lossy(&rendered)
            );
            let Ok(Call::Build(call)) = Call::parse(call) else {
                return;
            };
            let Ok(request) = call.into_request() else {
                return;
            };
            for name in request.files.iter().map(|(name, _)| name.as_str()) {
                assert!(!name.contains(['/', '\0']) && name != "." && name != "..");
            }
        });
    }

    #[test]
    fn debug_shows_no_secret() {
        let call = parse(
            "ensurepresent",
            json!([SHA1, "http://u:secret@h/", "u", "secret"]),
        );
        assert_eq!(format!("{call:?}"), "Ok(ensurepresent)");
        let credentials = Credentials {
            username: "u".into(),
            password: "secret".into(),
        };
        assert_eq!(format!("{credentials:?}"), "Credentials(..)");
    }
}
