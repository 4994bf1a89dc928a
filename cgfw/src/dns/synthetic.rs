//! Addresses that stand for blocked names (`--on-block refuse` and `drop`).

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};

use crate::policy::Domain;

/// 198.18.0.0/15, set aside for benchmarks (RFC 2544): never a real server's.
const V4: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);
/// `100::/64`, the discard prefix (RFC 6666).
const V6: Ipv6Addr = Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 0);
/// The addresses of the v4 network, without its first and its last.
const MAX_NAMES: u32 = (1 << 17) - 2;

/// Hands out one v4 and one v6 address per name, the same ones for the whole run.
#[derive(Debug, Default)]
pub(super) struct Synthetic(Mutex<HashMap<Domain, u32>>);

impl Synthetic {
    /// The address of `name`; `None` once all are taken.
    pub(super) fn address(&self, name: &Domain, ipv6: bool) -> Option<IpAddr> {
        let number = self.number(name)?;
        Some(if ipv6 {
            Ipv6Addr::from_bits(V6.to_bits() + u128::from(number)).into()
        } else {
            Ipv4Addr::from_bits(V4.to_bits() + number).into()
        })
    }

    fn number(&self, name: &Domain) -> Option<u32> {
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(number) = names.get(name) {
            return Some(*number);
        }
        let number = u32::try_from(names.len()).ok()? + 1;
        if number > MAX_NAMES {
            return None;
        }
        names.insert(name.clone(), number);
        Some(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_its_own_addresses_until_all_are_taken() {
        let synthetic = Synthetic::default();
        let name = |n: u32| Domain::parse(&format!("n{n}.test")).unwrap();
        let first = synthetic.address(&name(1), false);
        assert_eq!(first, Some("198.18.0.1".parse().unwrap()));
        assert_eq!(
            synthetic.address(&name(1), true),
            Some("100::1".parse().unwrap())
        );
        assert_eq!(
            synthetic.address(&name(2), false),
            Some("198.18.0.2".parse().unwrap())
        );
        for n in 3..MAX_NAMES {
            synthetic.address(&name(n), false).unwrap();
        }
        let last = synthetic.address(&name(MAX_NAMES), false);
        assert_eq!(last, Some("198.19.255.254".parse().unwrap()));
        assert_eq!(synthetic.address(&name(MAX_NAMES + 1), false), None);
        assert_eq!(synthetic.address(&name(1), false), first);
    }
}
