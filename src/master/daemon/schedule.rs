//! Decides which builder is looked at next, and how many looks run at once. Reads no clock.
//!
//! A look calls a slave, which may take long. So a look that has run for [`SLOW`] no longer counts
//! against the limit of [`LOOKS`]: a slow slave delays no other. A builder that is out of service
//! is parked: it has no due time, until an operator changes its row.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::time::{Duration, Instant};

use crate::master::rows::leases::Fence;

/// Maximum number of looks that have just begun.
const LOOKS: usize = 64;
/// Time after which a look counts as waiting for its slave.
const SLOW: Duration = Duration::from_millis(250);

/// The builders of this process. `M` is what is kept between the looks at a builder.
pub(super) struct Schedule<M> {
    builders: HashMap<i64, Entry<M>>,
    /// Due times. An entry whose builder has another due time by now is skipped.
    due: BinaryHeap<Reverse<(Instant, i64)>>,
    /// The builders being looked at, and since when. Those of lost leases are included.
    running: HashMap<Fence, Instant>,
}

struct Entry<M> {
    fence: Fence,
    /// `None` during a look, and while the builder is parked.
    due: Option<Instant>,
    is_parked: bool,
    /// Somebody asked for another look during the present one.
    again: bool,
    memory: Option<M>,
}

/// A look to do now.
#[derive(Debug)]
pub(super) struct Look<M> {
    pub(super) fence: Fence,
    pub(super) due: Instant,
    pub(super) memory: Option<M>,
}

/// When to look at a builder again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum After {
    At(Instant),
    /// When [`Schedule::wake`] says so.
    Parked,
    /// Never: the lease is lost.
    Never,
}

impl<M> Schedule<M> {
    pub(super) fn new() -> Self {
        Self {
            builders: HashMap::new(),
            due: BinaryHeap::new(),
            running: HashMap::new(),
        }
    }

    /// Returns the number of builders.
    pub(super) fn len(&self) -> usize {
        self.builders.len()
    }

    /// Returns the number of running looks.
    pub(super) fn running(&self) -> usize {
        self.running.len()
    }

    pub(super) fn is_running(&self, builder: i64) -> bool {
        self.running.keys().any(|fence| fence.builder == builder)
    }

    /// Returns whether the builder is scheduled under this lease.
    pub(super) fn has(&self, fence: Fence) -> bool {
        let entry = self.builders.get(&fence.builder);
        entry.is_some_and(|entry| entry.fence == fence)
    }

    /// Removes the builders whose lease `is_kept` refuses. Looks at them end by themselves.
    pub(super) fn retain(&mut self, is_kept: impl Fn(Fence) -> bool) {
        self.builders.retain(|_, entry| is_kept(entry.fence));
    }

    /// Adds a builder with its first due time.
    pub(super) fn add(&mut self, fence: Fence, due: Instant) {
        let entry = Entry {
            fence,
            due: None,
            is_parked: false,
            again: false,
            memory: None,
        };
        self.builders.insert(fence.builder, entry);
        self.set_due(fence.builder, due);
    }

    fn set_due(&mut self, builder: i64, due: Instant) {
        if let Some(entry) = self.builders.get_mut(&builder) {
            entry.due = Some(due);
            entry.is_parked = false;
            self.due.push(Reverse((due, builder)));
        }
    }

    /// Asks for a look at a builder at once.
    pub(super) fn wake(&mut self, builder: i64, now: Instant) {
        match self.builders.get_mut(&builder) {
            Some(entry) if entry.due.is_none() && !entry.is_parked => entry.again = true,
            Some(_) => self.set_due(builder, now),
            None => {}
        }
    }

    /// Returns the parked builders.
    pub(super) fn parked(&self) -> impl Iterator<Item = i64> {
        let parked = self.builders.values().filter(|entry| entry.is_parked);
        parked.map(|entry| entry.fence.builder)
    }

    /// Returns the next look, if one is due and the limit allows it. It runs until
    /// [`Schedule::finish`].
    pub(super) fn next(&mut self, now: Instant) -> Option<Look<M>> {
        if !self.has_room(now) {
            return None;
        }
        loop {
            let Reverse((due, builder)) = *self.due.peek()?;
            if due > now {
                return None;
            }
            self.due.pop();
            let Some(entry) = self.builders.get_mut(&builder) else {
                continue;
            };
            if entry.due != Some(due) {
                continue;
            }
            entry.due = None;
            self.running.insert(entry.fence, now);
            return Some(Look {
                fence: entry.fence,
                due,
                memory: entry.memory.take(),
            });
        }
    }

    fn has_room(&self, now: Instant) -> bool {
        // Counting is needed only if the limit may have been reached.
        self.running.len() < LOOKS || {
            let running = self.running.values();
            let fresh = running.filter(|&&since| now.duration_since(since) < SLOW);
            fresh.count() < LOOKS
        }
    }

    /// Returns how long [`Schedule::next`] will return nothing; `None` if no look is scheduled.
    pub(super) fn pause(&self, now: Instant) -> Option<Duration> {
        let Reverse((due, _)) = self.due.peek()?;
        let pause = due.saturating_duration_since(now);
        match self.has_room(now) {
            true => Some(pause),
            // By then, some of the running looks are slow.
            false => Some(pause.max(SLOW / 4)),
        }
    }

    /// Ends a look. `memory` is kept for the next one.
    pub(super) fn finish(&mut self, fence: Fence, memory: M, after: After, now: Instant) {
        self.running.remove(&fence);
        let entry = self.builders.get_mut(&fence.builder);
        let Some(entry) = entry.filter(|entry| entry.fence == fence) else {
            return;
        };
        let again = std::mem::take(&mut entry.again);
        match after {
            After::Never => {
                self.builders.remove(&fence.builder);
            }
            After::Parked if !again => entry.is_parked = true,
            After::At(due) if !again => {
                entry.memory = Some(memory);
                self.set_due(fence.builder, due);
            }
            After::Parked | After::At(_) => {
                entry.memory = Some(memory);
                self.set_due(fence.builder, now);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fence(builder: i64) -> Fence {
        Fence { builder, epoch: 1 }
    }

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    /// The builders that are looked at now.
    fn due(schedule: &mut Schedule<u32>, now: Instant) -> Vec<i64> {
        let looks = std::iter::from_fn(|| schedule.next(now));
        looks.map(|look| look.fence.builder).collect()
    }

    #[test]
    fn builders_are_looked_at_when_they_are_due() {
        let mut schedule = Schedule::new();
        let start = Instant::now();
        assert_eq!(schedule.pause(start), None);
        for (builder, at) in [(1, 3), (2, 1), (3, 2)] {
            schedule.add(fence(builder), start + secs(at));
        }
        assert_eq!(schedule.pause(start), Some(secs(1)));
        assert_eq!(due(&mut schedule, start), [0; 0]);
        assert_eq!(due(&mut schedule, start + secs(2)), [2, 3]);
        assert!(schedule.is_running(2) && !schedule.is_running(1));
        let now = start + secs(2);
        schedule.finish(fence(2), 7, After::At(start + secs(9)), now);
        schedule.finish(fence(3), 7, After::Never, now);
        assert_eq!((schedule.len(), schedule.running()), (2, 0));
        // A wake replaces the due time, which then leads to no second look.
        schedule.wake(2, now);
        let look = schedule.next(now).unwrap();
        assert_eq!((look.fence, look.memory), (fence(2), Some(7)));
        // A wake during a look leads to another one.
        schedule.wake(2, now);
        assert_eq!(due(&mut schedule, now), [0; 0]);
        schedule.finish(fence(2), 7, After::At(start + secs(9)), now);
        assert_eq!(due(&mut schedule, now), [2]);
        schedule.finish(fence(2), 7, After::At(start + secs(20)), now);
        assert_eq!(due(&mut schedule, start + secs(9)), [1]);
    }

    #[test]
    fn a_parked_builder_waits_until_it_is_woken() {
        let mut schedule = Schedule::new();
        let now = Instant::now();
        schedule.add(fence(1), now);
        assert_eq!(due(&mut schedule, now), [1]);
        schedule.finish(fence(1), 0, After::Parked, now);
        assert_eq!(schedule.parked().collect::<Vec<_>>(), [1]);
        assert_eq!(
            (schedule.pause(now), due(&mut schedule, now + secs(99))),
            (None, vec![])
        );
        schedule.wake(1, now);
        assert_eq!(due(&mut schedule, now), [1]);
        assert_eq!(schedule.parked().count(), 0);
    }

    #[test]
    fn slow_looks_delay_no_others() {
        let mut schedule = Schedule::new();
        let start = Instant::now();
        for builder in 0..200 {
            schedule.add(fence(builder), start);
        }
        assert_eq!(due(&mut schedule, start).len(), LOOKS);
        assert!(
            schedule
                .pause(start)
                .is_some_and(|pause| pause > Duration::ZERO)
        );
        let later = start + SLOW;
        assert_eq!(due(&mut schedule, later).len(), LOOKS);
        assert_eq!(schedule.running(), 2 * LOOKS);
        schedule.finish(fence(0), 0, After::Parked, later);
        assert_eq!(
            due(&mut schedule, later).len(),
            0,
            "the slow ones did not count"
        );
        assert_eq!(due(&mut schedule, later + SLOW).len(), LOOKS);
    }

    #[test]
    fn the_look_of_a_lost_lease_ends_without_a_trace() {
        let mut schedule = Schedule::new();
        let now = Instant::now();
        schedule.add(fence(1), now);
        assert_eq!(due(&mut schedule, now), [1]);
        schedule.retain(|_| false);
        assert!(!schedule.has(fence(1)) && schedule.is_running(1));
        let newer = Fence {
            builder: 1,
            epoch: 2,
        };
        schedule.add(newer, now + secs(5));
        schedule.finish(fence(1), 0, After::Never, now);
        assert!(schedule.has(newer) && !schedule.is_running(1));
        assert_eq!(due(&mut schedule, now + secs(5)), [1]);
    }
}
