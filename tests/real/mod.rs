//! Real builds: the real binary, a real chroot, sbuild, and packages made for what they do.
//!
//! `make real` sets this up and runs it; plain `cargo test` says what it did not run and passes.
//! Needs root: the daemon is started as root and becomes `buildd` by itself.

mod archive;
mod archives;
mod builds;
mod chroots;
mod isolation;
mod limits;
mod misbehaving;
mod store;
mod survival;
mod verdicts;
