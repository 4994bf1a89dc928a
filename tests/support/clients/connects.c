/*
 * Connect without pause for SECONDS, from PROCESSES processes, turn by turn to ALLOWED and to
 * BLOCKED, each an ADDRESS PORT; BLOCKED port 0 is each of 8192 in turn. Nobody listens on
 * either, so that a connect that may leave is under way at first, and refused at once only if
 * it may not. Prints "ALLOWED BLOCKED WRONG UNANSWERED": how many of each there were, how many
 * were refused that must not be or the other way round, and of how many that were allowed no
 * answer came back, which is looked at for one in 256.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct sums {
	long allowed, blocked, wrong, unanswered;
};

static double now(void)
{
	struct timespec at;

	clock_gettime(CLOCK_MONOTONIC, &at);
	return at.tv_sec + at.tv_nsec / 1e9;
}

/* Whether it was under way, and answered by whoever closed the port. */
static void attempt(const struct sockaddr_in *to, int look, int *leaves, int *answered)
{
	struct linger abort = { .l_onoff = 1 };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);

	if (fd < 0) {
		perror("socket");
		exit(3);
	}
	setsockopt(fd, SOL_SOCKET, SO_LINGER, &abort, sizeof abort);
	*answered = 1;
	*leaves = connect(fd, (const void *)to, sizeof *to) == 0 || errno == EINPROGRESS;
	if (!*leaves && errno != ECONNREFUSED) {
		perror("connect");
		exit(4);
	}
	if (*leaves && look) {
		struct pollfd ready = { .fd = fd, .events = POLLOUT };

		*answered = poll(&ready, 1, 5000) == 1;
	}
	close(fd);
}

static void flood(const struct sockaddr_in *allowed, struct sockaddr_in blocked, double seconds,
		  struct sums *sums)
{
	int every = blocked.sin_port == 0, leaves, answered;
	unsigned int next = getpid();
	double end = now() + seconds;

	while (sums->allowed % 64 || now() < end) {
		attempt(allowed, sums->allowed % 256 == 0, &leaves, &answered);
		sums->allowed++;
		sums->wrong += !leaves;
		sums->unanswered += !answered;
		if (every)
			blocked.sin_port = htons(1024 + next++ % 8192);
		attempt(&blocked, 0, &leaves, &answered);
		sums->blocked++;
		sums->wrong += leaves;
	}
}

int main(int argc, char **argv)
{
	struct sockaddr_in to[2] = { { .sin_family = AF_INET }, { .sin_family = AF_INET } };
	int processes, failed = 0, status;
	struct sums *sums, all = { 0 };

	if (argc != 7)
		return 2;
	for (int i = 0; i < 2; i++) {
		if (!inet_aton(argv[3 + 2 * i], &to[i].sin_addr))
			return 2;
		to[i].sin_port = htons(atoi(argv[4 + 2 * i]));
	}
	processes = atoi(argv[2]);
	sums = mmap(NULL, processes * sizeof *sums, PROT_READ | PROT_WRITE,
		    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (sums == MAP_FAILED)
		return 2;
	for (int i = 0; i < processes; i++)
		if (fork() == 0) {
			flood(&to[0], to[1], atof(argv[1]), &sums[i]);
			_exit(0);
		}
	while (wait(&status) > 0)
		failed |= status;
	for (int i = 0; i < processes; i++) {
		all.allowed += sums[i].allowed;
		all.blocked += sums[i].blocked;
		all.wrong += sums[i].wrong;
		all.unanswered += sums[i].unanswered;
	}
	printf("%ld %ld %ld %ld\n", all.allowed, all.blocked, all.wrong, all.unanswered);
	return failed != 0;
}
