//! All suites that drive the real program, in one test binary that shares `support`.
//!
//! `cargo test --test suites integration::` runs one suite; the Makefile has a target for each.
//! `bench` runs by `make bench` only. The rules for the sources are in `architecture.rs`.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod bench;
mod farm;
mod hostile;
mod integration;
mod real;
mod support;
