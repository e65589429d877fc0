//! Clients that send too much, announce too much, or ask too often.

use super::crowd::Gone;
use super::siege::{echo_again, post, withstands, withstands_busy};

/// What is written at a time.
static PIECE: [u8; 1 << 20] = [b'x'; 1 << 20];

#[test]
fn a_petabyte_announced_then_nothing() {
    withstands("a petabyte", |_, caller| {
        caller.begin(b"POST /rpc HTTP/1.1\r\nContent-Length: 1000000000000000\r\n\r\n")?;
        match caller.beat {
            0 => Ok(()),
            _ => Err(Gone),
        }
    });
}

#[test]
fn a_header_line_of_300_mib() {
    withstands_busy("300 MiB of header", |_, caller| {
        caller.begin(b"GET / HTTP/1.1\r\nX: ")?;
        caller.send(&PIECE).map(drop)
    });
}

#[test]
fn a_body_of_1_gib() {
    withstands_busy("1 GiB of body", |_, caller| {
        caller.begin(b"POST /rpc HTTP/1.1\r\nContent-Length: 1073741824\r\n\r\n")?;
        caller.send(&PIECE).map(drop)
    });
}

#[test]
fn http_2() {
    withstands("HTTP/2.0", |_, caller| {
        let lines = ["PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "GET / HTTP/2.0\r\n\r\n"];
        caller.begin(lines[caller.number % 2].as_bytes())?;
        caller.hold()
    });
}

#[test]
fn pipelining_without_reading() {
    let request = echo_again(&"<param><value/></param>".repeat(600));
    withstands("pipelining", |_, caller| {
        caller.send(request.as_bytes()).map(drop)
    });
}

#[test]
fn answers_larger_than_their_questions() {
    // The longest body there is, of what becomes the most when it is read and rendered.
    let (start, end) = (
        "<methodCall><methodName>echo</methodName><params><param><value><array><data>",
        "</data></array></value></param></params></methodCall>",
    );
    let wide = format!("{start}{}{end}", "<value/>".repeat(120_000));
    let sharp = format!(
        "{start}<value><![CDATA[{}]]></value>{end}",
        "<".repeat(1_000_000)
    );
    let requests = [post(wide.as_bytes()), post(sharp.as_bytes())];
    withstands_busy("large answers", |_, caller| {
        let request = &requests[caller.number % 2];
        if caller.beat < 20 {
            caller.send(request)?;
        }
        caller.hold()
    });
}
