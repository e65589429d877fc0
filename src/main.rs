//! The one binary of the farm: slave, librarian, master and their commands.
#![doc = include_str!("ARCHITECTURE.md")]

mod arch;
mod cache_eviction;
mod cli;
mod client;
mod commands;
mod config;
mod config_file;
mod db;
mod dpkg;
mod filecache;
#[cfg(test)]
mod fuzz;
mod gate;
mod http_client;
mod internal;
mod librarian;
mod logger;
mod manual;
mod master;
mod metrics;
mod pipeline;
mod privileges;
mod protocol;
mod server;
mod session;
mod slave;
mod sys;
mod xmlrpc;

use std::ffi::OsString;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    match args.split_first() {
        Some((first, rest)) if first == "internal" => internal::run(rest),
        _ => cli::run(),
    }
}
