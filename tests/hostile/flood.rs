//! Clients that send too much, announce too much, or request too often.

use super::crowd::Gone;
use super::siege::{echo_again, post, withstands, withstands_busy};

/// The bytes of one write.
static PIECE: [u8; 1 << 20] = [b'x'; 1 << 20];

#[test]
fn announced_petabytes_do_not_delay_others() {
    withstands("a petabyte", |_, caller| {
        caller.begin(b"POST /rpc HTTP/1.1\r\nContent-Length: 1000000000000000\r\n\r\n")?;
        match caller.beat {
            0 => Ok(()),
            _ => Err(Gone),
        }
    });
}

#[test]
fn endless_header_lines_do_not_delay_others() {
    withstands_busy("300 MiB of header", |_, caller| {
        caller.begin(b"GET / HTTP/1.1\r\nX: ")?;
        caller.send(&PIECE).map(drop)
    });
}

#[test]
fn bodies_of_1_gib_do_not_delay_others() {
    withstands_busy("1 GiB of body", |_, caller| {
        caller.begin(b"POST /rpc HTTP/1.1\r\nContent-Length: 1073741824\r\n\r\n")?;
        caller.send(&PIECE).map(drop)
    });
}

#[test]
fn http_2_requests_do_not_delay_others() {
    withstands("HTTP/2.0", |_, caller| {
        let lines = ["PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "GET / HTTP/2.0\r\n\r\n"];
        caller.begin(lines[caller.number % 2].as_bytes())?;
        caller.hold()
    });
}

#[test]
fn pipelined_requests_that_read_nothing_do_not_fill_memory() {
    let request = echo_again(&"<param><value/></param>".repeat(600));
    withstands("pipelining", |_, caller| {
        caller.send(request.as_bytes()).map(drop)
    });
}

#[test]
fn requests_with_large_answers_do_not_fill_memory() {
    // Bodies of the maximal length that need the most memory when parsed and rendered.
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
