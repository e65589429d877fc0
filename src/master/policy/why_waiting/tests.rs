//! The sentence for each reason, and the details below it.

use super::*;

const NOW: i64 = 1_700_000_000_000;
const MINUTE: i64 = 60_000;

fn candidate(name: &str, availability: Availability) -> EligibleBuilder {
    EligibleBuilder {
        name: name.into(),
        emulates: false,
        availability,
    }
}

fn building() -> Availability {
    Availability::Building("i386 build of alsa-utils 1.0 in ubuntu hoary RELEASE".into())
}

/// A job without obstacles.
fn ready() -> BuildFacts {
    BuildFacts {
        now: NOW,
        state: BuildState::NeedsBuild,
        job: Some(JobStatus::Waiting),
        builder: None,
        not_before: 0,
        archive: "ubuntu/primary".into(),
        archive_enabled: true,
        series: "hoary".into(),
        arch_tag: "i386".into(),
        arch_enabled: true,
        pocket: Pocket::Release,
        pocket_accepted: true,
        has_chroot: true,
        published: true,
        processor: "386".into(),
        virtualized: false,
        builders: vec![candidate("bob", Availability::Idle)],
        score: 4015,
        emulate_at: NOW + 20 * MINUTE,
        ahead: 0,
        best_ahead: Vec::new(),
        starts_at: Some(NOW + 5000),
    }
}

fn sentence(facts: &BuildFacts) -> String {
    why(facts).sentence
}

#[test]
fn a_build_outside_the_queue_gets_the_sentence_of_its_state() {
    for (state, job, expect) in [
        (
            BuildState::NeedsBuild,
            None,
            "It is not in the queue; `master run` adds it within a minute.",
        ),
        (
            BuildState::NeedsBuild,
            Some(JobStatus::Running),
            "It is being dispatched to bob.",
        ),
        (
            BuildState::Building,
            Some(JobStatus::Running),
            "It is running on bob.",
        ),
        (
            BuildState::Cancelling,
            Some(JobStatus::Cancelling),
            "It is being cancelled on bob.",
        ),
        (
            BuildState::Gathering,
            Some(JobStatus::Running),
            "It has finished on bob; its results are being downloaded.",
        ),
        (
            BuildState::Uploading,
            None,
            "It has finished; its results are being uploaded.",
        ),
        (BuildState::FullyBuilt, None, "It is built."),
        (
            BuildState::ManualDepWait,
            None,
            "It ended as MANUALDEPWAIT; build it again with `master retry`.",
        ),
    ] {
        let facts = BuildFacts {
            state,
            job,
            builder: Some("bob".into()),
            ..ready()
        };
        let answer = why(&facts);
        assert_eq!(answer.sentence, expect);
        assert!(answer.facts.is_empty(), "{state}: {answer}");
    }
    // Every state has a sentence.
    for state in BuildState::ALL {
        let facts = BuildFacts {
            state: *state,
            ..ready()
        };
        assert!(sentence(&facts).ends_with('.'), "{state}");
    }
}

const BOB_TAKES_IT: &str = "It can start: bob is idle and takes it at its next look.";

/// Asserts the sentence for a job without obstacles after a change.
fn check(change: fn(&mut BuildFacts), expect: &str) {
    let mut facts = ready();
    change(&mut facts);
    assert_eq!(sentence(&facts), expect);
}

#[test]
fn an_obstacle_that_forbids_the_build_is_named() {
    check(|_| {}, BOB_TAKES_IT);
    check(
        |facts| facts.archive_enabled = false,
        "The archive ubuntu/primary is disabled.",
    );
    check(
        |facts| facts.job = Some(JobStatus::Suspended),
        "Its job is suspended.",
    );
    check(
        |facts| facts.arch_enabled = false,
        "i386 is disabled in hoary.",
    );
    check(
        |facts| facts.pocket_accepted = false,
        "hoary accepts no builds for RELEASE.",
    );
    check(
        |facts| facts.published = false,
        "Its source is no longer published in ubuntu/primary.",
    );
}

#[test]
fn a_missing_chroot_a_missing_builder_and_a_wait_are_named() {
    check(
        |facts| facts.has_chroot = false,
        "hoary i386 has no chroot for RELEASE.",
    );
    check(
        |facts| facts.builders.clear(),
        "There is no non-virtual builder for 386.",
    );
    check(
        |facts| {
            facts.virtualized = true;
            facts.builders[0].availability = Availability::Disabled(None);
        },
        "The only virtual builder for 386 is disabled.",
    );
    check(
        |facts| {
            facts.builders = vec![
                candidate("bob", Availability::Manual),
                candidate("frog", Availability::Disabled(None)),
            ]
        },
        "All 2 non-virtual builders for 386 are disabled or manual.",
    );
    check(
        |facts| facts.builders[0].availability = Availability::Manual,
        "The only non-virtual builder for 386 is manual.",
    );
    check(
        |facts| facts.not_before = NOW + 4 * MINUTE + 1,
        "It was returned to the queue, and is not dispatched for 5 min.",
    );
    check(|facts| facts.not_before = NOW, BOB_TAKES_IT);
}

#[test]
fn without_obstacles_the_jobs_ahead_and_the_builders_are_named() {
    for (ahead, builders, expect) in [
        (
            0,
            vec![candidate("bob", building())],
            "It is next in the queue: the only builder that could run it is busy.",
        ),
        (
            1,
            vec![
                candidate("bob", Availability::Idle),
                candidate("eve", Availability::Idle),
            ],
            BOB_TAKES_IT,
        ),
        (
            2,
            vec![
                candidate("bob", Availability::Idle),
                candidate("eve", Availability::Idle),
            ],
            "It waits for its turn: 2 jobs are ahead of it.",
        ),
        (
            1,
            vec![
                candidate("bob", building()),
                candidate("eve", Availability::Cleaning),
                candidate("frog", Availability::Manual),
            ],
            "It waits for its turn: 1 job is ahead of it, and all 2 builders that could run it \
             are busy.",
        ),
    ] {
        let facts = BuildFacts {
            ahead,
            builders,
            ..ready()
        };
        assert_eq!(sentence(&facts), expect);
    }
}

#[test]
fn obstacles_builders_score_and_start_are_listed_below_the_sentence() {
    let failed = Availability::Disabled(Some("connection refused".into()));
    let facts = BuildFacts {
        has_chroot: false,
        not_before: NOW + 30_000,
        builders: vec![candidate("bob", building()), candidate("frog", failed)],
        ahead: 7,
        best_ahead: vec![("i386 build of gcc 4 in ubuntu hoary RELEASE".into(), 4055)],
        ..ready()
    };
    let expect = "hoary i386 has no chroot for RELEASE.
  also: It was returned to the queue, and is not dispatched for 30 s.
  builder bob: building i386 build of alsa-utils 1.0 in ubuntu hoary RELEASE
  builder frog: disabled: connection refused
  score 4015, 7 ahead in the queue
  ahead: i386 build of gcc 4 in ubuntu hoary RELEASE (4055)";
    assert_eq!(why(&facts).to_string(), expect);

    let check = |starts_at, expect: &str| {
        let answer = why(&BuildFacts {
            starts_at,
            ..ready()
        });
        assert_eq!(answer.facts.last().unwrap(), expect);
    };
    check(Some(NOW + 125 * MINUTE), "estimated start: in 2 h 5 min");
    check(None, "estimated start: unknown");
}

#[test]
fn durations_are_rounded_up() {
    for (ms, expect) in [
        (-5, "0 s"),
        (1, "1 s"),
        (90_000, "90 s"),
        (90_001, "2 min"),
        (59 * MINUTE + 1, "1 h"),
        (125 * MINUTE, "2 h 5 min"),
    ] {
        assert_eq!(span(ms), expect);
    }
}

#[test]
fn a_job_waits_for_a_builder_that_needs_no_emulation() {
    let emulating = EligibleBuilder {
        emulates: true,
        ..candidate("qemu", Availability::Idle)
    };
    let mut facts = BuildFacts {
        builders: vec![candidate("bob", building()), emulating],
        ..ready()
    };
    let answer = why(&facts);
    let busy = "It is next in the queue: the only builder that could run it without emulation is \
                busy.";
    assert_eq!(answer.sentence, busy);
    let line = "builder qemu: idle; emulates 386, and leaves it to the others for 20 min";
    assert!(answer.facts.contains(&line.to_owned()), "{answer}");
    // It has waited long enough.
    facts.emulate_at = NOW;
    let takes = "It can start: qemu is idle and takes it at its next look.";
    assert_eq!(sentence(&facts), takes);
    // No other builder is in service.
    facts.emulate_at = NOW + MINUTE;
    facts.builders[0].availability = Availability::Manual;
    let answer = why(&facts);
    assert_eq!(answer.sentence, takes);
    let line = "builder qemu: idle; emulates 386";
    assert!(answer.facts.contains(&line.to_owned()), "{answer}");
}

#[test]
fn a_drained_builder_takes_no_more_jobs() {
    let last =
        Availability::Draining("i386 build of alsa-utils 1.0 in ubuntu hoary RELEASE".into());
    let only = BuildFacts {
        builders: vec![candidate("bob", last.clone())],
        ..ready()
    };
    let expect = "The only non-virtual builder for 386 is manual.";
    assert_eq!(sentence(&only), expect);
    let line = "builder bob: manual, gets no jobs after i386 build of alsa-utils 1.0 in ubuntu \
                hoary RELEASE";
    assert!(
        why(&only).facts.contains(&line.to_owned()),
        "{}",
        why(&only)
    );
    let with_another = BuildFacts {
        builders: vec![candidate("bob", last), candidate("eve", building())],
        ..ready()
    };
    let expect = "It is next in the queue: the only builder that could run it is busy.";
    assert_eq!(sentence(&with_another), expect);
}

#[test]
fn a_job_is_not_said_to_start_on_a_builder_that_it_failed_on() {
    let facts = BuildFacts {
        builders: vec![
            candidate("bob", Availability::KeptOff),
            candidate("eve", building()),
        ],
        ..ready()
    };
    let expect = "It is next in the queue: the only builder that could run it is busy.";
    assert_eq!(sentence(&facts), expect);
    let line = "builder bob: ended it with BUILDERFAIL; left to the other builders";
    assert!(why(&facts).facts.contains(&line.to_owned()));
}

#[test]
fn many_builders_are_counted_and_the_answer_fits_a_screen() {
    let mut builders = Vec::new();
    for number in 0..5000 {
        let availability = match number % 10 {
            0 => building(),
            1 => Availability::Cleaning,
            2 => Availability::Manual,
            3 => Availability::Draining("a build".into()),
            4 => Availability::Disabled(None),
            _ => Availability::Disabled(Some(format!("reason {}", number % 7))),
        };
        let emulates = number % 20 > 9;
        let name = format!("bob{number}");
        builders.push(EligibleBuilder {
            name,
            emulates,
            availability,
        });
    }
    let facts = BuildFacts {
        builders,
        has_chroot: false,
        ahead: 100_000,
        best_ahead: vec![("one".into(), 3), ("two".into(), 2), ("three".into(), 1)],
        ..ready()
    };
    let answer = why(&facts);
    assert!(answer.facts.len() < 24, "{answer}");
    let has = |line: &str| assert!(answer.facts.iter().any(|fact| fact == line), "{answer}");
    has("250 builders building: bob0, bob20, bob40, …");
    has("250 builders manual with a last job: bob3, bob23, bob43, …");
    let text = answer.to_string();
    assert!(text.contains("1500 builders disabled: reason "), "{text}");
}
