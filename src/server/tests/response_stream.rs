//! Tests answers that are produced while they are sent.

use super::*;

/// Requests a stream of `words` and returns all bytes until the server closes.
fn ask(server: &TestServer, verb: &str, words: &str, version: &str) -> String {
    let mut client = Client::connect(server);
    let words = words.replace(' ', "%20");
    client.send(&format!("{verb} /log/{words} HTTP/{version}\r\n\r\n"));
    let mut text = String::new();
    client.0.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn a_stream_is_sent_in_chunks_with_a_last_chunk() {
    let server = start();
    let answer = ask(&server, "GET", "one - three", "1.1");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert!(head.contains("Transfer-Encoding: chunked"), "{head}");
    assert!(head.contains("Connection: close"), "{head}");
    assert!(!head.contains("Content-Length"), "{head}");
    assert_eq!(body, "3\r\none\r\n5\r\nthree\r\n0\r\n\r\n");
    assert_still_serves(&server);
}

#[test]
fn a_failed_stream_has_no_last_chunk() {
    let server = start();
    let mut client = Client::connect(&server);
    client.send("GET /log/one%20!%20two HTTP/1.1\r\n\r\n");
    let mut bytes = Vec::new();
    // The connection may end by a reset.
    let _ = client.0.read_to_end(&mut bytes);
    let text = String::from_utf8(bytes).unwrap();
    assert!(text.ends_with("3\r\none\r\n"), "{text}");
}

#[test]
fn a_stream_to_an_http_1_0_client_ends_with_the_connection() {
    let server = start();
    let answer = ask(&server, "GET", "one two", "1.0");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(!head.contains("Transfer-Encoding"), "{head}");
    assert!(!head.contains("Content-Length"), "{head}");
    assert_eq!(body, "onetwo");
    let head = ask(&server, "HEAD", "...", "1.1");
    assert!(head.ends_with("\r\n\r\n"), "{head}");
}

#[test]
fn followers_have_their_own_quota_and_free_it_when_they_close() {
    let limits = Limits {
        followers: 4,
        downloads: 1,
        ..few_threads()
    };
    let server = start_with(limits, Access::default(), b"0123456789");
    let follow = "GET /log/begun%20... HTTP/1.1\r\n\r\n";
    let mut followers: Vec<Client> = (0..2).map(|_| Client::connect(&server)).collect();
    for follower in &mut followers {
        assert_eq!(follower.send(follow).read_head().status, 200);
    }
    let mut third = Client::connect(&server);
    assert_eq!(third.ask(follow).status, 503);
    let file = "GET /filecache/a HTTP/1.1\r\n\r\n";
    assert_eq!(Client::connect(&server).ask(file).status, 200);
    followers.pop();
    let begun = Instant::now();
    while Client::connect(&server).send(follow).read_head().status != 200 {
        assert!(begun.elapsed() < TIMEOUT, "the permit was not freed");
    }
}
