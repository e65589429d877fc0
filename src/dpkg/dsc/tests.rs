//! Tests of the .dsc parser.

use super::*;

const MD5: &str = "900150983cd24fb0d6963f7d28e17f72";
const SHA1: &str = "f7bebf6f9c62a2295e889f66e05ce9bfaed9ace3";
const SHA256: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

/// A .dsc with these lists, each a field name and a line.
fn with_lists(lists: &[(&str, &str)]) -> String {
    let mut text = "Format: 3.0 (quilt)\nSource: hello\nVersion: 1:2.10-3\n".to_owned();
    for (field, line) in lists {
        text.push_str(&format!("{field}:\n"));
        if !line.is_empty() {
            text.push_str(&format!(" {line}\n"));
        }
    }
    text
}

fn parse(text: &str) -> Result<Dsc, String> {
    Dsc::parse(text.as_bytes()).map_err(|error| error.to_string())
}

fn signed(text: &str) -> String {
    format!(
        "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n{text}\n\
         -----BEGIN PGP SIGNATURE-----\n\niQIz\n-----END PGP SIGNATURE-----\n"
    )
}

#[test]
fn the_fields_of_a_signed_dsc_are_read() {
    let text = format!(
        "Source: hello\nBinary: hello, hello-doc\nArchitecture: any all\nVersion: 2.10-3\n\
         Maintainer: A <a@b.c>\nPackage-List:\n hello deb contrib/devel optional arch=any\n \
         hello-doc deb doc optional arch=all\nChecksums-Sha1:\n {SHA1} 725946 hello.tar.gz\n\
         Files:\n {MD5} 725946 hello.tar.gz\n"
    );
    let dsc = parse(&signed(&text)).unwrap();
    assert_eq!(
        (dsc.source.as_str(), dsc.version.as_str()),
        ("hello", "2.10-3")
    );
    assert_eq!(dsc.architecture, "any all");
    assert!(!dsc.is_only_arch_all());
    assert_eq!(dsc.binaries, ["hello", "hello-doc"]);
    assert_eq!(dsc.section.as_deref(), Some("contrib/devel"));
    assert_eq!(dsc.maintainer.as_deref(), Some("A <a@b.c>"));
    let [file] = &dsc.files[..] else {
        panic!("{dsc:?}")
    };
    assert_eq!(file.name.as_str(), "hello.tar.gz");
    assert_eq!((file.size, file.md5.as_deref()), (725_946, Some(MD5)));
    assert_eq!(file.sha1, Some(Sha1Hex::parse(SHA1).unwrap()));
    let only_any = text.replace("any all", "any").replace("=all", "=any");
    assert_eq!(parse(&only_any).unwrap().architecture, "any");
    let older = only_any.replace(" arch=any", "");
    assert_eq!(parse(&older).unwrap().architecture, "any all");
    let only_all = text.replace("any all", "all");
    assert!(parse(&only_all).unwrap().is_only_arch_all());
}

#[test]
fn one_kind_of_hash_is_enough() {
    let (md5, sha1) = (
        format!("{MD5} 3 hello.tar.xz"),
        format!("{SHA1} 3 hello.tar.xz"),
    );
    let sha256 = format!("{SHA256} 3 hello.tar.xz");
    for lists in [
        &[("Files", md5.as_str())][..],
        &[("Files", ""), ("Checksums-Sha1", &sha1)],
        &[("Files", ""), ("Checksums-Sha256", &sha256)],
        &[("Files", &md5), ("Checksums-Sha256", &sha256)],
    ] {
        let dsc = parse(&with_lists(lists)).unwrap();
        let names: Vec<&str> = dsc.files.iter().map(|file| file.name.as_str()).collect();
        assert_eq!(names, ["hello.tar.xz"], "{lists:?}");
        let known = [
            dsc.files[0].md5.as_deref() == Some(MD5),
            dsc.files[0].sha1.is_some(),
            dsc.files[0].sha256.as_deref() == Some(SHA256),
        ];
        let listed = ["Files", "Checksums-Sha1", "Checksums-Sha256"]
            .map(|name| lists.iter().any(|(n, line)| *n == name && !line.is_empty()));
        assert_eq!(known, listed);
        // No Architecture field: sbuild builds it on any.
        assert_eq!(dsc.architecture, "any all");
    }
}

#[test]
fn unusual_line_ends_are_read_as_dpkg_reads_them() {
    let plain = with_lists(&[("Files", &format!("{MD5} 3 hello.tar.xz"))]);
    for text in [
        plain.replace('\n', "\r\n"),
        signed(&plain).replace('\n', "\r\n"),
        format!("\n \n# comment\n{plain}"),
        plain.trim_end().to_owned(),
        // The byte order mark becomes part of the first field's name, as in dpkg.
        format!("\u{feff}{plain}"),
        plain.replace("Source: ", "source :  "),
    ] {
        let dsc = parse(&text).unwrap_or_else(|error| panic!("{text:?}: {error}"));
        assert_eq!((dsc.source.as_str(), dsc.files.len()), ("hello", 1));
    }
}

#[test]
fn dsc_files_that_dpkg_refuses_are_refused() {
    let line = format!("{MD5} 3 hello.tar.xz");
    let plain = with_lists(&[("Files", &line)]);
    let with = |lists: &[(&str, &str)]| with_lists(lists);
    let other = format!("{SHA1} 4 hello.tar.xz");
    for (text, expect) in [
        ("Version: 1\nFiles:\n".to_owned(), "no Source field"),
        ("Source: x\nFiles:\n".to_owned(), "no Version field"),
        ("Source: x\nVersion: 1\n".to_owned(), "no Files field"),
        (
            plain.replace("hello\n", "../hello\n"),
            "Source, line 2: \"../hello\" is not valid",
        ),
        (
            plain.replace("1:2.10-3", "v2"),
            "Version, line 3: \"v2\" is not valid",
        ),
        (
            with(&[("Files", &format!("{MD5} 1"))]),
            "Files, line 5: expected checksum, size and name",
        ),
        (
            with(&[("Files", &format!("{MD5} +1 xy"))]),
            "Files, line 5: \"+1\" is not a size",
        ),
        (
            with(&[("Files", &format!("{MD5} 1 ../x"))]),
            "Files, line 5: invalid file name \"../x\"",
        ),
        (
            with(&[("Files", &format!("{SHA1} 1 xy"))]),
            "is not a checksum of 32 digits",
        ),
        (
            with(&[("Files", &line), ("Checksums-Sha1", &other)]),
            "Checksums-Sha1, line 7: hello.tar.xz: 4 bytes, but 3 before",
        ),
        (
            format!("{plain} {} 3 hello.tar.xz\n", MD5.replace('9', "8")),
            "Files, line 6: hello.tar.xz has two different hashes",
        ),
        (
            with(&[("Files", &format!("{MD5} 3 other.dsc"))]),
            "other.dsc is a .dsc, which cannot be part of another",
        ),
        (
            signed(&plain).replace("-----END PGP SIGNATURE-----\n", ""),
            "the OpenPGP signature has no end",
        ),
    ] {
        let error = parse(&text).unwrap_err();
        assert!(error.contains(expect), "{text:?}: {error}");
    }
    let large = vec![b'#'; usize::try_from(MAX_BYTES).unwrap() + 1];
    let error = Dsc::parse(&large).unwrap_err();
    assert_eq!(error.to_string(), "larger than 8388608 bytes");
}

#[test]
fn versions_follow_dpkg() {
    for good in ["1", "1:2.10-3", "2.10~rc1+b1", "1:0:2", "0-0-1"] {
        assert!(is_version(good), "{good}");
    }
    for bad in ["", ":1", "a:1", "1-", "a1", "1_2", "1/2", "1 2", "1:"] {
        assert!(!is_version(bad), "{bad}");
    }
}

#[test]
fn the_name_for_sbuild_has_no_epoch() {
    let dsc = parse(&with_lists(&[("Files", "")])).unwrap();
    assert_eq!(dsc.file_name().unwrap().as_str(), "hello_2.10-3.dsc");
    let long = with_lists(&[("Files", "")]).replace("hello", &"h".repeat(250));
    let error = parse(&long).unwrap().file_name().unwrap_err().to_string();
    assert!(error.contains("invalid file name"), "{error}");
}
