//! Uploads by PUT. A refused or broken upload leaves nothing.

use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::{Value as Json, json};

use super::support::librarian::{Librarian, Store, on_both};
use crate::support::{Answer, sha1, until};

const HELLO_SHA256: &str = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";

#[test]
fn an_upload_is_answered_with_id_url_hashes_and_size() {
    on_both(|database| {
        let librarian = Librarian::start(database, "");
        let sum = format!("X-SHA1: {}\r\nX-Expires: 4000000000\r\n", sha1(b"hello"));
        let answer = librarian.put(librarian.public, "/gr%C3%BCn%201.txt", &sum, b"hello");
        assert_eq!(answer.status, 201);
        let location = answer.header("Location").unwrap().to_owned();
        assert_eq!(location, "/1/gr%C3%BCn%201.txt");
        let stored: Json = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(
            stored,
            json!({
                "id": 1,
                "url": format!("http://127.0.0.1:{}{location}", librarian.public),
                "sha1": sha1(b"hello"),
                "sha256": HELLO_SHA256,
                "md5": "5d41402abc4b2a76b9719d911017c592",
                "size": 5,
            })
        );
        let file = librarian.get(&location);
        assert_eq!(
            (file.text().as_str(), file.header("Content-Type")),
            ("hello", Some("text/plain"))
        );
        let kind = "Content-Type: application/x-chroot\r\n";
        let answer = librarian.put(librarian.public, "/empty", kind, b"");
        let file = librarian.get(answer.header("Location").unwrap());
        assert_eq!(file.header("Content-Type"), Some("application/x-chroot"));
        assert_eq!((file.status, file.body.len()), (200, 0));
        let expires = "SELECT expires_at FROM library_alias WHERE id = 1";
        assert_eq!(librarian.number(expires), 4_000_000_000_000);
    });
}

#[test]
fn a_refused_upload_leaves_nothing() {
    let librarian = Librarian::start(None, "max_size = 10\n");
    let wrong = format!("X-SHA1: {}\r\n", sha1(b"other"));
    for (path, headers, body, status) in [
        ("/a", wrong.as_str(), "hello", 409),
        ("/a", "X-SHA1: x\r\n", "hello", 400),
        ("/a", "X-Expires: tomorrow\r\n", "hello", 400),
        ("/a", "X-Restricted: maybe\r\n", "hello", 400),
        ("/a", "", "more than ten", 413),
        ("/%00", "", "hello", 400),
        ("/..", "", "hello", 404),
        ("/a/b", "", "hello", 405),
        ("/", "", "hello", 405),
    ] {
        let answer = librarian.put(librarian.public, path, headers, body.as_bytes());
        assert_eq!(answer.status, status, "{path} {headers}: {}", answer.text());
    }
    let long = format!("/{}", "x".repeat(256));
    assert_eq!(librarian.put(librarian.public, &long, "", b"x").status, 400);
    let no_length = librarian.ask(librarian.public, "PUT", "/a", "");
    assert_eq!(no_length.status, 411);
    let chunked = "Transfer-Encoding: chunked\r\n";
    assert_eq!(
        librarian.ask(librarian.public, "PUT", "/a", chunked).status,
        411
    );
    check_empty(&librarian);
}

#[test]
fn an_upload_below_the_reserve_is_507() {
    let librarian = Librarian::start(None, "[limits]\nreserve = 1000000 GiB\n");
    let refused = librarian.put(librarian.public, "/a", "", b"hello");
    assert_eq!(refused.status, 507, "{}", refused.text());
    let line = Store::connect(librarian.store)
        .store("a", "", b"hello")
        .line();
    assert!(
        line.starts_with("500 no space: 5 bytes needed, 0 free"),
        "{line}"
    );
    assert!(librarian.said().contains("[limits] reserve"));
    check_empty(&librarian);
}

fn check_empty(librarian: &Librarian) {
    assert_eq!(librarian.count("library_alias"), 0);
    assert_eq!(librarian.count("library_content"), 0);
    assert_eq!((librarian.blobs().len(), librarian.unfinished()), (0, 0));
}

/// Announces 10,000 bytes, sends five, and waits until the librarian writes them.
fn begin(librarian: &Librarian) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", librarian.public)).unwrap();
    stream
        .write_all(b"PUT /a HTTP/1.1\r\nContent-Length: 10000\r\n\r\nhello")
        .unwrap();
    until("an upload under way", || {
        (librarian.unfinished() == 1).then_some(())
    });
    stream
}

#[test]
fn a_broken_upload_leaves_nothing() {
    let librarian = Librarian::start(None, "[limits]\nrequest_timeout = 1\n");
    drop(begin(&librarian));
    until("end of the upload", || {
        (librarian.unfinished() == 0).then_some(())
    });
    let mut silent = begin(&librarian);
    let mut answer = String::new();
    silent.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    check_empty(&librarian);
}

#[test]
fn a_librarian_killed_during_an_upload_removes_it_at_start() {
    let mut librarian = Librarian::start(None, "");
    let kept = librarian.add("kept", b"kept");
    let upload = begin(&librarian);
    librarian.kill();
    drop(upload);
    assert_eq!(librarian.unfinished(), 1);
    librarian.restart();
    assert_eq!(librarian.unfinished(), 0);
    assert_eq!(librarian.get(&format!("/{kept}/kept")).text(), "kept");
    assert_eq!(librarian.count("library_alias"), 1);
    assert_eq!(librarian.blobs().len(), 1);
}

#[test]
fn a_librarian_stops_during_an_upload() {
    let mut librarian = Librarian::start(None, "");
    let _upload = begin(&librarian);
    librarian.stop();
    librarian.restart();
    check_empty(&librarian);
}

#[test]
fn simultaneous_uploads_of_equal_bytes_share_one_blob() {
    on_both(|database| {
        let librarian = Librarian::start(database, "");
        let body = vec![7; 300_000];
        let upload = |number: usize| -> Answer {
            librarian.put(librarian.public, &format!("/f{number}"), "", &body)
        };
        let answers: Vec<Answer> = std::thread::scope(|scope| {
            let uploads: Vec<_> = (0..12).map(|n| scope.spawn(move || upload(n))).collect();
            uploads.into_iter().map(|one| one.join().unwrap()).collect()
        });
        for answer in answers {
            assert_eq!(answer.status, 201, "{}", answer.text());
            let file = librarian.get(answer.header("Location").unwrap());
            assert!(file.body == body);
        }
        assert_eq!(librarian.count("library_alias"), 12);
        assert_eq!((librarian.blobs().len(), librarian.unfinished()), (1, 0));
    });
}
