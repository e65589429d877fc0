//! Pure: decides which waiting builds can never be built.

use super::pockets::accepts;
use crate::master::model::{ArchivePurpose, BuildState, Pocket, SeriesStatus};

/// The facts of a waiting build that decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Waiting {
    pub(crate) series: SeriesStatus,
    pub(crate) archive: ArchivePurpose,
    pub(crate) pocket: Pocket,
    /// The source has a current publication (docs/farm.md §1.2).
    pub(crate) is_published: bool,
}

/// The state of a build that can never be built, and why.
pub(crate) type Ending = (BuildState, &'static str);

/// Returns how a waiting build must end now; `None` if it may be built.
pub(crate) fn ending(waiting: Waiting) -> Option<Ending> {
    if !accepts(waiting.archive, waiting.series, waiting.pocket) {
        let why = "the series no longer accepts builds for this pocket";
        Some((BuildState::FailedToBuild, why))
    } else if !waiting.is_published {
        Some((BuildState::Superseded, "the source is no longer published"))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_needs_a_publication_and_a_series_that_accepts_it() {
        let waiting = |series, is_published| Waiting {
            series,
            archive: ArchivePurpose::Ppa,
            pocket: Pocket::Release,
            is_published,
        };
        let state = |waiting| ending(waiting).map(|(state, _)| state);
        assert_eq!(state(waiting(SeriesStatus::Current, true)), None);
        let superseded = Some(BuildState::Superseded);
        assert_eq!(state(waiting(SeriesStatus::Current, false)), superseded);
        let failed = Some(BuildState::FailedToBuild);
        assert_eq!(state(waiting(SeriesStatus::Obsolete, true)), failed);
        assert_eq!(state(waiting(SeriesStatus::Obsolete, false)), failed);
        let closed = Waiting {
            archive: ArchivePurpose::Primary,
            ..waiting(SeriesStatus::Current, true)
        };
        assert_eq!(state(closed), failed);
    }
}
