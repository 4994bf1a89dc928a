/*!
What the eBPF programs and user space say to each other: one definition for both.

Integers and byte arrays only, padding named, sizes asserted. Addresses are 16 octets
in network order, IPv4 as v4-mapped IPv6 (RFC 4291 section 2.5.5.2), here as four
32-bit words in memory order. Ports are in host order unless a name says `be`.
*/
#![no_std]

/// An IPv4-mapped or IPv6 address, in network order.
pub type Address = [u32; 4];

/// Octets of argv that are captured at the time of an act, separators included.
pub const ARGV_LEN: usize = 1024;
/// `TASK_COMM_LEN`, include/linux/sched.h.
pub const COMM_LEN: usize = 16;

/// Pins: addresses with an exact entry. Beyond this a new name fails closed.
pub const MAX_ADDRESSES: u32 = 1 << 16;
/// Networks of CIDR rules and private ranges.
pub const MAX_NETWORKS: u32 = 1 << 17;
/// Steps of port profiles.
pub const MAX_PORT_STEPS: u32 = 1 << 16;
/// Size of the ring of [`Act`]s, in octets.
pub const RING_SIZE: u32 = 1 << 21;

/// [`Entry::action`] and the like: the destination is permitted.
pub const ALLOW: u32 = 1;
/// [`Entry::action`] and the like: the destination is refused.
pub const BLOCK: u32 = 2;

/// IANA protocol numbers (include/uapi/linux/in.h), in the width of [`Deed::protocol`].
pub mod protocol {
    pub const ICMP: u16 = 1;
    pub const TCP: u16 = 6;
    pub const UDP: u16 = 17;
    pub const ICMPV6: u16 = 58;
    pub const UDPLITE: u16 = 136;
    /// Only a socket's protocol, never a packet's: its packets are TCP.
    pub const MPTCP: u16 = 262;
}

/// Everything a run sets before the programs are loaded. The verifier sees constants,
/// so that what is switched off is not even checked: helpers that a kernel lacks
/// do not keep the programs from loading.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where the DNS proxy listens on 127.0.0.1 and ::1.
    pub proxy_port: u32,
    /// [`ALLOW`] or [`BLOCK`]: addresses with neither a pin nor a network.
    pub unresolved: u32,
    /// Whether `NETWORKS` has entries.
    pub networks: u32,
    /// Nothing is refused, everything is reported (`--audit`).
    pub audit: u32,
    /// Refused packets vanish instead of failing (`--on-block drop`).
    pub vanish: u32,
    /// Whether bpf_set_retval exists (kernel 6.1).
    pub set_retval: u32,
    /// The errno of a refused connect or send, positive.
    pub errno: u32,
    /// Offsets into `struct task_struct` and `struct mm_struct`, of this kernel.
    pub offsets: Offsets,
}

/// Byte offsets of structure members, from the kernel's BTF; all 0 where there is no BTF, or where reading kernel memory is forbidden (lockdown).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offsets {
    /// `pid`, which `tgid` follows.
    pub task_pid: u32,
    pub task_real_parent: u32,
    /// The first thread, whose start is that of the process.
    pub task_group_leader: u32,
    pub task_start_boottime: u32,
    pub task_mm: u32,
    pub task_cred: u32,
    pub task_comm: u32,
    pub cred_uid: u32,
    /// `arg_start`, which `arg_end` follows.
    pub mm_arg_start: u32,
}

/// Value of `ADDRESSES` and `NETWORKS`: the verdict on a destination.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// [`ALLOW`] or [`BLOCK`], if `profile` is 0.
    pub action: u32,
    /// Otherwise the profile in `PORTS` that has the verdict of each port.
    pub profile: u32,
}

/// Data of a key of the prefix trie `PORTS`, whose values are [`ALLOW`] or [`BLOCK`]:
/// a range of ports is a handful of prefixes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortKey {
    pub profile: u32,
    /// [`TRANSPORT_TCP`] and its kin.
    pub transport: u16,
    /// In network order, 0 for [`TRANSPORT_OTHER`].
    pub port_be: u16,
}

/// [`PortKey::transport`]
pub const TRANSPORT_OTHER: u16 = 0;
pub const TRANSPORT_TCP: u16 = 1;
pub const TRANSPORT_UDP: u16 = 2;

/// Bits of a [`PortKey`] that are compared before those of the port.
pub const PORT_KEY_FIXED_BITS: u32 = 48;

/// Key of `ORIGINALS`: the socket, and the family of the address it used. A musl
/// client has IPv4 and IPv6 servers on one socket, hence one slot for each.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OriginalKey {
    pub cookie: u64,
    /// 1 for IPv6, 0 for IPv4 and v4-mapped.
    pub ipv6: u32,
    pub reserved: u32,
}

/// An address and port as a client gave it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub address: Address,
    pub port: u32,
    pub reserved: u32,
}

/// Identifies a DNS message on its way to the proxy: key of `QUERIES`, whose value is
/// the [`Endpoint`] that the client had meant.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueryKey {
    /// IANA protocol number: TCP or UDP.
    pub protocol: u8,
    /// 1 for IPv6, 0 for IPv4.
    pub ipv6: u8,
    /// Source port.
    pub port: u16,
    /// DNS message id over UDP, 0 over TCP.
    pub id: u16,
    pub reserved: u16,
}

/// Key of `SEEN`, whose value is the count of acts: a second act of the same kind is
/// counted there and not reported again.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeenKey {
    pub owner: Owner,
    pub deed: Deed,
}

/// Who acted: a process by its pid and start, or, for packets of TCP, a socket by its cookie.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Start in nanoseconds since boot, or a socket cookie.
    pub stamp: u64,
    /// The process id, 0 for a socket.
    pub tgid: u32,
    pub reserved: u32,
}

/// What was done, without who did it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deed {
    /// Of an [`ACT_QUERY`] it says only whether the packet is IPv6: it is the proxy.
    pub destination: Address,
    // Usually 0, and not beside other zeroes: the compiler would call memset, a loop that
    // the verifier walks octet by octet.
    /// For [`ACT_QUERY`], else 0.
    pub source_port: u16,
    /// DNS message id, for [`ACT_QUERY`] over UDP, else 0.
    pub id: u16,
    /// [`ACT_QUERY`] and its kin.
    pub kind: u32,
    /// [`ALLOW`] or [`BLOCK`], before `--audit`.
    pub action: u32,
    pub destination_port: u16,
    /// IANA protocol number; 262 is MPTCP.
    pub protocol: u16,
}

/// One act, as the kernel saw it; the only record on the ring.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Act {
    /// CLOCK_MONOTONIC, in nanoseconds.
    pub time: u64,
    pub deed: Deed,
    pub actor: Actor,
    /// argv[0], argv[1] and so on, a zero octet behind each; the first
    /// [`Actor::argv_len`] octets.
    pub argv: [u8; ARGV_LEN],
}

/// The process that acted; all zeroes if it is unknown.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Actor {
    /// Start in nanoseconds since boot.
    pub started: u64,
    /// Where argv starts and ends in the memory of the process.
    pub argv_start: u64,
    pub argv_end: u64,
    pub tid: u32,
    pub tgid: u32,
    pub ppid: u32,
    pub uid: u32,
    /// Octets used of [`Act::argv`]; 0 if it could not be read.
    pub argv_len: u32,
    pub reserved: u32,
    pub comm: [u8; COMM_LEN],
}

/// A DNS message (or the SYN of a TCP connection) left for the proxy.
pub const ACT_QUERY: u32 = 1;
/// A connect, judged before any packet.
pub const ACT_CONNECT: u32 = 2;
/// A packet, or a datagram that names its destination.
pub const ACT_PACKET: u32 = 3;
/// A socket of a forbidden kind was asked for; `protocol` says which.
pub const ACT_SOCKET: u32 = 4;

/// Index into `COUNTERS`: acts that found no room in the ring.
pub const COUNTER_LOST: u32 = 0;
/// Index into `COUNTERS`: packets that were dropped because they could not be parsed.
pub const COUNTER_UNPARSED: u32 = 1;
pub const COUNTERS: u32 = 2;

const _: () = {
    assert!(size_of::<Config>() == 64 && align_of::<Config>() == 4);
    assert!(size_of::<Offsets>() == 36);
    assert!(size_of::<Entry>() == 8);
    assert!(size_of::<PortKey>() == 8);
    assert!(size_of::<OriginalKey>() == 16);
    assert!(size_of::<Endpoint>() == 24);
    assert!(size_of::<QueryKey>() == 8 && align_of::<QueryKey>() == 2);
    assert!(size_of::<Deed>() == 32);
    assert!(size_of::<SeenKey>() == 48 && align_of::<SeenKey>() == 8);
    assert!(size_of::<Actor>() == 64 && align_of::<Actor>() == 8);
    assert!(size_of::<Act>() == 104 + ARGV_LEN && align_of::<Act>() == 8);
};

/// Lets aya's map wrappers copy the types octet by octet.
#[cfg(feature = "user")]
mod user {
    use super::{Endpoint, Entry, OriginalKey, PortKey, QueryKey, SeenKey};

    // SAFETY: integers only, no padding (asserted above): any octets are a value.
    unsafe impl aya::Pod for Endpoint {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Entry {}
    // SAFETY: as above.
    unsafe impl aya::Pod for OriginalKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for PortKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for QueryKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for SeenKey {}
}
