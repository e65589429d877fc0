//! Pure: chooses the mends that `doctor --fix` proposes.

use super::finding::{Finding, Grade};
use super::mend::{Mend, Step, owned};

/// A mend that `doctor --fix` proposes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Proposal {
    /// The subjects of the findings that it mends.
    pub(super) subjects: Vec<String>,
    pub(super) steps: Vec<Step>,
}

/// The answer of `doctor --fix` to findings.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) proposals: Vec<Proposal>,
    /// Findings that need root, which `user` is not.
    pub(super) for_root: Vec<String>,
    /// Findings that only the operator can mend; the advice follows.
    pub(super) for_operator: Vec<(String, String)>,
}

/// Plans the mends of `findings`, in their order; all packages are installed at once. `tried` are
/// proposals of earlier rounds. `user` is not root; `None` means root.
pub(super) fn plan(findings: &[Finding], tried: &[Proposal], user: Option<&str>) -> Plan {
    let mut plan = Plan::default();
    let (mut packages, mut for_packages, mut place) = (Vec::new(), Vec::new(), None);
    for finding in findings.iter().filter(|it| it.grade > Grade::Ok) {
        let subject = finding.subject.clone();
        match &finding.mend {
            None | Some(Mend::With(_)) => {}
            Some(Mend::Operator(advice)) => plan.for_operator.push((subject, advice.clone())),
            Some(Mend::Packages(names)) => {
                place.get_or_insert(plan.proposals.len());
                for_packages.push(subject);
                let new = names.iter().filter(|name| !packages.contains(*name));
                let new: Vec<String> = new.cloned().collect();
                packages.extend(new);
            }
            Some(Mend::Steps(steps)) => {
                let same = plan.proposals.iter_mut().find(|it| it.steps == *steps);
                match same {
                    Some(same) => same.subjects.push(subject),
                    None => plan.proposals.push(Proposal {
                        subjects: vec![subject],
                        steps: steps.clone(),
                    }),
                }
            }
        }
    }
    if let Some(place) = place {
        let proposal = Proposal {
            subjects: for_packages,
            steps: install(&packages),
        };
        plan.proposals.insert(place, proposal);
    }
    plan.proposals
        .retain(|it| !tried.iter().any(|old| old.steps == it.steps));
    if let Some(user) = user {
        let (own, for_root) = std::mem::take(&mut plan.proposals)
            .into_iter()
            .partition(|it| !it.steps.iter().any(|step| step.needs_root(user)));
        let for_root: Vec<Proposal> = for_root;
        plan.proposals = own;
        plan.for_root = for_root.into_iter().flat_map(|it| it.subjects).collect();
    }
    plan
}

/// Returns the steps that install packages.
fn install(packages: &[String]) -> Vec<Step> {
    let mut argv = owned(&[
        "env",
        "DEBIAN_FRONTEND=noninteractive",
        "apt-get",
        "install",
        "--yes",
        "--no-install-recommends",
    ]);
    argv.extend(packages.iter().cloned());
    vec![Step::run(&["apt-get", "update"]), Step::Run(argv)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fail(subject: &str, mend: Mend) -> Finding {
        Finding::fail(subject, "x").mend(mend)
    }

    #[test]
    fn packages_are_installed_at_once_and_each_step_is_proposed_once() {
        let restart = || Mend::command(&["systemctl", "restart", "x"]);
        let findings = [
            fail("user", Mend::command(&["useradd", "x"])),
            fail("sbuild", Mend::package("sbuild")),
            fail("a", restart()),
            fail("newuidmap", Mend::package("uidmap")),
            fail("newgidmap", Mend::package("uidmap")),
            fail("b", restart()),
            Finding::warn("disk", "full").mend(Mend::operator("df")),
            fail("namespaces", Mend::with("user")),
            Finding::ok("c", "fine"),
        ];
        let planned = plan(&findings, &[], None);
        let subjects: Vec<String> = planned
            .proposals
            .iter()
            .map(|it| it.subjects.join(","))
            .collect();
        assert_eq!(subjects, ["user", "sbuild,newuidmap,newgidmap", "a,b"]);
        let install = &planned.proposals[1].steps[1].to_string();
        assert!(install.ends_with(" sbuild uidmap"), "{install}");
        assert_eq!(planned.for_operator, [("disk".into(), "df".into())]);
        // A mend that did not help is not tried again.
        let again = plan(&findings, &planned.proposals, None);
        assert_eq!(again.proposals, []);
    }

    #[test]
    fn a_user_mends_own_folders_and_root_the_rest() {
        let mkdir = Step::run_as("buildd", &["mkdir", "/x"]);
        let findings = [
            fail("paths", Mend::Steps(vec![mkdir.clone()])),
            fail("sbuild", Mend::package("sbuild")),
        ];
        let planned = plan(&findings, &[], Some("buildd"));
        assert_eq!(planned.proposals.len(), 1);
        assert_eq!(planned.for_root, ["sbuild"]);
        assert_eq!(plan(&findings, &[], Some("me")).proposals, []);
        assert_eq!(mkdir.argv(false).unwrap(), ["mkdir", "/x"]);
        assert_eq!(mkdir.to_string(), "runuser -u buildd -- mkdir /x");
    }
}
