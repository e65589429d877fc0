//! One binary: the slave, its shim, its session and the commands for the hand.
#![allow(dead_code, unused_imports)]
mod build;
mod config;
mod config_file;
mod filecache;
mod internal;
mod protocol;
mod server;
mod session;
mod sys;
mod xmlrpc;
use std::ffi::OsString;
fn main() -> std::process::ExitCode {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    if args[0] == "internal" {
        return internal::run(&args[1..]);
    }
    // try: RUNFOLDER SPEC.json
    let spec: build::spec::Spec =
        serde_json::from_slice(&std::fs::read(&args[1]).unwrap()).unwrap();
    let (dir, mut child) = build::rundir::RunDir::start(args[0].as_ref(), &spec).unwrap();
    dir.wait().unwrap();
    eprintln!("{:?} {:?}", child.wait(), dir.standing());
    std::process::ExitCode::SUCCESS
}
