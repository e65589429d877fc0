//! Tests storing, verifying and evicting entries.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::sync::{Arc, Mutex};
use std::thread;

use super::*;

const HELLO: &str = "aaf4c61ddcc5e8a2dabede0f3b482cd9aea9434d";
const OTHER: &str = "0000000000000000000000000000000000000000";

fn sha1(text: &str) -> Sha1Hex {
    Sha1Hex::parse(text).unwrap()
}

fn store() -> (tempfile::TempDir, Store) {
    store_with(Rules::none())
}

fn store_with(rules: Rules) -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), rules).unwrap();
    (dir, store)
}

/// Stores a file of `len` bytes with the value `byte`.
fn fill_in(store: &Store, byte: u8, len: usize) -> Result<Sha1Hex, Error> {
    store.put(&mut &vec![byte; len][..], Some(len as u64), None)
}

fn has(store: &Store, sha1: &Sha1Hex) -> bool {
    store.path(sha1).exists()
}

/// Sets the time of last use on disk, and removes the entry's marks in memory.
fn used(store: &Store, sha1: &Sha1Hex, secs: u64) {
    store.marks.forget(sha1);
    let time = UNIX_EPOCH + Duration::from_secs(secs);
    let file = File::open(store.path(sha1)).unwrap();
    let times = FileTimes::new().set_accessed(time).set_modified(time);
    file.set_times(times).unwrap();
}

fn count(dir: &tempfile::TempDir) -> usize {
    dir.path().read_dir().unwrap().count()
}

/// Yields some bytes, then fails.
struct Truncated(bool);

impl Read for Truncated {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if std::mem::replace(&mut self.0, true) {
            return Err(io::Error::from(io::ErrorKind::ConnectionReset));
        }
        buffer[..5].copy_from_slice(b"hello");
        Ok(5)
    }
}

#[test]
fn entries_are_stored_opened_and_removed() {
    let (dir, store) = store();
    let kept = store
        .put(&mut &b"hello"[..], Some(5), Some(&sha1(HELLO)))
        .unwrap();
    assert_eq!(kept.as_str(), HELLO);
    assert!(store.hold(&kept).unwrap());
    let mut entry = store.entry(&kept).unwrap().unwrap();
    store.remove(&kept).unwrap();
    store.remove(&kept).unwrap();
    let mut text = String::new();
    entry.file.read_to_string(&mut text).unwrap();
    assert_eq!((entry.len, text.as_str()), (5, "hello"));
    assert_eq!(
        entry.file.metadata().unwrap().permissions().mode() & 0o777,
        0o444
    );
    assert!(!store.hold(&kept).unwrap() && store.entry(&kept).unwrap().is_none());
    assert_eq!(count(&dir), 0);
}

#[test]
fn the_same_content_twice_is_one_entry() {
    let (dir, store) = store();
    for _ in 0..2 {
        store.put(&mut &b"hello"[..], None, None).unwrap();
    }
    assert_eq!(count(&dir), 1);
}

#[test]
fn failures_leave_no_files() {
    let (dir, store) = store();
    let mismatch = store
        .put(&mut &b"hello"[..], None, Some(&sha1(OTHER)))
        .unwrap_err();
    assert!(matches!(mismatch, Error::Mismatch { .. }));
    let cut = store
        .put(&mut Truncated(false), None, Some(&sha1(HELLO)))
        .unwrap_err();
    assert!(matches!(cut, Error::Source(_)));
    let full = store
        .put(&mut &b"hello"[..], Some(u64::MAX), None)
        .unwrap_err();
    assert!(full.to_string().starts_with("no room for "), "{full}");
    assert_eq!(count(&dir), 0);
}

#[test]
fn the_reserve_stays_free_whether_or_not_the_length_is_declared() {
    for declared in [Some(5), None] {
        let (dir, store) = store_with(Rules {
            reserve: u64::MAX,
            ..Rules::none()
        });
        let error = store.put(&mut &b"hello"[..], declared, None).unwrap_err();
        let expect = "no room for 5 bytes: ";
        assert!(error.to_string().starts_with(expect), "{error}");
        assert!(error.is_no_space());
        assert_eq!(count(&dir), 0);
    }
}

#[test]
fn the_least_recently_used_is_evicted_first() {
    let (_dir, store) = store_with(Rules {
        limit: 30_000,
        ..Rules::none()
    });
    let kept: Vec<_> = (0..3)
        .map(|byte| fill_in(&store, byte, 10_000).unwrap())
        .collect();
    for (sha1, secs) in kept.iter().zip([2000, 1000, 3000]) {
        used(&store, sha1, secs);
    }
    // The time of use takes precedence over the time of creation, also after a restart.
    let modified = store.entry(&kept[1]).unwrap().unwrap().modified;
    assert_eq!(modified, UNIX_EPOCH + Duration::from_secs(1000));
    store.marks.forget(&kept[1]);
    let fourth = fill_in(&store, 3, 10_000).unwrap();
    let left: Vec<_> = kept.iter().map(|sha1| has(&store, sha1)).collect();
    assert_eq!(
        (left, has(&store, &fourth)),
        (vec![false, true, true], true)
    );
    let usage = store.usage().unwrap();
    assert_eq!((usage.bytes, usage.entries), (30_000, 3));
}

#[test]
fn pinned_and_held_entries_are_not_evicted() {
    let pinned: Arc<Mutex<HashSet<Sha1Hex>>> = Arc::default();
    let pins = Arc::clone(&pinned);
    let (_dir, store) = store_with(Rules {
        limit: 30_000,
        pinned: Box::new(move || Ok(pins.lock().unwrap().clone())),
        ..Rules::none()
    });
    let kept: Vec<_> = (0..3)
        .map(|byte| fill_in(&store, byte, 10_000).unwrap())
        .collect();
    for sha1 in &kept {
        used(&store, sha1, 1000);
    }
    pinned.lock().unwrap().insert(kept[0].clone());
    assert!(store.hold(&kept[1]).unwrap());
    // No entry is evicted for one that cannot fit.
    let error = fill_in(&store, 9, 10_001).unwrap_err().to_string();
    let expect = "no room for 10001 bytes: [limits] cache_size is 30000, of which 20000 are in use";
    assert_eq!(error, expect);
    assert!(kept.iter().all(|sha1| has(&store, sha1)));
    fill_in(&store, 9, 10_000).unwrap();
    let left: Vec<_> = kept.iter().map(|sha1| has(&store, sha1)).collect();
    assert_eq!(left, [true, true, false]);
    // A new entry is held as well, until release().
    assert!(fill_in(&store, 8, 10_000).is_err());
    store.release();
    fill_in(&store, 8, 20_000).unwrap();
    assert!(has(&store, &kept[0]) && !has(&store, &kept[1]));
}

#[test]
fn nothing_is_evicted_while_the_pins_are_unknown() {
    let (_dir, store) = store_with(Rules {
        limit: 10_000,
        pinned: Box::new(|| Err(io::ErrorKind::PermissionDenied.into())),
        ..Rules::none()
    });
    let kept = fill_in(&store, 1, 10_000).unwrap();
    store.release();
    assert!(matches!(fill_in(&store, 2, 1), Err(Error::Pins(_))));
    assert!(has(&store, &kept));
}

#[test]
fn the_limit_holds_for_a_file_of_unknown_length() {
    // An unfinished file counts with the file system's own overhead.
    let (dir, store) = store_with(Rules {
        limit: (3 << 20) + (64 << 10),
        ..Rules::none()
    });
    let old = fill_in(&store, 1, 1 << 20).unwrap();
    store.release();
    let error = store
        .put(&mut &vec![2; 4 << 20][..], None, None)
        .unwrap_err();
    assert!(error.is_no_space(), "{error}");
    assert!(
        !has(&store, &old),
        "it was evicted before the end of the file was known"
    );
    assert_eq!(count(&dir), 0);
    let kept = store.put(&mut &vec![2; 3 << 20][..], None, None).unwrap();
    let found = store.path(&kept).metadata().unwrap();
    assert_eq!(found.len(), 3 << 20);
    assert!(
        found.blocks() * 512 <= (3 << 20) + (64 << 10),
        "unused space is released"
    );
}

#[test]
fn concurrent_files_share_one_limit() {
    let (dir, store) = store_with(Rules {
        limit: 10_000,
        ..Rules::none()
    });
    let first = store.receive(Some(6_000)).unwrap();
    let error = store.receive(Some(6_000)).err().unwrap();
    assert!(error.is_no_space(), "{error}");
    drop(first);
    assert!(store.receive(Some(6_000)).is_ok());
    assert_eq!(count(&dir), 0);
}

#[test]
fn a_changed_entry_is_detected_and_removed() {
    let damages: [&dyn Fn(&Path); 3] = [
        &|path| files::write(path, "hellO").unwrap(),
        &|path| {
            File::options()
                .write(true)
                .open(path)
                .unwrap()
                .set_len(3)
                .unwrap()
        },
        &|path| {
            // Another file in its place, with the same length and mtime.
            let time = path.metadata().unwrap().modified().unwrap();
            let other = path.with_file_name("other");
            files::write(&other, "hellO").unwrap();
            File::open(&other).unwrap().set_modified(time).unwrap();
            files::rename(&other, path).unwrap();
        },
    ];
    for (number, damage) in damages.iter().enumerate() {
        for restarted in [false, true] {
            let (dir, mut store) = store();
            let kept = store.put(&mut &b"hello"[..], None, None).unwrap();
            let path = store.path(&kept);
            files::set_permissions(&path, files::Permissions::from_mode(0o644)).unwrap();
            assert!(store.hold(&kept).unwrap());
            if restarted {
                store = Store::open(dir.path(), Rules::none()).unwrap();
            }
            damage(&path);
            let found = match number {
                0 => store.entry(&kept).unwrap().is_some(),
                _ => store.hold(&kept).unwrap(),
            };
            assert!(!found, "damage {number}, restarted {restarted}");
            assert_eq!(count(&dir), 0);
        }
    }
}

#[test]
fn concurrent_requests_read_a_file_once() {
    let (_dir, store) = store();
    let sha1 = sha1(HELLO);
    // The bytes are wrong, so a second read would fail.
    files::write(store.path(&sha1), "hellO").unwrap();
    let entry_lock = store.marks.lock_entry(&sha1);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| store.hold(&sha1).unwrap());
        let other = store.put(&mut &b"other"[..], None, None).unwrap();
        assert!(store.hold(&other).unwrap(), "other entries are not blocked");
        let found = store.path(&sha1).metadata().unwrap();
        entry_lock.set_verified(Identity::of(&found), false, false);
        drop(entry_lock);
        assert!(waiting.join().unwrap());
    });
}

#[test]
fn a_trusted_entry_is_not_read() {
    let (_dir, store) = store();
    files::write(store.path(&sha1(OTHER)), "of another sha1").unwrap();
    store.trust(&sha1(OTHER));
    assert!(store.hold(&sha1(OTHER)).unwrap(), "it was not read");
    store.trust(&sha1(HELLO));
    assert!(!store.hold(&sha1(HELLO)).unwrap());
}

#[test]
fn the_hook_runs_before_an_entry_gets_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(HELLO);
    let rules = Rules {
        before_naming: Box::new(move |sha1| {
            assert!(sha1.as_str() == HELLO && !path.exists());
            Err(io::ErrorKind::StorageFull.into())
        }),
        ..Rules::none()
    };
    let store = Store::open(dir.path(), rules).unwrap();
    assert!(store.put(&mut &b"hello"[..], None, None).is_err());
    assert_eq!(count(&dir), 0);
}

#[test]
fn only_regular_files_are_entries() {
    let (dir, store) = store();
    files::write(dir.path().join("target"), "secret").unwrap();
    symlink(dir.path().join("target"), dir.path().join(HELLO)).unwrap();
    files::create_dir(dir.path().join(OTHER)).unwrap();
    for name in [HELLO, OTHER] {
        assert!(!store.hold(&sha1(name)).unwrap(), "{name}");
        assert!(store.entry(&sha1(name)).unwrap().is_none(), "{name}");
    }
}

#[test]
fn opening_removes_files_of_a_crash_but_not_files_being_written() {
    let (dir, store) = store();
    files::write(dir.path().join(".tmp-1-1"), "half").unwrap();
    let mut incoming = store.receive(None).unwrap();
    let second = Store::open(dir.path(), Rules::none()).unwrap();
    assert_eq!(count(&dir), 1);
    incoming.write(b"hello".to_vec()).unwrap();
    incoming.finish(None).unwrap();
    assert!(second.hold(&sha1(HELLO)).unwrap());
}

#[test]
fn an_absent_folder_is_refused_and_not_created() {
    let dir = tempfile::tempdir().unwrap();
    let absent = dir.path().join("absent");
    let error = Store::open(&absent, Rules::none()).err().unwrap();
    assert!(matches!(error, Error::NotADirectory(_)));
    assert!(!absent.exists());
}
