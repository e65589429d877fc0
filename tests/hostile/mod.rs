//! Attacks on the daemon by up to 2,000 clients at a time, for seconds each.
//!
//! `siege` has the checks during and after an attack. In `crowd` one thread drives all clients, so
//! that the daemon gets the processor time. `input` has attacks by single requests.

mod crowd;
mod downloads;
mod flood;
mod honest;
mod input;
mod newcomers;
mod shortage;
mod siege;
mod slow;
