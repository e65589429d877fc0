//! Debian's servers for comparison, each running only while it is measured.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::measure::{Watch, descendants};
use crate::support::until;

/// Debian's Python.
pub(crate) const PYTHON: &str = "/usr/bin/python3";

const ECHO_SERVER: &str = "\
import sys
from twisted.internet import reactor
from twisted.web import server, xmlrpc

class Echo(xmlrpc.XMLRPC):
    isLeaf = True

    def xmlrpc_echo(self, *args):
        return list(args)

reactor.listenTCP(int(sys.argv[1]), server.Site(Echo()), interface='127.0.0.1')
reactor.run()
";

const NGINX: &str = "\
daemon off;
USER
worker_processes auto;
pid DIR/nginx.pid;
error_log DIR/error.log;
events { worker_connections 768; }
http {
    sendfile on;
    tcp_nopush on;
    access_log off;
    client_body_temp_path DIR/body;
    proxy_temp_path DIR/proxy;
    fastcgi_temp_path DIR/fastcgi;
    uwsgi_temp_path DIR/uwsgi;
    scgi_temp_path DIR/scgi;
    server {
        listen 127.0.0.1:PORT;
        root DIR/root;
    }
}
";

/// A running server and its folder.
pub(crate) struct Server {
    child: Child,
    pub(crate) port: u16,
    dir: TempDir,
}

impl Server {
    /// Twisted's XML-RPC server with an `echo` method.
    pub(crate) fn twisted() -> Self {
        let (dir, port) = (folder(), free_port());
        let mut command = Command::new(PYTHON);
        command.args(["-c", ECHO_SERVER, &port.to_string()]);
        Self::start(command, dir, port)
    }

    /// nginx with Debian's settings, such as sendfile, and the files of [`Server::root`].
    pub(crate) fn nginx() -> Self {
        let (dir, port) = (folder(), free_port());
        let path = dir.path().to_str().unwrap();
        let user = if nix::unistd::geteuid().is_root() {
            "user root;"
        } else {
            ""
        };
        let config = NGINX
            .replace("USER", user)
            .replace("DIR", path)
            .replace("PORT", &port.to_string());
        fs::write(dir.path().join("conf"), config).unwrap();
        fs::create_dir(dir.path().join("root")).unwrap();
        let mut command = Command::new("nginx");
        command
            .arg("-e")
            .arg(dir.path().join("error.log"))
            .arg("-c")
            .arg(dir.path().join("conf"));
        if let Some(path) = std::env::var_os("PATH") {
            let mut path = path.into_string().unwrap();
            path.push_str(":/usr/sbin");
            command.env("PATH", path);
        }
        Self::start(command, dir, port)
    }

    fn start(mut command: Command, dir: TempDir, port: u16) -> Self {
        let mut child = command
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        until("answer of the reference", || {
            assert!(child.try_wait().unwrap().is_none(), "{command:?} has ended");
            TcpStream::connect(("127.0.0.1", port)).ok()
        });
        Self { child, port, dir }
    }

    /// The folder that nginx serves.
    pub(crate) fn root(&self) -> std::path::PathBuf {
        self.dir.path().join("root")
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Measures all its processes.
    pub(crate) fn watch(&self) -> Watch {
        let pid = self.child.id();
        let children = descendants(pid as i32).into_iter();
        let children = children.map(|pid| u32::try_from(pid).unwrap());
        Watch::new(&[pid].into_iter().chain(children).collect::<Vec<_>>())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        for pid in descendants(self.child.id() as i32) {
            let _ =
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGKILL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A folder that every user can read.
fn folder() -> TempDir {
    let dir = tempfile::Builder::new()
        .prefix("buildd-bench-")
        .tempdir()
        .unwrap();
    open_to_all(dir.path());
    dir
}

fn open_to_all(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// A free port.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}
