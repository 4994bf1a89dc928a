/*!
What the eBPF programs and user space say to each other: one definition for both.

Integers and byte arrays only, padding named, sizes asserted. Addresses are 16 octets
in network order, IPv4 as v4-mapped IPv6 (RFC 4291 section 2.5.5.2), here as four
32-bit words in memory order. Ports are in host order unless a name says `be`.
*/
#![no_std]

use core::mem::offset_of;

/// An IPv4-mapped or IPv6 address, in network order.
pub type Address = [u32; 4];

/// Octets of argv that are captured at the time of an act, separators included.
pub const ARGV_LEN: usize = 1024;
/// `TASK_COMM_LEN`, include/linux/sched.h.
pub const COMM_LEN: usize = 16;

/// Pins: addresses with an exact entry. Beyond this a new name fails closed.
pub const MAX_ADDRESSES: u32 = 1 << 16;
/// The host's own addresses, without loopback.
pub const MAX_OWN: u32 = 1 << 12;
/// Generations of a policy that exist at once: the one in force, and one that is made.
pub const GENERATIONS: u32 = 2;
/// TCP connections of the child that exist at once and are counted.
pub const MAX_CONNECTIONS: u32 = 1 << 14;
/// Sums over connections that have ended. Without room for more they are told one by one.
pub const MAX_TRAFFIC: u32 = 1 << 13;
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
    /// [`ALLOW`] or [`BLOCK`]: addresses with neither a pin nor a network. With `live` it is
    /// [`InForce`] that says so.
    pub unresolved: u32,
    /// Whether `NETWORKS` has entries, or may have some after a change of policy.
    pub networks: u32,
    /// Nothing is refused, everything is reported (`--audit`).
    pub audit: u32,
    /// Refused packets vanish instead of failing (`--on-block drop`).
    pub vanish: u32,
    /// Whether bpf_set_retval exists (kernel 6.1).
    pub set_retval: u32,
    /// The errno of a refused connect or send, positive.
    pub errno: u32,
    /// Whether loopback leads to listeners inside the cgroup only (`--strict`).
    pub strict: u32,
    /// The id of cgfw's own process, above all that it started.
    pub supervisor: u32,
    /// Whether the policy can change (`--watch`).
    pub live: u32,
    /// Offsets of this kernel.
    pub offsets: Offsets,
    /// The id of the cgroup: the inode number of its directory.
    pub cgroup: u64,
}

/// Which generation of the policy is in force: the value of `IN_FORCE`, which a program reads
/// once for each verdict.
///
/// Only its least significant octet is ever other than zero. An update of an array copies the
/// value by memcpy (`copy_map_value`, include/linux/bpf.h), which promises nothing of what
/// somebody sees who reads it meanwhile; but an octet is the old one or the new one.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InForce(u64);

impl InForce {
    const SLOT: u64 = 1;
    const ALLOWS: u64 = 2;

    /// The generation in this slot, below [`GENERATIONS`], with [`ALLOW`] or [`BLOCK`] for
    /// addresses with neither a pin nor a network.
    pub const fn new(slot: u32, unresolved: u32) -> Self {
        let allows = if unresolved == ALLOW { Self::ALLOWS } else { 0 };
        Self((slot as u64 & Self::SLOT) | allows)
    }

    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    pub const fn to_bits(self) -> u64 {
        self.0
    }

    /// Index of its maps in `ADDRESSES_BY_SLOT` and `NETWORKS_BY_SLOT`.
    pub const fn slot(self) -> u32 {
        (self.0 & Self::SLOT) as u32
    }

    /// [`ALLOW`] or [`BLOCK`]: addresses with neither a pin nor a network.
    pub const fn unresolved(self) -> u32 {
        if self.0 & Self::ALLOWS == 0 {
            BLOCK
        } else {
            ALLOW
        }
    }
}

macro_rules! offsets {
    ($($(#[$doc:meta])* $name:ident,)+) => {
        /// Byte offsets of structure members, from the kernel's BTF; all 0 where there is no
        /// BTF, or where reading kernel memory is forbidden (lockdown).
        #[repr(C)]
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Offsets {
            $($(#[$doc])* pub $name: u32,)+
        }

        impl Offsets {
            /// How many there are.
            pub const COUNT: usize = [$(stringify!($name)),+].len();
            /// Those of a kernel that does not describe itself.
            pub const UNKNOWN: Self = Self { $($name: 0,)+ };

            /// In the order of the members.
            pub const fn to_array(self) -> [u32; Self::COUNT] {
                [$(self.$name),+]
            }

            /// The reverse of [`Self::to_array`].
            pub const fn from_array([$($name),+]: [u32; Self::COUNT]) -> Self {
                Self { $($name),+ }
            }
        }
    };
}

offsets! {
    /// `task_struct.pid`, which `tgid` follows.
    task_pid,
    task_real_parent,
    /// The first thread, whose start is that of the process.
    task_group_leader,
    task_start_boottime,
    task_mm,
    task_cred,
    task_comm,
    /// The `css_set` of a task.
    task_cgroups,
    task_self_exec_id,
    task_exit_code,
    task_signal,
    task_fs,
    /// The `fs_struct.pwd`, a `struct path`: the `vfsmount`, and behind it the `dentry`.
    fs_pwd,
    /// Threads of a `signal_struct` that have not ended.
    signal_live,
    signal_flags,
    signal_group_exit_code,
    cred_uid,
    /// `mm_struct.arg_start`, which `arg_end` follows.
    mm_arg_start,
    mm_exe_file,
    /// As `fs_pwd`.
    file_path,
    /// What was executed, and the interpreter: the same address if it needs none.
    binprm_filename,
    binprm_interp,
    /// The `dentry.d_parent`, which `d_name` follows.
    dentry_parent,
    /// The `d_hash.pprev` of a `dentry`, null if nothing has that name any more.
    dentry_hashed,
    dentry_inode,
    inode_ino,
    inode_generation,
    super_block_dev,
    /// The `mount.mnt_parent`, which `mnt_mountpoint` follows.
    mount_parent,
    /// The `vfsmount` of a `mount`, which starts with its root.
    mount_mnt,
    /// The cgroup of a `css_set` in the unified hierarchy.
    css_set_cgroup,
    /// `cgroup.self.parent`: the cgroup above, because `self` is the first member.
    cgroup_parent,
    /// The `kernfs_node` of a cgroup.
    cgroup_kn,
    /// What bpf_get_current_cgroup_id returns, and the inode number of the directory.
    kernfs_id,
    /// The cgroup in which a `sock` was made.
    sock_cgroup,
    sock_protocol,
    /// The `sock` of a `socket`.
    socket_sk,
    /// The address that a unix socket is bound to.
    unix_addr,
    /// The length of that address.
    unix_address_len,
    /// The `sockaddr_un` itself.
    unix_address_name,
    file_inode,
    /// What the file is to whoever made it; of a socket's, the `socket`.
    file_private,
    inode_sb,
    super_block_magic,
    /// `tcp_sock.bytes_acked`, and of what follows: octets that the other end acknowledged, the
    /// SYN among them. All of these are 0 if one is missing.
    tcp_bytes_acked,
    tcp_bytes_received,
    /// The sequence number behind what was written, and that behind what was acknowledged.
    tcp_write_seq,
    tcp_snd_una,
    /// When a packet was sent or received last, CLOCK_MONOTONIC in microseconds.
    tcp_mstamp,
    /// `inet_connection_sock.icsk_retransmits`, an octet.
    icsk_retransmits,
    /// `sock_common.skc_flags`: bits of `enum sock_flags`, include/net/sock.h.
    sock_flags,
    /// `bpf_sock_addr_kern.uaddr`: the address that a process gave.
    sock_addr_uaddr,
    /// `bpf_sock_addr_kern.uaddrlen`, since 6.7, as are hooks on unix sockets; before, 0.
    sock_addr_uaddrlen,
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
/// counted there and not reported again. And key of `TRAFFIC`, with the kind [`ACT_ENDED`].
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

/// A TCP connection that was begun: value of `CONNECTIONS`, whose key is the cookie of the
/// socket.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// Who began it, and to where: as it is summed up when it has ended.
    pub key: SeenKey,
    /// CLOCK_MONOTONIC, in nanoseconds.
    pub since: u64,
}

/// What became of TCP connections that have ended: value of `TRAFFIC`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Those that were established.
    pub established: u64,
    /// Octets of payload that were written to them, and that arrived, once however often they
    /// were transmitted. The end of a stream counts as an octet, unless it came with close(2).
    pub sent: u64,
    pub received: u64,
    /// Those that were never established.
    pub unanswered: u64,
    /// How long that took to find out, all together, in nanoseconds.
    pub waited: u64,
}

/// A TCP connection has ended: a record on the ring.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// CLOCK_MONOTONIC, in nanoseconds.
    pub time: u64,
    pub deed: Deed,
    pub owner: Owner,
    pub traffic: Traffic,
}

/// One act, as the kernel saw it: a record on the ring.
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

/// An [`ACT_UNIX`], which has an address of its own kind.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnixAct {
    pub act: Act,
    pub name: UnixName,
}

/// The address of a unix socket as a process gave it (`struct sockaddr_un`).
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnixName {
    /// Abstract names start with a zero octet, path names may end with one; zeroes behind.
    pub path: [u8; UNIX_PATH_LEN],
    /// Octets used of `path`.
    pub length: u32,
}

/// Octets of `sun_path`, include/uapi/linux/un.h.
pub const UNIX_PATH_LEN: usize = 108;

/// A directory, as the kernel tells it from others while somebody is in it; all zeroes if it
/// is unknown.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Directory {
    /// Address of its `struct vfsmount`.
    pub mount: u64,
    /// Address of its `struct dentry`.
    pub dentry: u64,
    pub inode: u64,
    /// `inode.i_generation`: an inode number that is used again has another one.
    pub generation: u32,
    /// `super_block.s_dev`.
    pub device: u32,
}

/// A process was made: a record on the ring.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fork {
    /// CLOCK_MONOTONIC, in nanoseconds.
    pub time: u64,
    /// Starts in nanoseconds since boot.
    pub parent_started: u64,
    pub child_started: u64,
    pub parent: u32,
    /// [`ACT_FORKED`]
    pub kind: u32,
    pub child: u32,
    pub reserved: u32,
}

/// The last thread of a process has ended: a record on the ring.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// CLOCK_MONOTONIC, in nanoseconds.
    pub time: u64,
    /// Start in nanoseconds since boot.
    pub started: u64,
    /// Nanoseconds from the start to here.
    pub age: u64,
    pub tgid: u32,
    /// [`ACT_EXITED`]
    pub kind: u32,
    /// As wait(2) has it.
    pub status: u32,
    pub reserved: u32,
}

/// A process has executed a program: how a record on the ring starts. Behind it are, as long as
/// is said here, argv as in [`Act`], the script, and the names on the way up from the
/// executable and from the working directory, a zero octet behind each.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exec {
    /// CLOCK_MONOTONIC, in nanoseconds.
    pub time: u64,
    /// Start in nanoseconds since boot.
    pub started: u64,
    /// As [`Actor::image`].
    pub image: u64,
    pub tgid: u32,
    /// [`ACT_EXECUTED`]
    pub kind: u32,
    pub ppid: u32,
    pub uid: u32,
    pub comm: [u8; COMM_LEN],
    pub directory: Directory,
    /// Where argv starts and ends in the memory of the process.
    pub argv_start: u64,
    pub argv_end: u64,
    pub argv_len: u32,
    /// 0 for what needs no interpreter.
    pub script_len: u32,
    pub exe_len: u32,
    pub cwd_len: u32,
    /// What all names are there of: [`EXE`] and [`CWD`].
    pub told: u32,
    /// Which of them has been deleted.
    pub deleted: u32,
}

/// Bits of [`Exec::told`] and [`Exec::deleted`].
pub const EXE: u32 = 1;
pub const CWD: u32 = 2;

/// Octets of argv that are captured when a program is executed.
pub const EXEC_ARGV_LEN: usize = 4096;
/// Octets of the path of a script, with its final zero. Of a longer one nothing is told.
pub const SCRIPT_LEN: usize = 1024;
/// Octets of text behind an [`Exec`].
pub const EXEC_TEXT_LEN: usize = 8192;

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
    /// `task_struct.self_exec_id`, which is inherited by those that are forked, and another one
    /// after each exec.
    pub image: u64,
    pub directory: Directory,
}

/// A DNS message (or the SYN of a TCP connection) left for the proxy.
pub const ACT_QUERY: u32 = 1;
/// A connect, judged before any packet.
pub const ACT_CONNECT: u32 = 2;
/// A packet, or a datagram that names its destination.
pub const ACT_PACKET: u32 = 3;
/// A socket of a forbidden kind was asked for, or one that was made outside was passed on
/// (`--strict`); `protocol` says which.
pub const ACT_SOCKET: u32 = 4;
/// A connect or a packet to a listener on this host that is outside of the cgroup.
pub const ACT_DELEGATION: u32 = 5;
/// A connect or a packet to a unix socket, whoever listens; a [`UnixAct`].
pub const ACT_UNIX: u32 = 6;
/// The actor was moved out of the cgroup, by whomever.
pub const ACT_MOVED: u32 = 7;
/// A [`Fork`].
pub const ACT_FORKED: u32 = 8;
/// An [`Exec`].
pub const ACT_EXECUTED: u32 = 9;
/// An [`Exit`].
pub const ACT_EXITED: u32 = 10;
/// An [`Ended`].
pub const ACT_ENDED: u32 = 11;

/// Where a record of any kind has it.
pub const KIND_OFFSET: usize = 28;

/// Index into `COUNTERS`: acts that found no room in the ring.
pub const COUNTER_LOST: u32 = 0;
/// Index into `COUNTERS`: packets that were dropped because they could not be parsed.
pub const COUNTER_UNPARSED: u32 = 1;
pub const COUNTERS: u32 = 2;

const _: () = {
    assert!(size_of::<Config>() == 264 && align_of::<Config>() == 8);
    assert!(size_of::<Offsets>() == 4 * Offsets::COUNT);
    assert!(size_of::<Entry>() == 8);
    assert!(size_of::<PortKey>() == 8);
    assert!(size_of::<OriginalKey>() == 16);
    assert!(size_of::<Endpoint>() == 24);
    assert!(size_of::<QueryKey>() == 8 && align_of::<QueryKey>() == 2);
    assert!(size_of::<Deed>() == 32);
    assert!(size_of::<SeenKey>() == 48 && align_of::<SeenKey>() == 8);
    assert!(size_of::<Directory>() == 32 && align_of::<Directory>() == 8);
    assert!(size_of::<Actor>() == 104 && align_of::<Actor>() == 8);
    assert!(size_of::<Act>() == 144 + ARGV_LEN && align_of::<Act>() == 8);
    assert!(offset_of!(Act, deed) + offset_of!(Deed, kind) == KIND_OFFSET);
    assert!(size_of::<Fork>() == 40 && offset_of!(Fork, kind) == KIND_OFFSET);
    assert!(size_of::<Exit>() == 40 && offset_of!(Exit, kind) == KIND_OFFSET);
    assert!(size_of::<Exec>() == 128 && offset_of!(Exec, kind) == KIND_OFFSET);
    assert!(size_of::<Connection>() == 56);
    assert!(size_of::<Traffic>() == 40);
    assert!(size_of::<Ended>() == 96 && align_of::<Ended>() == 8);
    assert!(offset_of!(Ended, deed) == offset_of!(Act, deed));
    assert!(size_of::<UnixName>() == 112 && align_of::<UnixName>() == 8);
    assert!(size_of::<UnixAct>() == size_of::<Act>() + size_of::<UnixName>());
};

/// Lets aya's map wrappers copy the types octet by octet.
#[cfg(feature = "user")]
mod user {
    use super::{Endpoint, Entry, OriginalKey, PortKey, QueryKey, SeenKey, Traffic};

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
    // SAFETY: as above.
    unsafe impl aya::Pod for Traffic {}
}
