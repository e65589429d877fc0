//! Pure: the master's decisions, as functions of database rows, slaves' answers and the time.

pub(crate) mod arch_specific;
pub(crate) mod architectures;
pub(crate) mod blame;
pub(crate) mod build_args;
pub(crate) mod dependencies;
pub(crate) mod estimate;
pub(crate) mod limits;
pub(crate) mod log_end;
pub(crate) mod next_step;
pub(crate) mod notification;
pub(crate) mod outcome;
pub(crate) mod pockets;
pub(crate) mod retention;
pub(crate) mod score;
pub(crate) mod unbuildable;
pub(crate) mod upload_step;
pub(crate) mod way_out;
pub(crate) mod why_waiting;
