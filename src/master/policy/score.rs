//! Pure: computes the queue score of a job, and explains it (docs/farm.md §2.5).
//!
//! There are the rules of 2008 and of today. Jobs with a manual score are not scored. Two things
//! differ from Launchpad: the bonus for waiting does not restart after a day, and Debian's
//! components score like the corresponding ones of Ubuntu.

use crate::master::model::{Pocket, Urgency};

/// The rule set for scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rules {
    Y2008,
    Modern,
}

/// The properties of a job that its score depends on.
#[derive(Clone, Debug)]
pub(crate) struct Scored {
    pub(crate) urgency: Urgency,
    pub(crate) pocket: Pocket,
    /// The component of the current publication, else the source's own.
    pub(crate) component: String,
    pub(crate) section: String,
    /// Time in the queue, in seconds. Only the rules of 2008 use it.
    pub(crate) queued_secs: i64,
    pub(crate) private: bool,
    /// Whether the archive is a rebuild of another one. Only today's rules use it.
    pub(crate) copy: bool,
    /// The archive's bonus or penalty. Only today's rules use it.
    pub(crate) relative: i64,
}

/// A component without a score under the rules of 2008.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("component {0:?} has no score: publish the source in a known one, or use `master rescore`")]
pub(crate) struct UnknownComponent(pub(crate) String);

/// The section of language packs, which are many, large and never urgent.
const LANGUAGE_PACKS: &str = "translations";
const PRIVATE_BONUS: i64 = 10_000;
const COPY_PENALTY: i64 = 2_600;

/// Returns the score of a job.
///
/// # Errors
/// The component is unknown to the rules of 2008. Today's rules score it 0.
pub(crate) fn score(rules: Rules, scored: &Scored) -> Result<i64, UnknownComponent> {
    let parts = parts(rules, scored)?;
    Ok(parts
        .iter()
        .fold(0, |total, (_, points)| total.saturating_add(*points)))
}

/// Returns the parts of a score, as in `pocket 3000 + component 1000`. Parts of 0 are left out.
///
/// # Errors
/// As [`score`].
pub(crate) fn explain(rules: Rules, scored: &Scored) -> Result<String, UnknownComponent> {
    let mut text = String::new();
    for (name, points) in parts(rules, scored)? {
        let sign = match (text.is_empty(), points) {
            (_, 0) => continue,
            (true, 1..) => "",
            (true, _) => "-",
            (false, 1..) => " + ",
            (false, _) => " - ",
        };
        text.push_str(&format!("{sign}{name} {}", points.unsigned_abs()));
    }
    if text.is_empty() {
        text.push('0');
    }
    Ok(text)
}

type Part = (&'static str, i64);

fn parts(rules: Rules, scored: &Scored) -> Result<Vec<Part>, UnknownComponent> {
    let archive = |applies, points| if applies { points } else { 0 };
    let private = ("private archive", archive(scored.private, PRIVATE_BONUS));
    let language_pack = scored.section == LANGUAGE_PACKS;
    Ok(match rules {
        Rules::Y2008 if language_pack => Vec::new(),
        Rules::Y2008 => {
            let points = component(&scored.component);
            let points = points.ok_or_else(|| UnknownComponent(scored.component.clone()))?;
            vec![
                ("pocket", pocket_of_2008(scored.pocket)),
                ("component", points),
                ("urgency", urgency(scored.urgency)),
                ("waiting", waiting(scored.queued_secs)),
                private,
            ]
        }
        Rules::Modern => {
            // The parts of the archive apply to language packs as well.
            let mut parts = vec![
                private,
                ("rebuild", archive(scored.copy, -COPY_PENALTY)),
                ("archive", scored.relative),
            ];
            if !language_pack {
                parts.splice(
                    0..0,
                    [
                        ("pocket", pocket_of_today(scored.pocket)),
                        ("component", component(&scored.component).unwrap_or(0)),
                        ("urgency", urgency(scored.urgency)),
                    ],
                );
            }
            parts
        }
    })
}

fn urgency(urgency: Urgency) -> i64 {
    match urgency {
        Urgency::Low => 5,
        Urgency::Medium => 10,
        Urgency::High => 15,
        Urgency::Emergency => 20,
    }
}

fn pocket_of_2008(pocket: Pocket) -> i64 {
    match pocket {
        Pocket::Proposed => 0,
        Pocket::Backports => 1500,
        Pocket::Release => 3000,
        Pocket::Updates => 4500,
        Pocket::Security => 6000,
    }
}

fn pocket_of_today(pocket: Pocket) -> i64 {
    match pocket {
        Pocket::Backports => 0,
        Pocket::Release => 1500,
        Pocket::Proposed | Pocket::Updates => 3000,
        Pocket::Security => 4500,
    }
}

/// Debian's `contrib` is free but unsupported, like `universe`. `non-free` is neither, like
/// `multiverse`. `non-free-firmware` is not free but needed, like `restricted`.
fn component(name: &str) -> Option<i64> {
    Some(match name {
        "multiverse" | "non-free" => 0,
        "universe" | "contrib" => 250,
        "restricted" | "non-free-firmware" => 750,
        "main" => 1000,
        "partner" => 1250,
        _ => return None,
    })
}

fn waiting(secs: i64) -> i64 {
    match secs {
        14_401.. => 100,
        7_201.. => 50,
        3_601.. => 20,
        1_801.. => 15,
        901.. => 10,
        301.. => 5,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Urgency::{Emergency, High, Low, Medium};

    fn scored(pocket: Pocket, component: &str, urgency: Urgency, queued_secs: i64) -> Scored {
        Scored {
            urgency,
            pocket,
            component: component.into(),
            section: "net".into(),
            queued_secs,
            private: false,
            copy: false,
            relative: 0,
        }
    }

    #[test]
    fn the_rules_of_2008_add_pocket_component_urgency_and_waiting() {
        for (pocket, component, urgency, secs, expect) in [
            (Pocket::Release, "main", High, 0, 4015),
            (Pocket::Release, "main", Low, 290, 4005),
            (Pocket::Release, "universe", High, 310, 3270),
            (Pocket::Release, "multiverse", Medium, 1000, 3020),
            (Pocket::Release, "main", Emergency, 3590, 4035),
            (Pocket::Release, "restricted", Low, 4000, 3775),
            (Pocket::Release, "partner", Low, 0, 4255),
            (Pocket::Proposed, "main", High, 0, 1015),
            (Pocket::Backports, "main", High, 0, 2515),
            (Pocket::Updates, "main", High, 0, 5515),
            (Pocket::Security, "main", High, 0, 7015),
            // The limits are exclusive, and the bonus does not restart after a day.
            (Pocket::Release, "main", Low, 300, 4005),
            (Pocket::Release, "main", Low, 301, 4010),
            (Pocket::Release, "main", Low, 14_400, 4055),
            (Pocket::Release, "main", Low, 14_401, 4105),
            (Pocket::Release, "main", Low, 86_400, 4105),
            (Pocket::Release, "main", Low, -5, 4005),
            // Debian's components.
            (Pocket::Release, "contrib", Low, 0, 3255),
            (Pocket::Release, "non-free", Low, 0, 3005),
            (Pocket::Release, "non-free-firmware", Low, 0, 3755),
        ] {
            let scored = scored(pocket, component, urgency, secs);
            assert_eq!(score(Rules::Y2008, &scored), Ok(expect), "{scored:?}");
            let private = Scored {
                private: true,
                copy: true,
                relative: 77,
                ..scored
            };
            assert_eq!(score(Rules::Y2008, &private), Ok(expect + 10_000));
        }
        let unknown = scored(Pocket::Release, "misc", Low, 0);
        let error = UnknownComponent("misc".into());
        assert_eq!(score(Rules::Y2008, &unknown), Err(error));
    }

    #[test]
    fn the_rules_of_today_add_pocket_component_urgency_and_archive() {
        for (pocket, component, expect) in [
            (Pocket::Backports, "main", 1015),
            (Pocket::Release, "main", 2515),
            (Pocket::Proposed, "main", 4015),
            (Pocket::Updates, "universe", 3265),
            (Pocket::Security, "multiverse", 4515),
            (Pocket::Release, "misc", 1515),
        ] {
            // Waiting adds nothing.
            let mut scored = scored(pocket, component, High, 100_000);
            assert_eq!(score(Rules::Modern, &scored), Ok(expect), "{scored:?}");
            scored.copy = true;
            assert_eq!(score(Rules::Modern, &scored), Ok(expect - 2600));
            scored.relative = -100;
            assert_eq!(score(Rules::Modern, &scored), Ok(expect - 2700));
        }
    }

    #[test]
    fn language_packs_score_only_by_their_archive() {
        let mut pack = scored(Pocket::Security, "main", Emergency, 20_000);
        pack.section = "translations".into();
        pack.private = true;
        pack.relative = 5;
        assert_eq!(score(Rules::Y2008, &pack), Ok(0));
        assert_eq!(score(Rules::Modern, &pack), Ok(10_005));
        pack.component = "misc".into();
        assert_eq!(score(Rules::Y2008, &pack), Ok(0));
        assert_eq!(explain(Rules::Y2008, &pack).unwrap(), "0");
    }

    #[test]
    fn an_explanation_lists_the_parts_of_a_score() {
        let mut one = scored(Pocket::Release, "main", High, 0);
        let check = |rules, one: &Scored, expect: &str| {
            assert_eq!(explain(rules, one).unwrap(), expect);
        };
        let plain = "pocket 3000 + component 1000 + urgency 15";
        check(Rules::Y2008, &one, plain);
        one.queued_secs = 400;
        one.private = true;
        let waiting = format!("{plain} + waiting 5 + private archive 10000");
        check(Rules::Y2008, &one, &waiting);
        one.private = false;
        one.copy = true;
        one.relative = 50;
        let today = "pocket 1500 + component 1000 + urgency 15 - rebuild 2600 + archive 50";
        check(Rules::Modern, &one, today);
        one.section = LANGUAGE_PACKS.into();
        check(Rules::Modern, &one, "-rebuild 2600 + archive 50");
    }
}
