/*!
The sockets of the network namespace of the calling thread, as sock_diag(7) lists them.

/proc/net lists them too, but not the files that unix sockets are bound to, only the names
that were given to bind; and TCP sockets all, where listeners are few.
*/

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd as _;

use netlink_packet_core::{
    Emitable as _, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{
    AF_INET, AF_INET6, IPPROTO_TCP, IPPROTO_UDP, IPPROTO_UDPLITE, SOCK_DGRAM, TCP_CLOSE,
    TCP_ESTABLISHED, TCP_LISTEN,
};
use netlink_packet_sock_diag::inet::{self, ExtensionFlags, InetRequest, InetResponse, SocketId};
use netlink_packet_sock_diag::unix::nlas::{Nla, UnixDiagName};
use netlink_packet_sock_diag::unix::{self, ShowFlags, UnixRequest, UnixResponse};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket,
};

/// As much as the kernel puts into one message of a dump (netlink_dump in
/// net/netlink/af_netlink.c).
const MESSAGE_MAX: usize = 32 * 1024;
/// Matches the sockets of any cookie.
const ANY: [u8; 8] = [0xff; 8];

/// A unix socket that others can turn to, bound to a file.
pub(super) struct Bound {
    /// Its own inode number.
    pub(super) socket: u32,
    /// Major and minor number of the file system of the file.
    pub(super) device: (u32, u32),
}

/// The unix sockets bound to files of this inode number, one on each file system.
pub(super) fn bound_to(inode: u64) -> io::Result<Vec<Bound>> {
    let mut found = Vec::new();
    unix(ShowFlags::VFS, |response| {
        if let Some((file, device)) = file_of(&response)
            // The kernel gives the lower half of it.
            && u64::from(file) == inode & u64::from(u32::MAX)
        {
            found.push(Bound {
                socket: response.header.inode,
                // As MAJOR and MINOR in include/linux/kdev_t.h.
                device: (device >> 20, device & 0xf_ffff),
            });
        }
    })?;
    Ok(found)
}

/// The inode and the device number of the file that a unix socket is bound to.
fn file_of(response: &UnixResponse) -> Option<(u32, u32)> {
    let of_file = |nla: &Nla| {
        let Nla::Vfs(file) = nla else { return None };
        // Its fields are private, and what it came from is not: `struct unix_diag_vfs` in
        // include/uapi/linux/unix_diag.h.
        let mut octets = [0; 8];
        file.emit(&mut octets);
        Some(octets)
    };
    let octets = response.nlas.iter().find_map(of_file)?;
    let ([inode, device], []) = octets.as_chunks() else {
        return None;
    };
    Some((u32::from_ne_bytes(*inode), u32::from_ne_bytes(*device)))
}

/// The unix sockets with this abstract name, one of each type at most.
pub(super) fn abstract_name(name: &[u8]) -> io::Result<Vec<u32>> {
    let mut found = Vec::new();
    unix(ShowFlags::NAME, |response| {
        if matches!(response.name(), Some(UnixDiagName::Abstract(bound)) if bound == name) {
            found.push(response.header.inode);
        }
    })?;
    Ok(found)
}

/// The sockets that get what is sent to `address`, several if they share it by
/// SO_REUSEPORT; `None` for protocols of which the kernel keeps no list.
pub(super) fn listeners(address: SocketAddr, protocol: u8) -> io::Result<Option<Vec<u32>>> {
    let states = match protocol {
        IPPROTO_TCP => 1 << TCP_LISTEN,
        // Those that are connected get what their peers send, who may be the asker.
        IPPROTO_UDP | IPPROTO_UDPLITE => 1 << TCP_CLOSE | 1 << TCP_ESTABLISHED,
        _ => return Ok(None),
    };
    let asked = address.ip().to_canonical();
    let mut found = Vec::new();
    for family in [AF_INET, AF_INET6] {
        let request = InetRequest {
            family,
            protocol,
            extensions: ExtensionFlags::empty(),
            states: inet::StateFlags::from_bits_retain(states),
            socket_id: SocketId {
                cookie: ANY,
                ..SocketId::new_v4()
            },
        };
        dump(SockDiagMessage::InetRequest(request), |message| {
            if let SockDiagMessage::InetResponse(response) = message
                && response.header.socket_id.source_port == address.port()
                && let Some(score) = score(&response, asked)
            {
                found.push((score, response.header.inode));
            }
        })?;
    }
    let best = found.iter().map(|(score, _)| *score).max();
    let found = found.iter().filter(|(score, _)| Some(*score) == best);
    Ok(Some(found.map(|(_, socket)| *socket).collect()))
}

/// How well a socket fits an address; the one that fits best gets what is sent there, as
/// by compute_score in net/ipv4/inet_hashtables.c and udp.c. `None` if it does not fit.
fn score(response: &InetResponse, asked: IpAddr) -> Option<[bool; 3]> {
    let header = &response.header;
    let bound = header.socket_id.source_address;
    let is_exact = bound.to_canonical() == asked;
    let is_same_family = bound.is_ipv4() == asked.is_ipv4();
    let is_any = bound.is_unspecified() && (is_same_family || bound.is_ipv6());
    let is_open = header.state != TCP_ESTABLISHED;
    (is_exact || is_any).then_some([is_open, is_exact, is_same_family])
}

/// All unix sockets that others can turn to: what was accepted from a listener has its name.
fn unix(show_flags: ShowFlags, mut each: impl FnMut(UnixResponse)) -> io::Result<()> {
    // A datagram socket is "established" while anybody is connected to it.
    let states = 1 << TCP_LISTEN | 1 << TCP_CLOSE | 1 << TCP_ESTABLISHED;
    let request = UnixRequest {
        state_flags: unix::StateFlags::from_bits_retain(states),
        inode: 0,
        show_flags,
        cookie: ANY,
    };
    dump(SockDiagMessage::UnixRequest(request), |message| {
        if let SockDiagMessage::UnixResponse(response) = message
            && (response.header.state != TCP_ESTABLISHED || response.header.kind == SOCK_DGRAM)
        {
            each(*response);
        }
    })
}

fn dump(request: SockDiagMessage, mut each: impl FnMut(SockDiagMessage)) -> io::Result<()> {
    let socket = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkSockDiag,
    )?;
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let mut message = NetlinkMessage::new(header, request.into());
    message.finalize();
    let mut buffer = vec![0; message.buffer_len()];
    message.serialize(&mut buffer);
    send(socket.as_raw_fd(), &buffer, MsgFlags::empty())?;
    buffer.resize(MESSAGE_MAX, 0);
    loop {
        let length = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        let mut rest = &buffer[..length];
        while !rest.is_empty() {
            let message = NetlinkMessage::deserialize(rest).map_err(io::Error::other)?;
            match message.payload {
                NetlinkPayload::InnerMessage(inner) => each(inner),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                NetlinkPayload::Done(_) => return Ok(()),
                NetlinkPayload::Noop => {}
                NetlinkPayload::Overrun(_) | _ => {
                    return Err(io::Error::other("a list of sockets has lost some"));
                }
            }
            let length = usize::try_from(message.header.length).unwrap_or(usize::MAX);
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}
