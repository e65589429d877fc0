//! Pure: the values of XML-RPC, and their conversion to and from JSON.
//!
//! The command line reads and prints values as JSON. JSON has no bytes, so base64 is the object
//! `{"base64": "..."}` in both directions.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value as Json, json};

use super::Error;

/// One XML-RPC value. Python's tuples and lists are both `Array`, as on the wire.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Nil,
    /// 64 bits in calls, 32 bits in answers.
    Int(i64),
    Bool(bool),
    Double(f64),
    String(String),
    /// The text of a `dateTime.iso8601`, not interpreted.
    DateTime(String),
    Base64(Vec<u8>),
    Array(Vec<Value>),
    /// Members in the order of the document; names are unique.
    Struct(Vec<(String, Value)>),
}

impl Value {
    /// Returns the name of the value's type, for error messages.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Value::Nil => "nil",
            Value::Int(_) => "int",
            Value::Bool(_) => "bool",
            Value::Double(_) => "double",
            Value::String(_) => "string",
            Value::DateTime(_) => "dateTime",
            Value::Base64(_) => "base64",
            Value::Array(_) => "array",
            Value::Struct(_) => "struct",
        }
    }

    /// Converts to JSON. Dates become strings, and so do infinite and NaN doubles.
    pub(crate) fn to_json(&self) -> Json {
        match self {
            Value::Nil => Json::Null,
            Value::Int(number) => json!(number),
            Value::Bool(flag) => json!(flag),
            Value::Double(number) if number.is_finite() => json!(number),
            Value::Double(number) => json!(number.to_string()),
            Value::String(text) | Value::DateTime(text) => json!(text),
            Value::Base64(bytes) => json!({ "base64": STANDARD.encode(bytes) }),
            Value::Array(items) => items.iter().map(Value::to_json).collect(),
            Value::Struct(members) => members
                .iter()
                .map(|(name, value)| (name.clone(), value.to_json()))
                .collect(),
        }
    }

    /// Converts from JSON. Numbers beyond 64 bits become doubles.
    ///
    /// # Errors
    /// An object `{"base64": ...}` whose member is not base64 text.
    pub(crate) fn from_json(json: Json) -> Result<Value, Error> {
        Ok(match json {
            Json::Null => Value::Nil,
            Json::Bool(flag) => Value::Bool(flag),
            Json::Number(number) => match number.as_i64() {
                Some(int) => Value::Int(int),
                None => Value::Double(number.as_f64().unwrap_or(f64::NAN)),
            },
            Json::String(text) => Value::String(text),
            Json::Array(items) => Value::Array(
                items
                    .into_iter()
                    .map(Value::from_json)
                    .collect::<Result<_, _>>()?,
            ),
            Json::Object(members) if members.len() == 1 && members.contains_key("base64") => {
                let bytes = members["base64"].as_str().and_then(decode_base64);
                Value::Base64(bytes.ok_or(Error::Malformed("base64"))?)
            }
            Json::Object(members) => Value::Struct(
                members
                    .into_iter()
                    .map(|(name, json)| Ok((name, Value::from_json(json)?)))
                    .collect::<Result<_, Error>>()?,
            ),
        })
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::String(text.to_owned())
    }
}

/// Decodes padded base64 text, which may be split into lines.
pub(crate) fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let packed: String = text.split_ascii_whitespace().collect();
    STANDARD.decode(packed).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_round_trip_through_json() {
        let text = r#"[null,true,-7,1.5,"x",{"base64":"AP8="},{"b":[1],"a":{}}]"#;
        let value = Value::from_json(serde_json::from_str(text).unwrap()).unwrap();
        let Value::Array(items) = &value else {
            panic!("{value:?}")
        };
        assert_eq!(items[2], Value::Int(-7));
        assert_eq!(items[5], Value::Base64(vec![0, 255]));
        assert_eq!(value.to_json().to_string(), text);
    }

    #[test]
    fn dates_and_infinite_doubles_become_json_strings() {
        let value = Value::Array(vec![
            Value::Double(f64::NEG_INFINITY),
            Value::DateTime("20080604T12:00:00".into()),
        ]);
        assert_eq!(value.to_json(), json!(["-inf", "20080604T12:00:00"]));
    }

    #[test]
    fn a_base64_object_must_hold_base64() {
        for bad in [json!({"base64": "!"}), json!({"base64": 1})] {
            assert_eq!(Value::from_json(bad), Err(Error::Malformed("base64")));
        }
        let members = json!({"base64": "AA==", "other": 1});
        assert!(matches!(Value::from_json(members), Ok(Value::Struct(_))));
    }

    #[test]
    fn base64_text_may_be_split_into_lines() {
        assert_eq!(decode_base64("\nSGVs\r\nbG8=\n"), Some(b"Hello".to_vec()));
        assert_eq!(decode_base64("SGVsbG8"), None);
    }
}
