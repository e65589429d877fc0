//! Pure: what may happen to the builder, and what has to be done about it?
//!
//! ```text
//!          Build                     Over
//!   IDLE ────────▶ BUILDING ───────────────────▶ WAITING ──Clean──▶ IDLE
//!    ▲               │  └──Abort──▶ ABORTING ──Over──▲
//!    └──NotStarted───┴──────────────────┘
//! ```
//! IDLE after a Clean that could not be done becomes WAITING again.
//!
//! Every pair of state and call that is not in the picture is refused and changes nothing
//! (docs/wire.md §2.2, §2.4). A run has a number, so that word of an earlier run is told from the present
//! one's.

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

/// A build that was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) number: u64,
    pub(crate) id: BuildId,
    /// Whether its log may hold what only the build's owner should see.
    pub(crate) private: bool,
}

/// What happens.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Event {
    /// A master wants this built.
    Build(Run),
    /// A master wants the build stopped.
    Abort,
    /// A master has fetched what it wanted.
    Clean,
    /// The build could not be started: nothing of it is there.
    NotStarted(u64),
    /// The build could not be forgotten: all of it is still there.
    NotCleaned(Run, Outcome),
    /// The build has ended.
    Finished(u64, Outcome),
}

/// What has to be done, in this order.
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

    /// The build there is, if any.
    pub(crate) fn build_id(&self) -> Option<&BuildId> {
        match self {
            Self::Idle => None,
            Self::Building(run) | Self::Aborting(run) | Self::Waiting(run, _) => Some(&run.id),
        }
    }

    /// Lets `event` happen; a refusal leaves everything as it was.
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
            // Masters repeat themselves; once is enough.
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
            // Late word of an earlier run.
            (_, Event::NotStarted(_) | Event::NotCleaned(..) | Event::Finished(..)) => {
                return Ok(None);
            }
        };
        *self = next;
        Ok(effect)
    }
}

/// Whatever a build came to, one that was aborted is aborted, unless that failed (docs/wire.md
/// §2.3). Its files are still named, so that they are removed from the cache.
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
    fn every_state_and_call() {
        use BuilderStatus::{Aborting, Building, Idle, Waiting};
        let calls = [Event::Build(run(2)), Event::Abort, Event::Clean];
        // The state after each call, or what the call would have needed.
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
    fn effects_go_with_transitions_only() {
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
    fn an_abort_that_failed_is_the_builders_failure() {
        for (came_to, expect) in [
            (BuildStatus::Ok, BuildStatus::Aborted),
            (BuildStatus::PackageFail, BuildStatus::Aborted),
            (BuildStatus::BuilderFail, BuildStatus::BuilderFail),
        ] {
            let mut state = State::Aborting(run(1));
            state.apply(Event::Finished(1, outcome(came_to))).unwrap();
            assert!(matches!(state, State::Waiting(_, end) if end.status == expect));
        }
    }

    #[test]
    fn a_build_that_cannot_be_forgotten_waits_on() {
        let waiting = State::Waiting(run(1), outcome(BuildStatus::Ok));
        let mut state = waiting.clone();
        let Ok(Some(Effect::Purge(run, outcome))) = state.apply(Event::Clean) else {
            panic!("{state:?}");
        };
        let not_cleaned = Event::NotCleaned(run, outcome);
        assert_eq!(state.apply(not_cleaned.clone()), Ok(None));
        assert_eq!(state, waiting);
        // Somebody was quick: there is another build already.
        let mut state = State::Building(self::run(2));
        assert_eq!(state.apply(not_cleaned), Ok(None));
        assert_eq!(state, State::Building(self::run(2)));
    }

    #[test]
    fn word_of_an_earlier_run_is_nothing() {
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

    /// Whatever comes in whatever order: one run at a time, each purged once, and an abort that was
    /// accepted is what it comes to.
    #[test]
    fn fuzz_histories() {
        // A byte an event: the low bits say which, the others how it ends, or whose word it is.
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
