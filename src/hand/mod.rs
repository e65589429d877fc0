//! The commands for the hand: what a person types to ask a slave, or to ask what is wrong here.
//!
//! Each command's file has its `Args` and its `run`. [`client`] is how any of them talks to a
//! slave, [`slave_url`] how a slave is named on a command line, [`report`] how a check is told.

pub(crate) mod check;
pub(crate) mod client;
pub(crate) mod doctor;
pub(crate) mod probe;
mod report;
mod say;
pub(crate) mod slave_url;
