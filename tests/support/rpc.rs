//! An XML-RPC client with JSON for values: `null` is nil, `{"base64": "…"}` is bytes.

use std::iter::Peekable;

use serde_json::{Map, Value as Json, json};
use xml::reader::{EventReader, Events, XmlEvent};

/// A fault.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) code: i64,
    pub(crate) text: String,
}

/// Writes a call as masters do.
pub(crate) fn render_call(method: &str, params: &[Json]) -> String {
    let params: String = params
        .iter()
        .map(|value| format!("<param>{}</param>", render(value)))
        .collect();
    format!(
        "<?xml version='1.0'?>\n<methodCall>\n<methodName>{method}</methodName>\n\
         <params>\n{params}</params>\n</methodCall>\n"
    )
}

/// Writes a `<value>`.
pub(crate) fn render(value: &Json) -> String {
    let inner = match value {
        Json::Null => "<nil/>".to_owned(),
        Json::Bool(yes) => format!("<boolean>{}</boolean>", u8::from(*yes)),
        Json::Number(number) if number.is_f64() => format!("<double>{number}</double>"),
        Json::Number(number) => format!("<int>{number}</int>"),
        Json::String(text) => format!("<string>{}</string>", escape(text)),
        Json::Array(items) => {
            let items: String = items.iter().map(render).collect();
            format!("<array><data>{items}</data></array>")
        }
        Json::Object(members) => match members.get("base64") {
            Some(bytes) => format!("<base64>{}</base64>", bytes.as_str().unwrap()),
            None => {
                let member = |(name, value): (&String, &Json)| {
                    format!(
                        "<member><name>{}</name>{}</member>",
                        escape(name),
                        render(value)
                    )
                };
                format!(
                    "<struct>{}</struct>",
                    members.iter().map(member).collect::<String>()
                )
            }
        },
    };
    format!("<value>{inner}</value>")
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

/// Reads an answer; fails for any other document.
pub(crate) fn parse_answer(body: &[u8]) -> Result<Json, Fault> {
    let document = document(body);
    assert_eq!(document.name, "methodResponse");
    match document.only() {
        fault if fault.name == "fault" => {
            let fault = value(fault.only());
            let text = fault["faultString"].as_str().unwrap().to_owned();
            let code = fault["faultCode"].as_i64().unwrap();
            Err(Fault { code, text })
        }
        params => Ok(value(params.only().only())),
    }
}

/// An element of a document, without its attributes.
pub(crate) struct Element {
    pub(crate) name: String,
    pub(crate) text: String,
    pub(crate) children: Vec<Element>,
}

/// Reads a whole document.
pub(crate) fn document(body: &[u8]) -> Element {
    let mut events = EventReader::new(body).into_iter().peekable();
    loop {
        if let XmlEvent::StartElement { name, .. } = events.next().unwrap().unwrap() {
            return element(name.local_name, &mut events);
        }
    }
}

impl Element {
    pub(crate) fn only(&self) -> &Element {
        assert_eq!(self.children.len(), 1, "in <{}>", self.name);
        &self.children[0]
    }

    pub(crate) fn child(&self, name: &str) -> &Element {
        let found = self.children.iter().find(|child| child.name == name);
        found.unwrap_or_else(|| panic!("no <{name}> in <{}>", self.name))
    }
}

fn element(name: String, events: &mut Peekable<Events<&[u8]>>) -> Element {
    let mut element = Element {
        name,
        text: String::new(),
        children: Vec::new(),
    };
    loop {
        match events.next().unwrap().unwrap() {
            XmlEvent::StartElement { name, .. } => {
                element
                    .children
                    .push(self::element(name.local_name, events));
            }
            XmlEvent::Characters(text) | XmlEvent::Whitespace(text) => element.text += &text,
            XmlEvent::EndElement { .. } => return element,
            _ => {}
        }
    }
}

/// Reads a `<value>`.
pub(crate) fn value(value: &Element) -> Json {
    assert_eq!(value.name, "value");
    let typed = value.only();
    match typed.name.as_str() {
        "nil" => Json::Null,
        "boolean" => json!(typed.text == "1"),
        "int" | "i4" => json!(typed.text.parse::<i64>().unwrap()),
        "double" => json!(typed.text.parse::<f64>().unwrap()),
        "string" => json!(typed.text),
        "base64" => json!({"base64": typed.text.split_whitespace().collect::<String>()}),
        "array" => {
            let items = typed.child("data").children.iter();
            Json::Array(items.map(self::value).collect())
        }
        "struct" => {
            let member = |member: &Element| {
                let name = member.child("name").text.clone();
                (name, self::value(member.child("value")))
            };
            Json::Object(typed.children.iter().map(member).collect::<Map<_, _>>())
        }
        other => panic!("<{other}> is not an XML-RPC type"),
    }
}
