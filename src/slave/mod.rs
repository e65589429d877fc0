//! The slave daemon: IDLE, BUILDING, (ABORTING), WAITING, and IDLE again.
//!
//! `state` decides transitions, `shared_state` holds the state and logs its changes, and `daemon`
//! performs their effects in order. `recover` derives the state from the journal at start.
//! `handler` turns requests into calls and answers, `show` serves metrics, health and growing logs.

mod daemon;
mod handler;
mod recover;
mod reload;
mod serve;
mod shared_state;
mod show;
mod state;

pub(crate) use serve::{Serve, run};
