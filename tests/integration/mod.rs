//! The program as its users meet it: a daemon of its own for each test, spoken to over the wire.
//!
//! No test needs root or a chroot: programs of a site (`tests/fixtures/bin/site-program`) stand in
//! for the stages. Started by root, the daemons run as the user `buildd` if there is one.

mod abort;
mod cache;
mod clock;
mod config;
mod crash;
mod disk;
mod fetch;
mod http;
mod journal;
mod leftovers;
mod lifecycle;
mod restart;
mod results;
mod show;
mod stops;
mod verdicts;
mod wire;
