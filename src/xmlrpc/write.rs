//! Pure: renders a call, an answer or a fault as a document.
//!
//! The bytes equal those of Python's `xmlrpc.client`, so every master of launchpad-buildd can read
//! them. Characters that XML 1.0 does not allow are dropped.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::{Error, Fault, Value};

const PROLOGUE: &str = "<?xml version='1.0'?>\n";
/// Length of a line of base64, as in MIME.
const BASE64_COLUMNS: usize = 76;

/// Renders a call. Integers beyond 32 bits become `<i8>`.
pub(crate) fn render_call(method: &str, params: &[Value]) -> Vec<u8> {
    let mut out = format!("{PROLOGUE}<methodCall>\n<methodName>");
    push_text(&mut out, method);
    out.push_str("</methodName>\n");
    push_params(&mut out, params);
    out.push_str("</methodCall>\n");
    out.into_bytes()
}

/// Renders an answer.
///
/// # Errors
/// `IntRange` if an integer anywhere in the value needs more than 32 bits.
pub(crate) fn render_response(value: &Value) -> Result<Vec<u8>, Error> {
    if !fits_32_bits(value) {
        return Err(Error::IntRange);
    }
    let mut out = format!("{PROLOGUE}<methodResponse>\n");
    push_params(&mut out, std::slice::from_ref(value));
    out.push_str("</methodResponse>\n");
    Ok(out.into_bytes())
}

/// Renders a fault.
pub(crate) fn render_fault(fault: &Fault) -> Vec<u8> {
    let members = Value::Struct(vec![
        ("faultCode".into(), Value::Int(fault.code.into())),
        ("faultString".into(), Value::String(fault.string.clone())),
    ]);
    let mut out = format!("{PROLOGUE}<methodResponse>\n<fault>\n");
    push_value(&mut out, &members);
    out.push_str("</fault>\n</methodResponse>\n");
    out.into_bytes()
}

fn fits_32_bits(value: &Value) -> bool {
    match value {
        Value::Int(number) => i32::try_from(*number).is_ok(),
        Value::Array(items) => items.iter().all(fits_32_bits),
        Value::Struct(members) => members.iter().all(|(_, value)| fits_32_bits(value)),
        _ => true,
    }
}

fn push_params(out: &mut String, params: &[Value]) {
    out.push_str("<params>\n");
    for param in params {
        out.push_str("<param>\n");
        push_value(out, param);
        out.push_str("</param>\n");
    }
    out.push_str("</params>\n");
}

fn push_value(out: &mut String, value: &Value) {
    out.push_str("<value>");
    match value {
        // Python ends every value but nil with a newline.
        Value::Nil => return out.push_str("<nil/></value>"),
        Value::Int(number) => {
            let tag = if fits_32_bits(value) { "int" } else { "i8" };
            push_element(out, tag, &number.to_string());
        }
        Value::Bool(flag) => push_element(out, "boolean", if *flag { "1" } else { "0" }),
        // The debug format is the shortest that parses back to the same number, as in Python.
        Value::Double(number) => push_element(out, "double", &format!("{number:?}")),
        Value::String(text) => push_element(out, "string", text),
        Value::DateTime(text) => push_element(out, "dateTime.iso8601", text),
        Value::Base64(bytes) => push_base64(out, bytes),
        Value::Array(items) => {
            out.push_str("<array><data>\n");
            items.iter().for_each(|item| push_value(out, item));
            out.push_str("</data></array>");
        }
        Value::Struct(members) => {
            out.push_str("<struct>\n");
            for (name, value) in members {
                out.push_str("<member>\n");
                push_element(out, "name", name);
                out.push('\n');
                push_value(out, value);
                out.push_str("</member>\n");
            }
            out.push_str("</struct>");
        }
    }
    out.push_str("</value>\n");
}

fn push_base64(out: &mut String, bytes: &[u8]) {
    out.push_str("<base64>\n");
    let text = STANDARD.encode(bytes);
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, later) = rest.split_at(rest.len().min(BASE64_COLUMNS));
        out.push_str(line);
        out.push('\n');
        rest = later;
    }
    out.push_str("</base64>");
}

fn push_element(out: &mut String, tag: &str, text: &str) {
    out.push_str(&format!("<{tag}>"));
    push_text(out, text);
    out.push_str(&format!("</{tag}>"));
}

fn push_text(out: &mut String, text: &str) {
    out.reserve(text.len());
    let mut copied = 0;
    for (at, c) in text.char_indices() {
        let replacement = match c {
            '&' => "&amp;",
            '<' => "&lt;",
            '>' => "&gt;",
            // An XML parser would read a bare carriage return as a newline.
            '\r' => "&#13;",
            '\t' | '\n' => continue,
            '\0'..'\u{20}' | '\u{fffe}' | '\u{ffff}' => "",
            _ => continue,
        };
        out.push_str(&text[copied..at]);
        out.push_str(replacement);
        copied = at + c.len_utf8();
    }
    out.push_str(&text[copied..]);
}

#[cfg(test)]
mod tests {
    use super::super::parse::parse_call;
    use super::*;

    fn text(bytes: Vec<u8>) -> String {
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn integers_beyond_32_bits_cannot_be_returned() {
        let ends = [i64::from(i32::MIN), i64::from(i32::MAX)].map(Value::Int);
        assert!(render_response(&Value::Array(ends.to_vec())).is_ok());
        for beyond in [i64::from(i32::MIN) - 1, i64::from(i32::MAX) + 1] {
            let value = Value::Struct(vec![("n".into(), Value::Array(vec![Value::Int(beyond)]))]);
            assert_eq!(render_response(&value), Err(Error::IntRange));
            assert!(text(render_call("echo", &[value])).contains(&format!("<i8>{beyond}</i8>")));
        }
    }

    #[test]
    fn characters_not_allowed_in_xml_are_dropped() {
        let value = Value::from("a\0\u{1b}[0m\u{fffe}\u{ffff}\tb\n");
        assert!(text(render_response(&value).unwrap()).contains("<string>a[0m\tb\n</string>"));
    }

    #[test]
    fn markup_in_names_and_texts_is_escaped() {
        let call = render_call(
            "<m>",
            &[Value::Struct(vec![("a<b".into(), "]]>&\r".into())])],
        );
        let call = parse_call(&call).unwrap();
        assert_eq!(call.name, "<m>");
        assert_eq!(
            call.params,
            [Value::Struct(vec![("a<b".into(), "]]>&\r".into())])]
        );
    }
}
