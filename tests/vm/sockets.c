/*
 * Unix sockets of a KIND (stream, seqpacket or dgram) with a PATH; one that starts with @ is
 * an abstract name.
 *
 *     sockets KIND serve PATH     say "hello" to whoever connects, print what is sent
 *     sockets KIND call PATH      connect and print what is said, or send "hello"
 *     sockets KIND pass PATH      connect and pass an internet socket and a file
 *     sockets KIND take PATH      say which of the two whoever connects has passed
 */
#include <fcntl.h>
#include <netinet/in.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static const char hello[] = "hello\n";

union descriptor {
	char space[CMSG_SPACE(sizeof(int))];
	struct cmsghdr aligned;
};

static int check(int result, const char *name)
{
	if (result < 0) {
		perror(name);
		exit(1);
	}
	return result;
}

static void print(int from)
{
	char text[64];
	int length = check(recv(from, text, sizeof text, 0), "recv");

	fwrite(text, 1, length, stdout);
	fflush(stdout);
}

static void serve(int sock, int kind)
{
	if (kind == SOCK_DGRAM) {
		for (;;)
			print(sock);
	}
	check(listen(sock, 8), "listen");
	for (;;) {
		int peer = check(accept(sock, NULL, NULL), "accept");

		send(peer, hello, strlen(hello), MSG_NOSIGNAL);
		close(peer);
	}
}

static void pass(int to, int fd)
{
	char octet = 0;
	struct iovec part = { &octet, 1 };
	union descriptor control = { 0 };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1,
				  .msg_control = &control, .msg_controllen = sizeof control };
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);

	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof fd);
	memcpy(CMSG_DATA(header), &fd, sizeof fd);
	check(sendmsg(to, &message, 0), "sendmsg");
}

static void take(int from, const char *what)
{
	char octet;
	struct iovec part = { &octet, 1 };
	union descriptor control;
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1,
				  .msg_control = &control, .msg_controllen = sizeof control };

	check(recvmsg(from, &message, 0), "recvmsg");
	printf("%s %s\n", what, CMSG_FIRSTHDR(&message) ? "taken" : "refused");
}

int main(int argc, char **argv)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	socklen_t length;
	int kind, sock;

	if (argc != 4 || strlen(argv[3]) >= sizeof address.sun_path) {
		fprintf(stderr, "usage: sockets KIND serve|call|pass|take PATH\n");
		return 2;
	}
	kind = !strcmp(argv[1], "dgram")     ? SOCK_DGRAM :
	       !strcmp(argv[1], "seqpacket") ? SOCK_SEQPACKET :
					       SOCK_STREAM;
	strcpy(address.sun_path, argv[3]);
	length = offsetof(struct sockaddr_un, sun_path) + strlen(argv[3]);
	if (address.sun_path[0] == '@')
		address.sun_path[0] = 0;
	sock = check(socket(AF_UNIX, kind, 0), "socket");
	if (!strcmp(argv[2], "serve") || !strcmp(argv[2], "take"))
		check(bind(sock, (struct sockaddr *)&address, length), "bind");
	else
		check(connect(sock, (struct sockaddr *)&address, length), "connect");
	if (!strcmp(argv[2], "serve")) {
		serve(sock, kind);
	} else if (!strcmp(argv[2], "call")) {
		if (kind == SOCK_DGRAM)
			check(send(sock, hello, strlen(hello), 0), "send");
		else
			print(sock);
	} else if (!strcmp(argv[2], "pass")) {
		pass(sock, check(socket(AF_INET, SOCK_DGRAM, 0), "socket"));
		pass(sock, check(open("/init", O_RDONLY), "open"));
	} else {
		int peer;

		check(listen(sock, 1), "listen");
		peer = check(accept(sock, NULL, NULL), "accept");
		take(peer, "socket");
		take(peer, "file");
	}
	return 0;
}
