//! One private PostgreSQL server for the test process, with a database for each test.
//!
//! A server has a temporary folder, listens on a Unix socket in it and, without options, on no
//! port, and never calls fsync. A shell starts it and waits on a pipe from this process. When this
//! process ends, the pipe closes, and the shell stops the server and removes the folder.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use nix::unistd::{Uid, User};

/// Makes a cluster in `$2` with the programs of `$1`, prints `ready`, and serves until stdin ends.
/// `$3` are more options.
const KEEPER: &str = r#"
cd "$2" || exit 1
"$1/initdb" -D data -U postgres -A trust -E UTF8 --no-locale --no-sync >initdb.log 2>&1 ||
    { cat initdb.log; rm -rf "$2"; exit 1; }
"$1/postgres" -D data -k "$2" -c listen_addresses= -c max_connections=300 -c fsync=off \
    -c synchronous_commit=off -c full_page_writes=off $3 >server.log 2>&1 </dev/null &
server=$!
until ls .s.PGSQL.*[0-9] >/dev/null 2>&1 && "$1/pg_isready" -q -h "$2" \
    -p "$(ls .s.PGSQL.*[0-9] | sed s/.*[.]//)"; do
    kill -0 $server || { cat server.log; rm -rf "$2"; exit 1; }
    sleep 0.05
done
echo ready
read -r _
kill -QUIT $server
wait $server
cd / && rm -rf "$2"
"#;

/// A running server.
pub(super) struct Server {
    pub(super) folder: PathBuf,
    /// The server ends with the stdin of this shell.
    _keeper: Child,
    /// PostgreSQL cannot create two databases at once.
    making: Mutex<()>,
}

/// Makes an empty database and returns its URL; `None` where PostgreSQL is not installed.
pub(crate) fn database() -> Option<String> {
    static SERVER: OnceLock<Option<Server>> = OnceLock::new();
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let server = SERVER.get_or_init(|| start("")).as_ref()?;
    let name = format!("test_{}", COUNT.fetch_add(1, Ordering::Relaxed));
    let place = server.folder.display().to_string().replace('/', "%2F");
    let url = |database: &str| format!("postgresql://postgres@{place}/{database}");
    let _one_at_a_time = server.making.lock().unwrap_or_else(PoisonError::into_inner);
    postgres::Client::connect(&url("postgres"), postgres::NoTls)
        .unwrap()
        .batch_execute(&format!("CREATE DATABASE {name}"))
        .unwrap();
    Some(url(&name))
}

/// Starts a server with more options, separated by blanks; `None` where it is not installed.
pub(super) fn start(options: &str) -> Option<Server> {
    let Some(programs) = programs() else {
        eprintln!("PostgreSQL is not installed: its tests do not run");
        return None;
    };
    // The path of a socket must be short.
    let folder = tempfile::Builder::new()
        .prefix("buildd-pg-")
        .tempdir_in("/tmp")
        .unwrap()
        .keep();
    let mut keeper = Command::new("sh");
    keeper.args(["-c", KEEPER, "sh"]).arg(programs).arg(&folder);
    keeper.arg(options);
    if Uid::effective().is_root() {
        // PostgreSQL refuses to run as root.
        let user = User::from_name("buildd").unwrap();
        let user = user.or_else(|| User::from_name("postgres").unwrap());
        let user = user.expect("a user buildd or postgres to run PostgreSQL as");
        let (uid, gid) = (user.uid.as_raw(), user.gid.as_raw());
        chown(&folder, Some(uid), Some(gid)).unwrap();
        keeper.uid(uid).gid(gid);
    }
    let mut keeper = keeper
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        // Ctrl-C must not kill the shell, which stops the server when the pipe closes.
        .process_group(0)
        .spawn()
        .unwrap();
    let mut said = String::new();
    let mut out = BufReader::new(keeper.stdout.take().unwrap());
    while out.read_line(&mut said).unwrap() > 0 && !said.ends_with("ready\n") {}
    assert!(
        said.ends_with("ready\n"),
        "PostgreSQL did not start: {said}"
    );
    Some(Server {
        folder,
        _keeper: keeper,
        making: Mutex::new(()),
    })
}

/// The folder of the newest installed server's programs.
fn programs() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?.flatten();
    versions
        .map(|version| version.path().join("bin"))
        .filter(|bin| bin.join("initdb").exists())
        .max_by_key(|bin| {
            let version = bin.parent().and_then(|path| path.file_name()).unwrap();
            version.to_string_lossy().parse().unwrap_or(0)
        })
}
