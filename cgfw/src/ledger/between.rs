//! Which contacts are delegation although they go to another host: those with a proxy.

use std::sync::Arc;

use super::Destination;
use crate::event::{GoBetween, Host, Process, Sign};
use crate::policy::Domain;

/// The options of ssh(1) that take a value.
const OPTIONS_WITH_VALUE: &[u8] = b"BbcDEeFIiJLlmOopPQRSWw";

/// What names a jump host, as [`GoBetween::source`] does.
const JUMP: &str = "ssh -W";

/// Everything that is known to stand between the child and where it wants to go.
#[derive(Debug)]
pub(super) struct GoBetweens {
    known: Vec<(Sign, Arc<str>)>,
    jump: Arc<str>,
}

impl GoBetweens {
    pub(super) fn new(known: Vec<GoBetween>) -> Self {
        let known = known.into_iter();
        Self {
            known: known
                .map(|between| (between.sign, between.source.into()))
                .collect(),
            jump: JUMP.into(),
        }
    }

    /// Where the go-between is named that a contact was made with, if it was with one.
    /// `leads_there` says whether a name leads to the destination.
    pub(super) fn contacted(
        &self,
        process: Option<&Process>,
        destination: Destination,
        leads_there: impl Fn(&Domain) -> bool,
    ) -> Option<&Arc<str>> {
        let argv = process.map_or(&[][..], |process| &process.argv);
        let is_met = |sign: &Sign| match sign {
            Sign::Host { host, port } => {
                port.is_none_or(|port| port == destination.port)
                    && match host {
                        Host::Name(name) => leads_there(name),
                        Host::Address(ip) => ip.to_canonical() == destination.ip,
                    }
            }
            Sign::Command(words) => {
                words.len() == argv.len()
                    && words
                        .iter()
                        .zip(argv)
                        .all(|(word, arg)| word.as_ref().is_none_or(|word| word == arg))
            }
        };
        if is_jump(argv) {
            return Some(&self.jump);
        }
        let met = self.known.iter().find(|(sign, _)| is_met(sign));
        met.map(|(_, source)| source)
    }
}

/// Whether ssh was told to forward its input to a third host (`-W`): what it runs for
/// ProxyJump and `-J` itself, and what a ProxyCommand says.
fn is_jump(argv: &[Vec<u8>]) -> bool {
    let Some((program, args)) = argv.split_first() else {
        return false;
    };
    if program.rsplit(|octet| *octet == b'/').next() != Some(b"ssh") {
        return false;
    }
    let mut args = args.iter();
    let mut has_host = false;
    // Options may stand behind the host too, but not behind the remote command.
    while let Some(arg) = args.next() {
        let Some(letters) = arg.strip_prefix(b"-") else {
            if std::mem::replace(&mut has_host, true) {
                return false;
            }
            continue;
        };
        let Some(at) = letters.iter().position(|c| OPTIONS_WITH_VALUE.contains(c)) else {
            continue;
        };
        if letters[at] == b'W' {
            return true;
        }
        if at + 1 == letters.len() {
            // Its value is the next argument.
            args.next();
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jump_is_known_by_its_option_wherever_it_stands() {
        for (command, jump) in [
            ("ssh -W [target]:22 bastion", true),
            ("/usr/bin/ssh -v -W target:22 bastion", true),
            ("ssh -vW target:22 bastion", true),
            ("ssh -Wtarget:22 bastion", true),
            ("ssh bastion -W target:22", true),
            ("ssh -l me -p 2222 bastion -q -W target:22", true),
            ("ssh target", false),
            ("ssh -p 22 target gcc -Wall", false),
            ("ssh target ssh -W a:22 b", false),
            ("ssh -o -W target", false),
            ("gcc -Wall x.c", false),
            ("", false),
        ] {
            let argv: Vec<Vec<u8>> = command.split(' ').map(Into::into).collect();
            assert_eq!(is_jump(&argv), jump, "{command}");
        }
        assert!(!is_jump(&[]));
    }
}
