//! The rate and the cost of calls.

use std::time::Duration;

use super::Plan;
use super::client::Caller;
use super::measure::{Sample, Watch, by_turns};
use super::reference::Server;
use super::table::{Line, Target, Unit};
use crate::support::Daemon;

const TIME: Duration = Duration::from_millis(600);

/// Measures `echo` on one and on eight connections, persistent and one per call.
pub(crate) fn rows(plan: &Plan) -> Vec<Line> {
    let daemon = Daemon::start("");
    let twisted = Server::twisted();
    let mut lines = Vec::new();
    for (kept, how) in [(true, "kept"), (false, "one per call")] {
        for connections in [1, 8] {
            let run = |port, watch: &Watch| {
                let caller = Caller::new(port, "echo", "hello", kept);
                watch.sample(caller.rate(connections, TIME))
            };
            let (ours, theirs) = by_turns(
                plan.runs,
                || run(daemon.port, &Watch::new(&[daemon.pid()])),
                || run(twisted.port, &twisted.watch()),
            );
            let per_call = |samples: &[Sample]| samples.iter().map(cost_of_a_call).collect();
            let what = format!("echo, {connections} connection(s), {how}");
            let line = |what, unit, ours, theirs, target| Line {
                what,
                unit,
                ours,
                theirs,
                reference: "python3-twisted",
                target,
                worst: false,
            };
            let (our_cost, their_cost) = (per_call(&ours), per_call(&theirs));
            lines.push(line(
                what,
                Unit::PerSecond,
                ours,
                theirs,
                Target::RatioAtLeast(3.0),
            ));
            let what = "  its CPU per call".to_owned();
            let target = Target::RatioAtMost(0.25);
            lines.push(line(what, Unit::Microseconds, our_cost, their_cost, target));
        }
    }
    lines
}

/// Replaces the figure by the processor time of a call in microseconds.
fn cost_of_a_call(sample: &Sample) -> Sample {
    let calls = sample.figure * TIME.as_secs_f64();
    Sample {
        figure: sample.usage.cpu_secs * 1e6 / calls,
        ..*sample
    }
}
