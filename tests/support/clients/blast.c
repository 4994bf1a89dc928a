/* Send for SECONDS over one TCP connection to ADDRESS PORT; print the bytes sent. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static double now(void)
{
	struct timespec at;

	clock_gettime(CLOCK_MONOTONIC, &at);
	return at.tv_sec + at.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
	static char buffer[256 * 1024];
	struct sockaddr_in to = { .sin_family = AF_INET };
	long long sent = 0;
	double end;
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	if (argc != 4 || !inet_aton(argv[1], &to.sin_addr))
		return 2;
	to.sin_port = htons(atoi(argv[2]));
	if (connect(fd, (const void *)&to, sizeof to)) {
		perror("connect");
		return 1;
	}
	for (end = now() + atof(argv[3]); now() < end;) {
		ssize_t len = write(fd, buffer, sizeof buffer);

		if (len < 0)
			return 1;
		sent += len;
	}
	printf("%lld\n", sent);
	return 0;
}
