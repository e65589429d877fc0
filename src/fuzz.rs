//! Fuzz testing: damages valid inputs and checks that a parser's guarantees still hold.
//!
//! A test passes valid inputs and a check. Each input is cut, spliced, repeated and overwritten.
//! `make test` tries a few hundred damaged inputs, `make fuzz` tries more for `FUZZ_SECONDS`. A
//! failing input is minimized and stored in `target/fuzz/`.

use std::fmt::Debug;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::{TestError, TestRunner};

/// Inputs per run of the test runner.
const INPUTS_PER_ROUND: u32 = 256;
/// The most edits to one input.
const MAX_EDITS: usize = 8;
/// The longest input, in bytes.
const MAX_LEN: usize = 64 << 10;
/// Bytes that are special to some parser.
const SPECIAL: &[u8] = b"\0\t\n\r \"%&'+,-./09:;<=>?@AZ[\\]_az{|}~\x7f\x80\xc0\xe0\xed\xf0\xff";

/// One edit; an `Index` is a position in the input at the time of the edit.
#[derive(Debug, Clone)]
enum Edit {
    Put(Index, u8),
    Insert(Index, u8),
    Flip(Index, u8),
    Cut(Index),
    Remove(Index, Index),
    Repeat(Index, Index, usize),
    /// Inserts a part of another input.
    Splice(Index, Index, Index, Index),
}

/// Runs `check`, which panics on a failure, on `seeds` and on damaged copies of them.
///
/// # Panics
/// If `check` panics; the message holds the input.
pub(crate) fn fuzz(name: &str, seeds: &[&[u8]], check: impl Fn(&[u8])) {
    let seconds = std::env::var("FUZZ_SECONDS").map_or(0, |seconds| seconds.parse().unwrap());
    let ending = Instant::now() + Duration::from_secs(seconds);
    let mut tried: u64 = 0;
    for seed in seeds {
        check(seed);
    }
    loop {
        let mut runner = TestRunner::new(ProptestConfig {
            cases: INPUTS_PER_ROUND,
            failure_persistence: None,
            ..ProptestConfig::default()
        });
        let ended = runner.run(&damaged(seeds), |input| {
            check(&input);
            Ok(())
        });
        if let Err(failed) = ended {
            store_failure(name, failed);
        }
        tried += u64::from(INPUTS_PER_ROUND);
        if Instant::now() >= ending {
            break;
        }
    }
    eprintln!("{name}: {tried} inputs");
}

/// Stores a failing input and panics with its path.
fn store_failure<T: AsRef<[u8]> + Debug>(name: &str, failed: TestError<T>) -> ! {
    let TestError::Fail(reason, input) = failed else {
        panic!("{name}: {failed:?}");
    };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/fuzz");
    let path = folder.join(name);
    fs::create_dir_all(&folder).unwrap();
    fs::write(&path, &input).unwrap();
    let shown = String::from_utf8_lossy(input.as_ref());
    panic!("{name}: {reason}: {shown:?}, stored in {}", path.display());
}

fn damaged<'a>(seeds: &'a [&'a [u8]]) -> impl Strategy<Value = Vec<u8>> + 'a {
    let edits = prop::collection::vec(edit(), 0..MAX_EDITS);
    (any::<Index>(), edits).prop_map(move |(seed, edits)| {
        let mut input = seed.get(seeds).to_vec();
        for edit in edits {
            apply(&edit, &mut input, seeds);
            input.truncate(MAX_LEN);
        }
        input
    })
}

fn edit() -> impl Strategy<Value = Edit> {
    let at = any::<Index>;
    let byte = || prop_oneof![3 => select(SPECIAL), 1 => any::<u8>()];
    prop_oneof![
        4 => (at(), byte()).prop_map(|(at, byte)| Edit::Put(at, byte)),
        4 => (at(), byte()).prop_map(|(at, byte)| Edit::Insert(at, byte)),
        2 => (at(), 0..8_u8).prop_map(|(at, bit)| Edit::Flip(at, bit)),
        1 => at().prop_map(Edit::Cut),
        3 => (at(), at()).prop_map(|(from, to)| Edit::Remove(from, to)),
        2 => (at(), at(), 1..200_usize).prop_map(|(from, to, times)| Edit::Repeat(from, to, times)),
        6 => (at(), at(), at(), at()).prop_map(|(at, of, from, to)| Edit::Splice(at, of, from, to)),
    ]
}

fn apply(edit: &Edit, input: &mut Vec<u8>, seeds: &[&[u8]]) {
    let range = |from: &Index, to: &Index, len: usize| {
        let (from, to) = (from.index(len + 1), to.index(len + 1));
        from.min(to)..from.max(to)
    };
    let len = input.len();
    match edit {
        Edit::Put(at, byte) if len > 0 => input[at.index(len)] = *byte,
        Edit::Flip(at, bit) if len > 0 => input[at.index(len)] ^= 1 << bit,
        Edit::Put(_, byte) | Edit::Flip(_, byte) => input.push(*byte),
        Edit::Insert(at, byte) => input.insert(at.index(len + 1), *byte),
        Edit::Cut(at) => input.truncate(at.index(len + 1)),
        Edit::Remove(from, to) => drop(input.drain(range(from, to, len))),
        Edit::Repeat(from, to, times) => {
            let range = range(from, to, len);
            let times = (*times).min(MAX_LEN / range.len().max(1));
            let piece = input[range.clone()].repeat(times);
            input.splice(range, piece);
        }
        Edit::Splice(at, of, from, to) => {
            let other = of.get(seeds);
            let piece = other[range(from, to, other.len())].to_vec();
            let at = at.index(len + 1);
            input.splice(at..at, piece);
        }
    }
}

#[test]
#[should_panic(expected = "fuzz-itself")]
fn a_failing_input_is_found() {
    let seeds: [&[u8]; 2] = [b"Content-Length: 5", b"0123"];
    fuzz("fuzz-itself", &seeds, |input| {
        assert!(!input.windows(3).any(|window| window == b"012") || input.len() == 4);
    });
}
