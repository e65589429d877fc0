//! The build master: which packages are to be built, by whom, and what became of them?
//!
//! Decisions are pure functions of rows, answers and time; rows are read and written in `rows`;
//! what touches a slave, the librarian or the disk stands in between.

mod architectures;
mod blame;
mod buildargs;
mod chores;
mod chores_loop;
mod collect;
pub(crate) mod commands;
mod crew;
mod depwait;
mod dispatch;
mod estimate;
mod farm;
mod finish;
mod gather;
mod identity;
mod judge;
mod model;
mod notice;
mod pas;
mod pass;
mod pockets;
mod rows;
mod run;
mod scan;
mod scanner;
mod score;
mod slave;
mod submit;
mod uploads;
mod why;
