//! Integration tests of the slave: each test starts a daemon and calls it over the wire.
//!
//! No test needs root or a chroot: the site program `tests/fixtures/bin/site-program` stands in for
//! each stage. Daemons that root starts run as the user `buildd` if there is one.

mod abort;
mod cache;
mod clock;
mod config;
mod crash;
mod disk;
mod doctor;
mod fetch;
mod http;
mod journal;
mod journal_fixture;
mod leftovers;
mod lifecycle;
mod manual;
mod restart;
mod results;
mod service;
mod sessions;
mod show;
mod stops;
mod upgrade;
mod verdicts;
mod waits;
mod wire;
