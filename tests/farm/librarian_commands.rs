//! The commands `librarian add` and `librarian get`, and mistakes in their arguments.

use std::fs;
use std::io::Write;
use std::net::TcpListener;

use serde_json::Value as Json;

use super::support::librarian::{Librarian, on_both};
use crate::support::{Site, run, sha1};

#[test]
fn get_returns_what_add_stored() {
    on_both(|database| {
        let librarian = Librarian::start(database, "");
        let site = &librarian.site;
        let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| n.to_le_bytes()[1]).collect();
        for (name, content) in [
            ("one.dsc", b"hello".as_slice()),
            ("zwei ü.tar", &bytes),
            ("empty", b""),
        ] {
            fs::write(site.path(name), content).unwrap();
        }
        let path = |name: &str| site.path(name).display().to_string();
        let (code, said) =
            librarian.run(&["add", &path("one.dsc"), &path("zwei ü.tar"), &path("empty")]);
        assert_eq!(code, Some(0), "{said}");
        let base = format!("http://127.0.0.1:{}", librarian.public);
        let expect = format!(
            "1 {base}/1/one.dsc {}\n2 {base}/2/zwei%20%C3%BC.tar {}\n3 {base}/3/empty {}\n",
            sha1(b"hello"),
            sha1(&bytes),
            sha1(b"")
        );
        assert_eq!(said, expect);

        let out = path("out");
        for (what, content) in [
            (format!("{base}/2/zwei%20%C3%BC.tar"), &bytes),
            ("2".to_owned(), &bytes),
            ("3".to_owned(), &Vec::new()),
        ] {
            let (code, said) = librarian.run(&["get", &what, "-o", &out]);
            assert_eq!((code, said.as_str()), (Some(0), ""), "{what}");
            assert!(fs::read(&out).unwrap() == *content, "{what}");
        }
        let (code, said) = librarian.run(&["get", "1", "-o", "-"]);
        assert_eq!((code, said.as_str()), (Some(0), "hello"));
        // Without -o the file gets its own name in the current folder.
        let (code, _) = librarian.run(&["get", &format!("{base}/2/zwei%20%C3%BC.tar")]);
        assert_eq!(code, Some(0));
        assert!(fs::read(site.path("home/zwei ü.tar")).unwrap() == bytes);
    });
}

#[test]
fn the_librarian_is_ready_only_when_every_port_listens() {
    let site = Site::new("");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    site.configure(&format!(
        "[librarian]\nbindport = 0\nupload_port = {port}\nurl = http://127.0.0.1:0/\n"
    ));
    let config = site.config().display().to_string();
    let (code, said) = run(site.command(&["librarian", "serve", "--config", &config]));
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("Address already in use"), "{said}");
    assert!(!said.contains("ready!"), "{said}");
}

#[test]
fn add_sets_restriction_type_and_expiry() {
    on_both(|database| {
        let librarian = Librarian::start(database, "");
        let secret = librarian.site.path("secret.dsc").display().to_string();
        fs::write(&secret, "secret").unwrap();
        let (code, said) = librarian.run(&[
            "add",
            &secret,
            "--restricted",
            "--json",
            "--type",
            "text/x-odd",
            "--expires",
            "never",
        ]);
        assert_eq!(code, Some(0), "{said}");
        let added: Json = serde_json::from_str(&said).unwrap();
        assert_eq!((&added["id"], &added["size"]), (&1.into(), &6.into()));
        assert_eq!(librarian.get("/1/secret.dsc").status, 404);
        let file = librarian.ask(librarian.restricted, "GET", "/1/secret.dsc", "");
        assert_eq!(
            (file.text().as_str(), file.header("Content-Type")),
            ("secret", Some("text/x-odd"))
        );
        let expires = librarian.number("SELECT expires_at FROM library_alias");
        assert_eq!(expires, 2_145_916_800_000);
        // The command makes a token in the database, and so may read the file.
        let (code, said) = librarian.run(&["get", "1", "-o", "-"]);
        assert_eq!((code, said.as_str()), (Some(0), "secret"));
    });
}

#[test]
fn each_mistake_has_its_message_and_exit_code() {
    let mut librarian = Librarian::start(None, "max_size = 1 MiB\n");
    let long = librarian.site.path("long").display().to_string();
    fs::File::create(&long)
        .unwrap()
        .write_all(&vec![0; 30 << 20])
        .unwrap();
    let folder = librarian.site.path("home").display().to_string();
    let absent = librarian.site.path("absent").display().to_string();
    for (args, code, expect) in [
        (
            &["add", &long][..],
            1,
            "413: file too large: 31457280 bytes; the limit is 1048576",
        ),
        (&["add", &folder], 1, "not a regular file"),
        (&["add", &absent], 1, "No such file"),
        (&["add"], 2, "Usage: "),
        (
            &["add", &long, "--expires", "0"],
            2,
            "write a number of days, or never",
        ),
        (
            &["get", "99", "-o", "-"],
            1,
            "99: no such file in the library",
        ),
        (
            &["get", "/etc/passwd"],
            1,
            "not the number or the URL of a file",
        ),
        (
            &["get", "http://127.0.0.1:1/1/a"],
            1,
            "is `buildd-slave librarian serve` running there?",
        ),
        (&["frobnicate"], 2, "Usage: "),
    ] {
        let (exit, said) = librarian.run(args);
        assert_eq!(exit, Some(code), "{args:?}: {said}");
        assert!(said.contains(expect), "{args:?}: {said}");
    }
    let (code, said) =
        librarian.run(&["get", &format!("http://127.0.0.1:{}/9/a", librarian.public)]);
    assert_eq!(code, Some(1));
    assert!(said.contains("404: not found"), "{said}");
    assert!(!librarian.site.path("home/a").exists());

    librarian.stop();
    let (code, said) = librarian.run(&["add", &long]);
    assert_eq!(code, Some(1));
    assert!(said.contains("running there?"), "{said}");
}

#[test]
fn every_command_has_examples() {
    let librarian = Librarian::start(None, "");
    for args in [
        &["--help"][..],
        &["serve", "--help"],
        &["add", "--help"],
        &["get", "-h"],
        &["gc", "-h"],
    ] {
        let (code, said) = librarian.run(args);
        assert_eq!(code, Some(0), "{said}");
        assert!(
            said.contains("Examples:\n  buildd-slave librarian "),
            "{args:?}: {said}"
        );
    }
}
