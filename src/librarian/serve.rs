//! `librarian serve`: opens the ports and serves them until a signal stops it.
//!
//! The ports are public and restricted HTTP, and public and restricted `STORE`. A stop aborts
//! running uploads, which leave no file.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;

use super::Error;
use super::blobs::Blobs;
use super::gc;
use super::http::Port;
use super::intake::Library;
use super::upload_port::StorePort;

use crate::config::Farm;
use crate::db::Db;
use crate::server::{self, Access, Events, Group, Limits, Server};
use crate::sys::service_manager;

/// Maximum number of connections of each port for the farm's own hosts.
const FARM_CONNECTIONS: usize = 64;

/// The clients of a port.
#[derive(Clone, Copy)]
enum Clients {
    Public,
    Farm,
}

/// Serves until SIGTERM or SIGINT.
pub(super) fn run(farm: &Farm) -> Result<(), Error> {
    Ok(bind(farm)?.run_until_signal(Events {
        ready: Box::new(server::report_ready),
        reload: Box::new(|| {
            log::info!("SIGHUP ignored: the librarian reads its configuration at start only");
        }),
        stop: Box::new(|| {
            service_manager::stopping();
            log::info!("stopping");
        }),
    })?)
}

/// Opens the library, listens on all ports, and then logs them. Connections are served once the
/// group runs. A thread collects garbage from now on.
pub(crate) fn bind(farm: &Farm) -> Result<Group, Error> {
    let config = &farm.librarian;
    let blobs = Blobs::open(&config.root, farm.limits.reserve)?;
    let db = Db::open_with_retry(farm.database.url.expose(), farm.database.patience)?;
    let library = Arc::new(Library {
        db,
        blobs,
        max_size: config.max_size,
    });
    let mut servers = Group::default();
    // With port 0, the URL gets the port that the kernel chose for the first address.
    let mut base = None;
    // Logged when every port listens: a client may connect to any of them at the first line.
    let mut ports = Vec::new();
    for host in &config.bindhost {
        let public = listen(farm, host, config.bindport, Clients::Public)?;
        let address = local(&public)?;
        let base = base.get_or_insert_with(|| {
            let chosen = format!(":{}/", address.port());
            config.url.replace(":0/", &chosen)
        });
        let http = |restricted| Port {
            library: Arc::clone(&library),
            restricted,
            base: base.clone(),
            uploads: access(farm, Clients::Farm),
        };
        ports.push(format!("librarian ready! downloads at http://{address}/"));
        let protocol = public.http(Arc::new(http(false)));
        servers.add(public, protocol);
        if let Some(port) = config.restricted_port {
            let server = listen(farm, host, port, Clients::Farm)?;
            ports.push(format!("restricted files at http://{}/", local(&server)?));
            let protocol = server.http(Arc::new(http(true)));
            servers.add(server, protocol);
        }
        for (port, restricted) in [
            (config.upload_port, false),
            (config.restricted_upload_port, true),
        ] {
            let Some(port) = port else { continue };
            let server = listen(farm, host, port, Clients::Farm)?;
            let kind = if restricted {
                "restricted uploads"
            } else {
                "uploads"
            };
            ports.push(format!("{kind} by STORE at {}", local(&server)?));
            let protocol = StorePort {
                library: Arc::clone(&library),
                restricted,
                dbname: config.dbname.clone(),
                limits: limits(farm, Clients::Farm),
                access: access(farm, Clients::Farm),
            };
            servers.add(server, Arc::new(protocol));
        }
    }
    ports.iter().for_each(|port| log::info!("{port}"));
    collect_garbage(farm, &library)?;
    Ok(servers)
}

/// Starts the thread that collects garbage. It ends with the process: a collection may be killed
/// at any point.
fn collect_garbage(farm: &Farm, library: &Library) -> Result<(), Error> {
    let (root, interval) = (farm.librarian.root.clone(), farm.librarian.gc_interval);
    let db = library.db.clone();
    let thread = thread::Builder::new().name("gc".to_owned());
    let started = thread.spawn(move || gc::repeat(&db, &root, interval));
    started
        .map(drop)
        .map_err(|error| server::Error::from(error).into())
}

fn listen(farm: &Farm, host: &str, port: u16, clients: Clients) -> Result<Server, Error> {
    let address = server::address(host, port);
    Ok(Server::bind(
        address,
        limits(farm, clients),
        access(farm, clients),
    )?)
}

/// The farm's own hosts need credentials, if any are configured; downloads of public files do not.
fn access(farm: &Farm, clients: Clients) -> Access {
    let config = &farm.librarian;
    match clients {
        Clients::Public => Access {
            allow: config.allow.clone(),
            credentials: None,
        },
        Clients::Farm => Access {
            allow: config.upload_allow.clone(),
            credentials: config.credentials.as_ref().map(|own| {
                let password = own.password.expose().to_owned();
                (own.username.clone(), password)
            }),
        },
    }
}

/// Every connection may transfer a file: a librarian serves nothing else.
fn limits(farm: &Farm, clients: Clients) -> Limits {
    let limits = farm.limits.http();
    let connections = match clients {
        Clients::Public => limits.connections,
        Clients::Farm => limits.connections.min(FARM_CONNECTIONS),
    };
    Limits {
        connections,
        downloads: connections,
        downloads_per_peer: connections,
        uploads: connections,
        ..limits
    }
}

fn local(server: &Server) -> Result<SocketAddr, Error> {
    Ok(server.local_addr().map_err(server::Error::from)?)
}
