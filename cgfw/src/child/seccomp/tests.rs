use super::abi::ABIS;
use super::compile::{
    ALLOW, ERRNO, JUMP, JUMP_IF_AT_LEAST, JUMP_IF_EQUAL, KILL_PROCESS, LOAD, RETURN,
};
use super::{Filter, ordinary, strict};
use crate::child::Unix;

/// What the kernel does with a filter (seccomp(2)): the verdict on a call.
fn verdict(filter: &Filter, arch: u32, call: i64, arguments: [u64; 3]) -> u32 {
    const AND: u16 = 0x54;
    const JUMP_IF_GREATER: u16 = 0x25;
    let number = u32::try_from(call).unwrap();
    let mut data = vec![number, arch, 0, 0];
    for argument in arguments {
        let [a, b, c, d, high @ ..] = argument.to_le_bytes();
        data.extend([u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes(high)]);
    }
    data.resize(16, 0);
    let (mut at, mut value) = (0, 0);
    loop {
        let next = filter.0[at];
        let branch = |taken| usize::from(if taken { next.jt } else { next.jf });
        at += 1 + match next.code {
            LOAD => {
                value = data[next.k as usize / 4];
                0
            }
            AND => {
                value &= next.k;
                0
            }
            JUMP => next.k as usize,
            JUMP_IF_EQUAL => branch(value == next.k),
            JUMP_IF_AT_LEAST => branch(value >= next.k),
            JUMP_IF_GREATER => branch(value > next.k),
            RETURN => return next.k,
            other => panic!("an instruction that is not known here: {other:#x}"),
        };
    }
}

fn errno(number: i32) -> u32 {
    ERRNO | number.cast_unsigned()
}

const NATIVE: u32 = ABIS[0].arch;
const COMPAT: u32 = ABIS[1].arch;

#[test]
fn by_default_strange_families_are_refused_and_nothing_else() {
    let filter = ordinary().unwrap();
    for abi in ABIS {
        for &call in abi.socket.iter().chain(abi.socketpair) {
            for family in [1, 2, 10, 16, 38, 2 | 0xffff_ffff_0000_0000] {
                let verdict = verdict(&filter, abi.arch, call, [family, 1, 0]);
                assert_eq!(verdict, ALLOW, "{:#x} {call} {family}", abi.arch);
            }
            for family in [0, 3, 17, 21, 30, 31, 40, 43, 44, u64::from(u32::MAX)] {
                let verdict = verdict(&filter, abi.arch, call, [family, 1, 0]);
                assert_eq!(verdict, errno(libc::EAFNOSUPPORT), "{call} {family}");
            }
        }
        for &call in abi.io_uring_setup {
            assert_eq!(
                verdict(&filter, abi.arch, call, [0; 3]),
                errno(libc::ENOSYS)
            );
        }
        for &call in abi.request_key {
            assert_eq!(verdict(&filter, abi.arch, call, [1, 1, 0]), ALLOW);
            for callout in [1, 1 << 32] {
                let verdict = verdict(&filter, abi.arch, call, [1, 1, callout]);
                assert_eq!(verdict, errno(libc::EPERM));
            }
        }
        if let Some(call) = abi.socketcall {
            for act in 1..=20 {
                let expected = if act == 1 || act == 8 {
                    errno(libc::ENOSYS)
                } else {
                    ALLOW
                };
                assert_eq!(verdict(&filter, abi.arch, call, [act, 1, 0]), expected);
            }
        }
        let known: Vec<i64> = [
            abi.socket,
            abi.socketpair,
            abi.io_uring_setup,
            abi.request_key,
        ]
        .concat();
        for call in (0..600).filter(|call| !known.contains(call) && Some(*call) != abi.socketcall) {
            assert_eq!(verdict(&filter, abi.arch, call, [40; 3]), ALLOW, "{call}");
        }
    }
    assert_eq!(verdict(&filter, 1, 0, [0; 3]), KILL_PROCESS);
}

fn refused_unix() -> Unix {
    Unix::Refused {
        reason: "the kernel is too old".to_owned(),
    }
}

#[test]
fn strict_refuses_by_call_and_argument() {
    let filter = strict(&refused_unix()).unwrap();
    let call = |call, arguments| verdict(&filter, NATIVE, call, arguments);
    assert_eq!(call(libc::SYS_bpf, [0; 3]), errno(libc::EPERM));
    assert_eq!(call(libc::SYS_setns, [3, 0, 0]), errno(libc::EPERM));
    assert_eq!(call(libc::SYS_clone3, [0; 3]), errno(libc::ENOSYS));
    assert_eq!(call(libc::SYS_io_uring_setup, [0; 3]), errno(libc::ENOSYS));
    // As glibc forks, and makes threads.
    for flags in [0x0120_0011, 0x003d_0f00] {
        assert_eq!(call(libc::SYS_clone, [flags, 0, 0]), ALLOW);
    }
    for bit in [17, 25, 26, 27, 28, 29, 30] {
        for other in [0, 0x11] {
            let flags = 1 << bit | other;
            assert_eq!(call(libc::SYS_clone, [flags, 0, 0]), errno(libc::EPERM));
            assert_eq!(call(libc::SYS_unshare, [flags, 0, 0]), errno(libc::EPERM));
        }
    }
    assert_eq!(call(libc::SYS_unshare, [0x80, 0, 0]), errno(libc::EPERM));
    assert_eq!(call(libc::SYS_unshare, [0x400, 0, 0]), ALLOW);
    assert_eq!(call(libc::SYS_ioctl, [0, 0x5401, 0]), ALLOW);
    for request in [0x5412, 0x541c, 0xffff_ffff_0000_5412] {
        assert_eq!(call(libc::SYS_ioctl, [0, request, 0]), errno(libc::EPERM));
    }
    for number in [0, 1, 59, 60, 231] {
        assert_eq!(call(number, [0; 3]), ALLOW);
    }
}

#[test]
fn strict_knows_few_sockets() {
    let allowed = [
        [2, 1, 0],
        [2, 1 | 0o2_004_000, 6],
        [2, 2, 17],
        [2, 2, 1],
        [2, 1, 262],
        [10, 1, 0],
        [10, 2, 58],
        [16, 3, 0],
    ];
    let (family, protocol) = (errno(libc::EAFNOSUPPORT), errno(libc::EPROTONOSUPPORT));
    let refused = [
        ([2, 2, 136], protocol),
        ([10, 3, 255], protocol),
        ([2, 1, 256], protocol),
        ([2, 5, 132], protocol),
        ([16, 3, 6], protocol),
        ([16, 3, 12], protocol),
        ([17, 3, 0], family),
        ([40, 1, 0], family),
        ([38, 5, 0], family),
    ];
    let refused_pairs = [([2, 1, 0], family), ([40, 1, 0], family)];
    for unix in [refused_unix(), Unix::Judged] {
        let filter = strict(&unix).unwrap();
        let socket = |arguments| verdict(&filter, NATIVE, libc::SYS_socket, arguments);
        let pair = |arguments| verdict(&filter, NATIVE, libc::SYS_socketpair, arguments);
        for arguments in allowed {
            assert_eq!(socket(arguments), ALLOW, "{arguments:?}");
        }
        for (arguments, verdict) in refused {
            assert_eq!(socket(arguments), verdict, "{arguments:?}");
        }
        for (arguments, verdict) in refused_pairs {
            assert_eq!(pair(arguments), verdict, "{arguments:?}");
        }
        let of_unix = match unix {
            Unix::Refused { .. } => errno(libc::EACCES),
            Unix::Judged => ALLOW,
        };
        for kind in [1, 2, 5, 1 | 0o2_000_000] {
            assert_eq!(socket([1, kind, 0]), of_unix);
        }
        for kind in [1, 5, 1 | 0o2_000_000] {
            assert_eq!(pair([1, kind, 0]), ALLOW);
        }
        for kind in [2, 3, 2 | 0o2_000_000] {
            assert_eq!(pair([1, kind, 0]), of_unix);
        }
    }
}

#[test]
fn strict_runs_native_code_only() {
    let filter = strict(&Unix::Judged).unwrap();
    for arch in [COMPAT, 0, 1] {
        assert_eq!(verdict(&filter, arch, 1, [0; 3]), KILL_PROCESS);
    }
    #[cfg(target_arch = "x86_64")]
    for number in [0x4000_0000, 0x4000_0029, 0x4000_0209] {
        assert_eq!(
            verdict(&filter, NATIVE, number, [0; 3]),
            errno(libc::ENOSYS)
        );
    }
}
