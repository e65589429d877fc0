//! Downloads: URLs, access and headers (docs/farm.md §4.3, §4.4).

use base64::prelude::{BASE64_STANDARD, Engine};
use serde_json::json;

use super::support::librarian::{Librarian, Store, on_both};
use crate::support::{Daemon, in_session, run, sha1, talk};

#[test]
fn no_port_serves_a_build_session() {
    let librarian = Librarian::start(None, "");
    for (port, request, answer) in [
        (librarian.public, "GET / HTTP/1.0\\r\\n\\r\\n", " 403 "),
        (librarian.restricted, "GET / HTTP/1.0\\r\\n\\r\\n", " 403 "),
        (
            librarian.store,
            "STORE 1 a\\r\\n\\r\\na",
            "build sessions may not connect",
        ),
        (
            librarian.restricted_store,
            "STORE 1 a\\r\\n\\r\\na",
            "build sessions may not connect",
        ),
    ] {
        let (_, said) = run(in_session(
            &librarian.site,
            &talk("127.0.0.1", port, request),
        ));
        assert!(said.contains(answer), "{said}");
    }
}

#[test]
fn a_file_is_served_by_number_and_name_only() {
    let librarian = Librarian::start(None, "");
    let id = librarian.add("a%20b.dsc", b"hello");
    for (path, status) in [
        (format!("/{id}/a%20b.dsc"), 200),
        (format!("/{id}/%61%20b.dsc"), 200),
        (format!("/12345/{id}/a%20b.dsc"), 200),
        (format!("/{id}/a+b.dsc"), 404),
        (format!("/{id}/A%20b.dsc"), 404),
        (format!("/{id}/"), 404),
        (format!("/x/{id}/a%20b.dsc"), 404),
        (format!("/{}/a%20b.dsc", id + 1), 404),
        ("/one/a%20b.dsc".to_owned(), 404),
        (format!("/{id}/../a%20b.dsc"), 404),
        (format!("/{id}"), 200),
        ("/".to_owned(), 200),
        ("/favicon.ico".to_owned(), 404),
    ] {
        assert_eq!(librarian.get(&path).status, status, "{path}");
    }
    assert!(
        librarian
            .get("/robots.txt")
            .text()
            .contains("Disallow: /\n")
    );
    let page = librarian.get(&format!("/{id}"));
    assert_eq!(
        page.header("Content-Type"),
        Some("text/html; charset=utf-8")
    );
    assert!(!page.text().contains("dsc"), "the name is a weak secret");
    for verb in ["POST", "DELETE"] {
        let headers = "Content-Length: 0\r\n";
        let refused = librarian.ask(librarian.public, verb, &format!("/{id}/a"), headers);
        assert_eq!(
            (refused.status, refused.header("Allow")),
            (405, Some("GET, HEAD"))
        );
    }
    assert_eq!(librarian.ask(librarian.public, "BREW", "/", "").status, 501);
}

#[test]
fn a_download_has_type_date_length_and_caching_headers() {
    let librarian = Librarian::start(None, "");
    let id = librarian.add("hello.dsc", b"0123456789");
    let made = "UPDATE library_alias SET created_at = 784111777000";
    librarian.db.execute(made);
    let path = format!("/{id}/hello.dsc");
    let whole = librarian.get(&path);
    let date = "Sun, 06 Nov 1994 08:49:37 GMT";
    for (header, expect) in [
        ("Content-Type", "text/prs.debian.dsc"),
        ("Last-Modified", date),
        ("Cache-Control", "max-age=31536000, public"),
        ("Content-Length", "10"),
    ] {
        assert_eq!(whole.header(header), Some(expect));
    }
    let ask = |verb, headers: &str| librarian.ask(librarian.public, verb, &path, headers);
    let head = ask("HEAD", "");
    assert_eq!(
        (head.status, head.header("Content-Length")),
        (200, Some("10"))
    );
    let part = ask("GET", "Range: bytes=2-4\r\n");
    assert_eq!((part.status, part.text().as_str()), (206, "234"));
    // A 304 has no body; its Content-Length is that of the client's copy.
    let unchanged = ask("HEAD", &format!("If-Modified-Since: {date}\r\n"));
    assert_eq!(unchanged.status, 304);
    let changed = ask(
        "GET",
        "If-Modified-Since: Sun, 06 Nov 1994 08:49:36 GMT\r\n",
    );
    assert_eq!(changed.status, 200);
}

#[test]
fn compressed_texts_have_a_text_type_and_an_encoding() {
    let librarian = Librarian::start(None, "");
    for (name, kind, encoding) in [
        ("buildlog.txt.gz", "text/plain; charset=utf-8", Some("gzip")),
        ("hello_1.diff.gz", "text/plain", Some("gzip")),
        ("hello_1.tar.gz", "application/gzip", None),
        ("hello_1.deb", "application/vnd.debian.binary-package", None),
        ("README", "application/octet-stream", None),
    ] {
        let id = librarian.add(name, b"x");
        let answer = librarian.get(&format!("/{id}/{name}"));
        assert_eq!(answer.header("Content-Type"), Some(kind), "{name}");
        assert_eq!(answer.header("Content-Encoding"), encoding, "{name}");
    }
}

#[test]
fn files_are_found_by_their_hash() {
    on_both(|database| {
        let librarian = Librarian::start(database, "");
        let first = librarian.add("a%20b", b"hello");
        let second = librarian.add("c", b"hello");
        librarian.add("other", b"other");
        let answer = librarian.put(librarian.restricted, "/secret", "", b"hello");
        assert_eq!(answer.status, 201);
        let search = |port, sum: &str| {
            let path = format!("/search?digest={sum}");
            librarian.ask(port, "GET", &path, "").text()
        };
        let sum = sha1(b"hello");
        let expect = format!("2\n{first}/a%20b\n{second}/c\n");
        assert_eq!(search(librarian.public, &sum), expect);
        assert_eq!(search(librarian.public, &sum.to_uppercase()), expect);
        let restricted = search(librarian.restricted, &sum);
        assert_eq!(restricted, format!("1\n{}/secret\n", second + 2));
        assert_eq!(search(librarian.public, "nonsense"), "0\n");
        assert_eq!(search(librarian.public, ""), "Bad search\n");
        assert_eq!(librarian.get("/search").text(), "Bad search\n");
    });
}

/// A token that opens `alias` and was made so many hours ago.
fn token(librarian: &Librarian, alias: i64, token: &str, hours_ago: i64) {
    use sha2::{Digest, Sha256};
    let hash: String = Sha256::digest(token)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_millis();
    librarian.db.execute(&format!(
        "INSERT INTO library_token (alias_id, token_sha256, created_at) \
         VALUES ({alias}, '{hash}', {now} - {hours_ago} * 3600000)"
    ));
}

#[test]
fn a_token_opens_one_restricted_file_for_a_day() {
    on_both(|database| {
        let librarian = Librarian::start(database, "");
        for name in ["/one", "/two"] {
            let headers = "X-Restricted: yes\r\n";
            let answer = librarian.put(librarian.public, name, headers, b"hello");
            assert_eq!(answer.status, 201);
        }
        token(&librarian, 1, "fresh", 23);
        token(&librarian, 1, "stale", 25);
        token(&librarian, 2, "other", 0);
        let basic =
            |pair: &str| format!("Authorization: Basic {}\r\n", BASE64_STANDARD.encode(pair));
        for (path, headers, status) in [
            ("/1/one", String::new(), 404),
            ("/1/one?token=fresh", String::new(), 200),
            ("/9/1/one?x=y&token=%66resh", String::new(), 200),
            ("/1/two?token=fresh", String::new(), 404),
            ("/2/two?token=fresh", String::new(), 404),
            ("/1/one?token=stale", String::new(), 404),
            ("/1/one?token=other", String::new(), 404),
            ("/1/one?token=", String::new(), 404),
            ("/1/one", basic(":fresh"), 200),
            ("/1/one", basic(":stale"), 404),
            ("/1/one", basic("user:fresh"), 404),
            ("/1/one", basic("fresh"), 404),
            ("/1/one", "Authorization: Basic ???\r\n".to_owned(), 404),
        ] {
            let answer = librarian.ask(librarian.public, "GET", path, &headers);
            assert_eq!(answer.status, status, "{path} {headers}");
            if status == 200 {
                let caching = answer.header("Cache-Control");
                assert_eq!(caching, Some("max-age=0, private"));
            }
        }
        assert!(!librarian.said().contains("fresh"), "tokens are not logged");
    });
}

#[test]
fn a_slave_fetches_a_restricted_file_with_its_token() {
    let librarian = Librarian::start(None, "");
    let answer = librarian.put(librarian.restricted, "/secret.dsc", "", b"secret");
    assert_eq!(answer.status, 201);
    token(&librarian, 1, "t0ken", 0);
    let slave = Daemon::start("");
    let url = format!("http://127.0.0.1:{}/1/secret.dsc", librarian.public);
    let sum = sha1(b"secret");
    let fetch = |password: &str| {
        let params = [json!(sum), json!(url), json!(""), json!(password)];
        slave.ok("ensurepresent", &params)
    };
    let refused = fetch("wr0ng");
    assert_eq!(refused[0], json!(false), "{refused}");
    assert_eq!(fetch("t0ken"), json!([true, "Download"]));
}

#[test]
fn a_row_without_its_blob_is_404() {
    let librarian = Librarian::start(None, "");
    librarian.db.execute(
        "INSERT INTO library_content (id, size, sha1, sha256, md5, created_at) \
           VALUES (1, 123, 'bogus', 'bogus', '', 0); \
         INSERT INTO library_alias (id, content_id, filename, mimetype, created_at) \
           VALUES (1, 1, 'bogus-chroot.tar', 'text/plain', 0), (2, NULL, 'gone', 'text/plain', 0)",
    );
    assert_eq!(librarian.get("/1/bogus-chroot.tar").status, 404);
    assert!(librarian.said().contains("its bytes are not on disk"));
    assert_eq!(librarian.get("/2/gone").status, 404);
    let found = librarian.get("/search?digest=bogus").text();
    assert_eq!(found, "1\n1/bogus-chroot.tar\n");
    // A blob whose size differs from its row is not served.
    let id = librarian.add("a", b"hello");
    librarian
        .db
        .execute("UPDATE library_content SET size = 6 WHERE size = 5");
    assert_eq!(librarian.get(&format!("/{id}/a")).status, 500);
}

/// The credentials protect uploads and all that is restricted; public files stay public.
#[test]
fn uploads_and_restricted_ports_need_the_credentials() {
    let more = "username = farm\npassword = hush-hush\n";
    let librarian = Librarian::start(None, more);
    let basic = |text: &str| {
        let pair = BASE64_STANDARD.encode(text);
        format!("Authorization: Basic {pair}\r\n")
    };
    let (right, wrong) = (basic("farm:hush-hush"), basic("farm:hush"));
    for port in [librarian.public, librarian.restricted] {
        for headers in ["", &*wrong] {
            assert_eq!(librarian.put(port, "/a", headers, b"a").status, 401);
        }
        assert_eq!(librarian.put(port, "/a", &right, b"a").status, 201);
    }
    let restricted = |headers: &str| {
        let path = format!("/search?digest={}", sha1(b"a"));
        librarian.ask(librarian.restricted, "GET", &path, headers)
    };
    assert_eq!(
        (restricted("").status, restricted(&wrong).status),
        (401, 401)
    );
    assert!(restricted(&right).text().ends_with("/a\n"));
    assert_eq!(librarian.get("/").status, 200);
    for port in [librarian.store, librarian.restricted_store] {
        for headers in ["", &*wrong] {
            let refused = Store::connect(port).store("a", headers, b"a").line();
            assert!(
                refused.starts_with("400 uploads need credentials"),
                "{refused}"
            );
        }
        Store::connect(port).store("a", &right, b"a").stored();
    }
    // The commands send the credentials of the configuration.
    let file = librarian.site.path("home/b");
    std::fs::write(&file, "b").unwrap();
    let (code, said) = librarian.run(&["add", file.to_str().unwrap()]);
    assert_eq!(code, Some(0), "{said}");
    assert!(!librarian.said().contains("hush-hush"));
}

#[test]
fn downloads_beyond_the_limit_of_an_address_wait_for_their_turn() {
    let librarian = Librarian::start(None, "[limits]\nconnections_per_peer = 2\n");
    let answer = librarian.put(librarian.public, "/file", "", b"hello");
    assert_eq!(answer.status, 201);
    std::thread::scope(|scope| {
        let downloads: Vec<_> = (0..60)
            .map(|_| scope.spawn(|| librarian.get("/1/file")))
            .collect();
        for download in downloads {
            let answer = download.join().unwrap();
            assert_eq!((answer.status, answer.text().as_str()), (200, "hello"));
        }
    });
}
