/*!
Which BPF programs and maps a run has, and whether they are still there: bpf(2), by id.
*/

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::libc;

/// From the kernel's enum `bpf_attach_type`.
const CGROUP_ATTACH_TYPES: [u32; 13] = [
    0,  // inet_ingress
    1,  // inet_egress
    2,  // inet_sock_create
    10, // inet4_connect
    11, // inet6_connect
    14, // udp4_sendmsg
    15, // udp6_sendmsg
    19, // udp4_recvmsg
    20, // udp6_recvmsg
    29, // inet4_getpeername
    30, // inet6_getpeername
    34, // inet_sock_release
    43, // lsm_cgroup
];

const PROG_GET_NEXT_ID: libc::c_long = 11;
const PROG_GET_FD_BY_ID: libc::c_long = 13;
const MAP_GET_FD_BY_ID: libc::c_long = 14;
const OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const PROG_QUERY: libc::c_long = 16;
const ENABLE_STATS: libc::c_long = 32;

/// The objects of one run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Objects {
    pub programs: Vec<u32>,
    pub maps: Vec<u32>,
}

impl Objects {
    /// The programs attached to `cgroup` itself, and their maps.
    pub fn attached_to(cgroup: &Path) -> Self {
        let dir = File::open(cgroup).unwrap();
        let mut objects = Self::default();
        for attach_type in CGROUP_ATTACH_TYPES {
            objects.programs.extend(query(&dir, attach_type));
        }
        for program in &objects.programs {
            objects.maps.extend(maps_of(*program));
        }
        objects.maps.sort_unstable();
        objects.maps.dedup();
        objects
    }

    /// Those that still exist.
    pub fn alive(&self) -> Self {
        let alive = |ids: &[u32], command| -> Vec<u32> {
            ids.iter()
                .copied()
                .filter(|id| open(command, *id).is_some())
                .collect()
        };
        Self {
            programs: alive(&self.programs, PROG_GET_FD_BY_ID),
            maps: alive(&self.maps, MAP_GET_FD_BY_ID),
        }
    }
}

/// `union bpf_attr` for `BPF_PROG_QUERY`.
#[expect(clippy::struct_field_names, reason = "they are the kernel's names")]
#[repr(C)]
#[derive(Default)]
struct Query {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    reserved: u32,
}

fn query(cgroup: &File, attach_type: u32) -> Vec<u32> {
    let mut ids = [0_u32; 64];
    let mut attr = Query {
        target_fd: cgroup.as_raw_fd().cast_unsigned(),
        attach_type,
        prog_ids: ids.as_mut_ptr() as u64,
        prog_cnt: 64,
        ..Query::default()
    };
    match bpf(PROG_QUERY, &mut attr) {
        Ok(_) => ids[..attr.prog_cnt as usize].to_vec(),
        // This kernel has no such attach type.
        Err(Errno::EINVAL) => Vec::new(),
        Err(error) => panic!("cannot query attach type {attach_type}: {error}"),
    }
}

/// `union bpf_attr` for the commands that find an object by id.
#[repr(C)]
#[derive(Default)]
struct ById {
    id: u32,
    next_id: u32,
    open_flags: u32,
}

fn open(command: libc::c_long, id: u32) -> Option<OwnedFd> {
    let mut attr = ById {
        id,
        ..ById::default()
    };
    match bpf(command, &mut attr) {
        // SAFETY: the kernel has just made this descriptor for us.
        Ok(fd) => Some(unsafe { OwnedFd::from_raw_fd(fd) }),
        Err(Errno::ENOENT) => None,
        Err(error) => panic!("cannot look for bpf object {id}: {error}"),
    }
}

/// `union bpf_attr` for `BPF_OBJ_GET_INFO_BY_FD`.
#[repr(C)]
#[derive(Default)]
struct InfoByFd {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// The start of `struct bpf_prog_info`, as far as the times.
#[repr(C)]
#[derive(Default)]
struct ProgInfo {
    kind: u32,
    id: u32,
    tag: [u8; 8],
    jited_prog_len: u32,
    xlated_prog_len: u32,
    jited_prog_insns: u64,
    xlated_prog_insns: u64,
    load_time: u64,
    created_by_uid: u32,
    nr_map_ids: u32,
    map_ids: u64,
    name: [u8; 16],
    ifindex: u32,
    gpl_compatible: u32,
    netns: [u64; 2],
    counts: [u32; 2],
    jited: [u64; 2],
    btf_id: u32,
    func_info_rec_size: u32,
    func_info: u64,
    info_counts: [u32; 2],
    line_info: [u64; 2],
    rec_sizes: [u32; 3],
    nr_prog_tags: u32,
    prog_tags: u64,
    run_time_ns: u64,
    run_cnt: u64,
}

/// The kernel measures how long programs run, for as long as this is held.
pub struct Stopwatch {
    _held: OwnedFd,
}

impl Stopwatch {
    pub fn start() -> Self {
        // BPF_STATS_RUN_TIME
        let fd = bpf(ENABLE_STATS, &mut 0_u32).unwrap();
        Self {
            // SAFETY: the kernel has just made this descriptor for us.
            _held: unsafe { OwnedFd::from_raw_fd(fd) },
        }
    }

    /// How often programs of this name run meanwhile, and for how many nanoseconds each time.
    /// What they go on with by a tail call is theirs.
    #[expect(clippy::unused_self, reason = "nothing is measured without")]
    pub fn measure(&self, name: &str, act: impl FnOnce()) -> (u64, u64) {
        let before = run_times(name);
        act();
        let (mut count, mut time) = (0, 0);
        for (id, after) in run_times(name) {
            if let Some(before) = before.get(&id) {
                count += after.0 - before.0;
                time += after.1 - before.1;
            }
        }
        (count, time / count.max(1))
    }
}

/// How often the programs of this name have run, and for how many nanoseconds in all, by id.
fn run_times(name: &str) -> HashMap<u32, (u64, u64)> {
    let mut times = HashMap::new();
    let mut attr = ById::default();
    while bpf(PROG_GET_NEXT_ID, &mut attr).is_ok() {
        attr.id = attr.next_id;
        // It may have ended meanwhile.
        let Some(fd) = open(PROG_GET_FD_BY_ID, attr.id) else {
            continue;
        };
        let info = info(&fd, ProgInfo::default());
        // Names are cut to 15 octets.
        if info
            .name
            .starts_with(&name.as_bytes()[..name.len().min(15)])
        {
            times.insert(info.id, (info.run_cnt, info.run_time_ns));
        }
    }
    times
}

fn info(program: &OwnedFd, mut info: ProgInfo) -> ProgInfo {
    let mut attr = InfoByFd {
        bpf_fd: program.as_raw_fd().cast_unsigned(),
        info_len: u32::try_from(size_of::<ProgInfo>()).unwrap(),
        info: std::ptr::from_mut(&mut info) as u64,
    };
    bpf(OBJ_GET_INFO_BY_FD, &mut attr).unwrap();
    info
}

fn maps_of(program: u32) -> Vec<u32> {
    let Some(fd) = open(PROG_GET_FD_BY_ID, program) else {
        return Vec::new();
    };
    let mut ids = [0_u32; 64];
    let wanted = ProgInfo {
        nr_map_ids: 64,
        map_ids: ids.as_mut_ptr() as u64,
        ..ProgInfo::default()
    };
    let info = info(&fd, wanted);
    ids[..info.nr_map_ids as usize].to_vec()
}

fn bpf<T>(command: libc::c_long, attr: &mut T) -> nix::Result<i32> {
    let attr = std::ptr::from_mut(attr);
    // SAFETY: `attr` is a valid union bpf_attr for `command`, of the size given, and the
    // buffers that it points to outlive the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attr, size_of::<T>()) };
    Errno::result(result).map(|value| i32::try_from(value).unwrap())
}

/// `union bpf_attr` for `BPF_PROG_LOAD`, as far as it is needed.
#[repr(C)]
#[derive(Default)]
struct Load {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
}

/// `union bpf_attr` for `BPF_PROG_ATTACH`.
#[expect(clippy::struct_field_names, reason = "they are the kernel's names")]
#[repr(C)]
#[derive(Default)]
struct Attach {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
}

/// Attach an egress program that permits everything, and nobody else's below `cgroup`:
/// with flags of 0. It goes with the cgroup.
pub fn attach_exclusively(cgroup: &Path) {
    const CGROUP_SKB: u32 = 8;
    const INET_EGRESS: u32 = 1;
    // r0 = 1; exit
    let permit: [u64; 2] = [0x0000_0001_0000_00b7, 0x95];
    let mut load = Load {
        prog_type: CGROUP_SKB,
        insn_cnt: 2,
        insns: permit.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        expected_attach_type: INET_EGRESS,
        ..Load::default()
    };
    let program = bpf(5, &mut load).unwrap();
    // SAFETY: the kernel has just made this descriptor for us.
    let program = unsafe { OwnedFd::from_raw_fd(program) };
    let dir = File::open(cgroup).unwrap();
    let mut attach = Attach {
        target_fd: dir.as_raw_fd().cast_unsigned(),
        attach_bpf_fd: program.as_raw_fd().cast_unsigned(),
        attach_type: INET_EGRESS,
        attach_flags: 0,
    };
    bpf(8, &mut attach).unwrap();
}
