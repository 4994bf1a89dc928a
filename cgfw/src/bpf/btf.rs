/*!
Where the kernel keeps the members that the programs read, and the functions they attach to.

The layout of `task_struct` differs from kernel to kernel and is described in
/sys/kernel/btf/vmlinux (Documentation/bpf/btf.rst). A full parser takes longer than
everything else at start together, so this one reads no more than a few of the types.
*/

use cgfw_common::Offsets;

/// include/uapi/linux/btf.h
const MAGIC: u16 = 0xeb9f;
const HEADER: usize = 24;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_FUNC: u32 = 12;

/// The functions that programs attach to: those behind LSM hooks (include/linux/lsm_hook_defs.h)
/// and those that call the hooks (security/security.c).
const FUNCTIONS: [&str; 5] = [
    "bpf_lsm_unix_stream_connect",
    "bpf_lsm_unix_may_send",
    "bpf_lsm_file_receive",
    "security_unix_stream_connect",
    "security_unix_may_send",
];

/// The type ids of the functions that programs attach to, in a fixed order; 0 for one that the
/// kernel lacks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Functions(pub(super) [u32; FUNCTIONS.len()]);

impl Functions {
    /// The type id of a function.
    pub(super) fn id(&self, name: &str) -> Option<u32> {
        let at = FUNCTIONS.iter().position(|function| *function == name)?;
        Some(self.0[at]).filter(|id| *id != 0)
    }
}

/// What a kernel says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) offsets: Offsets,
    pub(super) functions: Functions,
}

/// Find the [`Layout`] in raw BTF; `None` if it is damaged or lacks one of the members.
pub(super) fn layout(raw: &[u8]) -> Option<Layout> {
    let btf = Btf::parse(raw)?;
    Some(Layout {
        offsets: offsets(&btf)?,
        functions: Functions(btf.ids(KIND_FUNC, FUNCTIONS)?),
    })
}

fn offsets(btf: &Btf<'_>) -> Option<Offsets> {
    let mut offsets = Offsets::UNKNOWN;
    tasks(btf, &mut offsets)?;
    files(btf, &mut offsets)?;
    cgroups(btf, &mut offsets)?;
    sockets(btf, &mut offsets)?;
    // Without these connections are not counted, and nothing else is amiss.
    let without = offsets;
    if connections(btf, &mut offsets).is_none() {
        offsets = without;
    }
    Some(offsets)
}

/// Who acts, how it ends, and what it executes.
fn tasks<'b>(btf: &'b Btf<'b>, to: &mut Offsets) -> Option<()> {
    let [task, mm, cred, fs, signal, binprm] = btf.structs([
        "task_struct",
        "mm_struct",
        "cred",
        "fs_struct",
        "signal_struct",
        "linux_binprm",
    ])?;
    to.task_pid = task.member(b"pid")?;
    to.mm_arg_start = mm.member(b"arg_start")?;
    // The programs read these pairs at once; no kernel has ever parted them.
    let are_pairs =
        task.member(b"tgid")? == to.task_pid + 4 && mm.member(b"arg_end")? == to.mm_arg_start + 8;
    to.task_real_parent = task.member(b"real_parent")?;
    to.task_group_leader = task.member(b"group_leader")?;
    to.task_start_boottime = task.member(b"start_boottime")?;
    to.task_mm = task.member(b"mm")?;
    to.task_cred = task.member(b"cred")?;
    to.task_comm = task.member(b"comm")?;
    to.task_cgroups = task.member(b"cgroups")?;
    to.task_self_exec_id = task.member(b"self_exec_id")?;
    to.task_exit_code = task.member(b"exit_code")?;
    to.task_signal = task.member(b"signal")?;
    to.task_fs = task.member(b"fs")?;
    to.fs_pwd = fs.member(b"pwd")?;
    to.signal_live = signal.member(b"live")?;
    to.signal_flags = signal.member(b"flags")?;
    to.signal_group_exit_code = signal.member(b"group_exit_code")?;
    to.cred_uid = cred.member(b"uid")?;
    to.mm_exe_file = mm.member(b"exe_file")?;
    to.binprm_filename = binprm.member(b"filename")?;
    to.binprm_interp = binprm.member(b"interp")?;
    are_pairs.then_some(())
}

/// Where files are.
fn files<'b>(btf: &'b Btf<'b>, to: &mut Offsets) -> Option<()> {
    let [file, dentry, qstr, hlist, inode, sb, mount, vfsmount] = btf.structs([
        "file",
        "dentry",
        "qstr",
        "hlist_bl_node",
        "inode",
        "super_block",
        "mount",
        "vfsmount",
    ])?;
    to.file_path = file.member(b"f_path")?;
    to.file_inode = file.member(b"f_inode")?;
    to.file_private = file.member(b"private_data")?;
    to.dentry_parent = dentry.member(b"d_parent")?;
    let dentry_name = dentry.member(b"d_name")? + qstr.member(b"name")?;
    to.dentry_hashed = dentry.member(b"d_hash")? + hlist.member(b"pprev")?;
    to.dentry_inode = dentry.member(b"d_inode")?;
    to.inode_ino = inode.member(b"i_ino")?;
    to.inode_generation = inode.member(b"i_generation")?;
    to.inode_sb = inode.member(b"i_sb")?;
    to.super_block_dev = sb.member(b"s_dev")?;
    to.super_block_magic = sb.member(b"s_magic")?;
    to.mount_parent = mount.member(b"mnt_parent")?;
    let mountpoint = mount.member(b"mnt_mountpoint")?;
    to.mount_mnt = mount.member(b"mnt")?;
    // These are read at once, too.
    let are_pairs = dentry_name == to.dentry_parent + 16 && mountpoint == to.mount_parent + 8;
    // What a mount is the root of comes first.
    (are_pairs && vfsmount.member(b"mnt_root")? == 0).then_some(())
}

/// Whose a process is.
fn cgroups<'b>(btf: &'b Btf<'b>, to: &mut Offsets) -> Option<()> {
    let [css_set, css, cgroup, kernfs] =
        btf.structs(["css_set", "cgroup_subsys_state", "cgroup", "kernfs_node"])?;
    to.css_set_cgroup = css_set.member(b"dfl_cgrp")?;
    to.cgroup_parent = css.member(b"parent")?;
    to.cgroup_kn = cgroup.member(b"kn")?;
    to.kernfs_id = kernfs.member(b"id")?;
    // A pointer to a cgroup's state is a pointer to the cgroup.
    (cgroup.member(b"self")? == 0).then_some(())
}

/// Who listens, and where.
fn sockets<'b>(btf: &'b Btf<'b>, to: &mut Offsets) -> Option<()> {
    let [sock, sock_addr, socket, unix, unix_address] = btf.structs([
        "sock",
        "bpf_sock_addr_kern",
        "socket",
        "unix_sock",
        "unix_address",
    ])?;
    to.sock_cgroup = sock.member(b"sk_cgrp_data")?;
    to.sock_protocol = sock.member(b"sk_protocol")?;
    to.socket_sk = socket.member(b"sk")?;
    to.unix_addr = unix.member(b"addr")?;
    to.unix_address_len = unix_address.member(b"len")?;
    to.unix_address_name = unix_address.member(b"name")?;
    to.sock_addr_uaddr = sock_addr.member(b"uaddr")?;
    to.sock_addr_uaddrlen = sock_addr.member(b"uaddrlen").unwrap_or(0);
    Some(())
}

/// What TCP connections carry.
fn connections<'b>(btf: &'b Btf<'b>, to: &mut Offsets) -> Option<()> {
    let [common, tcp, icsk] = btf.structs(["sock_common", "tcp_sock", "inet_connection_sock"])?;
    // What all sockets have in common comes first.
    to.sock_flags = common.member(b"skc_flags")?;
    to.tcp_bytes_acked = tcp.member(b"bytes_acked")?;
    to.tcp_bytes_received = tcp.member(b"bytes_received")?;
    to.tcp_write_seq = tcp.member(b"write_seq")?;
    to.tcp_snd_una = tcp.member(b"snd_una")?;
    to.tcp_mstamp = tcp.member(b"tcp_mstamp")?;
    to.icsk_retransmits = icsk.member(b"icsk_retransmits")?;
    Some(())
}

struct Btf<'b> {
    types: &'b [u8],
    strings: &'b [u8],
    /// Where each type starts in `types`, by id; id 0 is void.
    starts: Vec<u32>,
}

/// A structure or union, at `start` of the types.
struct Struct<'b> {
    btf: &'b Btf<'b>,
    start: usize,
}

impl<'b> Btf<'b> {
    fn parse(raw: &'b [u8]) -> Option<Self> {
        if u16::from_ne_bytes(raw.get(..2)?.try_into().ok()?) != MAGIC || raw.len() < HEADER {
            return None;
        }
        let section = |offset_at, length_at| {
            let from = index(word(raw, 4)?)?.checked_add(index(word(raw, offset_at)?)?)?;
            raw.get(from..from.checked_add(index(word(raw, length_at)?)?)?)
        };
        let types = section(8, 12)?;
        let strings = section(16, 20)?;
        let mut starts = Vec::with_capacity(types.len() / 32);
        starts.push(u32::MAX);
        let mut at = 0;
        while at < types.len() {
            starts.push(u32::try_from(at).ok()?);
            at += 12 + tail(word(types, at + 4)?)?;
        }
        Some(Self {
            types,
            strings,
            starts,
        })
    }

    /// The structures of these names.
    fn structs<const N: usize>(&'b self, names: [&str; N]) -> Option<[Struct<'b>; N]> {
        let mut structs = Vec::with_capacity(N);
        for id in self.ids(KIND_STRUCT, names)? {
            let id = index(id).filter(|id| *id != 0)?;
            let start = index(*self.starts.get(id)?)?;
            structs.push(Struct { btf: self, start });
        }
        structs.try_into().ok()
    }

    /// The ids of the types of one kind with these names; 0, which is void, for one that is
    /// not there. `None` if something is damaged.
    fn ids<const N: usize>(&self, wanted: u32, names: [&str; N]) -> Option<[u32; N]> {
        let mut found = [0; N];
        for (id, &start) in (0..).zip(&self.starts).skip(1) {
            let start = index(start)?;
            if kind(word(self.types, start + 4)?) != wanted {
                continue;
            }
            let name = word(self.types, start)?;
            for (wanted, found) in names.iter().zip(&mut found) {
                if *found == 0 && self.has_name(name, wanted.as_bytes()) {
                    *found = id;
                }
            }
        }
        Some(found)
    }

    fn has_name(&self, offset: u32, name: &[u8]) -> bool {
        index(offset)
            .and_then(|offset| self.strings.get(offset..))
            .and_then(|rest| rest.strip_prefix(name))
            .is_some_and(|rest| rest.first() == Some(&0))
    }

    /// Offset in octets of a member of the structure at `start`, also inside anonymous members.
    fn member(&self, start: usize, name: &[u8], depth: u32) -> Option<u32> {
        let info = word(self.types, start + 4)?;
        // With the kind flag the upper octet of an offset is the size of a bit field.
        let offset_mask = if info >> 31 == 1 {
            0x00ff_ffff
        } else {
            u32::MAX
        };
        for i in 0..index(info & 0xffff)? {
            let at = start + 12 + 12 * i;
            let member_name = word(self.types, at)?;
            let offset = (word(self.types, at + 8)? & offset_mask) / 8;
            if member_name != 0 {
                if self.has_name(member_name, name) {
                    return Some(offset);
                }
                continue;
            }
            let inner = index(*self.starts.get(index(word(self.types, at + 4)?)?)?)?;
            let is_compound =
                matches!(kind(word(self.types, inner + 4)?), KIND_STRUCT | KIND_UNION);
            if is_compound
                && depth > 0
                && let Some(deeper) = self.member(inner, name, depth - 1)
            {
                return Some(offset + deeper);
            }
        }
        None
    }
}

impl Struct<'_> {
    fn member(&self, name: &[u8]) -> Option<u32> {
        self.btf.member(self.start, name, 4)
    }
}

fn kind(info: u32) -> u32 {
    info >> 24 & 0x1f
}

/// Octets behind the common part of a type, by its kind; `None` for a kind from the future.
fn tail(info: u32) -> Option<usize> {
    let members = index(info & 0xffff)?;
    Some(match kind(info) {
        // INT, VAR and DECL_TAG.
        1 | 14 | 17 => 4,
        // ARRAY.
        3 => 12,
        // STRUCT, UNION, DATASEC and ENUM64.
        KIND_STRUCT | KIND_UNION | 15 | 19 => 12 * members,
        // ENUM and FUNC_PROTO.
        6 | 13 => 8 * members,
        // PTR, FWD, TYPEDEF, VOLATILE, CONST, RESTRICT, FUNC, FLOAT and TYPE_TAG.
        2 | 7..=12 | 16 | 18 => 0,
        _ => return None,
    })
}

fn word(raw: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(
        raw.get(at..at.checked_add(4)?)?.try_into().ok()?,
    ))
}

fn index(value: u32) -> Option<usize> {
    usize::try_from(value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Members are at known places where the kernel and this process agree on them.
    #[test]
    fn the_running_kernel_has_every_member() {
        let raw = match std::fs::read("/sys/kernel/btf/vmlinux") {
            Ok(raw) => raw,
            Err(error) => {
                println!("SKIP the_running_kernel_has_every_member: no BTF: {error}");
                return;
            }
        };
        let Layout {
            offsets: found,
            functions,
        } = layout(&raw).unwrap();
        let all = Offsets {
            // Missing before 6.7, and first in their structures.
            sock_addr_uaddrlen: 1,
            ..found
        };
        let all = all.to_array();
        assert!(
            all.iter().all(|offset| (1..32768).contains(offset)),
            "{found:?}"
        );
        assert!(found.task_start_boottime.is_multiple_of(8), "{found:?}");
        // A kernel may be built without some, but no two are one.
        let ids = functions.0.iter().filter(|id| **id != 0);
        let distinct: std::collections::BTreeSet<_> = ids.clone().collect();
        assert_eq!(distinct.len(), ids.count(), "{functions:?}");
    }

    #[test]
    fn damaged_btf_is_no_btf() {
        assert_eq!(layout(b""), None);
        assert_eq!(layout(&[0x9f, 0xeb, 1, 0]), None);
        let mut header = vec![0x9f, 0xeb, 1, 0, 24, 0, 0, 0];
        header.extend([0xff; 16]);
        assert_eq!(layout(&header), None);
    }
}
