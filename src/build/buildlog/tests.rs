//! Tests of the build log: what is on disk after whatever was written.

use super::*;
use proptest::prelude::*;
use std::os::unix::fs::symlink;

/// Writes `chunks` to a fresh log and returns the finished file's text.
fn written(private: bool, limit_bytes: u64, chunks: &[&[u8]]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("buildlog");
    let mut log = BuildLog::create(&path, private, limit_bytes).unwrap();
    chunks.iter().for_each(|chunk| log.write(chunk));
    log.finish().unwrap();
    assert_eq!(
        fs::read_dir(dir.path()).unwrap().count(),
        1,
        "segments are gone"
    );
    String::from_utf8(fs::read(path).unwrap()).unwrap()
}

#[test]
fn credentials_cut_by_chunks_are_scrubbed_in_a_private_log_only() {
    let chunks: [&[u8]; 4] = [b"a\nGet http://bu", b"ildd:sec", b"ret@h/ x\nb", b"c"];
    assert_eq!(written(true, 1000, &chunks), "a\nGet http://h/ x\nbc");
    assert_eq!(
        written(false, 1000, &chunks),
        "a\nGet http://buildd:secret@h/ x\nbc"
    );
    assert_eq!(written(true, 1000, &[b"Get http://u:pass"]), "Get http://");
}

#[test]
fn a_very_long_line_is_passed_on_without_its_credentials() {
    for before in MAX_HELD_BYTES - 30..MAX_HELD_BYTES + 30 {
        let line = format!(
            "{}http://u:secret@h/{}",
            "x".repeat(before),
            "y".repeat(9000)
        );
        let (first, second) = line.as_bytes().split_at(MAX_HELD_BYTES);
        let text = written(true, 1 << 20, &[first, second]);
        assert_eq!(text, line.replace("u:secret@", ""));
    }
}

#[test]
fn our_sentences_stand_on_their_own_lines_and_disturb_no_held_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("buildlog");
    let mut log = BuildLog::create(&path, true, 1000).unwrap();
    log.write(b"http://u:se");
    log.line("RUN: wget http://v:w@h/");
    log.write(b"cret@h/\nno end");
    log.flush();
    log.line("done");
    log.finish().unwrap();
    let text = fs::read_to_string(path).unwrap();
    assert_eq!(text, "RUN: wget http://h/\nhttp://h/\nno end\ndone\n");
}

#[test]
fn head_and_tail_are_kept_with_a_marker_between() {
    let text = written(
        false,
        20,
        &[b"0123456789", b"abcdefghij", b"KLMNOPQRST", b"uvw"],
    );
    assert_eq!(
        text,
        "0123456789\n[... 13 bytes of log left out here: over the limit of 20 bytes ...]\nNOPQRSTuvw"
    );
    assert_eq!(
        written(false, 20, &[b"0123456789", b"abcdefghij"]),
        "0123456789abcdefghij"
    );
    assert_eq!(
        written(false, 20, &[b"0123456789", b"abc"]),
        "0123456789abc"
    );
}

#[test]
fn tail_lengths() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("buildlog");
    assert_eq!(tail(&path, 2048, false).unwrap(), b"");
    for (size, expect) in [(0, 0), (1, 1), (2048, 2048), (2049, 2048), (4096, 2048)] {
        fs::write(&path, vec![b'x'; size]).unwrap();
        assert_eq!(tail(&path, 2048, false).unwrap().len(), expect);
    }
    fs::write(&path, "first\nsecond\nthird\n").unwrap();
    assert_eq!(tail(&path, 2048, true).unwrap(), b"second\nthird");
    fs::write(&path, "one line").unwrap();
    assert_eq!(tail(&path, 2048, true).unwrap(), b"");
}

#[test]
fn a_full_disk_is_remembered_and_does_not_stop_the_writer() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("buildlog");
    symlink("/dev/full", &path).unwrap();
    let mut log = BuildLog::create(&path, false, 1000).unwrap();
    assert!(log.write_error().is_none());
    log.write(b"hello\n");
    log.write(b"again\n");
    assert_eq!(
        log.write_error().unwrap().raw_os_error(),
        Some(nix::Error::ENOSPC as i32)
    );
    assert!(log.finish().is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn the_tail_on_disk_is_the_end_of_what_was_written(
        limit in 2u64..200,
        chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..20),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("buildlog");
        let mut log = BuildLog::create(&path, false, limit).unwrap();
        let mut all = Vec::new();
        let count = usize::try_from(limit / 2).unwrap();
        for chunk in &chunks {
            log.write(chunk);
            all.extend_from_slice(chunk);
            let expect = &all[all.len().saturating_sub(count)..];
            prop_assert_eq!(&tail(&path, count, false).unwrap()[..], expect);
        }
        log.finish().unwrap();
        let expect = &all[all.len().saturating_sub(count)..];
        prop_assert_eq!(&tail(&path, count, false).unwrap()[..], expect);
    }
}
