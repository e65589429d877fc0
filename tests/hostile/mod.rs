//! The real daemon against clients that mean harm, all at once and for seconds on end.
//!
//! `siege` says what has to hold during and after every attack. What an attack is made of is in
//! `crowd`: one thread drives all of its clients, so that the daemon is what is busy. What single
//! requests can do is in `input`.

mod crowd;
mod downloads;
mod flood;
mod honest;
mod input;
mod newcomers;
mod shortage;
mod siege;
mod slow;
