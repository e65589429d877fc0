//! Wrappers around the operating system. Nothing here depends on another area.

pub(crate) mod bounded_command;
pub(crate) mod cgroup;
pub(crate) mod claim;
pub(crate) mod clock;
pub(crate) mod compression;
pub(crate) mod descriptors;
pub(crate) mod detached;
pub(crate) mod digest;
pub(crate) mod exe;
pub(crate) mod fs;
pub(crate) mod hashing_writer;
pub(crate) mod host;
pub(crate) mod lock;
pub(crate) mod locked_folder;
pub(crate) mod memory;
pub(crate) mod output;
pub(crate) mod procs;
pub(crate) mod random;
pub(crate) mod service_manager;
pub(crate) mod sock_diag;
pub(crate) mod stderr;
pub(crate) mod sub_ids;
pub(crate) mod terminal_filter;
pub(crate) mod user;
pub(crate) mod wait;
