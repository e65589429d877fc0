//! The rows of the tables in `next_step`.

use proptest::prelude::*;

use super::*;
use CleanStatus::{Clean, Cleaning, Dirty};

const NOW: i64 = 1_000_000;
const MODES: [ScanMode; 2] = [ScanMode::Pass, ScanMode::Daemon];

fn builder(ok: bool, clean: CleanStatus) -> BuilderFacts {
    BuilderFacts {
        ok,
        manual: false,
        clean,
        virtualized: false,
        reset: None,
        job: None,
    }
}

fn virtual_one(clean: CleanStatus, reset: Option<ResetProtocol>) -> BuilderFacts {
    BuilderFacts {
        virtualized: true,
        reset,
        ..builder(true, clean)
    }
}

fn busy(ok: bool, clean: CleanStatus) -> BuilderFacts {
    BuilderFacts {
        job: Some(JobFacts {
            cookie: "8-1.2".into(),
            cancelling: false,
            cancel_by: None,
        }),
        ..builder(ok, clean)
    }
}

fn manual(clean: CleanStatus) -> BuilderFacts {
    BuilderFacts {
        manual: true,
        ..builder(true, clean)
    }
}

fn cancelling(cancel_by: Option<i64>) -> BuilderFacts {
    let mut facts = busy(true, Dirty);
    let job = facts.job.as_mut().unwrap();
    (job.cancelling, job.cancel_by) = (true, cancel_by);
    facts
}

fn id(cookie: &str) -> BuildId {
    BuildId::parse(cookie).unwrap()
}

fn building(cookie: &str) -> StatusRecord {
    StatusRecord::Building {
        id: id(cookie),
        logtail: b"dh build".to_vec(),
    }
}

fn aborting(cookie: &str) -> StatusRecord {
    StatusRecord::Aborting { id: id(cookie) }
}

fn waiting(cookie: &str) -> StatusRecord {
    StatusRecord::Waiting {
        id: id(cookie),
        status: BuildStatus::DepFail,
        files: Vec::new(),
        dependencies: "libfoo-dev".into(),
    }
}

fn kept(logtail: &[u8]) -> Step {
    Step::KeepTail {
        logtail: Some(logtail.to_vec()),
    }
}

fn lost(got: Option<&str>) -> Step {
    Step::Lost {
        expected: "8-1.2".into(),
        got: got.map(Into::into),
    }
}

fn rescue(cookie: &str, abort: bool) -> Step {
    Step::Rescue {
        cookie: cookie.into(),
        abort,
    }
}

fn abort(first_deadline: bool) -> Step {
    Step::SendAbort { first_deadline }
}

/// Returns the start of a reason, without the advice after the colon.
fn why(text: &str) -> String {
    text.split(':').next().unwrap_or_default().into()
}

fn check_before(facts: &BuilderFacts, daemon: Before, pass: Before) {
    for (mode, expect) in [(ScanMode::Daemon, daemon), (ScanMode::Pass, pass)] {
        let got = match before(mode, facts) {
            Before::Broken { why: text } => Before::Broken { why: why(&text) },
            other => other,
        };
        assert_eq!(got, expect, "{mode:?} {facts:?}");
    }
}

#[test]
fn a_daemon_calls_the_slave_of_a_job_only_if_its_builder_is_ok_and_dirty() {
    let broken = |why: &str| Before::Broken { why: why.into() };
    let disabled = || "the builder is disabled".to_owned();
    let mut disabled_cancelling = cancelling(None);
    disabled_cancelling.ok = false;
    let with_clean = "a builder with a job, 8-1.2, is CLEAN";
    let with_cleaning = "a builder with a job, 8-1.2, is CLEANING";
    for (facts, daemon, pass) in [
        (busy(true, Clean), broken(with_clean), Before::Ask),
        (busy(false, Clean), broken(with_clean), Before::Ask),
        (busy(true, Cleaning), broken(with_cleaning), Before::Ask),
        (
            busy(false, Dirty),
            Before::ResetJob { why: disabled() },
            Before::Ask,
        ),
        (
            disabled_cancelling,
            Before::CancelJob { why: disabled() },
            Before::Ask,
        ),
        (busy(true, Dirty), Before::Ask, Before::Ask),
    ] {
        check_before(&facts, daemon, pass);
    }
}

#[test]
fn without_a_job_a_disabled_builder_is_left_and_a_virtual_one_is_reset() {
    let synchronous = Some(ResetProtocol::Synchronous);
    let asynchronous = Some(ResetProtocol::Asynchronous);
    let unresettable = Before::Broken {
        why: "a virtual builder without a reset protocol".into(),
    };
    for (facts, daemon, pass) in [
        (builder(false, Clean), Before::Leave, Before::Leave),
        (builder(false, Dirty), Before::Leave, Before::Leave),
        (builder(false, Cleaning), Before::Leave, Before::Leave),
        (builder(true, Clean), Before::Ask, Before::Ask),
        (builder(true, Dirty), Before::Ask, Before::Ask),
        (builder(true, Cleaning), Before::Ask, Before::Ask),
        (virtual_one(Clean, synchronous), Before::Ask, Before::Ask),
        (virtual_one(Clean, None), Before::Ask, Before::Ask),
        (
            virtual_one(Dirty, synchronous),
            Before::ResetMachine,
            Before::ResetMachine,
        ),
        (
            virtual_one(Cleaning, synchronous),
            Before::ResetMachine,
            Before::ResetMachine,
        ),
        (
            virtual_one(Dirty, asynchronous),
            Before::ResetMachine,
            Before::ResetMachine,
        ),
        (
            virtual_one(Cleaning, asynchronous),
            Before::Leave,
            Before::Leave,
        ),
        (virtual_one(Dirty, None), unresettable, Before::Ask),
    ] {
        check_before(&facts, daemon, pass);
    }
}

#[test]
fn a_job_is_compared_with_the_build_of_its_slave() {
    let collected = Step::Collect {
        status: BuildStatus::DepFail,
        files: Vec::new(),
        dependencies: "libfoo-dev".into(),
    };
    for (status, expect) in [
        (building("8-1.2"), kept(b"dh build")),
        (aborting("8-1.2"), kept(ABORTING_TAIL)),
        (waiting("8-1.2"), collected),
        // An earlier attempt at the same build has another cookie.
        (building("8-1.1"), lost(Some("8-1.1"))),
        (aborting("8-1"), lost(Some("8-1"))),
        (waiting("7-7"), lost(Some("7-7"))),
    ] {
        for mode in MODES {
            let got = step(mode, &busy(true, Dirty), &status, NOW);
            assert_eq!(got, expect, "{mode:?} {status:?}");
        }
    }
    let silent = StatusRecord::Building {
        id: id("8-1.2"),
        logtail: Vec::new(),
    };
    let unchanged = Step::KeepTail { logtail: None };
    let got = step(ScanMode::Daemon, &busy(true, Dirty), &silent, NOW);
    assert_eq!(got, unchanged);
}

#[test]
fn an_idle_slave_has_lost_its_job() {
    let idle = StatusRecord::Idle;
    for (mode, facts, expect) in [
        (ScanMode::Daemon, busy(true, Dirty), lost(None)),
        (ScanMode::Pass, busy(true, Dirty), Step::Forgotten),
        // The disabled builders of the sample rows of 2008 have any clean status.
        (ScanMode::Pass, busy(false, Dirty), Step::Forgotten),
        (ScanMode::Pass, busy(false, Clean), Step::Forgotten),
        (ScanMode::Daemon, cancelling(None), Step::Cancelled),
        (ScanMode::Pass, cancelling(Some(NOW - 1)), Step::Cancelled),
    ] {
        let given = format!("{mode:?} {facts:?}");
        assert_eq!(step(mode, &facts, &idle, NOW), expect, "{given}");
    }
}

#[test]
fn cancelling_a_job_aborts_its_build_until_the_deadline() {
    for (cancel_by, status, expect) in [
        (None, building("8-1.2"), abort(true)),
        (None, aborting("8-1.2"), abort(true)),
        (Some(NOW + 1), building("8-1.2"), abort(false)),
        (Some(NOW + 1), aborting("8-1.2"), kept(ABORTING_TAIL)),
        (Some(NOW), building("8-1.2"), Step::CancelOverdue),
        (Some(NOW - 1), aborting("8-1.2"), Step::CancelOverdue),
        (Some(NOW - 1), building("9-9"), Step::Cancelled),
        (None, waiting("8-1.1"), Step::Cancelled),
    ] {
        let facts = cancelling(cancel_by);
        let got = step(ScanMode::Daemon, &facts, &status, NOW);
        assert_eq!(got, expect, "{cancel_by:?} {status:?}");
    }
    // A finished build is collected even after the deadline.
    let got = step(
        ScanMode::Daemon,
        &cancelling(Some(NOW - 1)),
        &waiting("8-1.2"),
        NOW,
    );
    assert!(matches!(got, Step::Collect { .. }), "{got:?}");
}

#[test]
fn an_idle_slave_without_a_job_gets_one_when_its_builder_is_clean() {
    // Only a reset makes a virtual builder clean.
    let no_protocol = virtual_one(Dirty, None);
    for (facts, expect) in [
        (builder(true, Clean), Step::Dispatch),
        (manual(Clean), Step::Nothing),
        (builder(true, Dirty), Step::Clean),
        (manual(Cleaning), Step::Clean),
        (no_protocol, Step::Nothing),
    ] {
        for mode in MODES {
            let got = step(mode, &facts, &StatusRecord::Idle, NOW);
            assert_eq!(got, expect, "{mode:?} {facts:?}");
        }
    }
}

#[test]
fn a_busy_slave_of_a_clean_builder_is_broken_to_the_daemon_and_rescued_by_the_pass() {
    let broken = |state: &str| Step::Broken {
        why: format!("a CLEAN builder is {state} 9-9"),
    };
    let waits = Step::WaitForAbort;
    for (facts, status, state, pass) in [
        (
            builder(true, Clean),
            building("9-9"),
            "BUILDING",
            rescue("9-9", true),
        ),
        (
            manual(Clean),
            waiting("9-9"),
            "WAITING",
            rescue("9-9", false),
        ),
        (builder(true, Clean), aborting("9-9"), "ABORTING", waits),
    ] {
        for (mode, expect) in [(ScanMode::Daemon, broken(state)), (ScanMode::Pass, pass)] {
            let got = step(mode, &facts, &status, NOW);
            assert_eq!(got, expect, "{mode:?} {facts:?} {status:?}");
        }
    }
}

#[test]
fn a_busy_slave_of_a_dirty_builder_without_a_job_is_rescued_unless_disabled() {
    for (facts, status, expect) in [
        (builder(true, Dirty), building("9-9"), rescue("9-9", true)),
        (builder(true, Dirty), waiting("9-9"), rescue("9-9", false)),
        (builder(true, Cleaning), aborting("9-9"), Step::WaitForAbort),
        (builder(false, Dirty), waiting("9-9"), Step::Nothing),
    ] {
        for mode in MODES {
            let got = step(mode, &facts, &status, NOW);
            assert_eq!(got, expect, "{mode:?} {facts:?} {status:?}");
        }
    }
}

#[test]
fn a_log_tail_is_the_end_of_the_log_as_valid_text() {
    assert_eq!(logtail_text(b"a\0b\xFFc\n"), "ab\u{FFFD}c\n");
    assert_eq!(logtail_text(b""), "");
    let long = format!("first{}", "x".repeat(TAIL_BYTES));
    assert_eq!(logtail_text(long.as_bytes()), "x".repeat(TAIL_BYTES));
    // A split character is left out.
    let cut = format!("é{}", "x".repeat(TAIL_BYTES - 1));
    assert_eq!(logtail_text(cut.as_bytes()), "x".repeat(TAIL_BYTES - 1));
    // A replacement character has three bytes, so 682 of them fit.
    let wild = [0xFF; TAIL_BYTES];
    assert_eq!(logtail_text(&wild), "\u{FFFD}".repeat(TAIL_BYTES / 3));
}

proptest! {
    #[test]
    fn any_log_tail_fits(raw in proptest::collection::vec(any::<u8>(), 0..5000)) {
        let text = logtail_text(&raw);
        prop_assert!(text.len() <= TAIL_BYTES && !text.contains('\0'));
    }
}
