//! Single requests that are broken, odd or too large.
//!
//! Each is answered or cut off, discloses nothing, and leaves the builder as it was. The unit tests
//! of `src/server/` and `src/xmlrpc/` have more of them.

use std::io::{BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};

use serde_json::json;

use super::siege::{Siege, post};
use crate::support::rpc::{parse_answer, render_call};
use crate::support::{Answer, DEADLINE, Fault, read_answer};

/// Sends `bytes`, closes the sending side, and returns all bytes up to the end of the connection.
fn say(siege: &Siege, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(("127.0.0.1", siege.port)).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    // The daemon may close the connection before all is sent.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    let mut heard = Vec::new();
    match stream.read_to_end(&mut heard) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
    }
    heard
}

/// The status of each answer in `heard`.
fn statuses(heard: &[u8]) -> Vec<u16> {
    let mut rest = BufReader::new(heard);
    let next = |_| read_answer(&mut rest, false).ok();
    let answers = std::iter::repeat(()).map_while(next);
    answers.map(|answer: Answer| answer.status).collect()
}

/// Sends a body as a call and returns the fault in the answer.
fn fault(siege: &Siege, body: &[u8]) -> Fault {
    let answer = siege.ask(siege.attacker(), &post(body)).unwrap();
    assert_eq!(answer.status, 200);
    parse_answer(&answer.body).unwrap_err()
}

fn echo(value: &str) -> String {
    format!(
        "<methodCall><methodName>echo</methodName><params><param><value>{value}</value></param>\
         </params></methodCall>"
    )
}

/// Checks that no request has changed anything.
fn check_untouched(siege: &Siege) {
    assert_eq!(siege.state(), "IDLE");
    assert_eq!(siege.called(), "");
    siege.check_memory();
    siege.check_service();
}

#[test]
fn a_truncated_call_gets_no_answer() {
    let siege = Siege::start("");
    let whole = post(render_call("build", &siege.parameters("b1", json!({}))).as_bytes());
    for length in 0..whole.len() {
        let heard = say(&siege, &whole[..length]);
        assert!(heard.is_empty(), "{length}: {heard:?}");
    }
    check_untouched(&siege);
}

#[test]
fn random_bytes_are_refused() {
    let siege = Siege::start("");
    let mut seed: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut random = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed.to_le_bytes()
    };
    for round in 0..300_usize {
        let noise: Vec<u8> = (0..round).flat_map(|_| random()).collect();
        let head = format!(
            "POST /rpc HTTP/1.1\r\nContent-Length: {}\r\n\r\n",
            noise.len()
        );
        let starts = ["", "POST ", "GET /filecache/", "GET / HTTP/1.1\r\n", &head];
        let said = [starts[round % 5].as_bytes(), &noise].concat();
        for status in statuses(&say(&siege, &said)) {
            // A body of noise with a known length is answered with a fault.
            let may = status == 200 && round % 5 == 4 || (400..600).contains(&status);
            assert!(may && status != 500, "{round}: {status}");
        }
    }
    check_untouched(&siege);
}

#[test]
fn a_wrong_content_length_is_refused() {
    let siege = Siege::start("");
    let body = echo("x");
    let call = |headers: &str| format!("POST /rpc HTTP/1.1\r\n{headers}\r\n\r\n{body}");
    let right = body.len();
    let chunked = format!("{right:x}\r\n{body}\r\n0\r\n\r\n");
    for (said, expect) in [
        (call(&format!("Content-Length: {right}")), &[200][..]),
        // The bytes after the body are not a request.
        (call(&format!("Content-Length: {}", right - 1)), &[200, 400]),
        (call("Content-Length: 0"), &[200, 400]),
        (call(&format!("Content-Length: {}", right + 1)), &[]),
        (
            call(&format!(
                "Content-Length: {right}\r\nContent-Length: {right}"
            )),
            &[400],
        ),
        (
            call(&format!(
                "Content-Length: {right}\r\nTransfer-Encoding: chunked"
            )),
            &[400],
        ),
        (
            format!("POST /rpc HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{chunked}"),
            &[411],
        ),
        (
            format!("POST /rpc HTTP/1.0\r\nTransfer-Encoding: gzip, chunked\r\n\r\n{chunked}"),
            &[411],
        ),
        (call("Content-Length: 18446744073709551616"), &[413]),
        (call("Content-Length: 1048577"), &[413]),
    ] {
        assert_eq!(statuses(&say(&siege, said.as_bytes())), expect, "{said}");
    }
    check_untouched(&siege);
}

#[test]
fn odd_verbs_versions_and_expectations_have_their_statuses() {
    let siege = Siege::start("");
    let body = echo("x");
    let length = format!("Content-Length: {}\r\n", body.len());
    for (said, expect) in [
        ("BREW /rpc HTTP/1.1\r\n\r\n".to_owned(), &[501][..]),
        ("DELETE /filecache/x HTTP/1.1\r\n\r\n".to_owned(), &[501]),
        (
            "CONNECT example.org:443 HTTP/1.1\r\n\r\n".to_owned(),
            &[400],
        ),
        ("TRACE / HTTP/1.1\r\nX: secret\r\n\r\n".to_owned(), &[501]),
        ("get / HTTP/1.1\r\n\r\n".to_owned(), &[501]),
        (format!("{} / HTTP/1.1\r\n\r\n", "X".repeat(20_000)), &[431]),
        ("GET / HTTP/0.9\r\n\r\n".to_owned(), &[505]),
        ("GET /\r\n".to_owned(), &[400]),
        (format!("POST /rpc HTTP/1.0\r\n{length}\r\n{body}"), &[200]),
        // HTTP/1.0 has no `Expect`.
        (
            format!("POST /rpc HTTP/1.0\r\n{length}Expect: 100-continue\r\n\r\n{body}"),
            &[200],
        ),
        (
            format!("POST /rpc HTTP/1.1\r\n{length}Expect: 200-ok\r\n\r\n{body}"),
            &[417],
        ),
        ("GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n".to_owned(), &[400]),
        (
            format!("GET /{} HTTP/1.1\r\n\r\n", "%2e%2e/".repeat(500)),
            &[404],
        ),
    ] {
        let heard = say(&siege, said.as_bytes());
        assert_eq!(statuses(&heard), expect, "{said}");
        assert!(
            !String::from_utf8_lossy(&heard).contains("secret"),
            "{said}"
        );
    }
    let asking = format!("POST /rpc HTTP/1.1\r\n{length}Expect: 100-continue\r\n\r\n");
    let mut stream = TcpStream::connect(("127.0.0.1", siege.port)).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(asking.as_bytes()).unwrap();
    let mut go_on = [0; 25];
    stream.read_exact(&mut go_on).unwrap();
    assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(body.as_bytes()).unwrap();
    assert_eq!(
        read_answer(&mut BufReader::new(stream), false)
            .unwrap()
            .status,
        200
    );
    let head = siege.request("HEAD", &siege.file, "");
    assert_eq!((head.status, head.body.len()), (200, 0));
    check_untouched(&siege);
}

#[test]
fn documents_that_expand_or_nest_are_faults() {
    let siege = Siege::start("");
    let call = "<methodCall><methodName>echo</methodName><params/></methodCall>";
    let laughs: String = (1..20)
        .map(|n| format!("<!ENTITY l{n} '&l{};&l{};'>", n - 1, n - 1))
        .collect();
    let quadratic = format!("<!ENTITY l '{}'>", "x".repeat(60_000));
    for declared in [
        format!("<!ENTITY l0 'ha'>{laughs}"),
        quadratic,
        "<!ENTITY l SYSTEM 'file:///etc/passwd'>".to_owned(),
        "<!ENTITY % l SYSTEM 'http://127.0.0.1/'> %l;".to_owned(),
    ] {
        let uses = echo(&"&l19;&l;".repeat(1000));
        for call in [call, &uses] {
            let document = format!("<?xml version='1.0'?><!DOCTYPE a [{declared}]>{call}");
            let fault = fault(&siege, document.as_bytes());
            assert_eq!(fault.code, 8002, "{declared}: {fault:?}");
            assert!(!fault.text.contains("root:"), "{fault:?}");
        }
    }
    let attributes: String = (0..1000).map(|n| format!(" a{n}='x'")).collect();
    let name = "n".repeat(100_000);
    for body in [
        echo(&"<array><data><value>".repeat(10_000)),
        format!("<methodCall>{}", "<a>".repeat(100_000)),
        format!("<methodCall{attributes}><methodName>echo</methodName></methodCall>"),
        format!("<{name}></{name}>"),
        format!("<methodCall {name}='x'/>"),
        format!("<!--{}", "-".repeat(100_000)),
        echo("<int>99999999999999999999</int>"),
        echo("<double>1e</double>"),
        echo("<base64>AAA</base64>"),
        echo("&#0;"),
        echo("&#xFFFFFFFF;"),
        echo("a\0b"),
        echo("]]>"),
    ] {
        let fault = fault(&siege, body.as_bytes());
        assert_eq!(fault.code, 8002, "{:.80}: {fault:?}", body);
        assert!(
            fault.text.len() < 1000,
            "{} bytes of fault",
            fault.text.len()
        );
    }
    let (start, end) = (
        &echo("")[..echo("").find("</value>").unwrap()],
        "</value></param></params></methodCall>",
    );
    for bytes in [
        &b"\xc0\xae\xc0\xae/"[..],
        b"\xe0\x80\xaf",
        b"\xed\xa0\x80",
        b"\xf5\x80\x80\x80",
        b"\xff",
    ] {
        let body = [start.as_bytes(), bytes, end.as_bytes()].concat();
        assert_eq!(fault(&siege, &body).code, 8002, "{bytes:?}");
    }
    check_untouched(&siege);
}

#[test]
fn documents_over_the_limit_are_413() {
    let siege = Siege::start("");
    for (body, status) in [
        (echo(&"x".repeat(10_000_000)), 413),
        (
            echo(&format!("<base64>{}</base64>", "A".repeat(10_000_000))),
            413,
        ),
        (echo(&"x".repeat(500_000)), 200),
        (
            echo(&format!(
                "<array><data>{}</data></array>",
                "<value/>".repeat(20_000)
            )),
            200,
        ),
        (
            "<methodCall><methodName>".to_owned()
                + &"x".repeat(500_000)
                + "</methodName></methodCall>",
            200,
        ),
    ] {
        let mut stream = TcpStream::connect(("127.0.0.1", siege.port)).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.write_all(&post(body.as_bytes())).unwrap();
        let answer = read_answer(&mut BufReader::new(stream), false).unwrap();
        assert_eq!(answer.status, status, "{:.80}", body);
    }
    check_untouched(&siege);
}
