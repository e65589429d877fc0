//! Pure: the state machine of the builder.
//!
//! ```text
//!          Build                  Finished
//!   IDLE ────────▶ BUILDING ───────────────────▶ WAITING ──Clean──▶ IDLE
//!    ▲               │  └─Abort─▶ ABORTING ─Finished─▲
//!    └──NotStarted───┴──────────────────┘
//! ```
//! If a Clean fails, NotCleaned turns IDLE into WAITING again.
//!
//! A call in a state without an arrow for it is refused and changes nothing (docs/wire.md §2.2).
//! Runs are numbered, so that a late event of an earlier run is ignored.

use crate::pipeline::journal::Outcome;
use crate::protocol::{BuildId, BuildStatus, BuilderStatus};

/// The state of the builder.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) enum State {
    #[default]
    Idle,
    Building(Run),
    Aborting(Run),
    Waiting(Run, Outcome),
}

/// An accepted build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) number: u64,
    pub(crate) id: BuildId,
    /// True if the log may contain secrets of the build's owner.
    pub(crate) private: bool,
}

/// An event that may change the state.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Event {
    /// A master calls `build`.
    Build(Run),
    /// A master calls `abort`.
    Abort,
    /// A master calls `clean`.
    Clean,
    /// The build could not be started, and left nothing.
    NotStarted(u64),
    /// The build could not be removed.
    NotCleaned(Run, Outcome),
    /// The build has ended.
    Finished(u64, Outcome),
}

/// The work that a transition requires.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Effect {
    Start(Run),
    Abort(Run),
    Purge(Run, Outcome),
}

/// A call that this state does not allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) wanted: BuilderStatus,
    pub(crate) state: BuilderStatus,
}

impl State {
    /// The state's name on the wire.
    pub(crate) fn builder_status(&self) -> BuilderStatus {
        match self {
            Self::Idle => BuilderStatus::Idle,
            Self::Building(_) => BuilderStatus::Building,
            Self::Aborting(_) => BuilderStatus::Aborting,
            Self::Waiting(..) => BuilderStatus::Waiting,
        }
    }

    /// The id of the current build, if any.
    pub(crate) fn build_id(&self) -> Option<&BuildId> {
        match self {
            Self::Idle => None,
            Self::Building(run) | Self::Aborting(run) | Self::Waiting(run, _) => Some(&run.id),
        }
    }

    /// The id of the build that runs, if any.
    pub(crate) fn running(&self) -> Option<&BuildId> {
        match self {
            Self::Idle | Self::Waiting(..) => None,
            Self::Building(run) | Self::Aborting(run) => Some(&run.id),
        }
    }

    /// Applies `event`; a refusal changes nothing.
    pub(crate) fn apply(&mut self, event: Event) -> Result<Option<Effect>, Refused> {
        let refused = |wanted| {
            Err(Refused {
                wanted,
                state: self.builder_status(),
            })
        };
        let (next, effect) = match (&*self, event) {
            (Self::Idle, Event::Build(run)) => {
                (Self::Building(run.clone()), Some(Effect::Start(run)))
            }
            (Self::Building(_) | Self::Aborting(_) | Self::Waiting(..), Event::Build(_)) => {
                return refused(BuilderStatus::Idle);
            }
            (Self::Building(run), Event::Abort) => (
                Self::Aborting(run.clone()),
                Some(Effect::Abort(run.clone())),
            ),
            // Masters repeat an abort; one effect is enough.
            (Self::Aborting(_), Event::Abort) => return Ok(None),
            (Self::Idle | Self::Waiting(..), Event::Abort) => {
                return refused(BuilderStatus::Building);
            }
            (Self::Waiting(run, outcome), Event::Clean) => (
                Self::Idle,
                Some(Effect::Purge(run.clone(), outcome.clone())),
            ),
            (Self::Idle | Self::Building(_) | Self::Aborting(_), Event::Clean) => {
                return refused(BuilderStatus::Waiting);
            }
            (Self::Building(run) | Self::Aborting(run), Event::NotStarted(number))
                if run.number == number =>
            {
                (Self::Idle, None)
            }
            (Self::Building(run), Event::Finished(number, outcome)) if run.number == number => {
                (Self::Waiting(run.clone(), outcome), None)
            }
            (Self::Aborting(run), Event::Finished(number, outcome)) if run.number == number => {
                (Self::Waiting(run.clone(), aborted(outcome)), None)
            }
            (Self::Idle, Event::NotCleaned(run, outcome)) => (Self::Waiting(run, outcome), None),
            // A late event of an earlier run.
            (_, Event::NotStarted(_) | Event::NotCleaned(..) | Event::Finished(..)) => {
                return Ok(None);
            }
        };
        *self = next;
        Ok(effect)
    }
}

/// Returns the outcome of an aborted build: ABORTED, unless the abort failed (docs/wire.md §2.3).
/// Its files stay listed, so that they are removed from the cache.
pub(super) fn aborted(outcome: Outcome) -> Outcome {
    match outcome.status {
        BuildStatus::BuilderFail | BuildStatus::Aborted => outcome,
        BuildStatus::Ok
        | BuildStatus::DepFail
        | BuildStatus::GivenBack
        | BuildStatus::PackageFail
        | BuildStatus::ChrootFail => Outcome {
            status: BuildStatus::Aborted,
            reason: "aborted on request".into(),
            dependencies: String::new(),
            ..outcome
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(number: u64) -> Run {
        Run {
            number,
            id: BuildId::parse(&format!("b{number}")).unwrap(),
            private: false,
        }
    }

    fn outcome(status: BuildStatus) -> Outcome {
        Outcome {
            status,
            reason: String::new(),
            dependencies: String::new(),
            files: Vec::new(),
            stages: Vec::new(),
        }
    }

    fn states() -> [State; 4] {
        [
            State::Idle,
            State::Building(run(1)),
            State::Aborting(run(1)),
            State::Waiting(run(1), outcome(BuildStatus::Ok)),
        ]
    }

    #[test]
    fn each_state_allows_only_its_calls() {
        use BuilderStatus::{Aborting, Building, Idle, Waiting};
        let calls = [Event::Build(run(2)), Event::Abort, Event::Clean];
        // The state after each call, or the state that the call requires.
        let table = [
            [Ok(Building), Err(Building), Err(Waiting)],
            [Err(Idle), Ok(Aborting), Err(Waiting)],
            [Err(Idle), Ok(Aborting), Err(Waiting)],
            [Err(Idle), Err(Building), Ok(Idle)],
        ];
        for (state, row) in states().into_iter().zip(table) {
            for (call, expect) in calls.iter().zip(row) {
                let mut after = state.clone();
                match (after.apply(call.clone()), expect) {
                    (Ok(_), Ok(status)) => {
                        assert_eq!(after.builder_status(), status, "{state:?} {call:?}")
                    }
                    (Err(refused), Err(wanted)) => {
                        assert_eq!(
                            refused,
                            Refused {
                                wanted,
                                state: state.builder_status()
                            }
                        );
                        assert_eq!(after, state, "a refusal changes nothing");
                    }
                    (got, expect) => panic!("{state:?} {call:?}: {got:?}, expected {expect:?}"),
                }
            }
        }
    }

    #[test]
    fn only_transitions_have_effects() {
        let mut state = State::Idle;
        assert_eq!(
            state.apply(Event::Build(run(1))),
            Ok(Some(Effect::Start(run(1))))
        );
        assert_eq!(state.apply(Event::Abort), Ok(Some(Effect::Abort(run(1)))));
        assert_eq!(state.apply(Event::Abort), Ok(None));
        assert_eq!(
            state.apply(Event::Finished(1, outcome(BuildStatus::Ok))),
            Ok(None)
        );
        let waiting = outcome(BuildStatus::Aborted);
        assert!(matches!(&state, State::Waiting(_, end) if end.status == waiting.status));
        assert!(matches!(
            state.apply(Event::Clean),
            Ok(Some(Effect::Purge(..)))
        ));
    }

    #[test]
    fn a_failed_abort_is_the_builders_failure() {
        for (status, expect) in [
            (BuildStatus::Ok, BuildStatus::Aborted),
            (BuildStatus::PackageFail, BuildStatus::Aborted),
            (BuildStatus::BuilderFail, BuildStatus::BuilderFail),
        ] {
            let mut state = State::Aborting(run(1));
            state.apply(Event::Finished(1, outcome(status))).unwrap();
            assert!(matches!(state, State::Waiting(_, end) if end.status == expect));
        }
    }

    #[test]
    fn a_build_that_cannot_be_cleaned_waits_again() {
        let waiting = State::Waiting(run(1), outcome(BuildStatus::Ok));
        let mut state = waiting.clone();
        let Ok(Some(Effect::Purge(run, outcome))) = state.apply(Event::Clean) else {
            panic!("{state:?}");
        };
        let not_cleaned = Event::NotCleaned(run, outcome);
        assert_eq!(state.apply(not_cleaned.clone()), Ok(None));
        assert_eq!(state, waiting);
        // Another build has started meanwhile.
        let mut state = State::Building(self::run(2));
        assert_eq!(state.apply(not_cleaned), Ok(None));
        assert_eq!(state, State::Building(self::run(2)));
    }

    #[test]
    fn events_of_an_earlier_run_are_ignored() {
        for state in states() {
            let mut after = state.clone();
            assert_eq!(
                after.apply(Event::Finished(9, outcome(BuildStatus::BuilderFail))),
                Ok(None)
            );
            assert_eq!(after.apply(Event::NotStarted(9)), Ok(None));
            assert_eq!(after, state);
        }
    }

    /// In any order of events: one run at a time, each purged once, and an accepted abort decides
    /// the outcome.
    #[test]
    fn fuzz_histories() {
        // One byte per event: the low bits choose it, the others its outcome and its run.
        let seeds: [&[u8]; 3] = [
            b"\0\x04\x02",
            b"\0\x01\x01\x04\x02\0\x03",
            b"\x02\0\x0c\x14\x44",
        ];
        crate::fuzz::fuzz("histories", &seeds, |history| {
            let (mut state, mut number) = (State::Idle, 0);
            let (mut open, mut aborted) = (None, false);
            for byte in history {
                let before = state.clone();
                let statuses = BuildStatus::ALL;
                let end = outcome(statuses[usize::from(byte >> 4) % statuses.len()]);
                let late = u64::from(byte >> 3 & 1);
                let event = match byte % 8 {
                    0 => {
                        number += 1;
                        Event::Build(run(number))
                    }
                    1 => Event::Abort,
                    2 => Event::Clean,
                    3 => Event::NotStarted(number - late.min(number)),
                    _ => Event::Finished(number - late.min(number), end),
                };
                match state.apply(event) {
                    Err(refused) => {
                        assert_eq!(before, state);
                        assert_eq!(refused.state, state.builder_status());
                    }
                    Ok(Some(Effect::Start(run))) => {
                        assert_eq!(open.replace(run.number), None);
                        aborted = false;
                    }
                    Ok(Some(Effect::Abort(run))) => {
                        assert_eq!((open, aborted), (Some(run.number), false));
                        aborted = true;
                    }
                    Ok(Some(Effect::Purge(run, _))) => {
                        assert_eq!(open.take(), Some(run.number));
                        assert!(matches!(before, State::Waiting(..)));
                    }
                    Ok(None) if state == State::Idle => open = None,
                    Ok(None) => {}
                }
                assert_eq!(open.is_none(), state == State::Idle);
                if let State::Waiting(_, end) = &state {
                    let fits =
                        [BuildStatus::Aborted, BuildStatus::BuilderFail].contains(&end.status);
                    assert!(fits || !aborted, "{end:?}");
                }
            }
        });
    }
}
