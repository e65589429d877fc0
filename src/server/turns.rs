//! Hands out turns: slots for connections, and permits for what their requests need beside.
//!
//! A connection that cannot have its turn waits in a line, without a slot and without a thread, so
//! that a long wait for one resource delays no request that does not need it. The next turn goes to
//! the peer that holds the fewest connections. `http` starts threads for turns; `connection` asks
//! for permits.

use super::limits::Limits;
use super::quota::{Quota, quota_key};
use super::slots::{ConnectionSlot, Slots};
use super::waiting::{Line, Waiting};
use crate::metrics::metrics;
use crate::sys::lock::lock;
use std::mem;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::ops::Deref;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The time between two looks at a line in which nothing happens. A look finds passed deadlines,
/// and connections that have become idle.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Something limited that a request may need beside its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Resource {
    /// A call that may take long.
    Call,
    Download,
    Follower,
    /// Bytes of a body that is held in memory.
    LongBody,
    Upload,
}

/// An amount of a resource.
#[derive(Debug, Clone, Copy)]
pub(super) struct Need {
    pub(super) resource: Resource,
    pub(super) amount: usize,
}

impl Need {
    pub(super) fn one(resource: Resource) -> Self {
        Self {
            resource,
            amount: 1,
        }
    }

    /// Returns why a request is refused that needs this.
    pub(super) fn refusal(self) -> &'static str {
        match self.resource {
            Resource::Call => "too many long calls at once",
            Resource::Download => "too many downloads at once",
            Resource::Follower => "too many followers at once",
            Resource::LongBody => "too many long requests at once",
            Resource::Upload => "too many uploads at once",
        }
    }
}

/// Why a connection is refused that waits for a slot only.
pub(super) const TOO_MANY_CONNECTIONS: &str = "too many connections";

/// The rest of an exchange; it may have to wait again.
type Rest = Box<dyn FnOnce(&ConnectionSlot, Permit) -> Option<Parked> + Send>;

/// An exchange that waits for its turn.
pub(crate) struct Parked {
    pub(super) need: Need,
    pub(super) rest: Rest,
}

/// A connection that has its turn.
pub(super) struct Turn {
    pub(super) slot: SlotGuard,
    /// The rest of a parked exchange; `None` at the beginning of a connection.
    pub(super) parked: Option<(Rest, Permit)>,
}

/// A connection that has waited too long, or found the line full.
pub(super) struct Refused {
    pub(super) slot: Arc<ConnectionSlot>,
    /// Dropped with this and not before: it may have permits, which lock the state.
    parked: Option<Parked>,
}

impl Refused {
    pub(super) fn reason(&self) -> &'static str {
        let need = self.parked.as_ref().map(|parked| parked.need);
        need.map_or(TOO_MANY_CONNECTIONS, Need::refusal)
    }
}

/// The slots, permits and waiting connections of one server. Clones are the same.
#[derive(Clone)]
pub(super) struct Turns(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// Notified when a turn may have become possible.
    changed: Condvar,
    started: Instant,
    wait: Duration,
}

struct State {
    slots: Slots,
    /// In the order of [`Resource`].
    quotas: [Quota; 5],
    line: Line<Item>,
    refused: Vec<Refused>,
    /// Whether a turn may have become possible since the last look.
    changed: bool,
    stopped: bool,
}

struct Item {
    slot: Arc<ConnectionSlot>,
    parked: Option<Parked>,
}

impl Turns {
    pub(super) fn new(limits: &Limits) -> Self {
        let quotas = [
            Quota::new(limits.calls, limits.calls_per_peer),
            Quota::new(limits.downloads, limits.downloads_per_peer),
            // One peer may hold half of them.
            Quota::new(limits.followers, limits.followers.div_ceil(2)),
            Quota::new(limits.body_bytes.saturating_mul(2), limits.body_bytes),
            Quota::new(limits.uploads, limits.uploads),
        ];
        let state = State {
            slots: Slots::new(limits.connections, limits.connections_per_peer),
            quotas,
            line: Line::new(limits.waiting),
            refused: Vec::new(),
            changed: false,
            stopped: false,
        };
        Self(Arc::new(Shared {
            state: Mutex::new(state),
            changed: Condvar::new(),
            started: Instant::now(),
            wait: Duration::from_secs(limits.wait_secs),
        }))
    }

    /// Adds a new connection to the line, whose surplus is refused after the next turns.
    pub(super) fn arrive(&self, stream: TcpStream, peer: SocketAddr) {
        let slot = Arc::new(ConnectionSlot::new(stream, peer));
        let mut state = lock(&self.0.state);
        state.enter(slot, None, self.0.deadline());
        let waits = state.slots.are_held(quota_key(peer.ip())) != (false, false);
        if waits || state.line.len() > 1 {
            // The line may have been empty so far, and nobody looks at an empty one.
            self.0.notify(&mut state);
        }
    }

    /// Returns the next turn that is possible now.
    pub(super) fn next(&self) -> Option<Turn> {
        let item = lock(&self.0.state).next()?;
        metrics().connections.inc();
        let parked = item.parked.map(|Parked { need, rest }| {
            let permit = self.permit(quota_key(item.slot.peer().ip()), need);
            (rest, permit)
        });
        let slot = SlotGuard {
            slot: item.slot,
            shared: Arc::clone(&self.0),
            parks: false,
        };
        Some(Turn { slot, parked })
    }

    /// Acquires what a request needs. `None` if a quota is used up, or if others wait for it who
    /// come first.
    pub(super) fn acquire(&self, peer: IpAddr, need: Need) -> Option<Permit> {
        let peer = quota_key(peer);
        let mut state = lock(&self.0.state);
        let quota = &state.quotas[need.resource as usize];
        let comes_first = |entry: &Waiting<Item>| match &entry.item.parked {
            Some(Parked { need: other, .. }) if other.resource == need.resource => {
                quota.fits(entry.peer, other.amount)
            }
            _ => false,
        };
        if !quota.fits(peer, need.amount) || state.line.iter().any(comes_first) {
            return None;
        }
        state.quotas[need.resource as usize].take(peer, need.amount);
        drop(state);
        Some(self.permit(peer, need))
    }

    /// Adds a connection to the line; it gives up its slot, so its thread must end.
    pub(super) fn park(&self, mut slot: SlotGuard, parked: Parked) {
        let mut state = lock(&self.0.state);
        state.slots.remove(&slot.slot);
        slot.parks = true;
        state.enter(Arc::clone(&slot.slot), Some(parked), self.0.deadline());
        self.0.notify(&mut state);
    }

    /// Returns whether a connection of `peer` should end after its answer, because another one of
    /// its peer, or one of a peer that holds less, waits for its slot.
    pub(super) fn is_crowded(&self, peer: IpAddr) -> bool {
        let peer = quota_key(peer);
        let state = lock(&self.0.state);
        let (all_held, own_held) = state.slots.are_held(peer);
        let own = state.slots.held(peer);
        // As for evictions, no peer gives way to one that holds as much.
        let delays = |of| (own_held && of == peer) || (all_held && state.slots.held(of) < own);
        let mut waiting = state.line.iter();
        waiting.any(|entry| delays(entry.peer) && state.fits(entry))
    }

    /// Returns the connections to refuse: their wait has taken too long, or the line was full.
    pub(super) fn take_refused(&self) -> Vec<Refused> {
        let mut state = lock(&self.0.state);
        let overdue = state.line.take_overdue(self.0.started.elapsed());
        let surplus = state.line.trim();
        let ended = overdue.into_iter().chain(surplus).map(refused);
        state.refused.extend(ended);
        mem::take(&mut state.refused)
    }

    /// Refuses up to `count` of the waiting connections, and evicts idle ones until as many are
    /// ending. Returns whether any connection ends.
    pub(super) fn free_descriptors(&self, count: usize) -> bool {
        let mut state = lock(&self.0.state);
        for _ in 0..count {
            let Some(last) = state.line.take_last_of_largest() else {
                break;
            };
            state.refused.push(refused(last));
        }
        state.slots.evict_idle(count) || !state.refused.is_empty()
    }

    /// Waits until a turn may be possible or a wait too long; returns false after
    /// [`stop`](Self::stop).
    pub(super) fn wait(&self) -> bool {
        let Shared { state, changed, .. } = &*self.0;
        let unchanged = |state: &mut State| !state.changed && !state.stopped;
        let state = lock(state);
        let mut state = match state.line.is_empty() {
            true => changed.wait_while(state, unchanged),
            false => changed
                .wait_timeout_while(state, LOOK_EVERY, unchanged)
                .map(|(state, _)| state)
                .map_err(|poisoned| PoisonError::new(poisoned.into_inner().0)),
        }
        .unwrap_or_else(PoisonError::into_inner);
        state.changed = false;
        !state.stopped
    }

    /// Ends [`wait`](Self::wait), and closes the waiting connections.
    pub(super) fn stop(&self) {
        let mut state = lock(&self.0.state);
        state.stopped = true;
        self.0.notify(&mut state);
        let mut waiting = mem::take(&mut state.refused);
        while let Some(last) = state.line.take_last_of_largest() {
            waiting.push(refused(last));
        }
        drop(state);
        drop(waiting);
    }

    fn permit(&self, peer: IpAddr, need: Need) -> Permit {
        Permit {
            peer,
            need,
            shared: Arc::clone(&self.0),
        }
    }
}

impl Shared {
    /// Returns when a wait ends that begins now.
    fn deadline(&self) -> Duration {
        self.started.elapsed().saturating_add(self.wait)
    }

    fn notify(&self, state: &mut MutexGuard<'_, State>) {
        state.changed = true;
        self.changed.notify_all();
    }

    /// Notifies if anybody waits.
    fn released(&self, state: &mut MutexGuard<'_, State>) {
        if !state.line.is_empty() {
            self.notify(state);
        }
    }
}

impl State {
    fn enter(&mut self, slot: Arc<ConnectionSlot>, parked: Option<Parked>, deadline: Duration) {
        let entry = Waiting {
            peer: quota_key(slot.peer().ip()),
            deadline,
            item: Item { slot, parked },
        };
        self.line.enter(entry);
    }

    /// Returns whether the quotas allow what an entry needs.
    fn fits(&self, entry: &Waiting<Item>) -> bool {
        let need = entry.item.parked.as_ref().map(|parked| parked.need);
        need.is_none_or(|need| self.quotas[need.resource as usize].fits(entry.peer, need.amount))
    }

    /// Takes the next entry that can have its turn, with its slot and what it needs.
    fn next(&mut self) -> Option<Item> {
        loop {
            let (place, peer) = self.line.next(|entry| {
                let can = self.fits(entry) && self.slots.may_hold_more(entry.peer);
                can.then(|| self.slots.held(entry.peer))
            })?;
            if self.slots.make_room(peer) {
                let Waiting { item, .. } = self.line.take(place);
                if let Some(Parked { need, .. }) = &item.parked {
                    self.quotas[need.resource as usize].take(peer, need.amount);
                }
                self.slots.insert(Arc::clone(&item.slot));
                return Some(item);
            }
            // Another peer holds at least as many, so it can evict nothing either, unless this
            // peer's own idle connection turned out to be busy.
            if self.slots.may_hold_more(peer) {
                return None;
            }
        }
    }
}

fn refused(entry: Waiting<Item>) -> Refused {
    let Item { slot, parked } = entry.item;
    Refused { slot, parked }
}

/// Holds a slot; dropping it frees the slot.
pub(super) struct SlotGuard {
    slot: Arc<ConnectionSlot>,
    shared: Arc<Shared>,
    /// Whether the connection is back in the line, and its slot free already.
    parks: bool,
}

impl Deref for SlotGuard {
    type Target = ConnectionSlot;

    fn deref(&self) -> &ConnectionSlot {
        &self.slot
    }
}

impl Drop for SlotGuard {
    fn drop(&mut self) {
        metrics().connections.dec();
        if !self.parks {
            let mut state = lock(&self.shared.state);
            state.slots.remove(&self.slot);
            self.shared.released(&mut state);
        }
    }
}

/// An acquired amount; dropping it gives the amount back.
pub(crate) struct Permit {
    peer: IpAddr,
    need: Need,
    shared: Arc<Shared>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let Need { resource, amount } = self.need;
        let mut state = lock(&self.shared.state);
        state.quotas[resource as usize].give_back(self.peer, amount);
        self.shared.released(&mut state);
    }
}

#[cfg(test)]
mod tests;
