/*
 * Send TEXT to ADDRESS PORT with nothing but io_uring: socket, connect and send are
 * requests on the ring. KIND is tcp or udp; HOW is inline, async (a worker thread of the
 * kernel does it) or sqpoll (a thread of the kernel fetches the requests).
 */
#include <arpa/inet.h>
#include <linux/io_uring.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

static struct io_uring_params params;
static struct io_uring_sqe *requests;
static char *ring;
static int fd;

static unsigned *at(unsigned offset)
{
	return (unsigned *)(ring + offset);
}

/* Do one request and wait for its result. */
static int perform(const char *name, struct io_uring_sqe request)
{
	unsigned tail = *at(params.sq_off.tail), slot = tail & *at(params.sq_off.ring_mask);
	unsigned head = *at(params.cq_off.head);
	unsigned flags = IORING_ENTER_GETEVENTS;
	struct io_uring_cqe *done;

	requests[slot] = request;
	at(params.sq_off.array)[slot] = slot;
	__atomic_store_n(at(params.sq_off.tail), tail + 1, __ATOMIC_SEQ_CST);
	if (params.flags & IORING_SETUP_SQPOLL)
		flags |= IORING_ENTER_SQ_WAKEUP;
	if (syscall(SYS_io_uring_enter, fd, 1, 1, flags, NULL, 0) < 0) {
		perror("io_uring_enter");
		exit(1);
	}
	done = (struct io_uring_cqe *)(ring + params.cq_off.cqes) + (head & *at(params.cq_off.ring_mask));
	__atomic_store_n(at(params.cq_off.head), head + 1, __ATOMIC_SEQ_CST);
	if (done->res < 0) {
		fprintf(stderr, "%s: %s\n", name, strerror(-done->res));
		exit(1);
	}
	return done->res;
}

int main(int argc, char **argv)
{
	struct sockaddr_in to = { .sin_family = AF_INET };
	struct io_uring_sqe request = { 0 };
	size_t size;
	int type, flags, sock;

	if (argc != 6 || !inet_aton(argv[3], &to.sin_addr))
		return 2;
	type = strcmp(argv[1], "tcp") ? SOCK_DGRAM : SOCK_STREAM;
	flags = strcmp(argv[2], "async") ? 0 : IOSQE_ASYNC;
	params.flags = strcmp(argv[2], "sqpoll") ? 0 : IORING_SETUP_SQPOLL;
	to.sin_port = htons(atoi(argv[4]));
	fd = syscall(SYS_io_uring_setup, 8, &params);
	if (fd < 0) {
		perror("io_uring_setup");
		return 1;
	}
	/* One mapping holds both rings (IORING_FEAT_SINGLE_MMAP, 5.4). */
	size = params.cq_off.cqes + params.cq_entries * sizeof(struct io_uring_cqe);
	ring = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, IORING_OFF_SQ_RING);
	requests = mmap(NULL, params.sq_entries * sizeof *requests, PROT_READ | PROT_WRITE,
			MAP_SHARED, fd, IORING_OFF_SQES);
	if (ring == MAP_FAILED || requests == MAP_FAILED) {
		perror("mmap");
		return 1;
	}
	request.flags = flags;
	request.opcode = IORING_OP_SOCKET;
	request.fd = AF_INET;
	request.off = type;
	sock = perform("socket", request);
	request = (struct io_uring_sqe) {
		.flags = flags, .opcode = IORING_OP_CONNECT, .fd = sock,
		.addr = (uintptr_t)&to, .off = sizeof to,
	};
	perform("connect", request);
	request = (struct io_uring_sqe) {
		.flags = flags, .opcode = IORING_OP_SEND, .fd = sock,
		.addr = (uintptr_t)argv[5], .len = strlen(argv[5]),
	};
	perform("send", request);
	return 0;
}
