//! Tests of the way out of every state.

use super::*;
use crate::master::model::BuildState as B;
use crate::master::model::JobStatus as J;

const RESULTS: Results<'static> = Results {
    folder: "8-1.1-c0ffee",
    host: Some("upload1"),
    host_is_alive: true,
    upload_started: false,
};
const BOB: Worker<'static> = Worker {
    name: "bob",
    is_ok: true,
};

fn facts(state: BuildState) -> Facts<'static> {
    Facts {
        build: 8,
        state,
        job: None,
        archive: "ubuntu primary",
        archive_enabled: true,
        series: "hoary",
        series_status: SeriesStatus::Development,
        pocket: Pocket::Release,
        pocket_accepted: true,
        arch_tag: "i386",
        arch_enabled: true,
        builder: None,
        has_master: true,
        results: None,
    }
}

fn on_bob(state: BuildState, job: JobStatus) -> Facts<'static> {
    Facts {
        job: Some(job),
        builder: Some(BOB),
        ..facts(state)
    }
}

fn on_removed_builder(state: BuildState, job: JobStatus) -> Facts<'static> {
    Facts {
        builder: Some(Worker {
            is_ok: false,
            ..BOB
        }),
        ..on_bob(state, job)
    }
}

fn uploaded(results: Option<Results<'static>>) -> Facts<'static> {
    Facts {
        results,
        ..facts(B::Uploading)
    }
}

/// A situation, and a part of its sentence.
type Row = (Facts<'static>, &'static str);

fn before_the_build() -> Vec<Row> {
    let waits = |job| Facts {
        job: Some(job),
        ..facts(B::NeedsBuild)
    };
    vec![
        (facts(B::NeedsBuild), "adds it to the queue"),
        (waits(J::Waiting), "`master queue why 8`"),
        (waits(J::Suspended), "resumes it within a minute"),
        (
            Facts {
                archive_enabled: false,
                ..waits(J::Suspended)
            },
            "`master archive set ubuntu primary --enabled yes`",
        ),
        (
            Facts {
                arch_enabled: false,
                ..waits(J::Suspended)
            },
            "`master arch enable hoary i386`",
        ),
        (
            Facts {
                has_master: false,
                ..waits(J::Waiting)
            },
            "`buildd-slave master run`",
        ),
        (on_bob(B::NeedsBuild, J::Running), "`master cancel 8`"),
    ]
}

fn during_the_build() -> Vec<Row> {
    vec![
        (on_bob(B::Building, J::Running), "`master cancel 8` aborts"),
        (
            on_removed_builder(B::Building, J::Running),
            "returns the build to the queue",
        ),
        (facts(B::Building), "it has no job: `master cancel 8`"),
        (
            Facts {
                builder: None,
                ..on_bob(B::Building, J::Waiting)
            },
            "no builder has it: `master cancel 8`",
        ),
        (
            on_bob(B::Gathering, J::Running),
            "`master builder disable bob` returns it",
        ),
        (
            on_removed_builder(B::Gathering, J::Running),
            "returns the build to the queue",
        ),
        (facts(B::Gathering), "`master cancel 8` ends it"),
        (
            Facts {
                has_master: false,
                ..on_bob(B::Gathering, J::Running)
            },
            "`buildd-slave master run`",
        ),
        (
            on_bob(B::Cancelling, J::Cancelling),
            "`master builder disable bob` ends it",
        ),
        (
            on_removed_builder(B::Cancelling, J::Cancelling),
            "the next look at it ends the build",
        ),
        (facts(B::Cancelling), "`master cancel 8` ends it"),
    ]
}

fn during_the_upload() -> Vec<Row> {
    vec![
        (uploaded(None), "it has no results: `master cancel 8`"),
        (uploaded(Some(RESULTS)), "upload1 uploads it"),
        (
            uploaded(Some(Results {
                upload_started: true,
                ..RESULTS
            })),
            "`master cancel --force 8` kills it",
        ),
        (
            uploaded(Some(Results {
                host_is_alive: false,
                ..RESULTS
            })),
            "`[master] host = upload1` where incoming/8-1.1-c0ffee is now; `master cancel 8`",
        ),
        (
            uploaded(Some(Results {
                host: None,
                ..RESULTS
            })),
            "if none has, `master cancel 8`",
        ),
    ]
}

fn after_the_build() -> Vec<Row> {
    let closed = |state| Facts {
        pocket_accepted: false,
        series_status: SeriesStatus::Obsolete,
        ..facts(state)
    };
    vec![
        (facts(B::FullyBuilt), "`master retry --force 8`"),
        (facts(B::FailedToBuild), "`master log 8`, then build again"),
        (closed(B::FailedToBuild), "nothing: hoary is OBSOLETE"),
        (facts(B::ManualDepWait), "or build again with"),
        (closed(B::ManualDepWait), "`master published add`"),
        (facts(B::ChrootWait), "`master chroot set`"),
        (facts(B::Superseded), "`master submit`"),
        (
            facts(B::FailedToUpload),
            "build again with `master retry 8`",
        ),
        (
            Facts {
                results: Some(RESULTS),
                ..facts(B::FailedToUpload)
            },
            "`master retry --upload-only 8`, or build again with `master retry 8`",
        ),
        (facts(B::Cancelled), "build again with `master retry 8`"),
        (closed(B::Cancelled), "accepts no builds for RELEASE"),
    ]
}

#[test]
fn every_state_has_a_way_out() {
    let all = [
        before_the_build(),
        during_the_build(),
        during_the_upload(),
        after_the_build(),
    ]
    .concat();
    for (facts, part) in &all {
        let sentence = next(facts);
        assert!(sentence.contains(part), "{facts:?}: {sentence}");
    }
    for state in BuildState::ALL {
        assert!(
            all.iter().any(|(facts, _)| facts.state == *state),
            "{state} is not in the table"
        );
    }
}
