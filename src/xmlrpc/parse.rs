//! Pure: parses a document into a call or an answer.
//!
//! A recursive-descent parser over XML events. Size, nesting and document types (and so entities)
//! are checked before anything is stored, so a document costs no more than its size. Every type
//! that Python's `xmlrpc.client` sends is accepted. The method and its parameters are not checked.

use std::collections::HashMap;

use xml::reader::{EventReader, ParserConfig, XmlEvent};

use super::{Error, Fault, MAX_DEPTH, MAX_DOCUMENT_BYTES, MethodCall, Value, decode_base64};

/// Parses a call.
///
/// # Errors
/// Any document that is not one complete `methodCall`.
pub(crate) fn parse_call(document: &[u8]) -> Result<MethodCall, Error> {
    let mut reader = Reader::new(document)?;
    reader.open("methodCall")?;
    reader.open("methodName")?;
    let name = reader.text()?.trim().to_owned();
    let mut params = Vec::new();
    if let Some(tag) = reader.open_or_close()? {
        expect_tag("params", &tag)?;
        while let Some(tag) = reader.open_or_close()? {
            expect_tag("param", &tag)?;
            params.push(reader.only_value()?);
        }
        reader.close()?;
    }
    reader.end()?;
    Ok(MethodCall { name, params })
}

/// Parses an answer: a value or a fault.
///
/// # Errors
/// Any document that is not one complete `methodResponse`.
pub(crate) fn parse_response(document: &[u8]) -> Result<Result<Value, Fault>, Error> {
    let mut reader = Reader::new(document)?;
    reader.open("methodResponse")?;
    let Some(tag) = reader.open_or_close()? else {
        return Err(Event::Close.unexpected("<params> or <fault>"));
    };
    let answer = if tag == "fault" {
        Err(fault(reader.only_value()?)?)
    } else {
        expect_tag("params", &tag)?;
        reader.open("param")?;
        let value = reader.only_value()?;
        reader.close()?;
        Ok(value)
    };
    reader.close()?;
    reader.end()?;
    Ok(answer)
}

/// The XML events that the grammar uses.
enum Event {
    Open(String),
    Text(String),
    Close,
    End,
}

impl Event {
    fn unexpected(self, expected: &str) -> Error {
        let found = match self {
            Event::Open(tag) => format!("<{tag}>"),
            Event::Text(_) => "text".into(),
            Event::Close => "a closing tag".into(),
            Event::End => "the end".into(),
        };
        Error::Unexpected {
            expected: expected.into(),
            found,
        }
    }
}

struct Reader<'a> {
    events: EventReader<&'a [u8]>,
    depth: usize,
}

impl<'a> Reader<'a> {
    fn new(document: &'a [u8]) -> Result<Self, Error> {
        if document.len() > MAX_DOCUMENT_BYTES {
            return Err(Error::TooLarge(document.len()));
        }
        let config = ParserConfig::new()
            .cdata_to_characters(true)
            .whitespace_to_characters(true)
            .coalesce_characters(true)
            .allow_multiple_root_elements(false)
            .max_entity_expansion_depth(1)
            .max_entity_expansion_length(1024)
            .max_name_length(256)
            .max_attributes(4)
            .max_attribute_length(256);
        Ok(Reader {
            events: config.create_reader(document),
            depth: 0,
        })
    }

    fn next(&mut self) -> Result<Event, Error> {
        loop {
            return match self
                .events
                .next()
                .map_err(|error| Error::Xml(error.to_string()))?
            {
                XmlEvent::StartElement { name, .. } => {
                    self.depth += 1;
                    if self.depth > MAX_DEPTH {
                        return Err(Error::TooDeep);
                    }
                    Ok(Event::Open(name.local_name))
                }
                XmlEvent::EndElement { .. } => {
                    self.depth -= 1;
                    Ok(Event::Close)
                }
                XmlEvent::Characters(text) | XmlEvent::CData(text) | XmlEvent::Whitespace(text) => {
                    Ok(Event::Text(text))
                }
                // This event comes before any entity it declares could be expanded.
                XmlEvent::Doctype { .. } => Err(Error::Doctype),
                XmlEvent::EndDocument => Ok(Event::End),
                XmlEvent::StartDocument { .. }
                | XmlEvent::ProcessingInstruction { .. }
                | XmlEvent::Comment(_) => continue,
            };
        }
    }

    /// Returns the next event that is not white space.
    fn next_tag(&mut self) -> Result<Event, Error> {
        loop {
            match self.next()? {
                Event::Text(text) if text.trim().is_empty() => {}
                event => return Ok(event),
            }
        }
    }

    /// Returns the name of the next element, or `None` if the enclosing element closes.
    fn open_or_close(&mut self) -> Result<Option<String>, Error> {
        match self.next_tag()? {
            Event::Open(tag) => Ok(Some(tag)),
            Event::Close => Ok(None),
            event => Err(event.unexpected("a tag")),
        }
    }

    fn open(&mut self, expected: &str) -> Result<(), Error> {
        match self.next_tag()? {
            Event::Open(tag) => expect_tag(expected, &tag),
            event => Err(event.unexpected(&format!("<{expected}>"))),
        }
    }

    fn close(&mut self) -> Result<(), Error> {
        match self.next_tag()? {
            Event::Close => Ok(()),
            event => Err(event.unexpected("a closing tag")),
        }
    }

    fn end(&mut self) -> Result<(), Error> {
        match self.next_tag()? {
            Event::End => Ok(()),
            event => Err(event.unexpected("the end")),
        }
    }

    /// Reads the text of the element just opened, and its closing tag.
    fn text(&mut self) -> Result<String, Error> {
        let mut text = String::new();
        loop {
            match self.next()? {
                // A comment splits a text into several events.
                Event::Text(piece) => text.push_str(&piece),
                Event::Close => return Ok(text),
                event => return Err(event.unexpected("text")),
            }
        }
    }

    /// Reads `<value>...</value>` and the closing tag of the element around it.
    fn only_value(&mut self) -> Result<Value, Error> {
        self.open("value")?;
        let value = self.value()?;
        self.close()?;
        Ok(value)
    }

    /// Reads the `<value>` just opened, and its closing tag. A value without a type is a string,
    /// white space included.
    fn value(&mut self) -> Result<Value, Error> {
        let mut bare = String::new();
        loop {
            match self.next()? {
                Event::Text(piece) => bare.push_str(&piece),
                Event::Close => return Ok(Value::String(bare)),
                Event::Open(tag) if bare.trim().is_empty() => {
                    let value = self.typed(&tag)?;
                    self.close()?;
                    return Ok(value);
                }
                event => return Err(event.unexpected("</value>")),
            }
        }
    }

    /// Reads the type element just opened, and its closing tag.
    fn typed(&mut self, tag: &str) -> Result<Value, Error> {
        match tag {
            "nil" => self.close().map(|()| Value::Nil),
            "string" => self.text().map(Value::String),
            "array" => self.array(),
            "struct" => self.members(),
            _ => scalar(tag, self.text()?.trim()),
        }
    }

    fn array(&mut self) -> Result<Value, Error> {
        self.open("data")?;
        let mut items = Vec::new();
        while let Some(tag) = self.open_or_close()? {
            expect_tag("value", &tag)?;
            items.push(self.value()?);
        }
        self.close()?;
        Ok(Value::Array(items))
    }

    /// Reads a struct. If a name repeats, the last value replaces the first in its position, as in
    /// Python.
    fn members(&mut self) -> Result<Value, Error> {
        let mut members: Vec<(String, Value)> = Vec::new();
        let mut positions = HashMap::new();
        while let Some(tag) = self.open_or_close()? {
            expect_tag("member", &tag)?;
            self.open("name")?;
            let name = self.text()?;
            let value = self.only_value()?;
            let position = *positions.entry(name.clone()).or_insert(members.len());
            if position < members.len() {
                members[position].1 = value;
            } else {
                members.push((name, value));
            }
        }
        Ok(Value::Struct(members))
    }
}

fn scalar(tag: &str, text: &str) -> Result<Value, Error> {
    let (name, value) = match tag {
        "int" | "i1" | "i2" | "i4" | "i8" | "biginteger" => {
            ("int", text.parse().ok().map(Value::Int))
        }
        "boolean" => {
            let flag = match text {
                "0" => Some(false),
                "1" => Some(true),
                _ => None,
            };
            ("boolean", flag.map(Value::Bool))
        }
        "double" => ("double", text.parse().ok().map(Value::Double)),
        "base64" => ("base64", decode_base64(text).map(Value::Base64)),
        "dateTime.iso8601" => {
            let date = Some(text).filter(|text| !text.is_empty());
            (
                "dateTime.iso8601",
                date.map(|text| Value::DateTime(text.to_owned())),
            )
        }
        _ => return Err(Event::Open(tag.to_owned()).unexpected("a value type")),
    };
    value.ok_or(Error::Malformed(name))
}

fn fault(value: Value) -> Result<Fault, Error> {
    let Value::Struct(members) = value else {
        return Err(Error::Malformed("fault"));
    };
    let mut code = None;
    let mut string = None;
    for (name, value) in members {
        match (name.as_str(), value) {
            ("faultCode", Value::Int(number)) => code = i32::try_from(number).ok(),
            ("faultString", Value::String(text)) => string = Some(text),
            _ => {}
        }
    }
    let (Some(code), Some(string)) = (code, string) else {
        return Err(Error::Malformed("fault"));
    };
    Ok(Fault { code, string })
}

fn expect_tag(expected: &str, tag: &str) -> Result<(), Error> {
    if tag == expected {
        return Ok(());
    }
    Err(Event::Open(tag.to_owned()).unexpected(&format!("<{expected}>")))
}
