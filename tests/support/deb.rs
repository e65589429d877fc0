//! Makes small binary packages whose control files are true, or not.

use tar::{Builder, Header};

/// Makes a .deb without compression, so that it is text.
pub(crate) fn deb(package: &str, source: &str, version: &str, arch: &str) -> Vec<u8> {
    let control = format!(
        "Package: {package}\nSource: {source}\nVersion: {version}\nArchitecture: {arch}\n\
         Maintainer: A <a@example.org>\nDescription: the package {package}\n"
    );
    let mut tar = Builder::new(Vec::new());
    let mut header = Header::new_ustar();
    header.set_size(control.len() as u64);
    header.set_mode(0o644);
    tar.append_data(&mut header, "control", control.as_bytes())
        .unwrap();
    let tar = tar.into_inner().unwrap();
    let mut bytes = b"!<arch>\n".to_vec();
    let empty = [0; 1024];
    for (name, content) in [
        ("debian-binary", &b"2.0\n"[..]),
        ("control.tar", &tar),
        ("data.tar", &empty),
    ] {
        let header = format!(
            "{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n",
            0,
            0,
            0,
            644,
            content.len()
        );
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(content);
    }
    bytes
}
