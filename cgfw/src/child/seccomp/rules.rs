//! What seccompiler does: comparing numbers and arguments of system calls.

use std::collections::BTreeMap;
use std::ffi::c_int;
use std::io;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch,
};

use super::{Condition, Refusal};

/// A program that returns `errno` for these, and allows everything else. It does not look at
/// the architecture.
pub(super) fn part(errno: c_int, refusals: &[&Refusal]) -> io::Result<Vec<libc::sock_filter>> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for refusal in refusals {
        // A call with no rule is one that always matches.
        let alternatives = rules.entry(refusal.call).or_default();
        if !refusal.conditions.is_empty() {
            alternatives.push(rule(&refusal.conditions).map_err(io::Error::other)?);
        }
    }
    let errno = SeccompAction::Errno(errno.cast_unsigned());
    let program = program(rules, errno.clone()).map_err(io::Error::other)?;
    // What seccompiler begins every program with, and the verdict of an empty one.
    let empty = program_of_nothing(errno).map_err(io::Error::other)?;
    let check = empty.split_last().map_or(&[][..], |(_, check)| check);
    let part = program
        .strip_prefix(check)
        .ok_or_else(|| io::Error::other("seccompiler does not begin with the architecture"))?;
    let copy = |from: &seccompiler::sock_filter| libc::sock_filter {
        code: from.code,
        jt: from.jt,
        jf: from.jf,
        k: from.k,
    };
    Ok(part.iter().map(copy).collect())
}

fn program_of_nothing(errno: SeccompAction) -> Result<BpfProgram, BackendError> {
    program(BTreeMap::new(), errno)
}

fn program(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    errno: SeccompAction,
) -> Result<BpfProgram, BackendError> {
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    SeccompFilter::new(rules, SeccompAction::Allow, errno, arch)?.try_into()
}

fn rule(conditions: &[Condition]) -> Result<SeccompRule, BackendError> {
    use SeccompCmpArgLen::{Dword, Qword};
    /// The types of sockets, without SOCK_CLOEXEC and SOCK_NONBLOCK; include/linux/net.h.
    const SOCK_TYPE_MASK: u64 = 0xf;
    let conditions = conditions
        .iter()
        .map(|condition| {
            let (argument, length, operator, value) = match *condition {
                Condition::Is(argument, value) => (argument, Dword, SeccompCmpOp::Eq, value),
                Condition::IsNot(argument, value) => (argument, Dword, SeccompCmpOp::Ne, value),
                Condition::IsKind(argument, value) => (
                    argument,
                    Dword,
                    SeccompCmpOp::MaskedEq(SOCK_TYPE_MASK),
                    value,
                ),
                Condition::Has(argument, bit) => (
                    argument,
                    Dword,
                    SeccompCmpOp::MaskedEq(bit.cast_unsigned().into()),
                    bit,
                ),
                Condition::IsGiven(argument) => (argument, Qword, SeccompCmpOp::Ne, 0),
            };
            SeccompCondition::new(argument, length, operator, value.cast_unsigned().into())
        })
        .collect::<Result<_, _>>()?;
    SeccompRule::new(conditions)
}
