//! What TCP connections carried, and how long it took to find out that nobody answers.
//!
//! Nothing is done for a packet: the kernel counts for itself, and its counts are read when the
//! last descriptor of a socket is closed (`inet_release`, net/ipv4/af_inet.c). It counts
//! nothing of the kind for UDP, nor in the same place for MPTCP.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::programs::SockContext;
use cgfw_common::{ACT_ENDED, COUNTER_LOST, Connection, Ended, Owner, SeenKey, Traffic, protocol};

use crate::emit::{count, now, put, read, read_word, to_number};
use crate::maps::{CONNECTIONS, TRAFFIC, config};
use crate::verdict::{ANY, Destination};

/// TCP_CLOSE, include/net/tcp_states.h.
const CLOSED: u32 = 7;

/// In nanoseconds: who waits so long for an answer is told of at once. What is refused by the
/// other end takes less, and is summed up: a child may ask for it in a loop.
const LONG: u64 = 100_000_000;

/// A connection is begun. Of a socket that tries again it is the last try that counts.
#[inline(always)]
pub(crate) fn begin(cookie: u64, owner: Owner, destination: &Destination, action: u32) {
    if !can_count() || destination.protocol != protocol::TCP {
        return;
    }
    let deed = destination.deed(ACT_ENDED, action);
    let connection = Connection {
        key: SeenKey { owner, deed },
        since: now(),
    };
    if CONNECTIONS.insert(cookie, connection, ANY).is_err() {
        count(COUNTER_LOST);
    }
}

/// A socket is gone, and with it the connection, if it had begun one, which is returned: what
/// a listener accepts has not. Who closes it last does not matter.
#[inline(always)]
pub(crate) fn end(ctx: &SockContext, cookie: u64) -> bool {
    if !can_count() {
        return false;
    }
    // SAFETY: of a socket that is gone nobody changes the entry.
    let Some(&Connection { key, since }) = (unsafe { CONNECTIONS.get(cookie) }) else {
        return false;
    };
    // It was there.
    let _ignored = CONNECTIONS.remove(cookie);
    let time = now();
    let traffic = traffic(ctx, since, time);
    if traffic.waited >= LONG || !add(&key, &traffic) {
        put(Ended {
            time,
            deed: key.deed,
            owner: key.owner,
            traffic,
        });
    }
    true
}

/// `SOCK_DONE` of `enum sock_flags`, include/net/sock.h: the other end has sent its FIN.
const DONE: u32 = 1;

/// What became of one connection, begun at `since`.
#[inline(always)]
fn traffic(ctx: &SockContext, since: u64, time: u64) -> Traffic {
    // The context of such a program is the `struct sock` itself (`__cgroup_bpf_run_filter_sk`,
    // kernel/bpf/cgroup.c), which is the `tcp_sock` from its start on.
    let socket = to_number(ctx.as_ptr());
    let acked = read_word(socket, config!(offsets.tcp_bytes_acked));
    if acked == 0 {
        // Not even the SYN.
        return Traffic {
            established: 0,
            sent: 0,
            received: 0,
            unanswered: 1,
            waited: end_of_wait(ctx, socket, time).saturating_sub(since),
        };
    }
    let (mut written, mut acked_up_to) = (0_u32, 0_u32);
    read(socket, config!(offsets.tcp_write_seq), &raw mut written);
    read(socket, config!(offsets.tcp_snd_una), &raw mut acked_up_to);
    // What waits to be sent is sent after this.
    let waiting = written.wrapping_sub(acked_up_to);
    // A FIN has a number of its own, which is counted as an octet (tcp_fin, net/ipv4/tcp_input.c).
    let flags = read_word(socket, config!(offsets.sock_flags));
    let fin = flags >> DONE & 1;
    Traffic {
        established: 1,
        sent: acked - 1 + u64::from(waiting),
        received: read_word(socket, config!(offsets.tcp_bytes_received)) - fin,
        unanswered: 0,
        waited: 0,
    }
}

/// Until when somebody waited. One who was refused at once may keep the socket for long: then
/// it was until the refusal arrived, the last packet there was.
#[inline(always)]
fn end_of_wait(ctx: &SockContext, socket: u64, time: u64) -> u64 {
    // SAFETY: the kernel hands a valid bpf_sock to the program.
    let sock = unsafe { &*ctx.sock };
    // SAFETY: a field of it; volatile, as all that the verifier translates.
    let state = unsafe { core::ptr::read_volatile(&raw const sock.state) };
    let mut retransmits = 0_u8;
    read(
        socket,
        config!(offsets.icsk_retransmits),
        &raw mut retransmits,
    );
    if state != CLOSED || retransmits != 0 {
        return time;
    }
    read_word(socket, config!(offsets.tcp_mstamp)) * 1000
}

/// Add to the sums of this CPU, which nobody else adds to; whether there was room.
#[inline(always)]
fn add(key: &SeenKey, traffic: &Traffic) -> bool {
    let Some(sums) = TRAFFIC.get_ptr_mut(key) else {
        return TRAFFIC.insert(key, traffic, ANY).is_ok();
    };
    // SAFETY: a map value, aligned to 8 and alive while the program runs.
    let sums = unsafe { &mut *sums };
    sums.established += traffic.established;
    sums.sent += traffic.sent;
    sums.received += traffic.received;
    sums.unanswered += traffic.unanswered;
    sums.waited += traffic.waited;
    true
}

/// A constant to the verifier, as whether processes can be read.
#[inline(always)]
fn can_count() -> bool {
    config!(offsets.tcp_bytes_acked) != 0
}
