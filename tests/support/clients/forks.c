/*
 * COUNT processes, AT_ONCE of them at a time, of which each connects once to ADDRESS PORT.
 * Prints how many were refused.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static int is_refused(const struct sockaddr_in *to)
{
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	return fd >= 0 && connect(fd, (const void *)to, sizeof *to) && errno == ECONNREFUSED;
}

int main(int argc, char **argv)
{
	struct sockaddr_in to = { .sin_family = AF_INET };
	int count, at_once, running = 0, refused = 0, status;

	if (argc != 5 || !inet_aton(argv[3], &to.sin_addr))
		return 2;
	to.sin_port = htons(atoi(argv[4]));
	count = atoi(argv[1]);
	at_once = atoi(argv[2]);
	while (count > 0 || running > 0) {
		if (count > 0 && running < at_once) {
			pid_t child = fork();

			if (child == 0)
				_exit(!is_refused(&to));
			if (child < 0) {
				perror("fork");
				return 3;
			}
			count--;
			running++;
			continue;
		}
		if (wait(&status) < 0)
			return 4;
		running--;
		refused += status == 0;
	}
	printf("%d\n", refused);
	return 0;
}
