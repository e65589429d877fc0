//! Tests methods, versions, lengths, ranges and refusals as a client sees them.

use super::*;

#[test]
fn a_connection_is_kept_until_the_client_asks_to_close() {
    let server = start();
    let mut client = Client::connect(&server);
    for body in ["one", "", "three"] {
        let answer = client.ask(&post(body));
        assert_eq!(
            (answer.status, answer.body.as_slice()),
            (200, body.as_bytes())
        );
        assert_eq!(answer.header("Connection"), Some("keep-alive"));
        assert_eq!(answer.header("Content-Type"), Some("text/xml"));
        assert!(answer.header("Date").is_some());
    }
    let answer = client.ask("GET /filecache/a HTTP/1.1\r\nConnection: close\r\n\r\n");
    assert_eq!(answer.header("Connection"), Some("close"));
    assert!(client.is_closed());
}

#[test]
fn http_1_0_closes_unless_keep_alive_is_requested() {
    let server = start();
    let mut client = Client::connect(&server);
    let answer = client.ask("POST /RPC HTTP/1.0\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(answer.status, 404);
    assert!(answer.head.starts_with("HTTP/1.0 "), "{}", answer.head);
    assert!(client.is_closed());

    let mut client = Client::connect(&server);
    let kept = "POST /rpc HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nhi";
    for _ in 0..2 {
        let answer = client.ask(kept);
        assert_eq!(
            (answer.body.as_slice(), answer.header("Connection")),
            (&b"hi"[..], Some("keep-alive"))
        );
    }
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let server = start();
    let mut client = Client::connect(&server);
    let all: String = (0..50).map(|number| post(&number.to_string())).collect();
    client.send(&all);
    for number in 0..50 {
        assert_eq!(client.read().body, number.to_string().as_bytes());
    }
}

#[test]
fn a_request_may_arrive_in_single_bytes_after_an_empty_line() {
    let server = start();
    let mut client = Client::connect(&server);
    client.0.set_nodelay(true).unwrap();
    for byte in format!("\r\n{}", post("slow")).bytes() {
        client.0.write_all(&[byte]).unwrap();
    }
    assert_eq!(client.read().body, b"slow");
}

#[test]
fn a_half_closed_client_gets_its_answer() {
    let server = start();
    let mut client = Client::connect(&server);
    client.send(&post("last"));
    client.0.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.read().body, b"last");
    assert!(client.is_closed());
}

#[test]
fn a_refused_request_gets_its_status_and_closes_the_connection() {
    let server = start();
    let length = |headers: &str| format!("POST /rpc HTTP/1.1\r\n{headers}\r\n\r\n");
    for (request, status) in [
        ("GET / HTTP/2.0\r\n\r\n".to_owned(), 505),
        ("nonsense\r\n\r\n".to_owned(), 400),
        ("GET /%2e%2e/etc/passwd HTTP/1.1\r\n\r\n".to_owned(), 404),
        ("GET /filecache/a%00b HTTP/1.1\r\n\r\n".to_owned(), 400),
        ("GET /filecache/%c0%ae HTTP/1.1\r\n\r\n".to_owned(), 400),
        (length("Content-Length: 1000000000000000"), 413),
        (length("Content-Length: -1"), 400),
        (length("Content-Length: 1\r\nContent-Length: 2"), 400),
        (
            length("Content-Length: 1\r\nTransfer-Encoding: chunked"),
            400,
        ),
        (
            length("Transfer-Encoding: chunked") + "1\r\na\r\n0\r\n\r\n",
            411,
        ),
        (length("Content-Length: 1\r\nExpect: cake"), 417),
        (format!("GET / HTTP/1.1\r\nA: {}", "x".repeat(1 << 20)), 431),
    ] {
        let mut client = Client::connect(&server);
        let answer = client.ask(&request);
        let shown = &request[..request.len().min(60)];
        assert_eq!(answer.status, status, "{shown}");
        assert_eq!(answer.header("Connection"), Some("close"), "{shown}");
        assert!(client.is_closed(), "{shown}");
    }
    assert_still_serves(&server);
}

#[test]
fn unknown_methods_and_paths_are_refused() {
    let server = start();
    let mut client = Client::connect(&server);
    for (line, status, allow) in [
        ("PUT /rpc", 501, None),
        ("BREW /pot", 501, None),
        ("GET /rpc", 405, Some("POST")),
        ("GET /filecache/", 404, None),
        ("GET /filecache", 404, None),
        ("GET /elsewhere?x=1", 404, None),
    ] {
        let answer = client.ask(&format!("{line} HTTP/1.1\r\nContent-Length: 2\r\n\r\nhi"));
        assert_eq!(
            (answer.status, answer.header("Allow")),
            (status, allow),
            "{line}"
        );
    }
}

#[test]
fn head_answers_like_get_without_a_body() {
    let server = start();
    let mut client = Client::connect(&server);
    let head = client
        .send("HEAD /filecache/a HTTP/1.1\r\n\r\n")
        .read_head();
    assert_eq!(
        (head.status, head.header("Content-Length")),
        (200, Some("10"))
    );
    let head = client.send("HEAD /rpc HTTP/1.1\r\n\r\n").read_head();
    assert_eq!((head.status, head.header("Allow")), (405, Some("POST")));
    assert_eq!(client.ask(&post("next")).body, b"next");
}

#[test]
fn expect_100_continue_is_answered_before_the_body() {
    let server = start();
    let mut client = Client::connect(&server);
    client.send("POST /rpc HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n");
    assert_eq!(client.read_head().status, 100);
    assert_eq!(client.ask("hi").body, b"hi");
    // A client that sends the body at once gets the answer at once.
    let at_once = "POST /rpc HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nhi";
    assert_eq!(client.ask(at_once).status, 200);
}

#[test]
fn files_are_sent_whole_and_in_ranges() {
    let server = start();
    let mut client = Client::connect(&server);
    let mut get =
        |headers: &str| client.ask(&format!("GET /filecache/a HTTP/1.1\r\n{headers}\r\n"));
    let date = "Sun, 06 Nov 1994 08:49:37 GMT";

    let whole = get("");
    assert_eq!(
        (whole.status, whole.body.as_slice()),
        (200, &b"0123456789"[..])
    );
    assert_eq!(whole.header("Accept-Ranges"), Some("bytes"));
    assert_eq!(whole.header("Last-Modified"), Some(date));
    for (range, content_range, body) in [
        ("bytes=2-4", "bytes 2-4/10", "234"),
        ("bytes=7-", "bytes 7-9/10", "789"),
        ("bytes=-2", "bytes 8-9/10", "89"),
        ("bytes=0-99", "bytes 0-9/10", "0123456789"),
    ] {
        let part = get(&format!("Range: {range}\r\n"));
        assert_eq!(
            (part.status, part.header("Content-Range")),
            (206, Some(content_range))
        );
        assert_eq!(part.body, body.as_bytes());
    }
    let outside = get("Range: bytes=10-\r\n");
    assert_eq!(
        (outside.status, outside.header("Content-Range")),
        (416, Some("bytes */10"))
    );
    assert_eq!(get("Range: bytes=0-1,3-4\r\n").status, 200);
    assert_eq!(
        get(&format!("Range: bytes=2-4\r\nIf-Range: {date}\r\n")).status,
        206
    );
    assert_eq!(get("Range: bytes=2-4\r\nIf-Range: \"tag\"\r\n").status, 200);
}

#[test]
fn a_large_file_arrives_whole_and_a_truncated_one_cuts_the_connection() {
    let content: Vec<u8> = (0..3_000_001_u32)
        .map(|number| number.to_le_bytes()[0])
        .collect();
    let server = start_with(few_threads(), Access::default(), &content);
    let mut client = Client::connect(&server);
    let get = |name: &str| format!("GET /filecache/{name} HTTP/1.1\r\nTE: chunked\r\n\r\n");
    assert!(client.ask(&get("a")).body == content);
    client.send(&get("longer")).read_head();
    let mut body = Vec::new();
    // The connection ends, perhaps by a reset; no other bytes fill the gap.
    let _ = client.0.read_to_end(&mut body);
    assert!(content.starts_with(&body));
}
