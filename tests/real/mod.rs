//! Real builds: a real chroot, sbuild, and small packages that tests make.
//!
//! `make real` prepares the machine and runs these tests as root; the daemon becomes `buildd`.
//! Without that preparation the tests pass and print `NOT RUN`.

mod archive;
mod archives;
mod builds;
mod chroots;
mod doctor;
mod environment;
mod isolation;
mod limits;
mod measured;
mod misbehaving;
mod plain_sbuild;
mod platforms;
mod sessions;
mod store;
mod survival;
mod terminal;
mod verdicts;
