//! Connects to a server: looks its name up once, checks the addresses, and uses a checked one.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Instant;

use super::address::is_public;
use super::refusal::Refusal;
use super::settings::{Settings, Upstream};
use super::url::Host;

/// Connects to a host of an archive.
pub(super) fn connect(settings: &Settings, host: &Host, port: u16) -> Result<TcpStream, Refusal> {
    let trusted = settings
        .private
        .iter()
        .any(|pattern| pattern.names(host, port));
    let found = resolve(settings, host)?;
    let (allowed, refused): (Vec<IpAddr>, Vec<IpAddr>) = found
        .into_iter()
        .partition(|address| trusted || is_outside(*address));
    match refused.first() {
        Some(address) if allowed.is_empty() => Err(private(host, *address)),
        _ => try_each(settings, host, port, &allowed),
    }
}

/// Connects to the operator's proxy, whatever its address is.
pub(super) fn connect_upstream(
    settings: &Settings,
    upstream: &Upstream,
) -> Result<TcpStream, Refusal> {
    let found = resolve(settings, &upstream.host)?;
    try_each(settings, &upstream.host, upstream.port, &found)
}

/// Refuses hosts for which the operator's proxy would connect to itself or to an address that is
/// not public. The proxy looks names up itself.
pub(super) fn check_for_proxy(settings: &Settings, host: &Host, port: u16) -> Result<(), Refusal> {
    let local = IpAddr::from([127, 0, 0, 1]);
    let address = match host {
        Host::Address(address) => *address,
        Host::Name(name) if name == "localhost" || name.ends_with(".localhost") => local,
        Host::Name(_) => return Ok(()),
    };
    let mut private_hosts = settings.private.iter();
    if is_outside(address) || private_hosts.any(|pattern| pattern.names(host, port)) {
        Ok(())
    } else {
        Err(private(host, address))
    }
}

fn private(host: &Host, address: IpAddr) -> Refusal {
    Refusal::forbidden(
        &format!("{host} has no public address"),
        format!(
            "The gate refused {host}: its address {address} is not public. If an archive is \
             there, add {host} to [gate] private."
        ),
    )
}

/// Returns whether `address` is public and not one of this host's own.
fn is_outside(address: IpAddr) -> bool {
    // An address of the documentation block is bindable only if the kernel allows all addresses.
    let can_bind = |address| UdpSocket::bind((address, 0)).is_ok();
    is_public(address) && (!can_bind(address) || can_bind(IpAddr::from([192, 0, 2, 1])))
}

fn resolve(settings: &Settings, host: &Host) -> Result<Vec<IpAddr>, Refusal> {
    let name = match host {
        Host::Address(address) => return Ok(vec![*address]),
        Host::Name(name) => name.clone(),
    };
    let fail = |why: &str| {
        let sentence = format!("The gate cannot look up the host {host}: {why}.");
        Refusal::new(502, &format!("cannot look up {host}"), sentence)
    };
    let (sender, receiver) = mpsc::channel();
    let lookup = {
        let resolve = settings.resolve.clone();
        let name = name.clone();
        move || {
            // The receiver is gone after its timeout.
            let _ = sender.send(resolve(&name));
        }
    };
    let thread = thread::Builder::new().name("gate-lookup".into());
    let found = match thread.spawn(lookup) {
        Ok(_) => match receiver.recv_timeout(settings.limits.connect) {
            Ok(found) => found,
            Err(RecvTimeoutError::Timeout) => Err(io::ErrorKind::TimedOut.into()),
            Err(RecvTimeoutError::Disconnected) => Err(io::ErrorKind::Other.into()),
        },
        // If the system refuses a thread, its own timeout applies.
        Err(_) => (settings.resolve)(&name),
    };
    let found = found.map_err(|error| fail(&error.to_string()))?;
    if found.is_empty() {
        return Err(fail("it has no address"));
    }
    Ok(found)
}

fn try_each(
    settings: &Settings,
    host: &Host,
    port: u16,
    addresses: &[IpAddr],
) -> Result<TcpStream, Refusal> {
    let until = Instant::now() + settings.limits.connect;
    let mut error = io::Error::from(io::ErrorKind::TimedOut);
    for (index, address) in addresses.iter().enumerate() {
        // Each address gets a fair part of the time that is left.
        let tries = u32::try_from(addresses.len() - index).unwrap_or(u32::MAX);
        let part = until.saturating_duration_since(Instant::now()) / tries;
        if part.is_zero() {
            break;
        }
        match TcpStream::connect_timeout(&SocketAddr::new(*address, port), part) {
            Ok(stream) => return Ok(stream),
            Err(failed) => error = failed,
        }
    }
    let sentence = format!("The gate cannot connect to {host}:{port}: {error}.");
    let status = if error.kind() == io::ErrorKind::TimedOut {
        504
    } else {
        502
    };
    Err(Refusal::new(
        status,
        &format!("cannot connect to {host}:{port}"),
        sentence,
    ))
}
