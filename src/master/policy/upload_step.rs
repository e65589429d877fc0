//! Pure: the next step of an upload, from the state of its uploader and its rows
//! (docs/farm.md §2.11).

/// The state of the uploader of some results, on the host that has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Uploader {
    /// There is no record of one.
    Absent,
    /// It is recorded and has never started.
    Ready,
    Running,
    /// Its runner is dead, and it runs beyond its timeout.
    Overdue,
    /// It has ended; the reason if its exit code is not 0.
    Ended(Option<String>),
    /// It may have run, and left no exit code.
    Lost,
}

/// The facts about the results of a build in UPLOADING.
#[derive(Clone, Debug)]
pub(crate) struct Facts<'a> {
    pub(crate) build: i64,
    /// The folder of the results, below `incoming/`.
    pub(crate) folder: &'a str,
    pub(crate) uploader: Uploader,
    /// The database says that an uploader has started.
    pub(crate) is_claimed: bool,
    /// The attempt names this host. Attempts of older versions name none.
    pub(crate) is_ours: bool,
    /// The folder of the results is on this host.
    pub(crate) has_folder: bool,
    /// `[master] uploader` is set.
    pub(crate) is_configured: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Wait,
    Start,
    Record(Outcome),
    /// Kill the uploader, then record the outcome.
    Kill(Outcome),
    /// The results are on another host.
    Leave,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Uploaded,
    /// No uploader is set, so the results stay in their folder.
    Kept,
    Failed(String),
}

/// Decides about an upload. An uploader that may have started is never started again.
pub(crate) fn step(facts: &Facts<'_>) -> Step {
    match (&facts.uploader, facts.is_claimed) {
        (Uploader::Running, _) => Step::Wait,
        (Uploader::Ended(None), _) => Step::Record(Outcome::Uploaded),
        (Uploader::Ended(Some(reason)), _) => Step::Record(Outcome::Failed(reason.clone())),
        (Uploader::Overdue, _) => Step::Kill(unknown(facts.build)),
        // Only its record, which this process has not removed, could tell whether it ran.
        (Uploader::Lost, _) | (Uploader::Absent, true) => Step::Record(unknown(facts.build)),
        (Uploader::Ready, _) | (Uploader::Absent, false) => not_started(facts),
    }
}

fn not_started(facts: &Facts<'_>) -> Step {
    match (facts.has_folder, facts.is_ours) {
        (true, _) if facts.is_configured => Step::Start,
        (true, _) => Step::Record(Outcome::Kept),
        (false, true) => {
            let (build, folder) = (facts.build, facts.folder);
            Step::Record(Outcome::Failed(format!(
                "incoming/{folder} is missing, and no uploader has run: `master retry {build}` \
                 builds again. If the folder is back, `master retry --upload-only {build}` uploads \
                 it"
            )))
        }
        (false, false) => Step::Leave,
    }
}

fn unknown(build: i64) -> Outcome {
    Outcome::Failed(format!(
        "the uploader was started, but its exit code is unknown: the archive may have the results. \
         Look there. `master retry --upload-only {build}` uploads them again, `master retry \
         {build}` builds again"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(uploader: Uploader) -> Facts<'static> {
        Facts {
            build: 8,
            folder: "8-1.1-c0ffee",
            uploader,
            is_claimed: false,
            is_ours: true,
            has_folder: true,
            is_configured: true,
        }
    }

    #[test]
    fn an_uploader_that_may_have_started_is_not_started_again() {
        use Uploader::{Absent, Ended, Lost, Overdue, Ready, Running};
        let all = [
            Absent,
            Ready,
            Running,
            Overdue,
            Ended(None),
            Ended(Some("no".into())),
            Lost,
        ];
        for uploader in all {
            for bits in 0..16 {
                let bit = |n: u32| bits & (1 << n) != 0;
                let facts = Facts {
                    is_claimed: bit(0),
                    is_ours: bit(1),
                    has_folder: bit(2),
                    is_configured: bit(3),
                    ..facts(uploader.clone())
                };
                let starts = step(&facts) == Step::Start;
                let never_ran = uploader == Ready || (uploader == Absent && !facts.is_claimed);
                let expected = never_ran && facts.has_folder && facts.is_configured;
                assert_eq!(starts, expected, "{facts:?}");
            }
        }
    }

    #[test]
    fn every_state_of_an_upload_has_an_end() {
        let reason = |step: Step| match step {
            Step::Record(Outcome::Failed(reason)) | Step::Kill(Outcome::Failed(reason)) => reason,
            other => panic!("{other:?}"),
        };
        let lost = reason(step(&facts(Uploader::Lost)));
        assert!(lost.contains("exit code is unknown"), "{lost}");
        assert!(lost.contains("`master retry --upload-only 8`"), "{lost}");
        let claimed = Facts {
            is_claimed: true,
            ..facts(Uploader::Absent)
        };
        assert_eq!(reason(step(&claimed)), lost);
        assert_eq!(reason(step(&facts(Uploader::Overdue))), lost);
        let missing = Facts {
            has_folder: false,
            ..facts(Uploader::Absent)
        };
        assert!(reason(step(&missing)).contains("incoming/8-1.1-c0ffee is missing"));
        let elsewhere = Facts {
            is_ours: false,
            ..missing
        };
        assert_eq!(step(&elsewhere), Step::Leave);
        let unset = Facts {
            is_configured: false,
            ..facts(Uploader::Absent)
        };
        assert_eq!(step(&unset), Step::Record(Outcome::Kept));
        let ended = facts(Uploader::Ended(None));
        assert_eq!(step(&ended), Step::Record(Outcome::Uploaded));
        let refused = step(&facts(Uploader::Ended(Some("no".into()))));
        assert_eq!(refused, Step::Record(Outcome::Failed("no".into())));
        assert_eq!(step(&facts(Uploader::Running)), Step::Wait);
    }
}
