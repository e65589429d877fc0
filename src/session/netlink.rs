//! Brings the loopback interface of a new network namespace up.

use std::io;
use std::os::fd::AsRawFd as _;

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};

/// `RTM_NEWLINK` for interface 1 with `IFF_UP` set (`rtnetlink(7)`): a header of 16 bytes, then
/// `struct ifinfomsg` of 16.
fn request() -> Vec<u8> {
    let mut bytes = Vec::with_capacity(32);
    bytes.extend(32_u32.to_ne_bytes()); // total length
    bytes.extend(16_u16.to_ne_bytes()); // RTM_NEWLINK
    bytes.extend(5_u16.to_ne_bytes()); // NLM_F_REQUEST | NLM_F_ACK
    bytes.extend(1_u32.to_ne_bytes()); // sequence number
    bytes.extend(0_u32.to_ne_bytes()); // to the kernel
    bytes.extend([0, 0]); // any family, padding
    bytes.extend(0_u16.to_ne_bytes()); // any type
    bytes.extend(1_i32.to_ne_bytes()); // the loopback is always 1
    bytes.extend(1_u32.to_ne_bytes()); // flags: IFF_UP
    bytes.extend(1_u32.to_ne_bytes()); // the flags that change
    bytes
}

/// Brings the loopback interface up and waits for the kernel's acknowledgement.
pub(crate) fn loopback_up() -> io::Result<()> {
    let fd = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkRoute,
    )?;
    sendto(
        fd.as_raw_fd(),
        &request(),
        &NetlinkAddr::new(0, 0),
        MsgFlags::empty(),
    )?;
    let mut answer = [0; 64];
    let got = recv(fd.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    // `struct nlmsgerr` begins with the negated error, 0 for an acknowledgement.
    match answer
        .get(16..20)
        .filter(|_| got >= 20)
        .and_then(|field| <[u8; 4]>::try_from(field).ok())
    {
        Some([0, 0, 0, 0]) => Ok(()),
        Some(error) => Err(io::Error::from_raw_os_error(-i32::from_ne_bytes(error))),
        None => Err(io::Error::other(
            "no answer from the kernel about the loopback interface",
        )),
    }
}
