//! The verdict on a destination: at most three look-ups, usually one.

use core::ffi::c_void;
use core::ptr::{NonNull, from_ref};

use aya_ebpf::bindings::BPF_ANY;
use aya_ebpf::helpers::generated::bpf_map_lookup_elem;
use aya_ebpf::maps::lpm_trie::Key;
use cgfw_common::{
    ALLOW, Address, BLOCK, Deed, Entry, InForce, PortKey, TRANSPORT_OTHER, TRANSPORT_TCP,
    TRANSPORT_UDP, protocol,
};

use crate::maps::{
    ADDRESSES, ADDRESSES_BY_SLOT, BySlot, IN_FORCE, NETWORKS, NETWORKS_BY_SLOT, OWN, PORTS, config,
};

pub(crate) const DNS_PORT: u16 = 53;

/// Where an act is directed.
#[derive(Clone, Copy)]
pub(crate) struct Destination {
    pub(crate) address: Address,
    pub(crate) port: u16,
    pub(crate) protocol: u16,
}

impl Destination {
    /// [`ALLOW`] or [`BLOCK`]; `unresolved` where neither a pin nor a rule knows the address.
    #[inline(always)]
    pub(crate) fn action(&self, generation: Generation, unresolved: u32) -> u32 {
        let Some(entry) = self.entry(generation) else {
            return unresolved;
        };
        if entry.profile == 0 {
            return entry.action;
        }
        let transport = match self.protocol {
            protocol::TCP | protocol::MPTCP => TRANSPORT_TCP,
            protocol::UDP | protocol::UDPLITE => TRANSPORT_UDP,
            _ => TRANSPORT_OTHER,
        };
        let port_be = if transport == TRANSPORT_OTHER {
            0
        } else {
            self.port.to_be()
        };
        let key = PortKey {
            profile: entry.profile,
            transport,
            port_be,
        };
        // A profile covers every port, so that a miss is damage: closed.
        PORTS.get(Key::new(64, key)).copied().unwrap_or(BLOCK)
    }

    /// An act directed here.
    #[inline(always)]
    pub(crate) fn deed(&self, kind: u32, action: u32) -> Deed {
        Deed {
            destination: self.address,
            kind,
            action,
            destination_port: self.port,
            protocol: self.protocol,
            source_port: 0,
            id: 0,
        }
    }

    #[inline(always)]
    fn entry(&self, generation: Generation) -> Option<Entry> {
        let addresses = generation.map(&ADDRESSES, &ADDRESSES_BY_SLOT);
        if let Some(entry) = look_up(addresses, &self.address) {
            return Some(entry);
        }
        if config!(networks) == 0 {
            return None;
        }
        let networks = generation.map(&NETWORKS, &NETWORKS_BY_SLOT);
        look_up(networks, &Key::new(128, self.address))
    }
}

/// The generation of the policy that is in force: to be asked for once, so that all that a
/// verdict consists of is of one generation.
#[derive(Clone, Copy)]
pub(crate) struct Generation {
    slot: u32,
    /// [`ALLOW`] or [`BLOCK`]: addresses with neither a pin nor a network.
    pub(crate) unresolved: u32,
}

impl Generation {
    #[inline(always)]
    pub(crate) fn in_force() -> Self {
        // The verifier has less to walk where this stays the constant that it is.
        if config!(live) == 0 {
            return Self {
                slot: 0,
                unresolved: config!(unresolved),
            };
        }
        let in_force = InForce::from_bits(IN_FORCE.get());
        Self {
            slot: in_force.slot(),
            unresolved: in_force.unresolved(),
        }
    }

    /// Its map: one of `by_slot`, or `only` where the policy cannot change.
    #[inline(always)]
    fn map<M>(self, only: &M, by_slot: &BySlot) -> *mut c_void {
        if config!(live) == 0 {
            return from_ref(only).cast_mut().cast();
        }
        // SAFETY: a slot is a key of an array.
        unsafe { bpf_map_lookup_elem(by_slot.as_ptr(), from_ref(&self.slot).cast()) }
    }
}

/// What a map of entries has for `key`.
#[inline(always)]
fn look_up<K>(map: *mut c_void, key: &K) -> Option<Entry> {
    if map.is_null() {
        // Never: the loader fills a slot before it is in force. Closed.
        return Some(Entry {
            action: BLOCK,
            profile: 0,
        });
    }
    // SAFETY: the verifier knows the map, and the size of its keys.
    let entry = unsafe { bpf_map_lookup_elem(map, from_ref(key).cast()) };
    // SAFETY: values are entries, overwritten whole, 8 aligned octets.
    NonNull::new(entry.cast::<Entry>()).map(|entry| unsafe { *entry.as_ptr() })
}

/// `ALLOW` for loopback and unspecified addresses, which cannot leave the machine
/// unless a socket is bound to a device, and then egress sees the device.
#[inline(always)]
pub(crate) fn unresolved(generation: Generation, address: &Address) -> u32 {
    if is_loopback(address) {
        return ALLOW;
    }
    generation.unresolved
}

#[inline(always)]
pub(crate) fn is_loopback(address: &Address) -> bool {
    let [a, b, c, d] = *address;
    if a != 0 || b != 0 {
        return false;
    }
    match u32::from_be(c) {
        0xffff => {
            let d = u32::from_be(d);
            d >> 24 == 127 || d == 0
        }
        0 => u32::from_be(d) <= 1,
        _ => false,
    }
}

/// Whether the address is one of this host, so that what listens there is on it, too.
#[inline(always)]
pub(crate) fn is_own(address: &Address) -> bool {
    // SAFETY: the value is not looked at.
    is_loopback(address) || unsafe { OWN.get(address) }.is_some()
}

/// 127.0.0.1, as an IPv4 word in network order.
pub(crate) const LOOPBACK4: u32 = 0x7f00_0001_u32.to_be();

/// ::1
pub(crate) const LOOPBACK6: Address = [0, 0, 0, 1_u32.to_be()];

/// The v4-mapped form of an IPv4 word in network order.
#[inline(always)]
pub(crate) const fn mapped(address: u32) -> Address {
    [0, 0, 0xffff_u32.to_be(), address]
}

#[inline(always)]
pub(crate) const fn is_mapped(address: &Address) -> bool {
    address[0] == 0 && address[1] == 0 && address[2] == 0xffff_u32.to_be()
}

/// Flags of a map update, as aya's wrappers take them.
pub(crate) const ANY: u64 = BPF_ANY as u64;
