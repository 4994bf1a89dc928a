/* Resolve NAME with c-ares, which has sockets and a retry of its own, and print it. */
#include <ares.h>
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
#include <sys/select.h>

static int outcome = 9;

static void answered(void *arg, int status, int timeouts, struct ares_addrinfo *result)
{
	char text[INET6_ADDRSTRLEN];

	(void)arg, (void)timeouts;
	outcome = status == ARES_SUCCESS ? 0 : 3;
	if (status != ARES_SUCCESS) {
		fprintf(stderr, "c-ares: %s\n", ares_strerror(status));
		return;
	}
	for (struct ares_addrinfo_node *node = result->nodes; node; node = node->ai_next) {
		void *address = node->ai_family == AF_INET
			? (void *)&((struct sockaddr_in *)node->ai_addr)->sin_addr
			: (void *)&((struct sockaddr_in6 *)node->ai_addr)->sin6_addr;
		puts(inet_ntop(node->ai_family, address, text, sizeof text));
	}
	ares_freeaddrinfo(result);
}

int main(int argc, char **argv)
{
	struct ares_addrinfo_hints hints = { .ai_family = AF_UNSPEC };
	ares_channel channel;

	if (argc != 2 || ares_library_init(ARES_LIB_INIT_ALL) || ares_init(&channel))
		return 2;
	ares_getaddrinfo(channel, argv[1], NULL, &hints, answered, NULL);
	for (;;) {
		fd_set readable, writable;
		struct timeval wait;
		int count;

		FD_ZERO(&readable);
		FD_ZERO(&writable);
		count = ares_fds(channel, &readable, &writable);
		if (count == 0)
			return outcome;
		select(count, &readable, &writable, NULL, ares_timeout(channel, NULL, &wait));
		ares_process(channel, &readable, &writable);
	}
}
