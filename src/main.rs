//! One binary: the slave, its shim, its sessions, and the commands for the hand.
#![doc = include_str!("ARCHITECTURE.md")]

mod build;
mod cli;
mod config;
mod config_file;
mod filecache;
mod internal;
mod logger;
mod protocol;
mod server;
mod session;
mod slave;
mod sys;
mod xmlrpc;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser as _;

use cli::{Cli, Command};

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    if let Some((first, rest)) = args.split_first()
        && first == "internal"
    {
        return internal::run(rest);
    }
    logger::start();
    match Cli::parse().command {
        None => serve(slave::Serve { config: None }),
        Some(Command::Serve(given)) => serve(given),
    }
}

fn serve(given: slave::Serve) -> ExitCode {
    let named = std::env::var_os("BUILDD_SLAVE_CONFIG");
    let defaults = config::Defaults {
        host_arch: "amd64".into(),
        home: std::env::var_os("HOME").unwrap_or_default().into(),
        cpus: 2,
    };
    let (config, warnings) = match config_file::load(given.config, named, &defaults) {
        Ok(read) => read,
        Err(error) => {
            log::error!("{error}");
            return ExitCode::FAILURE;
        }
    };
    for warning in warnings {
        log::warn!("{warning}");
    }
    match slave::run(&config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error!("{error}");
            ExitCode::FAILURE
        }
    }
}
