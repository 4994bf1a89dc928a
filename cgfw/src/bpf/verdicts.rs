/*!
Verdicts on their way into the kernel.

What decides is a [`Generation`]: the verdicts of one policy on addresses and on networks. If
the policy can change, [`Generations`] makes the next one while the present one is in force,
and [`Verdicts::replace`] puts it in force, in one octet that every program reads once for
each verdict.
*/

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use aya::maps::MapData;
use aya::maps::lpm_trie::Key;
use aya_obj::generated::BPF_F_NO_PREALLOC;
use aya_obj::generated::bpf_map_type::{self, BPF_MAP_TYPE_HASH, BPF_MAP_TYPE_LPM_TRIE};
use cgfw_common::{
    ALLOW, Address, BLOCK, Entry, InForce, MAX_ADDRESSES, PORT_KEY_FIXED_BITS, PortKey,
    TRANSPORT_OTHER, TRANSPORT_TCP, TRANSPORT_UDP,
};
use ipnet::IpNet;

use super::memlock;
use super::syscall::{insert_all, put, put_map, take_map};
use crate::policy::{Action, Ports, Transport};

/// The maps that decide, from the side that writes them.
pub struct Verdicts {
    pub(super) current: Generation,
    pub(super) own: MapData,
    pub(super) profiles: Arc<Profiles>,
    pub(super) in_force: MapData,
}

/// The verdicts of one policy.
pub struct Generation {
    /// Index in the maps of maps.
    pub(super) slot: u32,
    pub(super) addresses: MapData,
    pub(super) networks: MapData,
}

/// Makes generations and does away with them, which takes its time: both wait for programs
/// that run to end.
pub struct Generations {
    pub(super) addresses: MapData,
    pub(super) networks: MapData,
    pub(super) profiles: Arc<Profiles>,
    /// The slot that no program looks into, unless it is taken.
    pub(super) free: Option<u32>,
}

impl Verdicts {
    /// Set the verdict on one address; when this returns, the next packet meets it.
    pub fn set_address(&mut self, address: IpAddr, ports: &Ports) -> io::Result<()> {
        self.current
            .set_addresses(&self.profiles, [(address, ports)])
    }

    /// Say that an address is the host's own: what listens there may be outside of the
    /// cgroup. Loopback need not be said.
    pub fn set_own(&mut self, address: IpAddr) -> io::Result<()> {
        insert_all(&self.own, &[octets(address)], &[1_u32]).map_err(explained)
    }

    /// Set the verdicts on networks, each of which holds where no longer one and no address
    /// inside has its own.
    pub fn set_networks(&mut self, networks: &[(IpNet, Ports)]) -> io::Result<()> {
        self.current.set_networks(&self.profiles, networks)
    }

    /// Put `next` in force with the verdicts on `addresses`, and `unresolved` on all others
    /// that its networks do not have. No program sees some of one generation and some of the
    /// other in one verdict.
    ///
    /// Returns the generation that is not in force now, for [`Generations::retire`]: `next`
    /// with the error if the kernel has no room, and then nothing has changed.
    pub fn replace<'a>(
        &mut self,
        mut next: Generation,
        addresses: impl IntoIterator<Item = (IpAddr, &'a Ports)>,
        unresolved: Action,
    ) -> (Generation, io::Result<()>) {
        let bits = InForce::new(next.slot, number(unresolved)).to_bits();
        let done = next
            .set_addresses(&self.profiles, addresses)
            .and_then(|()| put(&self.in_force, 0, &bits.to_ne_bytes()));
        if done.is_ok() {
            std::mem::swap(&mut self.current, &mut next);
        }
        (next, done)
    }
}

impl Generations {
    /// Make a generation with the verdicts on `networks`, and none on addresses yet. There can
    /// be one at a time: make the next when this one, or the one it replaced, has been retired.
    pub fn make(&mut self, networks: &[(IpNet, Ports)]) -> anyhow::Result<Generation> {
        let slot = self
            .free
            .context("a former policy could not be taken out of the kernel")?;
        let made = memlock::lifted(|| {
            let size = u32::try_from(networks.len())?.max(1);
            let mut made = Generation {
                slot,
                addresses: create::<Address>("ADDRESSES", BPF_MAP_TYPE_HASH, MAX_ADDRESSES)?,
                networks: create::<Key<Address>>("NETWORKS", BPF_MAP_TYPE_LPM_TRIE, size)?,
            };
            made.set_networks(&self.profiles, networks)?;
            put_map(&self.addresses, made.slot, &made.addresses)?;
            put_map(&self.networks, made.slot, &made.networks)?;
            Ok(made)
        })
        .context("cannot tell the kernel of a policy")?;
        self.free = None;
        Ok(made)
    }

    /// Do away with a generation that is not in force, or not any more.
    pub fn retire(&mut self, old: Generation) -> io::Result<()> {
        // First nothing but the wait for programs that go by it: without it their verdict would
        // be wrong, and before 6.8 the kernel frees at once what is taken out (CVE-2023-52447).
        put_map(&self.addresses, old.slot, &old.addresses)?;
        take_map(&self.addresses, old.slot)?;
        take_map(&self.networks, old.slot)?;
        self.free = Some(old.slot);
        Ok(())
    }
}

impl Generation {
    fn set_addresses<'a>(
        &mut self,
        profiles: &Profiles,
        addresses: impl IntoIterator<Item = (IpAddr, &'a Ports)>,
    ) -> io::Result<()> {
        let (mut keys, mut entries) = (Vec::new(), Vec::new());
        for (address, ports) in addresses {
            keys.push(octets(address));
            entries.push(profiles.entry(ports)?);
        }
        insert_all(&self.addresses, &keys, &entries).map_err(explained)
    }

    fn set_networks(&mut self, profiles: &Profiles, networks: &[(IpNet, Ports)]) -> io::Result<()> {
        let (mut keys, mut entries) = (Vec::new(), Vec::new());
        for (network, ports) in networks {
            let mapped_bits = if network.addr().is_ipv4() { 96 } else { 0 };
            let bits = mapped_bits + u32::from(network.prefix_len());
            keys.push(Key::new(bits, octets(network.addr())));
            entries.push(profiles.entry(ports)?);
        }
        insert_all(&self.networks, &keys, &entries).map_err(explained)
    }
}

/// A map of entries like the one of that name in the object.
fn create<K>(name: &str, kind: bpf_map_type, max_entries: u32) -> anyhow::Result<MapData> {
    let definition = aya_obj::Map::new_from_params(
        kind as u32,
        u32::try_from(size_of::<K>())?,
        u32::try_from(size_of::<Entry>())?,
        max_entries,
        BPF_F_NO_PREALLOC,
    );
    MapData::create(definition, name, None)
        .with_context(|| format!("cannot create the eBPF map {name}"))
}

/// Sets of ports that are in the kernel. There are as many as rules with ports have
/// combinations, not as many as addresses; they are never taken back, so that all generations
/// share them.
pub(super) struct Profiles {
    pub(super) ports: MapData,
    /// Their numbers, from 1 on.
    pub(super) numbers: Mutex<HashMap<Ports, u32>>,
}

impl Profiles {
    fn entry(&self, ports: &Ports) -> io::Result<Entry> {
        if let Some(action) = ports.uniform() {
            return Ok(Entry {
                action: number(action),
                profile: 0,
            });
        }
        let mut numbers = self.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(profile) = numbers.get(ports) {
            return Ok(Entry {
                action: 0,
                profile: *profile,
            });
        }
        let profile = u32::try_from(numbers.len() + 1).map_err(io::Error::other)?;
        self.add(profile, ports)?;
        numbers.insert(ports.clone(), profile);
        Ok(Entry { action: 0, profile })
    }

    fn add(&self, profile: u32, ports: &Ports) -> io::Result<()> {
        let (mut keys, mut verdicts) = (Vec::new(), Vec::new());
        for (transport, code) in [
            (Transport::Tcp, TRANSPORT_TCP),
            (Transport::Udp, TRANSPORT_UDP),
            (Transport::Other, TRANSPORT_OTHER),
        ] {
            for action in [Action::Allow, Action::Block] {
                for range in ports.ranges(transport, action) {
                    for (port, bits) in prefixes(range) {
                        let key = PortKey {
                            profile,
                            transport: code,
                            port_be: port.to_be(),
                        };
                        keys.push(Key::new(PORT_KEY_FIXED_BITS + bits, key));
                        verdicts.push(number(action));
                    }
                }
            }
        }
        insert_all(&self.ports, &keys, &verdicts).map_err(explained)
    }
}

/// Cover a range of ports with prefixes: pairs of first port and prefix length in bits.
fn prefixes(range: RangeInclusive<u16>) -> Vec<(u16, u32)> {
    let (mut low, high) = (u32::from(*range.start()), u32::from(*range.end()));
    let mut prefixes = Vec::new();
    while low <= high {
        // The largest block that starts at `low`, and then the largest that fits.
        let aligned = if low == 0 { 16 } else { low.trailing_zeros() };
        let size = aligned.min((high - low + 1).ilog2());
        prefixes.push((u16::try_from(low).unwrap_or(u16::MAX), 16 - size));
        low += 1 << size;
    }
    prefixes
}

fn number(action: Action) -> u32 {
    match action {
        Action::Allow => ALLOW,
        Action::Block => BLOCK,
    }
}

/// An address as the programs see it: v4-mapped, in network order.
pub(super) fn octets(address: IpAddr) -> Address {
    let octets = match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    };
    let word =
        |i: usize| u32::from_ne_bytes([octets[i], octets[i + 1], octets[i + 2], octets[i + 3]]);
    [word(0), word(4), word(8), word(12)]
}

/// The kernel's reason, with the one that users can meet explained.
fn explained(error: io::Error) -> io::Error {
    // A full hash map says E2BIG, a full prefix trie ENOSPC.
    if !matches!(error.raw_os_error(), Some(libc::E2BIG | libc::ENOSPC)) {
        return error;
    }
    io::Error::new(
        io::ErrorKind::StorageFull,
        "the kernel map of judged addresses is full; new names fail until the run ends",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_cover_a_range_exactly() {
        for range in [
            0..=65535,
            1..=65535,
            0..=65534,
            443..=443,
            1000..=2000,
            65535..=65535,
        ] {
            let prefixes = prefixes(range.clone());
            assert!(prefixes.len() <= 30, "{range:?} takes {prefixes:?}");
            for port in 0..=65535_u16 {
                let covering = prefixes
                    .iter()
                    .filter(|(first, bits)| u32::from(first ^ port) >> (16 - bits) == 0)
                    .count();
                assert_eq!(
                    covering,
                    usize::from(range.contains(&port)),
                    "{range:?} {port}"
                );
            }
        }
    }

    #[test]
    fn addresses_are_mapped_and_in_network_order() {
        let mapped = octets("192.0.2.1".parse().unwrap());
        assert_eq!(mapped, octets("::ffff:192.0.2.1".parse().unwrap()));
        assert_eq!(mapped[3].to_ne_bytes(), [192, 0, 2, 1]);
    }
}
