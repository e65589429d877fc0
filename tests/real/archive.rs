//! A private archive with one package, which requires a password, on the loopback.

use std::fmt::Write as _;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use tiny_http::{Header, Response, Server};

use crate::support::machine::{stdout, sum};

/// An archive, served until the test ends.
pub(crate) struct Archive {
    port: u16,
    requests: Arc<AtomicUsize>,
}

/// The required user and password, then both as an `Authorization` header.
pub(crate) const USER: &str = "buildd";
pub(crate) const PASSWORD: &str = "correct-horse-battery";
const BASIC: &str = "Basic YnVpbGRkOmNvcnJlY3QtaG9yc2UtYmF0dGVyeQ==";

impl Archive {
    /// Serves an archive in `dir` with the package `name`, whose postinst is `script`.
    pub(crate) fn with_package(dir: PathBuf, name: &str, script: &str) -> Self {
        Self::make(dir, name, script, "", |_| ())
    }

    /// Serves an archive in `dir` with the package `name`, which has the control field `depends`.
    pub(crate) fn with_dependency(dir: PathBuf, name: &str, depends: &str) -> Self {
        Self::make(dir, name, "", &format!("{depends}\n"), |_| ())
    }

    /// The same; `add` puts files into the package's tree.
    pub(crate) fn with_files(dir: PathBuf, name: &str, script: &str, add: fn(&Path)) -> Self {
        Self::make(dir, name, script, "", add)
    }

    fn make(dir: PathBuf, name: &str, script: &str, more: &str, add: fn(&Path)) -> Self {
        let control = dir.join("tree/DEBIAN");
        fs::create_dir_all(&control).unwrap();
        add(&dir.join("tree"));
        let postinst = control.join("postinst");
        fs::write(&postinst, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&postinst, Permissions::from_mode(0o755)).unwrap();
        let fields = format!(
            "Package: {name}\nVersion: 1.0\nArchitecture: all\n{more}\
             Maintainer: Test <test@example.org>\nDescription: only in the private archive\n"
        );
        fs::write(control.join("control"), &fields).unwrap();
        let mut pack = Command::new("dpkg-deb");
        pack.args(["--root-owner-group", "--build", "tree", "private.deb"]);
        stdout(pack.current_dir(&dir));
        let about = |file: &str| {
            let path = dir.join(file);
            (sum("sha256sum", &path), fs::metadata(path).unwrap().len())
        };
        let (digest, size) = about("private.deb");
        let mut packages = fields;
        writeln!(packages, "Filename: ./private.deb").unwrap();
        writeln!(packages, "Size: {size}\nSHA256: {digest}").unwrap();
        fs::write(dir.join("Packages"), packages).unwrap();
        let (digest, size) = about("Packages");
        let release =
            format!("Date: Thu, 01 Jan 2026 00:00:00 UTC\nSHA256:\n {digest} {size} Packages\n");
        fs::write(dir.join("Release"), release).unwrap();

        let server = Server::http("127.0.0.1:0").unwrap();
        let port = server.server_addr().to_ip().unwrap().port();
        let requests = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&requests);
        thread::spawn(move || serve(&server, &dir, &count));
        Self { port, requests }
    }

    /// The number of requests so far.
    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    /// The line for apt's sources, with the password.
    pub(crate) fn line(&self) -> String {
        self.line_at("/")
    }

    /// The same for a path of the archive, which serves its files at every path.
    pub(crate) fn line_at(&self, path: &str) -> String {
        let port = self.port;
        format!("deb [trusted=yes] http://{USER}:{PASSWORD}@127.0.0.1:{port}{path} ./")
    }
}

fn serve(server: &Server, dir: &Path, count: &AtomicUsize) {
    for request in server.incoming_requests() {
        count.fetch_add(1, Ordering::Relaxed);
        let allowed = request
            .headers()
            .iter()
            .any(|header| header.field.equiv("Authorization") && header.value == BASIC);
        let name = request.url().rsplit('/').next().unwrap_or_default();
        let answer = match fs::read(dir.join(name)) {
            _ if !allowed => {
                let challenge = "WWW-Authenticate: Basic realm=\"private\"";
                Response::from_string("who?")
                    .with_status_code(401)
                    .with_header(challenge.parse::<Header>().unwrap())
            }
            Ok(bytes) => Response::from_data(bytes),
            Err(_) => Response::from_string("no").with_status_code(404),
        };
        // The client may have hung up.
        let _ = request.respond(answer);
    }
}
