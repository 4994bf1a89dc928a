/*
 * Send without pause until killed: UDP datagrams and TCP connection attempts to every
 * ADDRESS PORT given, each from a process in a session of its own. Prints "running"
 * once all have begun.
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

static void flood(const struct sockaddr_in *to, int type)
{
	for (;;) {
		int fd = socket(AF_INET, type | SOCK_NONBLOCK, 0);

		if (fd < 0)
			continue;
		if (type == SOCK_DGRAM)
			for (int i = 0; i < 64; i++)
				sendto(fd, "lab", 3, 0, (const void *)to, sizeof *to);
		else
			connect(fd, (const void *)to, sizeof *to);
		close(fd);
	}
}

int main(int argc, char **argv)
{
	static const int types[] = { SOCK_DGRAM, SOCK_STREAM };

	signal(SIGTERM, SIG_IGN);
	signal(SIGINT, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	for (int i = 1; i + 1 < argc; i += 2)
		for (int t = 0; t < 2; t++) {
			struct sockaddr_in to = { .sin_family = AF_INET };

			to.sin_port = htons(atoi(argv[i + 1]));
			if (!inet_aton(argv[i], &to.sin_addr))
				return 2;
			if (fork() == 0) {
				setsid();
				flood(&to, types[t]);
			}
		}
	puts("running");
	fflush(stdout);
	for (;;)
		pause();
}
