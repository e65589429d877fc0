//! The daemon's life: IDLE, BUILDING, (ABORTING), WAITING, and IDLE again.
//!
//! `state` decides, `daemon` holds the state and carries effects out in order, `recover` finds
//! out at start what the journal says, `handler` turns requests into calls and answers.

mod daemon;
mod handler;
mod recover;
mod serve;
mod state;

pub(crate) use serve::{Serve, run};
