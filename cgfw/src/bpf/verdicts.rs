//! Verdicts on their way into the kernel.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{MapData, MapError};
use cgfw_common::{
    ALLOW, Address, BLOCK, Entry, PORT_KEY_FIXED_BITS, PortKey, TRANSPORT_OTHER, TRANSPORT_TCP,
    TRANSPORT_UDP,
};
use ipnet::IpNet;

use crate::policy::{Action, Ports, Transport};

/// The maps that decide, from the side that writes them.
pub struct Verdicts {
    pub(super) addresses: aya::maps::HashMap<MapData, Address, Entry>,
    pub(super) networks: LpmTrie<MapData, Address, Entry>,
    pub(super) ports: LpmTrie<MapData, PortKey, u32>,
    pub(super) own: aya::maps::HashMap<MapData, Address, u32>,
    /// Sets of ports that are in the kernel, by their number. There are as many as
    /// rules with ports have combinations, not as many as addresses.
    pub(super) profiles: HashMap<Ports, u32>,
}

impl Verdicts {
    /// Set the verdict on one address; when this returns, the next packet meets it.
    pub fn set_address(&mut self, address: IpAddr, ports: &Ports) -> io::Result<()> {
        let entry = self.entry(ports)?;
        self.addresses
            .insert(octets(address), entry, 0)
            .map_err(io_error)
    }

    /// Say that an address is the host's own: what listens there may be outside of the
    /// cgroup. Loopback need not be said.
    pub fn set_own(&mut self, address: IpAddr) -> io::Result<()> {
        self.own.insert(octets(address), 1, 0).map_err(io_error)
    }

    /// Set the verdict on a network, which holds where no address inside has its own.
    pub fn set_network(&mut self, network: IpNet, ports: &Ports) -> io::Result<()> {
        let entry = self.entry(ports)?;
        let mapped_bits = if network.addr().is_ipv4() { 96 } else { 0 };
        let key = Key::new(
            mapped_bits + u32::from(network.prefix_len()),
            octets(network.addr()),
        );
        self.networks.insert(&key, entry, 0).map_err(io_error)
    }

    fn entry(&mut self, ports: &Ports) -> io::Result<Entry> {
        if let Some(action) = ports.uniform() {
            return Ok(Entry {
                action: number(action),
                profile: 0,
            });
        }
        let profile = match self.profiles.get(ports) {
            Some(profile) => *profile,
            None => self.add_profile(ports)?,
        };
        Ok(Entry { action: 0, profile })
    }

    fn add_profile(&mut self, ports: &Ports) -> io::Result<u32> {
        let profile = u32::try_from(self.profiles.len() + 1).map_err(io::Error::other)?;
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
                        self.ports
                            .insert(
                                &Key::new(PORT_KEY_FIXED_BITS + bits, key),
                                number(action),
                                0,
                            )
                            .map_err(io_error)?;
                    }
                }
            }
        }
        self.profiles.insert(ports.clone(), profile);
        Ok(profile)
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
fn io_error(error: MapError) -> io::Error {
    let MapError::SyscallError(error) = error else {
        return io::Error::other(error);
    };
    // A full hash map says E2BIG, a full prefix trie ENOSPC.
    if !matches!(
        error.io_error.raw_os_error(),
        Some(libc::E2BIG | libc::ENOSPC)
    ) {
        return error.io_error;
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
