//! The HTTP/1.1 server of a fake slave, with persistent connections.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::thread;

use serde_json::{Value as Json, json};

use super::fake::{Does, Shared};
use super::fake_slave::Refusal;
use crate::support::rpc::{document, render, value};

/// A request, and whether the connection stays open after it.
struct Request {
    verb: String,
    path: String,
    body: Vec<u8>,
    keep: bool,
}

/// An answer: the status, the type, and the body.
struct Answer {
    status: &'static str,
    kind: &'static str,
    body: Arc<[u8]>,
}

/// Serves a connection until either side closes it. `life` is that of the fake at the accept.
pub(super) fn serve(shared: &Shared, stream: TcpStream, life: u32) {
    let _ = stream.set_nodelay(true);
    let Ok(reading) = stream.try_clone() else {
        return;
    };
    let (mut reader, mut stream) = (BufReader::new(reading), stream);
    while let Some(request) = read(&mut reader) {
        if !shared.lock().is_alive(life) || respond(shared, &request, &mut stream, life).is_none() {
            break;
        }
        if !request.keep {
            break;
        }
    }
    let _ = stream.shutdown(std::net::Shutdown::Both);
}

fn read(reader: &mut impl BufRead) -> Option<Request> {
    let mut first = String::new();
    reader.read_line(&mut first).ok()?;
    let mut words = first.split_whitespace();
    let (verb, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut keep = words.next()? == "HTTP/1.1";
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((key, text)) = line.trim_end().split_once(':') else {
            break;
        };
        match key.to_ascii_lowercase().as_str() {
            "content-length" => length = text.trim().parse().unwrap(),
            "connection" => keep &= !text.trim().eq_ignore_ascii_case("close"),
            "transfer-encoding" => panic!("slaves know no {text}"),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Request {
        verb,
        path,
        body,
        keep,
    })
}

/// Answers a request; `None` hangs up.
fn respond(shared: &Shared, request: &Request, stream: &mut TcpStream, life: u32) -> Option<()> {
    let (what, method, args) = match request.verb.as_str() {
        "POST" => {
            assert!(["/rpc", "/rpc/"].contains(&request.path.as_str()));
            let (method, args) = parse_call(&request.body);
            (method.clone(), method, args)
        }
        _ => {
            let what = request.path.rsplit('/').next().unwrap_or_default();
            (
                what.to_owned(),
                request.verb.clone(),
                vec![json!(request.path)],
            )
        }
    };
    let (does, delay) = {
        let mut inner = shared.lock();
        inner.note(&method, &args);
        (inner.manners(&what), inner.delay)
    };
    if !delay.is_zero() {
        // A slave that is slow to answer.
        thread::sleep(delay);
    }
    let usual = || match request.verb.as_str() {
        "POST" => call(shared, &method, &args),
        _ => file(shared, &what),
    };
    match does {
        None => send(stream, &usual()),
        Some(Does::Fault(text)) => send(stream, &Answer::fault(8002, text)),
        Some(Does::Answer(answer)) => send(stream, &Answer::value(&answer)),
        Some(Does::Http(status)) => send(stream, &Answer::page(status, "an error")),
        Some(Does::Garbage) => send(stream, &Answer::page("200 OK", "<html>It works!</html>")),
        Some(Does::HangUp) => None,
        Some(Does::Stall) => {
            shared.stall(life, &what);
            None
        }
        Some(Does::Late(gate)) => {
            let answer = usual();
            gate.wait();
            send(stream, &answer)
        }
        Some(Does::Bytes(bytes)) => send(stream, &Answer::bytes(bytes.into())),
        Some(Does::Cut(at)) => {
            let answer = usual();
            send_head(stream, &answer)?;
            let _ = stream.write_all(&answer.body[..at]);
            None
        }
        Some(Does::HoldAt(at, gate)) => {
            let answer = usual();
            send_head(stream, &answer)?;
            let (first, rest) = answer.body.split_at(at);
            stream.write_all(first).ok()?;
            gate.wait();
            stream.write_all(rest).ok()
        }
    }
}

fn call(shared: &Shared, method: &str, args: &[Json]) -> Answer {
    match shared.lock().slave.answer(method, args) {
        Ok(answer) => Answer::value(&answer),
        Err(Refusal(code, text)) => Answer::fault(code, &text),
    }
}

fn file(shared: &Shared, name: &str) -> Answer {
    match shared.lock().slave.file(name) {
        Some(bytes) => Answer::bytes(bytes),
        None => Answer::page("404 Not Found", "not found"),
    }
}

impl Answer {
    fn page(status: &'static str, text: &str) -> Self {
        let body = text.as_bytes().into();
        let kind = "text/html";
        Self { status, kind, body }
    }

    fn bytes(body: Arc<[u8]>) -> Self {
        let (status, kind) = ("200 OK", "application/octet-stream");
        Self { status, kind, body }
    }

    fn xml(inner: &str) -> Self {
        let text = format!("<?xml version='1.0'?>\n<methodResponse>\n{inner}\n</methodResponse>\n");
        Self {
            kind: "text/xml",
            ..Self::page("200 OK", &text)
        }
    }

    fn value(answer: &Json) -> Self {
        let answer = render(answer);
        Self::xml(&format!("<params><param>{answer}</param></params>"))
    }

    fn fault(code: i64, text: &str) -> Self {
        let fault = render(&json!({"faultCode": code, "faultString": text}));
        Self::xml(&format!("<fault>{fault}</fault>"))
    }
}

fn send(stream: &mut TcpStream, answer: &Answer) -> Option<()> {
    send_head(stream, answer)?;
    stream.write_all(&answer.body).ok()
}

fn send_head(stream: &mut TcpStream, answer: &Answer) -> Option<()> {
    let head = format!(
        "HTTP/1.1 {}\r\nContent-Type: {}\r\nContent-Length: {}\r\n\r\n",
        answer.status,
        answer.kind,
        answer.body.len()
    );
    stream.write_all(head.as_bytes()).ok()
}

/// Reads a call; fails for anything else.
fn parse_call(body: &[u8]) -> (String, Vec<Json>) {
    let call = document(body);
    assert_eq!(call.name, "methodCall");
    let name = call.child("methodName").text.trim().to_owned();
    let params = call.children.iter().find(|child| child.name == "params");
    let params = params.map_or(&[][..], |params| &params.children);
    let args = params.iter().map(|param| value(param.only())).collect();
    (name, args)
}
