//! The operating system, and nothing of ours.

pub(crate) mod claim;
pub(crate) mod clock;
pub(crate) mod digest;
pub(crate) mod exe;
pub(crate) mod fs;
pub(crate) mod host;
pub(crate) mod lock;
pub(crate) mod procs;
pub(crate) mod saving;
pub(crate) mod user;
pub(crate) mod wait;
