//! `librarian serve`: puts the ports together and answers at them until told to stop.
//!
//! Public and restricted HTTP, public and restricted `STORE`; all but the first can be off. Stopping
//! at any moment costs the uploads under way, which leave nothing.

use std::net::SocketAddr;
use std::sync::Arc;

use super::Error;
use super::blobs::Blobs;
use super::http::Port;
use super::intake::Library;
use super::upload_port::StorePort;

use crate::config::Farm;
use crate::db::Db;
use crate::server::{self, Access, Group, Limits, Server};

/// Connections at a time at each port that only the farm's own hosts use.
const FEW_CONNECTIONS: usize = 64;

/// Who comes to a port.
#[derive(Clone, Copy)]
enum For {
    Everybody,
    TheFarm,
}

/// Serves until a signal says stop. Returns only then, or when it cannot begin.
pub(super) fn run(farm: &Farm) -> Result<(), Error> {
    Ok(bind(farm)?.run_until_signal("stopping")?)
}

/// Opens the library and listens at all its ports; whoever connects is answered once the group
/// runs.
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
    // What the system chose, where it may.
    let mut base = None;
    for host in &config.bindhost {
        let everybody = listen(farm, host, config.bindport, For::Everybody)?;
        let address = local(&everybody)?;
        let base = base.get_or_insert_with(|| {
            let chosen = format!(":{}/", address.port());
            config.url.replace(":0/", &chosen)
        });
        let http = |restricted| Port {
            library: Arc::clone(&library),
            restricted,
            base: base.clone(),
            uploaders: config.upload_allow.clone(),
        };
        log::info!("librarian ready! downloads at http://{address}/");
        let protocol = everybody.http(Arc::new(http(false)));
        servers.add(everybody, protocol);
        if let Some(port) = config.restricted_port {
            let server = listen(farm, host, port, For::TheFarm)?;
            log::info!("restricted files at http://{}/", local(&server)?);
            let protocol = server.http(Arc::new(http(true)));
            servers.add(server, protocol);
        }
        for (port, restricted) in [
            (config.upload_port, false),
            (config.restricted_upload_port, true),
        ] {
            let Some(port) = port else { continue };
            let server = listen(farm, host, port, For::TheFarm)?;
            let what = if restricted {
                "restricted uploads"
            } else {
                "uploads"
            };
            log::info!("{what} by STORE at {}", local(&server)?);
            let protocol = StorePort {
                library: Arc::clone(&library),
                restricted,
                dbname: config.dbname.clone(),
                limits: limits(farm, For::TheFarm),
            };
            servers.add(server, Arc::new(protocol));
        }
    }
    Ok(servers)
}

fn listen(farm: &Farm, host: &str, port: u16, whom: For) -> Result<Server, Error> {
    let allow = match whom {
        For::Everybody => &farm.librarian.allow,
        For::TheFarm => &farm.librarian.upload_allow,
    };
    let access = Access {
        allow: allow.clone(),
        credentials: None,
    };
    let address = server::address(host, port);
    Ok(Server::bind(address, limits(farm, whom), access)?)
}

/// Files are all that a librarian is asked for: as many as there are connections.
fn limits(farm: &Farm, whom: For) -> Limits {
    let limits = farm.limits.http();
    let connections = match whom {
        For::Everybody => limits.connections,
        For::TheFarm => limits.connections.min(FEW_CONNECTIONS),
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
