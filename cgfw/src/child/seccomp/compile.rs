//! From tables to a program. seccompiler makes the parts, each for one errno and one
//! architecture; here they are put together.

use std::collections::BTreeMap;
use std::io;

use super::{Filter, Refusal, rules};

// Instructions and return values, include/uapi/linux/{bpf_common,filter,seccomp}.h
pub(super) const LOAD: u16 = 0x20;
pub(super) const JUMP: u16 = 0x05;
pub(super) const JUMP_IF_EQUAL: u16 = 0x15;
pub(super) const JUMP_IF_AT_LEAST: u16 = 0x35;
pub(super) const RETURN: u16 = 0x06;
pub(super) const ALLOW: u32 = 0x7fff_0000;
pub(super) const KILL_PROCESS: u32 = 0x8000_0000;
pub(super) const ERRNO: u32 = 0x0005_0000;
// Where `struct seccomp_data` has them.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;

/// What one kind of machine code is refused.
pub(super) struct Machine {
    /// AUDIT_ARCH_*
    pub(super) arch: u32,
    /// Calls from this number on do not exist.
    pub(super) end: Option<u32>,
    pub(super) refusals: Vec<Refusal>,
}

/// One program for several kinds of machine code. A process that uses another is killed.
pub(super) fn compile(machines: &[Machine]) -> io::Result<Filter> {
    if machines.is_empty() {
        return Err(unsupported());
    }
    let mut program = vec![instruction(LOAD, 0, 0, ARCH)];
    for machine in machines {
        let body = body(machine)?;
        program.push(instruction(JUMP_IF_EQUAL, 1, 0, machine.arch));
        program.push(jump(body.len())?);
        program.extend(body);
    }
    program.push(instruction(RETURN, 0, 0, KILL_PROCESS));
    Ok(Filter(program))
}

pub(super) fn unsupported() -> io::Error {
    io::Error::new(
        io::ErrorKind::Unsupported,
        format!("there is no seccomp filter for {}", std::env::consts::ARCH),
    )
}

/// A part for each errno, one behind the other: where one would allow, the next begins.
fn body(machine: &Machine) -> io::Result<Vec<libc::sock_filter>> {
    let mut parts: BTreeMap<_, Vec<&Refusal>> = BTreeMap::new();
    for refusal in &machine.refusals {
        parts.entry(refusal.errno).or_default().push(refusal);
    }
    let mut body = Vec::new();
    if let Some(end) = machine.end {
        body.push(instruction(LOAD, 0, 0, NUMBER));
        body.push(instruction(JUMP_IF_AT_LEAST, 0, 1, end));
        body.push(instruction(
            RETURN,
            0,
            0,
            ERRNO | libc::ENOSYS.cast_unsigned(),
        ));
    }
    for (errno, refusals) in parts {
        let mut part = rules::part(errno, &refusals)?;
        let end = part.len();
        for (at, next) in part.iter_mut().enumerate() {
            if next.code == RETURN && next.k == ALLOW {
                *next = jump(end - at - 1)?;
            }
        }
        body.extend(part);
    }
    body.push(instruction(RETURN, 0, 0, ALLOW));
    Ok(body)
}

/// Over as many instructions.
fn jump(distance: usize) -> io::Result<libc::sock_filter> {
    let distance = u32::try_from(distance).map_err(io::Error::other)?;
    Ok(instruction(JUMP, 0, 0, distance))
}

fn instruction(code: u16, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter { code, jt, jf, k }
}
