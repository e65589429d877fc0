//! The upload protocol of 2008 (docs/farm.md §4.1).

use super::support::librarian::{Librarian, Store, on_both};
use crate::support::{sha1, until};

/// Bytes sent to the port, and the start of the answer.
const REFUSED: &[(&str, &str)] = &[
    ("HELLO\r\n", "400 unknown command: \"HELLO\""),
    ("\r\n", "400 unknown command"),
    ("STORE\r\n", "400 STORE wants"),
    ("STORE 5\r\n", "400 STORE wants"),
    ("STORE five a\r\n", "400 size is not a whole number"),
    ("STORE -5 a\r\n", "400 size is not a whole number"),
    ("STORE 5 a/b\r\n", "400 not a file name"),
    ("STORE 5 a\r\nno header\r\n", "400 malformed header"),
    ("STORE 5 a\r\nA: b: c\r\n", "400 malformed header"),
    (
        "STORE 5 a\r\nFile-Content-ID: x\r\n",
        "400 File-Content-ID is not",
    ),
    (
        "STORE 5 a\r\nFile-Expires: tomorrow\r\n",
        "400 File-Expires is not",
    ),
    ("STORE 5 a\r\n\r\nhello", "400 Database-Name needed"),
    (
        "STORE 5 a\r\nDatabase-Name: launchpad\r\n\r\nhello",
        "400 not the database here: \"launchpad\"",
    ),
    (
        "STORE 5 a\r\nDatabase-Name: farm\r\nFile-Content-ID: 9\r\n\r\nhello",
        "400 File-Content-ID and File-Alias-ID go together",
    ),
    (
        "STORE 5 a\r\nDatabase-Name: farm\r\nFile-Alias-ID: 9\r\n\r\nhello",
        "400 File-Content-ID and File-Alias-ID go together",
    ),
    (
        "STORE 999999999999 a\r\nDatabase-Name: farm\r\n\r\nhello",
        "400 file too large",
    ),
    (
        "STORE 5 a\r\nDatabase-Name: farm\r\n\
         SHA1-Digest: 0000000000000000000000000000000000000000\r\n\r\nhello",
        "500 expected SHA-1 0000000000000000000000000000000000000000, got \
         aaf4c61ddcc5e8a2dabede0f3b482cd9aea9434d",
    ),
];

#[test]
fn a_wrong_command_is_answered_closes_the_connection_and_stores_nothing() {
    let librarian = Librarian::start(None, "");
    for (said, expect) in REFUSED {
        let mut store = Store::connect(librarian.store);
        let answer = store.send(said.as_bytes()).line();
        assert!(answer.starts_with(expect), "{said:?}: {answer}");
        assert_eq!(store.line(), "", "{said:?}: the connection is closed");
    }
    let mut store = Store::connect(librarian.store);
    let answer = store.send(b"STORE 5 \xff\xfe\r\n").line();
    assert_eq!(answer, "400 file name is not UTF-8");
    let long = format!("STORE 5 a\r\nX: {}", "x".repeat(17 << 10));
    let answer = Store::connect(librarian.store).send(long.as_bytes()).line();
    assert_eq!(answer, "400 command and headers too long");
    assert_eq!(librarian.count("library_alias"), 0);
    assert_eq!((librarian.blobs().len(), librarian.unfinished()), (0, 0));
}

#[test]
fn a_file_with_ids_of_the_server_is_served_at_once() {
    on_both(|database| {
        let librarian = Librarian::start(database, "");
        let mut store = Store::connect(librarian.store);
        let sum = format!("sha1-DIGEST: {}\r\nDebug-ID: seen\r\n", sha1(b"hello"));
        let hello = store.store("a name ü.txt", &sum, b"hello").stored();
        let answer = librarian.get(&format!("/{hello}/a%20name%20%C3%BC.txt"));
        assert_eq!((answer.status, answer.text().as_str()), (200, "hello"));
        assert_eq!(answer.header("Content-Type"), Some("unknown/unknown"));
        // The connection stays open for an empty file.
        let empty = store
            .store("empty", "Content-Type: text/plain\r\n", b"")
            .stored();
        let answer = librarian.get(&format!("/{empty}/empty"));
        assert_eq!((answer.status, answer.body.len()), (200, 0));
        assert_eq!(answer.header("Content-Type"), Some("text/plain"));
        // Known bytes make a new file with the same content.
        let again = store
            .store("again", "File-Expires: 4000000000\r\n", b"hello")
            .stored();
        assert_ne!(again, hello);
        assert_eq!(librarian.count("library_content"), 2);
        assert_eq!(librarian.blobs().len(), 2);
        let expires = "SELECT expires_at FROM library_alias WHERE filename = 'again'";
        assert_eq!(librarian.number(expires), 4_000_000_000_000);
        assert!(librarian.said().contains("seen"));
    });
}

#[test]
fn pipelined_uploads_are_answered_in_order() {
    let librarian = Librarian::start(None, "");
    let mut store = Store::connect(librarian.store);
    let mut all = Vec::new();
    for number in 0..20_usize {
        let body = vec![b'x'; number * 1000];
        let head = format!("STORE {} f{number}\nDatabase-Name: farm\n\n", body.len());
        all.extend([head.as_bytes(), &body].concat());
    }
    store.send(&all).send(b"OOPS\r\n");
    for number in 0..20_usize {
        let id = store.stored();
        let answer = librarian.get(&format!("/{id}/f{number}"));
        assert_eq!((answer.status, answer.body.len()), (200, number * 1000));
    }
    assert_eq!(store.line(), "400 unknown command: \"OOPS\"");
    assert_eq!(store.line(), "");
}

#[test]
fn a_file_with_ids_of_the_client_is_served_when_the_client_commits() {
    on_both(|database| {
        let librarian = Librarian::start(database, "");
        let mut store = Store::connect(librarian.store);
        let ids = "File-Content-ID: 1001\r\nFile-Alias-ID: 2002\r\n";
        assert_eq!(store.store("a", ids, b"hello").line(), "200");
        assert_eq!(librarian.get("/2002/a").status, 404);
        let sha256 = librarian.blobs()[0].file_name().unwrap().to_owned();
        librarian.db.execute(&format!(
            "INSERT INTO library_content (id, size, sha1, sha256, md5, created_at) \
               VALUES (1001, 5, '{}', '{}', '', 0); \
             INSERT INTO library_alias (id, content_id, filename, mimetype, created_at) \
               VALUES (2002, 1001, 'a', 'text/plain', 0)",
            sha1(b"hello"),
            sha256.to_str().unwrap(),
        ));
        assert_eq!(librarian.get("/2002/a").text(), "hello");
        // Ids are never used twice.
        let answer = store.store("b", ids, b"other").line();
        assert_eq!(answer, "500 content 1001 exists already");
        assert_eq!(store.line(), "");
        assert_eq!(librarian.blobs().len(), 1);
    });
}

#[test]
fn a_file_stored_at_the_restricted_port_is_restricted() {
    let librarian = Librarian::start(None, "");
    let secret = Store::connect(librarian.restricted_store)
        .store("secret", "", b"secret")
        .stored();
    let open = Store::connect(librarian.store)
        .store("open", "", b"open")
        .stored();
    let status = |port, id, name| {
        let path = format!("/{id}/{name}");
        librarian.ask(port, "GET", &path, "").status
    };
    assert_eq!(status(librarian.public, secret, "secret"), 404);
    assert_eq!(status(librarian.restricted, secret, "secret"), 200);
    assert_eq!(status(librarian.public, open, "open"), 200);
    assert_eq!(status(librarian.restricted, open, "open"), 200);
}

#[test]
fn broken_and_slow_uploads_leave_nothing() {
    let slow = "[limits]\nrequest_timeout = 1\nidle_timeout = 1\n";
    let librarian = Librarian::start(None, slow);
    let head = b"STORE 1000 a\r\nDatabase-Name: farm\r\n\r\nsome";
    let mut half = Store::connect(librarian.store);
    half.send(head);
    until("an upload under way", || {
        (librarian.unfinished() == 1).then_some(())
    });
    drop(half);
    until("end of the upload", || {
        (librarian.unfinished() == 0).then_some(())
    });
    // The client is silent in the body, in the head, and before the head.
    let mut silent = Store::connect(librarian.store);
    let answer = silent.send(head).line();
    assert!(answer.starts_with("400 upload ended early"), "{answer}");
    let mut slow = Store::connect(librarian.store);
    assert_eq!(slow.send(b"STORE 1000 a\r\n").line(), "400 too slow");
    assert_eq!(Store::connect(librarian.store).line(), "");
    assert_eq!(librarian.count("library_alias"), 0);
    assert_eq!((librarian.blobs().len(), librarian.unfinished()), (0, 0));
}

#[test]
fn a_disallowed_address_is_refused_in_the_protocol() {
    let librarian = Librarian::start(None, "upload_allow = 192.0.2.1\n");
    let mut store = Store::connect(librarian.store);
    assert_eq!(store.line(), "400 your address is not allowed here");
    let refused = librarian.ask(librarian.restricted, "GET", "/", "");
    assert_eq!(refused.status, 403);
    assert_eq!(librarian.get("/").status, 200);
    let refused = librarian.put(librarian.public, "/a", "", b"hello");
    assert_eq!(refused.status, 403, "{}", refused.text());
}
