//! Tests of the build log: writing, joining and reading.

use super::*;
use proptest::prelude::*;
use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, Ordering};

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
fn a_very_long_line_is_written_without_its_credentials() {
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
fn lines_of_the_shim_do_not_mix_with_a_held_back_line() {
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
        "0123456789\n\
         [... 13 bytes of log left out here: over the limit of 20 bytes ...]\n\
         NOPQRSTuvw"
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
fn the_tail_has_at_most_the_bytes_asked_for() {
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
fn the_error_of_a_full_disk_is_kept_and_does_not_stop_the_writer() {
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
        let mut kept = Tail::open(&path, limit).unwrap();
        for chunk in &chunks {
            log.write(chunk);
            all.extend_from_slice(chunk);
            let expect = &all[all.len().saturating_sub(count)..];
            prop_assert_eq!(&tail(&path, count, false).unwrap()[..], expect);
            if !kept.is_current() {
                kept = Tail::open(&path, limit).unwrap();
            }
            prop_assert_eq!(&kept.read(count, false).unwrap()[..], expect);
        }
        log.finish().unwrap();
        let expect = &all[all.len().saturating_sub(count)..];
        prop_assert_eq!(&tail(&path, count, false).unwrap()[..], expect);
    }
}

/// Returns a sequence of letters in which bytes at a wrong position are noticed.
fn letters(from: usize, count: usize) -> Vec<u8> {
    let letter =
        |at: usize| b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"[at * at % 101 % 52];
    (from..from + count).map(letter).collect()
}

/// Checks that `read` is the log of `count` [`letters`] in order, with a marker for each gap.
fn check_letters(mut read: &[u8], count: usize) {
    let mut at = 0;
    while !read.is_empty() {
        if let Some((left_out, len)) = segments::parse_marker(read) {
            at += usize::try_from(left_out).unwrap();
            read = &read[len..];
            continue;
        }
        let end = read
            .iter()
            .position(|&byte| byte == b'\n')
            .unwrap_or(read.len());
        let (now, rest) = read.split_at(end);
        assert_eq!(
            now.escape_ascii().to_string(),
            letters(at, end).escape_ascii().to_string()
        );
        at += end;
        read = rest;
    }
    assert_eq!(at, count, "all bytes are there or in a marker");
}

fn read_all(follow: &mut Follow, into: &mut Vec<u8>) {
    loop {
        let more = follow.read_more().unwrap();
        if more.is_empty() {
            return;
        }
        into.extend(more);
    }
}

fn snapshot(path: &Path) -> Vec<u8> {
    let mut snapshot = Snapshot::open(path).unwrap();
    let mut bytes = Vec::new();
    snapshot.read_to_end(&mut bytes).unwrap();
    assert_eq!(snapshot.len(), bytes.len() as u64);
    let in_parts = snapshot.is_in_parts();
    let (beginning, len, _) = snapshot.into_beginning();
    let mut begins = Vec::new();
    // The reads above have moved the position.
    (&beginning).seek(SeekFrom::Start(0)).unwrap();
    beginning.take(len).read_to_end(&mut begins).unwrap();
    assert!(bytes.starts_with(&begins));
    assert!(in_parts || bytes == begins);
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// A follower and a late reader see every byte once or in a marker. The writer ends the log, or
    /// another process joins it after the writer's death.
    #[test]
    fn readers_see_every_byte_or_a_marker(
        limit in 2u64..200,
        steps in prop::collection::vec((0usize..60, any::<bool>(), any::<bool>()), 0..20),
        dies in any::<bool>(),
        joined_before in prop::option::of(0usize..100),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let (mut follow, mut followed) = (Follow::open(&path), Vec::new());
        prop_assert!(follow.read_more().unwrap().is_empty());
        let mut log = BuildLog::create(&path, false, limit).unwrap();
        let mut count = 0;
        for (more, read_once, read_on) in steps {
            log.write(&letters(count, more));
            count += more;
            if read_once {
                followed.extend(follow.read_more().unwrap());
            }
            if read_on {
                read_all(&mut follow, &mut followed);
                check_letters(&followed, count);
            }
            check_letters(&snapshot(&path), count);
        }
        if dies {
            drop(log);
            if let Some(first) = segments::list(&path).unwrap().first() {
                // A join may have been interrupted before.
                let offset = usize::try_from(first.offset).unwrap();
                let more = letters(offset, joined_before.unwrap_or(0));
                OpenOptions::new().append(true).open(&path).unwrap().write_all(&more).unwrap();
                check_letters(&snapshot(&path), count);
            }
            join(&path).unwrap();
        } else {
            log.finish().unwrap();
        }
        prop_assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        let text = fs::read(&path).unwrap();
        check_letters(&text, count);
        prop_assert!(text.len() as u64 <= limit + 100);
        prop_assert_eq!(snapshot(&path), text);
        append_line(&path, "the end").unwrap();
        read_all(&mut follow, &mut followed);
        let followed = followed.strip_suffix(b"\nthe end\n").expect("the last line is followed");
        check_letters(followed, count);
    }
}

#[test]
fn a_follower_keeps_up_with_a_writer_in_another_thread() {
    for round in 0..20 {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let done = AtomicBool::new(false);
        let total = 200_000;
        let mut followed = Vec::new();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut log = BuildLog::create(&path, false, 5_000 << (round % 6)).unwrap();
                for at in (0..total).step_by(1000) {
                    log.write(&letters(at, 1000));
                }
                log.finish().unwrap();
                done.store(true, Ordering::SeqCst);
            });
            let mut follow = Follow::open(&path);
            loop {
                let finished = done.load(Ordering::SeqCst);
                let more = follow.read_more().unwrap();
                if finished && more.is_empty() {
                    return;
                }
                followed.extend(more);
                if let Ok(mut snapshot) = Snapshot::open(&path) {
                    let mut bytes = Vec::new();
                    snapshot.read_to_end(&mut bytes).unwrap();
                    assert!(bytes.len() <= total + 100);
                }
            }
        });
        check_letters(&followed, total);
    }
}

#[test]
fn a_line_is_appended_to_the_end_of_a_dead_writers_log() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let mut log = BuildLog::create(&path, false, 20).unwrap();
    log.write(b"0123456789abc");
    drop(log);
    // The log was not joined, as on a full disk.
    append_line(&path, "over").unwrap();
    assert_eq!(snapshot(&path), b"0123456789abc\nover\n");
    assert_eq!(tail(&path, 8, false).unwrap(), b"bc\nover\n"[..8]);
    join(&path).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"0123456789abc\nover\n");
}
