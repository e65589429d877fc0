//! `buildd-slave doctor`: checks whether this host can build.
//!
//! Collects the facts and starts real sessions, as the user that builds. Root becomes that user.
//! `checks` grades the facts. Everything created for a trial is removed.

mod checks;
mod daemon;
mod trial;

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::ExitCode;

use crate::commands::report::{Finding, Grade};
use crate::commands::stdout;
use crate::config::{Config, Isolation, Network};
use crate::config_file::{self, ConfigOption};
use crate::privileges;
use crate::server::{self, Access, Limits, Server};
use crate::session::launch::own_sub_ids;
use crate::session::{bootstrap, outside, seccomp, store, store_owner};
use crate::sys::{exe, host, user};
use checks::{Free, Trial};

/// Check whether this host can build
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Prints one line per check: ok, warn or FAIL, the finding, and the command that fixes it. Exits
with 1 if a check FAILs. Started as root, it checks as the user that builds ([slave] user). It
changes nothing.

Examples:
  buildd-slave doctor
  buildd-slave doctor --config try.conf | grep -v ^ok")]
pub(crate) struct Args {
    #[command(flatten)]
    config: ConfigOption,
}

/// Runs all checks and prints the findings.
pub(crate) fn run(args: &Args) -> ExitCode {
    let mut report = Report { worst: Grade::Ok };
    let defaults = config_file::host_defaults();
    match config_file::load(args.config.file.as_deref(), &defaults) {
        Err(error) => {
            for line in error.to_string().lines() {
                report.print(Finding::fail("configuration", line));
            }
        }
        Ok((config, _)) => check(&config, &mut report),
    }
    match report.worst {
        Grade::Ok | Grade::Warn => ExitCode::SUCCESS,
        Grade::Fail => ExitCode::FAILURE,
    }
}

/// Prints findings and keeps the worst grade.
struct Report {
    worst: Grade,
}

impl Report {
    fn print(&mut self, finding: Finding) {
        self.worst = self.worst.max(finding.grade);
        if stdout::line(finding).is_err() {
            self.worst = Grade::Fail;
        }
    }
}

fn check(config: &Config, report: &mut Report) {
    // First: as root, this call runs the program again as the user and does not return.
    let user = check_user(&config.slave.user);
    let as_builder = user.grade == Grade::Ok;
    report.print(Finding::ok("configuration", "can be read"));
    report.print(user);
    if as_builder {
        check_folders(config, report);
    }
    if config.slave.isolation == Isolation::Unshare {
        check_sessions(config, as_builder, report);
        report.print(checks::sbuild(host::package_version("sbuild").as_deref()));
        report.print(checks::limits(&daemon::ask(config), &daemon::forecast()));
    }
    for program in checks::PROGRAMS {
        let path = exe::find_program(program.0).map(|path| path.display().to_string());
        report.print(checks::program(program, path.as_deref()));
    }
    for address in &config.slave.bindhost {
        report.print(check_port(address, config.slave.bindport));
    }
}

fn check_user(name: &str) -> Finding {
    let subject = "user";
    match privileges::become_builder(name) {
        Ok(()) => Finding::ok(subject, name),
        Err(error @ privileges::Error::OtherUser(_)) => Finding::warn(subject, error.to_string()),
        Err(error) => Finding::fail(subject, error.to_string()),
    }
}

fn check_folders(config: &Config, report: &mut Report) {
    let problems = config_file::check_paths(config);
    if problems.is_empty() {
        report.print(Finding::ok("paths", "all exist and are writable"));
    }
    for problem in problems {
        report.print(Finding::fail("paths", problem.to_string()));
    }
    let slave = &config.slave;
    let mut folders = vec![&slave.home];
    for folder in [&slave.filecache, &slave.sessions] {
        if device(folder).is_some() && device(folder) != device(&slave.home) {
            folders.push(folder);
        }
    }
    for folder in folders {
        let shown = folder.display().to_string();
        let reserve = Free {
            bytes: config.limits.reserve,
            inodes: config.limits.reserve_inodes.into(),
        };
        let free = host::disk_of(folder).ok().map(|disk| Free {
            bytes: disk.free_bytes,
            inodes: disk.free_inodes,
        });
        report.print(checks::space(&shown, free, reserve));
    }
}

fn device(path: &Path) -> Option<u64> {
    path.metadata().ok().map(|about| about.dev())
}

fn check_sessions(config: &Config, as_builder: bool, report: &mut Report) {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    if let Some(user) = user::lookup(&config.slave.user) {
        let (subuid, subgid) = (read("/etc/subuid"), read("/etc/subgid"));
        report.print(checks::sub_ids(
            &user.name,
            user.uid.as_raw(),
            &subuid,
            &subgid,
        ));
    }
    let trial = if as_builder {
        trial::run(&config.slave.chroots, &config.slave.sessions)
    } else {
        Trial::NotTried("doctor runs neither as root nor as the user that builds")
    };
    let namespaces_work = matches!(trial, Trial::Sessions { .. });
    for program in ["newuidmap", "newgidmap"] {
        let installed = exe::find_program(program).map(|path| {
            let setuid = path
                .metadata()
                .is_ok_and(|about| about.uid() == 0 && about.mode() & 0o4000 != 0);
            (path.display().to_string(), setuid)
        });
        report.print(checks::id_mapper(program, installed, namespaces_work));
    }
    report.print(checks::no_new_privileges(&read("/proc/self/status")));
    for setting in checks::SYSCTLS {
        let path = format!("/proc/sys/{}", setting.0.replace('.', "/"));
        // A kernel without this setting does not restrict namespaces by it.
        if let Ok(value) = fs::read_to_string(path) {
            report.print(checks::sysctl(setting, &value, namespaces_work));
        }
    }
    if let Some(Ok(ids)) = as_builder.then(own_sub_ids) {
        let store = &config.slave.chroots;
        let trees = store::trees(store);
        let problems = trees
            .iter()
            .filter_map(|sha1| store_owner::problem(store, sha1, ids));
        report.print(checks::store(trees.len(), problems.collect()));
    }
    for finding in checks::sessions(&trial, config.slave.overlay) {
        report.print(finding);
    }
    report.print(checks::system_calls(
        seccomp::is_known(),
        std::env::consts::ARCH,
    ));
    if config.slave.network == Network::Always {
        report.print(checks::outside(outside::check_host()));
    }
    if namespaces_work && !config.slave.emulate.is_empty() {
        let ways = own_sub_ids();
        match ways.and_then(|ids| bootstrap::emulation(ids, &config.slave.emulate)) {
            Ok(ways) => ways
                .iter()
                .for_each(|(arch, way)| report.print(checks::emulation(arch, way))),
            Err(error) => report.print(Finding::fail("emulation", error.to_string())),
        }
    }
}

/// Tries to listen on the daemon's address.
fn check_port(host: &str, port: u16) -> Finding {
    let address = if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    };
    let subject = format!("listening on {address}");
    match Server::bind(address, Limits::default(), Access::default()) {
        Ok(_) => Finding::ok(&subject, "free"),
        Err(server::Error::Listen { source, .. })
            if source.kind() == std::io::ErrorKind::AddrInUse =>
        {
            Finding::warn(&subject, "port in use, perhaps by a running slave")
                .fix(format!("ss -ltnp 'sport = :{port}'"))
        }
        Err(error) => Finding::fail(&subject, error.to_string())
            .fix("ip address, and set bindhost and bindport in [slave]"),
    }
}
