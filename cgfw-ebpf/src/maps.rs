//! Every map, and the constants that the loader sets.

use core::cell::UnsafeCell;
use core::ffi::c_void;

use aya_ebpf::bindings::bpf_map_type::BPF_MAP_TYPE_ARRAY_OF_MAPS;
use aya_ebpf::bindings::{BPF_F_NO_PREALLOC, bpf_map_def};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{
    CgroupArray, HashMap, LpmTrie, LruHashMap, PerCpuArray, PerCpuHashMap, ProgramArray, RingBuf,
};
use cgfw_common::{
    Address, BLOCK, COUNTERS as COUNTER_COUNT, Config, Connection, Endpoint, Entry, GENERATIONS,
    InForce, MAX_ADDRESSES, MAX_CONNECTIONS, MAX_OWN, MAX_PORT_STEPS, MAX_TRAFFIC, Offsets,
    OriginalKey, PortKey, QueryKey, RING_SIZE, SeenKey, Traffic,
};

use crate::process::Draft;

/// Set by the loader in the object, then frozen: constants to the verifier. The values
/// here block everything.
#[unsafe(no_mangle)]
pub(crate) static CONFIG: Config = Config {
    proxy_port: 0,
    unresolved: BLOCK,
    networks: 0,
    audit: 0,
    vanish: 0,
    set_retval: 0,
    errno: 0,
    strict: 0,
    supervisor: 0,
    live: 0,
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

/// What user space writes while the programs run. Not an atomic: LLVM cannot select a load of
/// one for the oldest instruction set.
#[repr(transparent)]
pub(crate) struct Written(UnsafeCell<u64>);

// SAFETY: read by `get` alone.
unsafe impl Sync for Written {}

impl Written {
    /// What is there now.
    #[inline(always)]
    pub(crate) fn get(&self) -> u64 {
        // SAFETY: valid and aligned; volatile, because the kernel writes it meanwhile.
        unsafe { core::ptr::read_volatile(self.0.get()) }
    }
}

/// An [`InForce`], if the policy can change: until the loader writes it, a slot with nothing in
/// it. The only variable of the object, because an update writes the whole section.
#[unsafe(no_mangle)]
pub(crate) static IN_FORCE: Written = Written(UnsafeCell::new(InForce::new(1, BLOCK).to_bits()));

/// A map of maps, of which aya-ebpf has none. The loader makes it, after the maps that it is for.
#[repr(transparent)]
pub(crate) struct BySlot(UnsafeCell<bpf_map_def>);

// SAFETY: nobody looks at the definition; to the programs it is an address.
unsafe impl Sync for BySlot {}

impl BySlot {
    const fn new() -> Self {
        Self(UnsafeCell::new(bpf_map_def {
            type_: BPF_MAP_TYPE_ARRAY_OF_MAPS,
            key_size: 4,
            value_size: 4,
            max_entries: GENERATIONS,
            map_flags: 0,
            id: 0,
            pinning: 0,
        }))
    }

    pub(crate) const fn as_ptr(&self) -> *mut c_void {
        self.0.get().cast()
    }
}

/// `ADDRESSES` of each generation, if the policy can change.
#[map]
pub(crate) static ADDRESSES_BY_SLOT: BySlot = BySlot::new();

/// `NETWORKS` likewise.
#[map]
pub(crate) static NETWORKS_BY_SLOT: BySlot = BySlot::new();

/// Pins, and single addresses of rules. Never LRU: an evicted verdict is a wrong one.
#[map]
pub(crate) static ADDRESSES: HashMap<Address, Entry> =
    HashMap::with_max_entries(MAX_ADDRESSES, BPF_F_NO_PREALLOC);

/// CIDR rules, asked only where `ADDRESSES` is silent. The loader makes it as large as needed.
#[map]
pub(crate) static NETWORKS: LpmTrie<Address, Entry> =
    LpmTrie::with_max_entries(1, BPF_F_NO_PREALLOC);

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

/// TCP connections under way. Never LRU: one that was forgotten would not be counted.
#[map]
pub(crate) static CONNECTIONS: HashMap<u64, Connection> =
    HashMap::with_max_entries(MAX_CONNECTIONS, BPF_F_NO_PREALLOC);

/// What became of those that have ended. Per CPU, so that only a sum that is interrupted can
/// miss something.
#[map]
pub(crate) static TRAFFIC: PerCpuHashMap<SeenKey, Traffic> =
    PerCpuHashMap::with_max_entries(MAX_TRAFFIC, BPF_F_NO_PREALLOC);

#[map]
pub(crate) static ACTS: RingBuf = RingBuf::with_byte_size(RING_SIZE, 0);

/// Per CPU, so that only an interrupted increment can be lost.
#[map]
pub(crate) static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(COUNTER_COUNT, 0);

/// The cgroup of the run, from when the programs are attached.
#[map]
pub(crate) static CGROUP: CgroupArray = CgroupArray::with_max_entries(1, 0);

/// What is executed on this CPU right now, while it is described.
#[map]
pub(crate) static DRAFT: PerCpuArray<Draft> = PerCpuArray::with_max_entries(1, 0);

/// The program that goes on with it, which the loader puts there.
#[map]
pub(crate) static WALK: ProgramArray = ProgramArray::with_max_entries(1, 0);
