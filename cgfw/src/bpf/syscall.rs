//! bpf(2), where aya has no function for what is wanted.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};

use aya::Pod;
use aya::maps::{MapData, MapError};
use aya_obj::generated::{bpf_attr, bpf_cmd};

/// bpf(2).
pub(super) fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<i64> {
    // SAFETY: `attr` is as large as is said, and its pointers, which the callers set, are
    // valid for as long as the call takes.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command as libc::c_long,
            &raw mut *attr,
            size_of::<bpf_attr>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}

pub(super) fn zeroed_attr() -> bpf_attr {
    // SAFETY: a union of structures of integers; zero is the value of what is not set.
    unsafe { std::mem::zeroed() }
}

/// A descriptor as bpf(2) takes it; descriptors are never negative.
pub(super) fn raw(fd: RawFd) -> u32 {
    fd.cast_unsigned()
}

/// BPF_OBJ_NAME_LEN, with its final zero.
pub(super) fn short_name(name: &str) -> [libc::c_char; 16] {
    let mut short = [0; 16];
    for (to, from) in short[..15].iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    short
}

/// Create a map of maps that are like `inner`; they need not be as large (since 5.10).
pub(super) fn create_map_of_maps(
    name: &str,
    definition: &aya_obj::Map,
    inner: &MapData,
) -> Result<MapData, MapError> {
    let mut attr = zeroed_attr();
    attr.__bindgen_anon_1.map_type = definition.map_type();
    attr.__bindgen_anon_1.key_size = definition.key_size();
    attr.__bindgen_anon_1.value_size = definition.value_size();
    attr.__bindgen_anon_1.max_entries = definition.max_entries();
    attr.__bindgen_anon_1.inner_map_fd = fd_of(inner);
    attr.__bindgen_anon_1.map_name = short_name(name);
    let fd = bpf(bpf_cmd::BPF_MAP_CREATE, &mut attr)?;
    let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel just made this descriptor for us.
    MapData::from_fd(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Set what an array has at `index`; `value` is as long as its values are.
pub(super) fn put(map: &MapData, index: u32, value: &[u8]) -> io::Result<()> {
    let mut attr = zeroed_attr();
    attr.__bindgen_anon_2.map_fd = fd_of(map);
    attr.__bindgen_anon_2.key = (&raw const index) as u64;
    attr.__bindgen_anon_2.__bindgen_anon_1.value = value.as_ptr() as u64;
    bpf(bpf_cmd::BPF_MAP_UPDATE_ELEM, &mut attr).map(drop)
}

/// Put a map into a map of maps. When this returns, no program runs that ran before: the
/// kernel waits for an RCU grace period (`maybe_wait_bpf_programs`, kernel/bpf/syscall.c).
pub(super) fn put_map(outer: &MapData, index: u32, inner: &MapData) -> io::Result<()> {
    put(outer, index, &fd_of(inner).to_ne_bytes())
}

/// Take a map out of a map of maps.
pub(super) fn take_map(outer: &MapData, index: u32) -> io::Result<()> {
    let mut attr = zeroed_attr();
    attr.__bindgen_anon_2.map_fd = fd_of(outer);
    attr.__bindgen_anon_2.key = (&raw const index) as u64;
    bpf(bpf_cmd::BPF_MAP_DELETE_ELEM, &mut attr).map(drop)
}

/// Let nobody change a map: only then is what it holds constant to the verifier.
pub(super) fn freeze(map: &MapData) -> io::Result<()> {
    let mut attr = zeroed_attr();
    attr.__bindgen_anon_2.map_fd = fd_of(map);
    bpf(bpf_cmd::BPF_MAP_FREEZE, &mut attr).map(drop)
}

/// Set many entries. A call for each takes 1.4 times as long for a prefix trie and 1.8 times
/// for a hash map (200,000 networks: 0.37 s against 0.26 s).
pub(super) fn insert_all<K: Pod, V: Pod>(
    map: &MapData,
    keys: &[K],
    values: &[V],
) -> io::Result<()> {
    if keys.is_empty() {
        return Ok(());
    }
    let count = keys.len().min(values.len());
    let mut attr = zeroed_attr();
    attr.batch.map_fd = fd_of(map);
    attr.batch.keys = keys.as_ptr() as u64;
    attr.batch.values = values.as_ptr() as u64;
    attr.batch.count = u32::try_from(count).map_err(io::Error::other)?;
    match bpf(bpf_cmd::BPF_MAP_UPDATE_BATCH, &mut attr) {
        // Hash maps have it since 5.6, prefix tries since 5.13.
        Err(error) if error.raw_os_error() == Some(ENOTSUPP) => insert_each(map, keys, values),
        result => result.map(drop),
    }
}

fn insert_each<K: Pod, V: Pod>(map: &MapData, keys: &[K], values: &[V]) -> io::Result<()> {
    for (key, value) in keys.iter().zip(values) {
        let mut attr = zeroed_attr();
        attr.__bindgen_anon_2.map_fd = fd_of(map);
        attr.__bindgen_anon_2.key = std::ptr::from_ref(key) as u64;
        attr.__bindgen_anon_2.__bindgen_anon_1.value = std::ptr::from_ref(value) as u64;
        bpf(bpf_cmd::BPF_MAP_UPDATE_ELEM, &mut attr)?;
    }
    Ok(())
}

/// include/linux/errno.h: the kernel's own, which libc does not know.
const ENOTSUPP: i32 = 524;

fn fd_of(map: &MapData) -> u32 {
    raw(map.fd().as_fd().as_raw_fd())
}
