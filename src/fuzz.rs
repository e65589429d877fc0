//! What becomes of a reader's promises when its input is damaged? Input for tests, made of valid one.
//!
//! A test gives some valid inputs, and what has to hold for whatever they can be turned into: cut,
//! spliced, repeated, overwritten. `make test` tries a few hundred of those, `make fuzz` as many as
//! fit into `FUZZ_SECONDS`. What fails is made as small as it gets and kept in `target/fuzz/`.

use std::fmt::Debug;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::{TestError, TestRunner};

/// Inputs tried at a time.
const ROUND: u32 = 256;
/// Edits made to one input, at most.
const EDITS: usize = 8;
/// No input is made longer.
const LONGEST: usize = 64 << 10;
/// Bytes that mean something to one reader or another.
const SPECIAL: &[u8] = b"\0\t\n\r \"%&'+,-./09:;<=>?@AZ[\\]_az{|}~\x7f\x80\xc0\xe0\xed\xf0\xff";

/// One kind of damage; an `Index` is a place in whatever there is by then.
#[derive(Debug, Clone)]
enum Edit {
    Put(Index, u8),
    Insert(Index, u8),
    Flip(Index, u8),
    Cut(Index),
    Remove(Index, Index),
    Repeat(Index, Index, usize),
    /// A piece of another input.
    Splice(Index, Index, Index, Index),
}

/// Tries `check`, which panics if something does not hold, on what `seeds` can be turned into.
///
/// # Panics
/// If anything is found; with the input.
pub(crate) fn fuzz(name: &str, seeds: &[&[u8]], check: impl Fn(&[u8])) {
    let seconds = std::env::var("FUZZ_SECONDS").map_or(0, |seconds| seconds.parse().unwrap());
    let ending = Instant::now() + Duration::from_secs(seconds);
    let mut tried: u64 = 0;
    for seed in seeds {
        check(seed);
    }
    loop {
        let mut runner = TestRunner::new(ProptestConfig {
            cases: ROUND,
            failure_persistence: None,
            ..ProptestConfig::default()
        });
        let ended = runner.run(&damaged(seeds), |input| {
            check(&input);
            Ok(())
        });
        if let Err(failed) = ended {
            keep(name, failed);
        }
        tried += u64::from(ROUND);
        if Instant::now() >= ending {
            break;
        }
    }
    eprintln!("{name}: {tried} inputs");
}

/// Keeps an input that has failed, and says where.
fn keep<T: AsRef<[u8]> + Debug>(name: &str, failed: TestError<T>) -> ! {
    let TestError::Fail(reason, input) = failed else {
        panic!("{name}: {failed:?}");
    };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/fuzz");
    let path = folder.join(name);
    fs::create_dir_all(&folder).unwrap();
    fs::write(&path, &input).unwrap();
    let shown = String::from_utf8_lossy(input.as_ref());
    panic!("{name}: {reason}: {shown:?}, kept in {}", path.display());
}

fn damaged<'a>(seeds: &'a [&'a [u8]]) -> impl Strategy<Value = Vec<u8>> + 'a {
    let edits = prop::collection::vec(edit(), 0..EDITS);
    (any::<Index>(), edits).prop_map(move |(seed, edits)| {
        let mut input = seed.get(seeds).to_vec();
        for edit in edits {
            apply(&edit, &mut input, seeds);
            input.truncate(LONGEST);
        }
        input
    })
}

fn edit() -> impl Strategy<Value = Edit> {
    let at = any::<Index>;
    let byte = || prop_oneof![3 => select(SPECIAL), 1 => any::<u8>()];
    prop_oneof![
        4 => (at(), byte()).prop_map(|(place, byte)| Edit::Put(place, byte)),
        4 => (at(), byte()).prop_map(|(place, byte)| Edit::Insert(place, byte)),
        2 => (at(), 0..8_u8).prop_map(|(place, bit)| Edit::Flip(place, bit)),
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
        Edit::Put(place, byte) if len > 0 => input[place.index(len)] = *byte,
        Edit::Flip(place, bit) if len > 0 => input[place.index(len)] ^= 1 << bit,
        Edit::Put(_, byte) | Edit::Flip(_, byte) => input.push(*byte),
        Edit::Insert(place, byte) => input.insert(place.index(len + 1), *byte),
        Edit::Cut(place) => input.truncate(place.index(len + 1)),
        Edit::Remove(from, to) => drop(input.drain(range(from, to, len))),
        Edit::Repeat(from, to, times) => {
            let range = range(from, to, len);
            let times = (*times).min(LONGEST / range.len().max(1));
            let piece = input[range.clone()].repeat(times);
            input.splice(range, piece);
        }
        Edit::Splice(place, of, from, to) => {
            let other = of.get(seeds);
            let piece = other[range(from, to, other.len())].to_vec();
            let place = place.index(len + 1);
            input.splice(place..place, piece);
        }
    }
}

#[test]
#[should_panic(expected = "fuzz-itself")]
fn what_fails_is_found() {
    let seeds: [&[u8]; 2] = [b"Content-Length: 5", b"0123"];
    fuzz("fuzz-itself", &seeds, |input| {
        assert!(!input.windows(3).any(|window| window == b"012") || input.len() == 4);
    });
}
