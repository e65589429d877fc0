//! The daemon's life: IDLE, BUILDING, (ABORTING), WAITING, and IDLE again.
//!
//! `state` decides, `shared_state` holds the state and tells of its changes, `daemon` carries effects
//! out in order, `recover` finds out at start what the journal says, `handler` turns requests into
//! calls and answers, `show` has what is there for those who watch.

mod daemon;
mod handler;
mod recover;
mod serve;
mod shared_state;
mod show;
mod state;

pub(crate) use serve::{Serve, run};
