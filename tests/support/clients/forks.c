/*
 * COUNT processes, AT_ONCE of them at a time, of which each connects once to ADDRESS PORT, or
 * to the unix socket PATH. Prints how many were refused, or found that nobody is there.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static union {
	struct sockaddr any;
	struct sockaddr_in in;
	struct sockaddr_un un;
} to;

static int is_refused(void)
{
	int fd = socket(to.any.sa_family, SOCK_STREAM, 0);
	socklen_t size = to.any.sa_family == AF_UNIX ? sizeof to.un : sizeof to.in;

	return fd >= 0 && connect(fd, &to.any, size) &&
	       (errno == ECONNREFUSED || errno == ENOENT);
}

int main(int argc, char **argv)
{
	int count, at_once, running = 0, refused = 0, status;

	if (argc == 4) {
		to.un.sun_family = AF_UNIX;
		strncpy(to.un.sun_path, argv[3], sizeof to.un.sun_path - 1);
	} else if (argc == 5 && inet_aton(argv[3], &to.in.sin_addr)) {
		to.in.sin_family = AF_INET;
		to.in.sin_port = htons(atoi(argv[4]));
	} else {
		return 2;
	}
	count = atoi(argv[1]);
	at_once = atoi(argv[2]);
	while (count > 0 || running > 0) {
		if (count > 0 && running < at_once) {
			pid_t child = fork();

			if (child == 0)
				_exit(!is_refused());
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
