//! What the child's own resolver is configured with: /etc/resolv.conf and /etc/hosts.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6};

use anyhow::Context as _;

use crate::policy::Domain;

/// The port of name servers (RFC 1035 section 4.2).
const DNS_PORT: u16 = 53;
/// As many as glibc asks: MAXNS, resolv.conf(5).
const MAX_SERVERS: usize = 3;

/// The resolver's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct System {
    /// The name servers in the order of preference, never none.
    pub servers: Vec<SocketAddr>,
    /// The suffixes that are tried behind a name.
    pub search: Vec<Domain>,
    /// The names of /etc/hosts with their addresses.
    pub hosts: Vec<(Domain, Vec<IpAddr>)>,
}

/// Read both files; one that does not exist counts as empty.
pub fn read() -> anyhow::Result<System> {
    let (servers, search) = parse_resolv_conf(&read_file("/etc/resolv.conf")?);
    let search = match search {
        Some(search) => search,
        None => local_domain(&read_file("/proc/sys/kernel/hostname")?)
            .into_iter()
            .collect(),
    };
    Ok(System {
        servers,
        search,
        hosts: parse_hosts(&read_file("/etc/hosts")?),
    })
}

/// The names of a hosts(5) file with their addresses.
///
/// As in libc, a line that makes no sense counts for nothing.
pub fn parse_hosts(text: &str) -> Vec<(Domain, Vec<IpAddr>)> {
    let mut hosts: BTreeMap<Domain, Vec<IpAddr>> = BTreeMap::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_whitespace();
        let Some(address) = words.next().and_then(parse_address) else {
            continue;
        };
        for name in words.filter_map(|word| Domain::parse(word).ok()) {
            let addresses = hosts.entry(name).or_default();
            if !addresses.contains(&address.ip()) {
                addresses.push(address.ip());
            }
        }
    }
    hosts.into_iter().collect()
}

/// Servers and search list of a resolv.conf(5); no search list if it does not say one.
///
/// By hand, because libc skips what it does not understand where the parsers that there
/// are reject the file, and a run must not fail on a file that the child can live with.
fn parse_resolv_conf(text: &str) -> (Vec<SocketAddr>, Option<Vec<Domain>>) {
    let mut servers = Vec::new();
    let mut search = None;
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => servers.extend(words.next().and_then(parse_address)),
            // The last line of either kind wins.
            Some("search") => search = Some(words.filter_map(parse_suffix).collect()),
            Some("domain") => search = Some(words.take(1).filter_map(parse_suffix).collect()),
            _ => {}
        }
    }
    servers.truncate(MAX_SERVERS);
    if servers.is_empty() {
        servers.push((Ipv4Addr::LOCALHOST, DNS_PORT).into());
    }
    (servers, search)
}

/// A suffix of the search list; the root adds nothing to a name.
fn parse_suffix(word: &str) -> Option<Domain> {
    Domain::parse(word).ok()
}

/// The search list where resolv.conf says none: what follows the first dot of the hostname.
fn local_domain(hostname: &str) -> Option<Domain> {
    let (_, domain) = hostname.trim().split_once('.')?;
    Domain::parse(domain).ok()
}

/// An address, perhaps with a scope: `fe80::1%eth0` (RFC 4007 section 11).
fn parse_address(word: &str) -> Option<SocketAddr> {
    let Some((address, scope)) = word.split_once('%') else {
        let address: IpAddr = word.parse().ok()?;
        return Some((address, DNS_PORT).into());
    };
    let scope = match scope.parse() {
        Ok(index) => index,
        Err(_not_a_number) => nix::net::if_::if_nametoindex(scope).ok()?,
    };
    Some(SocketAddrV6::new(address.parse().ok()?, DNS_PORT, 0, scope).into())
}

fn read_file(path: &str) -> anyhow::Result<String> {
    match fs::read(path) {
        // A comment may be in any encoding.
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(error).with_context(|| format!("cannot read {path}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain(text: &str) -> Domain {
        Domain::parse(text).unwrap()
    }

    #[test]
    fn resolv_conf_is_read_as_libc_reads_it() {
        let localhost = &["127.0.0.1:53"][..];
        for (text, servers, search) in [
            ("", localhost, None),
            ("# nameserver 192.0.2.1\n; comment\n", localhost, None),
            ("nameserver 192.0.2.1\n", &["192.0.2.1:53"], None),
            (
                "nameserver\t192.0.2.1 # one\nnameserver 2001:db8::1\n",
                &["192.0.2.1:53", "[2001:db8::1]:53"],
                None,
            ),
            ("nameserver fe80::1%lo\n", &["[fe80::1%1]:53"], None),
            ("nameserver fe80::1%7\n", &["[fe80::1%7]:53"], None),
            (
                "nameserver bogus\noptions edns0 never-heard-of\nnonsense\nnameserver 192.0.2.9",
                &["192.0.2.9:53"],
                None,
            ),
            (
                "nameserver 192.0.2.1\nnameserver 192.0.2.2\nnameserver 192.0.2.3\nnameserver 192.0.2.4\n",
                &["192.0.2.1:53", "192.0.2.2:53", "192.0.2.3:53"],
                None,
            ),
            (
                "search a.test b.test.\n",
                localhost,
                Some(&["a.test", "b.test"][..]),
            ),
            (
                "search a.test\ndomain c.test d.test\n",
                localhost,
                Some(&["c.test"]),
            ),
            ("search .\n", localhost, Some(&[])),
        ] {
            let (found, suffixes) = parse_resolv_conf(text);
            let found: Vec<String> = found.iter().map(ToString::to_string).collect();
            assert_eq!(found, servers, "{text:?}");
            let expected = search.map(|names| names.iter().map(|name| domain(name)).collect());
            assert_eq!(suffixes, expected, "{text:?}");
        }
    }

    #[test]
    fn the_local_domain_follows_the_first_dot_of_the_hostname() {
        assert_eq!(local_domain("host.corp.test\n"), Some(domain("corp.test")));
        assert_eq!(local_domain("host\n"), None);
    }

    #[test]
    fn hosts_files_give_every_name_with_all_of_its_addresses() {
        let text = "127.0.0.1 localhost\n\
                    ::1\tlocalhost ip6-localhost # names\n\
                    # 192.0.2.66 commented.test\n\
                    192.0.2.1   GitHub.com www.github.com\n\
                    192.0.2.2 github.com github.com\n\
                    192.0.2.1 github.com\n\
                    nonsense here.test\n\
                    fe80::1%lo scoped.test\n\
                    192.0.2.3";
        let hosts: Vec<(String, Vec<String>)> = parse_hosts(text)
            .into_iter()
            .map(|(name, addresses)| {
                let addresses = addresses.iter().map(ToString::to_string).collect();
                (name.to_string(), addresses)
            })
            .collect();
        let mut expected = vec![
            ("github.com", vec!["192.0.2.1", "192.0.2.2"]),
            ("ip6-localhost", vec!["::1"]),
            ("localhost", vec!["127.0.0.1", "::1"]),
            ("scoped.test", vec!["fe80::1"]),
            ("www.github.com", vec!["192.0.2.1"]),
        ];
        let mut hosts = hosts;
        hosts.sort();
        expected.sort();
        let expected: Vec<(String, Vec<String>)> = expected
            .into_iter()
            .map(|(name, addresses)| {
                (
                    name.to_owned(),
                    addresses.into_iter().map(str::to_owned).collect(),
                )
            })
            .collect();
        assert_eq!(hosts, expected);
    }
}
