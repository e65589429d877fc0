//! Tests of reading control files: real packages, ambiguous ones, and ones that cost too much.

use std::fs;
use std::io::{Cursor, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use flate2::Compression;
use flate2::write::GzEncoder;
use tar::{Builder, Header};

use super::*;
use crate::fuzz::fuzz;

const CONTROL: &str = "Package: hello\nVersion: 1\nArchitecture: i386\n";

/// Makes an archive of the given members.
fn ar(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    for (name, content) in members {
        let size = content.len();
        writeln!(
            bytes,
            "{name:<16}{:<12}{:<6}{:<6}{:<8}{size:<10}`",
            0, 0, 0, 100_644
        )
        .unwrap();
        bytes.extend_from_slice(content);
        bytes.resize(bytes.len().next_multiple_of(2), b'\n');
    }
    bytes
}

fn tar(entries: &[(&str, EntryType, &[u8])]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (name, kind, content) in entries {
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(*kind);
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        builder.append(&header, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

fn file(name: &str) -> (&str, EntryType, &[u8]) {
    (name, EntryType::Regular, CONTROL.as_bytes())
}

fn deb(name: &str, packed: &[u8]) -> Vec<u8> {
    ar(&[
        ("debian-binary", b"2.0\n"),
        (name, packed),
        ("data.tar", b""),
    ])
}

fn gz(bytes: &[u8]) -> Vec<u8> {
    let mut packer = GzEncoder::new(Vec::new(), Compression::best());
    packer.write_all(bytes).unwrap();
    packer.finish().unwrap()
}

fn read(bytes: &[u8]) -> Result<String, String> {
    control(&mut Cursor::new(bytes), &mut Effort::new()).map_err(|error| error.to_string())
}

const LONG: &str = "Package: hello\nVersion: 1\nArchitecture: i386\n\
                    Maintainer: A <a@example.org>\nDescription: a\n b\n .\n c\n";

/// Builds a package with the control file [`LONG`] by dpkg-deb.
fn built(option: &str) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    let folder = root.join("DEBIAN");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("control"), LONG).unwrap();
    fs::write(folder.join("postinst"), "#!/bin/sh\n").unwrap();
    for (path, mode) in [(&folder, 0o755), (&folder.join("postinst"), 0o755)] {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    let path = dir.path().join("hello.deb");
    let mut build = Command::new("dpkg-deb");
    build.args(["--root-owner-group", "--uniform-compression", option]);
    let output = build.arg("-b").arg(&root).arg(&path).output();
    let output = output.expect("dpkg-deb (package dpkg) is installed");
    assert!(output.status.success(), "{option}: {output:?}");
    fs::read(&path).unwrap()
}

const COMPRESSIONS: [&str; 4] = ["-Zgzip", "-Zxz", "-Zzstd", "-Znone"];

#[test]
fn packages_of_dpkg_deb_are_read_in_every_compression() {
    for option in COMPRESSIONS {
        assert_eq!(read(&built(option)).as_deref(), Ok(LONG), "{option}");
    }
}

#[test]
fn what_tools_could_read_differently_is_refused() {
    let plain = tar(&[("./", EntryType::Directory, b""), file("./control")]);
    assert_eq!(read(&deb("control.tar", &plain)).as_deref(), Ok(CONTROL));
    let (binary, data) = (("debian-binary", &b"2.0\n"[..]), ("data.tar", &b""[..]));
    let first = ("control.tar", &plain[..]);
    let zipped = gz(&plain);
    let second = ("control.tar.gz", &zipped[..]);
    let members: [&[(&str, &[u8])]; 6] = [
        &[binary, first, second, data],
        &[binary, second, data, first],
        &[first, binary, data],
        &[binary, data, first],
        &[binary, first],
        &[binary, first, data, ("#1/11", b"control.tar")],
    ];
    for members in members {
        let names: Vec<&str> = members.iter().map(|(name, _)| *name).collect();
        let error = read(&ar(members)).unwrap_err();
        assert!(
            error.starts_with("is not a Debian package: it"),
            "{names:?}: {error}"
        );
    }
    let link = ("./control", EntryType::Symlink, &b""[..]);
    let trees: [&[(&str, EntryType, &[u8])]; 7] = [
        &[file("./control"), file("control")],
        &[file("control"), file(".//./control")],
        &[file("control"), file("/control")],
        &[link],
        &[file("control"), link],
        &[file("md5sums")],
        &[("control", EntryType::new(b'7'), CONTROL.as_bytes())],
    ];
    for entries in trees {
        let names: Vec<&str> = entries.iter().map(|(name, ..)| *name).collect();
        let error = read(&deb("control.tar", &tar(entries))).unwrap_err();
        assert!(error.contains("its control.tar "), "{names:?}: {error}");
    }
    for text in [
        "Package: a\n \nSource: b\n",
        "Package: a\n\nSource: b\n",
        "#Package: a\n",
    ] {
        let tree = tar(&[("control", EntryType::Regular, text.as_bytes())]);
        let error = read(&deb("control.tar", &tree)).unwrap_err();
        assert!(
            error.ends_with("more than one paragraph, or a comment"),
            "{error}"
        );
    }
}

/// The second part of a compressed file is not the end of what dpkg reads.
#[test]
fn a_second_part_of_a_compressed_tar_hides_nothing() {
    let whole = tar(&[file("control"), file("control")]);
    let (head, rest) = whole.split_at(1024);
    let parts = [gz(head), gz(rest)].concat();
    let error = read(&deb("control.tar.gz", &parts)).unwrap_err();
    assert!(error.contains("one regular file"), "{error}");
    let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 1).unwrap();
    let good = deb("control.tar.zst", &zstd(&tar(&[file("control")])));
    assert_eq!(read(&good).as_deref(), Ok(CONTROL));
    let error = read(&deb("control.tar.zst", &[zstd(head), zstd(rest)].concat())).unwrap_err();
    assert!(error.contains("more than one frame"), "{error}");
}

#[test]
fn a_zstd_window_above_the_limit_is_refused() {
    let whole = tar(&[file("control")]);
    let packed = |window_log| {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(window_log).unwrap();
        encoder.write_all(&whole).unwrap();
        deb("control.tar.zst", &encoder.finish().unwrap())
    };
    let accepted = read(&packed(MAX_ZSTD_WINDOW_LOG));
    assert_eq!(accepted.as_deref(), Ok(CONTROL));
    let error = read(&packed(MAX_ZSTD_WINDOW_LOG + 1)).unwrap_err();
    assert!(error.contains("too much memory"), "{error}");
}

/// A frame that ends early is damaged, not short.
#[test]
fn an_incomplete_zstd_frame_is_refused() {
    let packed = zstd::encode_all(&tar(&[file("control")])[..], 1).unwrap();
    let error = read(&deb("control.tar.zst", &packed[..packed.len() - 1])).unwrap_err();
    assert!(error.contains("incomplete frame"), "{error}");
}

#[test]
fn a_bomb_is_refused_at_its_limit() {
    let zeros = vec![0; usize::try_from(MAX_TAR_BYTES + 1).unwrap()];
    let large = tar(&[("md5sums", EntryType::Regular, &zeros), file("control")]);
    let bomb = deb("control.tar.gz", &gz(&large));
    assert!(bomb.len() < 100_000, "{}", bomb.len());
    let error = read(&bomb).unwrap_err();
    assert!(
        error.ends_with("its control.tar has more than 64 MiB"),
        "{error}"
    );
    let mut effort = Effort {
        bytes: 1000,
        ..Effort::new()
    };
    let small = deb("control.tar", &tar(&[file("control")]));
    let error = control(&mut Cursor::new(&small), &mut effort).unwrap_err();
    assert!(error.to_string().contains("of all packages"), "{error}");
    let mut effort = Effort {
        until: Instant::now(),
        ..Effort::new()
    };
    let error = control(&mut Cursor::new(&small), &mut effort).unwrap_err();
    assert!(
        error.to_string().ends_with("take more than 60 s"),
        "{error}"
    );
    let text = format!(
        "Package: {}",
        "a".repeat(usize::try_from(MAX_CONTROL_BYTES).unwrap())
    );
    let tree = tar(&[("control", EntryType::Regular, text.as_bytes())]);
    let error = read(&deb("control.tar", &tree)).unwrap_err();
    assert!(error.ends_with("control has more than 1 MiB"), "{error}");
}

#[test]
fn damaged_packages_are_refused_without_a_panic() {
    let seeds = COMPRESSIONS.map(built);
    let seeds: Vec<&[u8]> = seeds.iter().map(|seed| &**seed).collect();
    fuzz("deb", &seeds, |bytes| {
        let _ = read(bytes);
    });
}
