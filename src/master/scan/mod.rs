//! One look at one builder: ask its slave, decide, and do what follows.
//!
//! `look` is what all steps share; `steps` alone calls the other steps, which call none of each
//! other's but `failure`'s.

pub(super) mod dispatch;
pub(super) mod download_results;
pub(super) mod failure;
pub(super) mod finish;
pub(super) mod look;
pub(super) mod reset;
pub(super) mod slave;
pub(super) mod steps;
