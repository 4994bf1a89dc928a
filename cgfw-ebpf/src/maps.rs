//! Every map, and the constants that the loader sets.

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf};
use cgfw_common::{
    Address, COUNTERS as COUNTER_COUNT, Config, Endpoint, Entry, MAX_ADDRESSES, MAX_NETWORKS,
    MAX_OWN, MAX_PORT_STEPS, Offsets, OriginalKey, PortKey, QueryKey, RING_SIZE, SeenKey,
};

/// Set by the loader in the object, then frozen: constants to the verifier. The values
/// here block everything.
#[unsafe(no_mangle)]
pub(crate) static CONFIG: Config = Config {
    proxy_port: 0,
    unresolved: cgfw_common::BLOCK,
    networks: 0,
    audit: 0,
    vanish: 0,
    set_retval: 0,
    errno: 0,
    strict: 0,
    supervisor: 0,
    reserved: 0,
    offsets: Offsets::UNKNOWN,
    cgroup: 0,
};

/// One field of [`CONFIG`]. Volatile, because the compiler must not fold in the values
/// that the loader is going to replace.
macro_rules! config {
    ($($field:ident).+) => {{
        // SAFETY: a field of a static is valid and aligned; the map is frozen.
        let value = unsafe { core::ptr::read_volatile(&raw const $crate::maps::CONFIG.$($field).+) };
        value
    }};
}
pub(crate) use config;

/// Pins, and single addresses of rules. Never LRU: an evicted verdict is a wrong one.
#[map]
pub(crate) static ADDRESSES: HashMap<Address, Entry> =
    HashMap::with_max_entries(MAX_ADDRESSES, BPF_F_NO_PREALLOC);

/// CIDR rules, asked only where `ADDRESSES` is silent.
#[map]
pub(crate) static NETWORKS: LpmTrie<Address, Entry> =
    LpmTrie::with_max_entries(MAX_NETWORKS, BPF_F_NO_PREALLOC);

/// The host's own addresses, without loopback: what listens there may be somebody else.
#[map]
pub(crate) static OWN: HashMap<Address, u32> =
    HashMap::with_max_entries(MAX_OWN, BPF_F_NO_PREALLOC);

/// Verdicts of ports, for entries with a profile.
#[map]
pub(crate) static PORTS: LpmTrie<PortKey, u32> =
    LpmTrie::with_max_entries(MAX_PORT_STEPS, BPF_F_NO_PREALLOC);

/// Where redirected sockets had meant to go.
#[map]
pub(crate) static ORIGINALS: LruHashMap<OriginalKey, Endpoint> =
    LruHashMap::with_max_entries(4096, 0);

/// The same for each DNS message, for the proxy.
#[map]
pub(crate) static QUERIES: LruHashMap<QueryKey, Endpoint> = LruHashMap::with_max_entries(4096, 0);

/// What was reported already. Losing an entry costs a second report.
#[map]
pub(crate) static SEEN: LruHashMap<SeenKey, u64> = LruHashMap::with_max_entries(8192, 0);

#[map]
pub(crate) static ACTS: RingBuf = RingBuf::with_byte_size(RING_SIZE, 0);

/// Per CPU, so that only an interrupted increment can be lost.
#[map]
pub(crate) static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(COUNTER_COUNT, 0);
