//! One suite, both engines: what each function of the rows reads, writes and refuses.

pub(crate) mod farm;
mod life;
mod operator;
mod others;
mod races;
