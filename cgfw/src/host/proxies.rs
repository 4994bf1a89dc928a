//! Proxies that the environment names.

use std::ffi::OsStr;
use std::fmt;

use crate::event::{GoBetween, Host, Sign};
use crate::policy::Domain;

/// In lower and upper case, as curl(1) and most others look for them.
const VARIABLES: [&str; 4] = ["http_proxy", "https_proxy", "all_proxy", "ftp_proxy"];

/// A variable of the environment that is set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyVariable {
    pub name: String,
    /// `None` if the value names no host, so that programs cannot use it either.
    pub go_between: Option<GoBetween>,
}

/// What it hides.
impl fmt::Display for ProxyVariable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} is set: names that are reached through that proxy cannot be seen",
            self.name
        )
    }
}

/// The proxies of the environment that cgfw and the child share.
pub fn proxies_in_environment() -> Vec<ProxyVariable> {
    VARIABLES
        .iter()
        .flat_map(|name| [(*name).to_owned(), name.to_ascii_uppercase()])
        .filter_map(|variable| {
            let value = std::env::var_os(&variable).filter(|value| !value.is_empty())?;
            Some(ProxyVariable {
                go_between: parse(&value).map(|sign| GoBetween {
                    sign,
                    source: variable.clone(),
                }),
                name: variable,
            })
        })
        .collect()
}

/// `[SCHEME://][USER[:PASSWORD]@]HOST[:PORT][/...]`. Without a port it is left open: the
/// default depends on the program.
fn parse(value: &OsStr) -> Option<Sign> {
    let value = value.to_str()?;
    let rest = value.split_once("://").map_or(value, |(_, rest)| rest);
    let authority = rest.split('/').next()?;
    let authority = authority
        .rsplit_once('@')
        .map_or(authority, |(_, host)| host);
    let (host, port) = match authority.strip_prefix('[') {
        Some(bracketed) => {
            let (host, port) = bracketed.split_once(']')?;
            (host, port.strip_prefix(':'))
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    let host = match host.parse() {
        Ok(address) => Host::Address(address),
        Err(_not_an_address) => Host::Name(Domain::parse(host).ok()?),
    };
    let port = match port {
        Some(port) => Some(port.parse().ok()?),
        None => None,
    };
    Some(Sign::Host { host, port })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_named_in_many_ways() {
        let name = |name: &str, port| {
            let host = Host::Name(Domain::parse(name).unwrap());
            Some(Sign::Host { host, port })
        };
        let address = |address: &str, port| {
            let host = Host::Address(address.parse().unwrap());
            Some(Sign::Host { host, port })
        };
        for (value, sign) in [
            (
                "http://proxy.example:3128",
                name("proxy.example", Some(3128)),
            ),
            (
                "http://proxy.example:3128/",
                name("proxy.example", Some(3128)),
            ),
            ("Proxy.example", name("proxy.example", None)),
            ("proxy:8080", name("proxy", Some(8080))),
            ("http://me:p@ss:w@proxy:8080/x", name("proxy", Some(8080))),
            ("socks5h://192.0.2.1:1080", address("192.0.2.1", Some(1080))),
            (
                "http://[2001:db8::1]:3128",
                address("2001:db8::1", Some(3128)),
            ),
            ("[2001:db8::1]", address("2001:db8::1", None)),
            ("http://", None),
            ("http://proxy:port", None),
            ("http://[::1", None),
            ("http://no such host:80", None),
        ] {
            assert_eq!(parse(OsStr::new(value)), sign, "{value}");
        }
    }
}
