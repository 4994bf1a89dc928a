/* Fetch http://NAME:PORT/ with nothing but the C library: for static musl. */
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *found, *at;
	char buffer[4096];
	ssize_t len;
	int error, fd = -1;

	if (argc != 3)
		return 2;
	error = getaddrinfo(argv[1], argv[2], &hints, &found);
	if (error) {
		fprintf(stderr, "getaddrinfo: %s\n", gai_strerror(error));
		return 3;
	}
	for (at = found; at; at = at->ai_next) {
		fd = socket(at->ai_family, at->ai_socktype, at->ai_protocol);
		if (fd >= 0 && connect(fd, at->ai_addr, at->ai_addrlen) == 0)
			break;
		error = errno;
	}
	if (!at) {
		fprintf(stderr, "connect: %s\n", strerror(error));
		return 4;
	}
	len = snprintf(buffer, sizeof buffer, "GET / HTTP/1.0\r\nHost: %s\r\n\r\n", argv[1]);
	if (write(fd, buffer, len) != len)
		return 5;
	while ((len = read(fd, buffer, sizeof buffer)) > 0)
		fwrite(buffer, 1, len, stdout);
	return 0;
}
