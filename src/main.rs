//! One binary: the slave, its shim, its sessions, and the commands for the hand.
#![doc = include_str!("ARCHITECTURE.md")]

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
mod internal;
mod librarian;
mod logger;
mod master;
mod metrics;
mod pipeline;
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
        Some(Command::Build(args)) => commands::told(commands::build::run(args)),
        Some(Command::Chroot(args)) => commands::told(commands::chroot::run(args)),
        Some(Command::Probe(args)) => commands::probe::run(&args),
        Some(Command::Librarian(args)) => run_librarian(args),
        Some(Command::Master(args)) => run_master(args),
        Some(Command::CheckConfig(args)) => commands::check::run(&args),
        Some(Command::Doctor(args)) => commands::doctor::run(&args),
    }
}

/// Reads the configuration, becomes the slave's user if started as root, and serves.
fn serve(given: slave::Serve) -> ExitCode {
    let named = std::env::var_os("BUILDD_SLAVE_CONFIG");
    let served = config_file::load(given.config, named, &config_file::host_defaults())
        .map_err(|error| error.to_string())
        .and_then(|(config, warnings)| {
            if sys::user::am_root() {
                if let Some(user) = sys::user::lookup(&config.slave.user) {
                    sys::cgroup::hand_over(&user);
                }
                commands::check::judge_as(&config.slave.user).map_err(|error| error.to_string())?;
            }
            for warning in warnings {
                log::warn!("{warning}");
            }
            slave::run(&config).map_err(|error| error.to_string())
        });
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error.lines().for_each(|line| log::error!("{line}"));
            ExitCode::FAILURE
        }
    }
}

/// Becomes the slave's user if the command needs it and was started as root, and does the command.
fn run_master(args: master::commands::Args) -> ExitCode {
    if args.owns_files() && sys::user::am_root() {
        let named = std::env::var_os("BUILDD_SLAVE_CONFIG");
        let defaults = config_file::host_defaults();
        let became = config_file::load_farm(args.config(), named, &defaults)
            .map_err(|error| error.to_string())
            .and_then(|(farm, _)| {
                commands::check::judge_as(&farm.user).map_err(|error| error.to_string())
            });
        if let Err(error) = became {
            return commands::told(Err(error));
        }
    }
    master::commands::run(args)
}

/// Reads what the configuration says of the farm, becomes the slave's user if the command needs it,
/// and does the command.
fn run_librarian(args: librarian::Args) -> ExitCode {
    let named = std::env::var_os("BUILDD_SLAVE_CONFIG");
    let done = config_file::load_farm(args.config.clone(), named, &config_file::host_defaults())
        .map_err(|error| error.to_string())
        .and_then(|(farm, warnings)| {
            if args.owns_files() && sys::user::am_root() {
                commands::check::judge_as(&farm.user).map_err(|error| error.to_string())?;
            }
            if args.is_daemon() {
                warnings.iter().for_each(|warning| log::warn!("{warning}"));
            }
            librarian::run(args, &farm).map_err(|error| error.to_string())
        });
    commands::told(done.map(|()| ExitCode::SUCCESS))
}
