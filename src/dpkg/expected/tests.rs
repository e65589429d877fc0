//! Tests of what belongs to a build, and of the sentences for what does not.

use super::*;
use crate::protocol::FileName;

fn build() -> Expected {
    Expected {
        source: "hello".to_owned(),
        version: "1:2.0-1".to_owned(),
        arch: "amd64".to_owned(),
        arch_indep: false,
        inputs: vec!["hello_2.0.orig.tar.gz".to_owned()],
    }
}

fn with_all() -> Expected {
    Expected {
        arch_indep: true,
        ..build()
    }
}

fn changes(source: &str, version: &str, arch: &str) -> Vec<u8> {
    format!("Source: {source}\nVersion: {version}\nArchitecture: {arch}\n").into_bytes()
}

fn listed(names: &[&str]) -> Vec<Entry> {
    let entry = |name: &&str| Entry {
        name: FileName::parse(name).unwrap(),
        size: 1,
        md5: String::new(),
        sha1: None,
        sha256: None,
    };
    names.iter().map(entry).collect()
}

#[test]
fn a_changes_names_the_source_version_and_architectures_of_the_build() {
    let none = &[][..];
    let check = |expected: &Expected, source: &str, version: &str, arch: &str| {
        expected.check_changes(&changes(source, version, arch), none)
    };
    assert_eq!(check(&build(), "hello", "1:2.0-1", "amd64"), Ok(()));
    assert_eq!(check(&with_all(), "hello", "1:2.0-1", "all amd64"), Ok(()));
    // Binary-only rebuilds.
    let rebuilt = |version: &str| check(&build(), "hello (1:2.0-1)", version, "amd64");
    assert_eq!(rebuilt("1:2.0-1+b1"), Ok(()));
    assert_eq!(rebuilt("1:2.0-1~bpo12+1"), Ok(()));
    let is = "but this build is of hello 1:2.0-1 for amd64";
    for (source, version, arch, problem) in [
        ("other", "1:2.0-1", "amd64", "its Source is \"other\""),
        ("hello", "2.0-1", "amd64", "its Version is \"2.0-1\""),
        (
            "hello",
            "1:2.0-1+b1",
            "amd64",
            "its Version is \"1:2.0-1+b1\"",
        ),
        (
            "hello (3)",
            "1:2.0-1",
            "amd64",
            "its Source is \"hello (3)\"",
        ),
        (
            "hello (1:2.0-1)",
            "1:2.0-10",
            "amd64",
            "its Version is \"1:2.0-10\"",
        ),
        (
            "hello (1:2.0-1",
            "1:2.0-1",
            "amd64",
            "its Source is \"hello (1:2.0-1\"",
        ),
        (
            "hello",
            "1:2.0-1",
            "source amd64",
            "its Architecture is \"source amd64\"",
        ),
        (
            "hello",
            "1:2.0-1",
            "amd64 all",
            "its Architecture is \"amd64 all\"",
        ),
        ("hello", "1:2.0-1", "i386", "its Architecture is \"i386\""),
    ] {
        let error = check(&build(), source, version, arch).unwrap_err();
        assert_eq!(error, format!("{problem}, {is}"));
    }
    let error = check(&with_all(), "hello", "1:2.0-1", "i386").unwrap_err();
    assert!(error.ends_with("for amd64 and all"), "{error}");
    let error = build().check_changes(b"Source: hello\n", none).unwrap_err();
    assert_eq!(error, "no Version field");
}

#[test]
fn raw_files_are_kept_and_sources_are_not() {
    let check = |arch: &str, names: &[&str]| {
        build().check_changes(&changes("hello", "1:2.0-1", arch), &listed(names))
    };
    let translations = "hello_2.0-1_amd64_translations.tar.gz";
    assert_eq!(check("amd64 amd64_translations", &[translations]), Ok(()));
    assert_eq!(
        check("amd64", &["hello-images.tar.gz", "a,b~1.bin"]),
        Ok(())
    );
    assert!(check("amd64 amd64_translations", &["other.tar.gz"]).is_err());
    // A package's name explains no architecture.
    assert!(check("amd64 i386", &["hello_2.0-1_i386.deb"]).is_err());
    assert!(check("amd64 all", &["hello_2.0-1_all.tar.gz"]).is_err());
    assert!(check("amd64 source", &["hello_2.0-1_source.tar.gz"]).is_err());
    for (name, problem) in [
        ("hello_2.0-1.dsc", "without the source"),
        ("hello_2.0.orig.tar.gz", "without the source"),
        ("other_1_amd64.changes", "another .changes"),
        (".hidden", "not a valid file name"),
        ("a b", "not a valid file name"),
        ("a\u{e9}", "not a valid file name"),
    ] {
        let error = check("amd64", &[name]).unwrap_err();
        assert!(error.contains(problem), "{name}: {error}");
    }
}

#[test]
fn the_control_file_of_a_package_names_the_build_and_the_file() {
    let check = |expected: &Expected, name: &str, fields: [&str; 4]| {
        let [package, source, version, arch] = fields;
        let source = match source {
            "" => String::new(),
            source => format!("Source: {source}\n"),
        };
        let text =
            format!("Package: {package}\n{source}Version: {version}\nArchitecture: {arch}\n");
        expected.check_package(name, &text)
    };
    let good = |name: &str, fields| assert_eq!(check(&build(), name, fields), Ok(()), "{name}");
    good("hello_2.0-1_amd64.deb", ["hello", "", "1:2.0-1", "amd64"]);
    good(
        "libhello0_2.0-1_amd64.udeb",
        ["libhello0", "hello", "1:2.0-1", "amd64"],
    );
    good(
        "hello-dbgsym_2.0-1_amd64.ddeb",
        ["hello-dbgsym", "hello", "1:2.0-1", "amd64"],
    );
    // The binary has another version than its source, and one rebuilt without a new source.
    good(
        "gcc_4.9_amd64.deb",
        ["gcc", "hello (1:2.0-1)", "4:4.9", "amd64"],
    );
    good(
        "hello_2.0-1+b1_amd64.deb",
        ["hello", "hello (1:2.0-1)", "1:2.0-1+b1", "amd64"],
    );
    let all = ["hello-doc", "hello", "1:2.0-1", "all"];
    assert_eq!(check(&with_all(), "hello-doc_2.0-1_all.deb", all), Ok(()));
    for (name, fields, problem) in [
        (
            "hello-doc_2.0-1_all.deb",
            all,
            "its Architecture is \"all\"",
        ),
        (
            "x_2.0-1_amd64.deb",
            ["x", "", "1:2.0-1", "amd64"],
            "its Source is \"x\"",
        ),
        (
            "x_2.0-1_amd64.deb",
            ["x", "other", "1:2.0-1", "amd64"],
            "its Source is \"other\"",
        ),
        (
            "x_3_amd64.deb",
            ["x", "hello", "3", "amd64"],
            "its Version is \"3\"",
        ),
        (
            "x_3_amd64.deb",
            ["x", "hello (3)", "1:2.0-1", "amd64"],
            "its Source is \"hello (3)\"",
        ),
        (
            "hello_2.0-1_i386.deb",
            ["hello", "", "1:2.0-1", "i386"],
            "its Architecture is \"i386\"",
        ),
        (
            "other_2.0-1_amd64.deb",
            ["hello", "", "1:2.0-1", "amd64"],
            "its control file is of hello 1:2.0-1 for amd64, which belongs in hello_2.0-1_amd64.deb",
        ),
        (
            "hello_2.0-1_amd64.x.deb",
            ["hello", "", "1:2.0-1", "amd64"],
            "its control file is of",
        ),
    ] {
        let error = check(&build(), name, fields).unwrap_err();
        assert!(error.starts_with(problem), "{name}: {error}");
    }
}

#[test]
fn a_buildinfo_is_checked_and_left_at_its_start() {
    let check = |text: &[u8]| {
        let mut file = std::io::Cursor::new(text);
        let name = "hello_2.0-1_amd64.buildinfo";
        let checked = build().check_file(name, &mut file, &[], &mut Effort::new());
        checked.map(|()| file.position())
    };
    assert_eq!(check(&changes("hello", "1:2.0-1", "amd64")), Ok(0));
    let error = check(&changes("hello", "1:2.0-2", "amd64")).unwrap_err();
    assert!(error.starts_with("its Version is \"1:2.0-2\""), "{error}");
    let text = "Source: a\nVersion: 2\nChecksums-Sha1:\n x\n";
    let expected = Expected::of_dsc(text.as_bytes(), "i386", true).unwrap();
    assert_eq!(
        expected.to_string(),
        "this build is of a 2 for i386 and all"
    );
}
