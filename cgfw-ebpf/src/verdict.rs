//! The verdict on a destination: at most three look-ups, usually one.

use core::ptr::{NonNull, from_ref};

use aya_ebpf::bindings::BPF_ANY;
use aya_ebpf::helpers::generated::bpf_map_lookup_elem;
use aya_ebpf::maps::lpm_trie::Key;
use cgfw_common::{
    Address, BLOCK, Deed, Entry, InForce, PortKey, TRANSPORT_OTHER, TRANSPORT_TCP, TRANSPORT_UDP,
    protocol,
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
    /// [`ALLOW`] or [`BLOCK`]. `otherwise` has the last word where neither a pin nor a rule
    /// knows the address: it is told what the policy says of such ones.
    #[inline(always)]
    pub(crate) fn action(&self, otherwise: impl FnOnce(u32) -> u32) -> u32 {
        // Each by itself, because the verifier has less to walk where there is but one.
        if config!(live) == 0 {
            self.action_by(Only, otherwise)
        } else {
            self.action_by(InForce::from_bits(IN_FORCE.get()), otherwise)
        }
    }

    #[inline(always)]
    fn action_by(&self, generation: impl Generation, otherwise: impl FnOnce(u32) -> u32) -> u32 {
        let Some(entry) = generation.entry(&self.address) else {
            return otherwise(generation.unresolved());
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
}

/// A generation of the policy, of which all is that a verdict consists of.
trait Generation {
    /// What is known of an address.
    fn entry(&self, address: &Address) -> Option<Entry>;

    /// [`ALLOW`] or [`BLOCK`]: addresses of which nothing is known.
    fn unresolved(&self) -> u32;
}

/// The one of a policy that cannot change.
struct Only;

impl Generation for Only {
    #[inline(always)]
    fn entry(&self, address: &Address) -> Option<Entry> {
        // SAFETY: values of ADDRESSES are overwritten whole, 8 aligned octets.
        if let Some(entry) = unsafe { ADDRESSES.get(address) } {
            return Some(*entry);
        }
        if config!(networks) == 0 {
            return None;
        }
        NETWORKS.get(Key::new(128, *address)).copied()
    }

    #[inline(always)]
    fn unresolved(&self) -> u32 {
        config!(unresolved)
    }
}

impl Generation for InForce {
    #[inline(always)]
    fn entry(&self, address: &Address) -> Option<Entry> {
        look_up(&ADDRESSES_BY_SLOT, self.slot(), address)
            .or_else(|| look_up(&NETWORKS_BY_SLOT, self.slot(), &Key::new(128, *address)))
    }

    #[inline(always)]
    fn unresolved(&self) -> u32 {
        (*self).unresolved()
    }
}

/// What the map in `slot` has for `key`.
#[inline(always)]
fn look_up<K>(maps: &BySlot, slot: u32, key: &K) -> Option<Entry> {
    // SAFETY: a slot is a key of an array.
    let map = unsafe { bpf_map_lookup_elem(maps.as_ptr(), from_ref(&slot).cast()) };
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

/// Whether the address is loopback or unspecified, and so cannot leave the machine unless a
/// socket is bound to a device; then egress sees the device.
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
