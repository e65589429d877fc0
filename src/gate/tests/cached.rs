//! The cache as two builds see it.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::support::*;
use crate::gate::{CacheSettings, Fetched, Settings};

fn with_cache(dir: &Path) -> Settings {
    let mut settings = settings();
    settings.cache = Some(CacheSettings {
        dir: dir.to_path_buf(),
        limit: 1 << 30,
        reserve: 0,
    });
    settings
}

/// The sources of the record's files.
fn from_cache(site: &Site) -> Vec<bool> {
    let record = site.gate.record().into_iter();
    record
        .map(|fetched| match fetched {
            Fetched::File { from_cache, .. } => from_cache,
            Fetched::Tunnel { .. } => panic!("a tunnel"),
        })
        .collect()
}

fn path_of(head: &str) -> Vec<u8> {
    head.split(' ').nth(1).unwrap().as_bytes().to_vec()
}

#[test]
fn a_second_build_gets_files_with_a_known_hash_from_the_cache() {
    let dir = tempfile::tempdir().unwrap();
    let body = vec![7; 600_000];
    let served = body.clone();
    let server = Server::start(move |_| (ok(&served), true));
    let hash = sha256(&body);
    let urls = [
        server.url(&format!("/debian/dists/sid/by-hash/SHA256/{hash}")),
        server.url("/debian/pool/a%2bb.deb"),
        server.url("/debian/pool/unknown.deb"),
    ];
    for (build, expected) in [(1, [false, true, false]), (2, [true, true, false])] {
        let site = Site::start(&[&server.url("/debian")], with_cache(dir.path()));
        let size = body.len() as u64;
        site.gate.know([("pool/a+b.deb", hash.as_str(), size)]);
        let mut client = site.client();
        for url in &urls {
            client.send(&get(url));
            let reply = client.reply().unwrap();
            assert_eq!((reply.status, reply.body == body), (200, true), "{url}");
        }
        assert_eq!(from_cache(&site), expected, "build {build}");
        for fetched in site.gate.record() {
            let Fetched::File { bytes, sha256, .. } = fetched else {
                panic!("{fetched:?}");
            };
            assert_eq!((bytes, &sha256), (size, &hash));
        }
    }
    assert_eq!(server.heads().len(), 3);
}

#[test]
fn a_damaged_file_is_fetched_again_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(|head| (ok(&path_of(head)), true));
    let paths = ["/debian/a", "/debian/b", "/debian/c", "/debian/d"];
    let hash = sha256(b"/debian/c");
    let site = Site::start(&[&server.url("/debian")], with_cache(dir.path()));
    site.gate.know([("c", hash.as_str(), 9)]);
    assert_eq!(site.get(&server.url("/debian/c")).text(), "/debian/c");
    let entry = dir.path().join(&hash);
    for damage in [b"/debian/X".as_slice(), b"/deb"] {
        until("the entry", || entry.exists());
        fs::write(&entry, damage).unwrap();
        let mut client = site.client();
        // The second and later ones are on their way before the damage is found.
        let all: Vec<String> = paths.iter().map(|path| get(&server.url(path))).collect();
        client.send(&all.concat());
        for path in paths {
            assert_eq!(client.reply().unwrap().text(), path);
        }
        assert_eq!(fs::read(&entry).unwrap(), b"/debian/c");
    }
    assert_eq!(site.gate.failed(), Vec::<String>::new());
}

#[test]
fn a_wrong_file_of_a_server_reaches_apt_and_not_the_cache() {
    let dir = tempfile::tempdir().unwrap();
    let right = Arc::new(AtomicBool::new(false));
    let state = Arc::clone(&right);
    let server = Server::start(move |_| {
        let body = if state.load(Ordering::SeqCst) {
            b"good"
        } else {
            b"evil"
        };
        (ok(body), true)
    });
    let site = Site::start(&[&server.url("/debian")], with_cache(dir.path()));
    let hash = sha256(b"good");
    let url = server.url("/debian/x");
    site.gate.know([(url.as_str(), hash.as_str(), 4)]);
    assert_eq!(site.get(&url).text(), "evil");
    assert!(!dir.path().join(&hash).exists());
    right.store(true, Ordering::SeqCst);
    assert_eq!(site.get(&url).text(), "good");
    until("it is stored", || dir.path().join(&hash).exists());
    assert_eq!(from_cache(&site), [false, false]);
}

#[test]
fn files_behind_a_password_parts_and_private_builds_are_not_cached() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(|head| {
        if head.contains("range: ") {
            let head = "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-3/4\r\n";
            return (
                format!("{head}Content-Length: 4\r\n\r\ngood").into_bytes(),
                true,
            );
        }
        (ok(b"good"), true)
    });
    let hash = sha256(b"good");
    let url = server.url(&format!("/debian/by-hash/SHA256/{hash}"));
    let site = Site::start(&[&server.url("/debian")], with_cache(dir.path()));
    for headers in ["Authorization: Basic dTpw\r\n", "Range: bytes=0-\r\n"] {
        let mut client = site.client();
        client.send(&get_with(&url, headers));
        assert_eq!(client.reply().unwrap().text(), "good");
    }
    let private = Site::of(&server);
    assert_eq!(private.get(&url).text(), "good");
    assert!(!dir.path().join(&hash).exists());

    // Nor do they come from it.
    assert_eq!(site.get(&url).text(), "good");
    until("it is stored", || dir.path().join(&hash).exists());
    let before = server.heads().len();
    for headers in ["Authorization: Basic dTpw\r\n", "Range: bytes=0-\r\n"] {
        let mut client = site.client();
        client.send(&get_with(&url, headers));
        assert_eq!(client.reply().unwrap().text(), "good");
    }
    assert_eq!(private.get(&url).text(), "good");
    assert_eq!(server.heads().len(), before + 3);
}

#[test]
fn a_cut_download_leaves_nothing_in_the_cache() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(|_| {
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngo".to_vec(),
            false,
        )
    });
    let hash = sha256(b"good");
    let site = Site::start(&[&server.url("/debian")], with_cache(dir.path()));
    site.gate.know([("x", hash.as_str(), 4)]);
    let mut client = site.client();
    client.send(&get(&server.url("/debian/x")));
    client.reply().unwrap_err();
    until("the file is removed", || {
        let names = fs::read_dir(dir.path()).unwrap();
        names
            .map(|entry| entry.unwrap().file_name())
            .all(|name| name == ".lock")
    });
}

#[test]
fn a_file_that_differs_between_archives_is_not_mixed_up() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(|head| {
        let body = if head.contains("/debian/") {
            b"one"
        } else {
            b"two"
        };
        (ok(body), true)
    });
    let sources = [server.url("/debian"), server.url("/ppa")];
    let urls = [server.url("/debian/pool/x"), server.url("/ppa/pool/x")];
    for _ in 0..2 {
        let site = Site::start(&[&sources[0], &sources[1]], with_cache(dir.path()));
        let (one, two) = (sha256(b"one"), sha256(b"two"));
        site.gate
            .know([("pool/x", one.as_str(), 3), ("pool/x", two.as_str(), 3)]);
        assert_eq!(site.get(&urls[0]).text(), "one");
        assert_eq!(site.get(&urls[1]).text(), "two");
        assert_eq!(from_cache(&site), [false, false]);
    }
}
