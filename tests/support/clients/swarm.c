/*
 * swarm COUNT AT_ONCE SERVER ADDRESS PORT: COUNT processes that live for about a millisecond,
 * AT_ONCE of them at a time. Each works in a directory dN, which is there, executes this program
 * as `swarm N SERVER ADDRESS PORT`, and then one of four things happens, by N:
 *   0  it connects to ADDRESS PORT;
 *   1  it asks SERVER for nN.swarm.example, and does not wait for the answer;
 *   2  it opens a socket for questions, on which a copy of it asks for nN.swarm.example;
 *   3  a copy of a copy of it connects, when the first copy has ended.
 * Who acts says so: N, its process id, and those of its copies above it. Everybody ends with
 * the status N % 100.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define DIRECTORIES 16

static struct sockaddr_in server, address;

static void say(int number, const pid_t *copies, int count)
{
	char line[256];
	int length = sprintf(line, "%d %d", number, getpid());

	while (count > 0)
		length += sprintf(line + length, " %d", copies[--count]);
	line[length++] = '\n';
	if (write(1, line, length) != length)
		_exit(111);
}

static void ask(int fd, int number)
{
	unsigned char message[64] = { number >> 8, number, 1, 0, 0, 1 };
	int at = 12, length;

	length = sprintf((char *)message + at + 1, "n%d", number);
	message[at] = length;
	at += 1 + length;
	memcpy(message + at, "\5swarm\7example\0\0\1\0\1", 19);
	if (sendto(fd, message, at + 19, 0, (void *)&server, sizeof server) < 0)
		_exit(112);
}

static void dial(void)
{
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	if (!connect(fd, (void *)&address, sizeof address) || errno != ECONNREFUSED)
		_exit(113);
}

static int act(int number)
{
	pid_t copies[2] = { getpid(), 0 };
	int fd, gone[2], done[2], status;
	char octet;

	switch (number % 4) {
	case 0:
		dial();
		say(number, copies, 0);
		return number % 100;
	case 1:
		ask(socket(AF_INET, SOCK_DGRAM, 0), number);
		say(number, copies, 0);
		return number % 100;
	case 2:
		fd = socket(AF_INET, SOCK_DGRAM, 0);
		if (fork() == 0) {
			ask(fd, number);
			say(number, copies, 1);
			_exit(number % 100);
		}
		if (wait(&status) < 0)
			_exit(114);
		return WEXITSTATUS(status);
	default:
		if (pipe(gone) || pipe(done))
			_exit(115);
		if (fork() == 0) {
			copies[1] = getpid();
			if (fork() == 0) {
				close(gone[1]);
				if (read(gone[0], &octet, 1))
					_exit(116);
				dial();
				say(number, copies, 2);
			}
			/* The first copy ends here, and its ends of the pipes. */
			_exit(number % 100);
		}
		close(gone[1]);
		close(done[1]);
		if (wait(&status) < 0 || read(done[0], &octet, 1))
			_exit(117);
		return WEXITSTATUS(status);
	}
}

static void become(int number, char **argv)
{
	char text[16], directory[16];

	sprintf(text, "%d", number);
	sprintf(directory, "d%d", number % DIRECTORIES);
	if (chdir(directory))
		_exit(118);
	execlp("swarm", "swarm", text, argv[3], argv[4], argv[5], NULL);
	_exit(119);
}

int main(int argc, char **argv)
{
	int count, at_once, running = 0, number = 0, status, failed = 0;

	if (argc < 5)
		return 2;
	server.sin_family = address.sin_family = AF_INET;
	server.sin_port = htons(53);
	inet_aton(argv[argc - 3], &server.sin_addr);
	inet_aton(argv[argc - 2], &address.sin_addr);
	address.sin_port = htons(atoi(argv[argc - 1]));
	if (argc == 5)
		return act(atoi(argv[1]));
	count = atoi(argv[1]);
	at_once = atoi(argv[2]);
	while (number < count || running > 0) {
		if (number < count && running < at_once) {
			pid_t child = fork();

			if (child == 0)
				become(number, argv);
			if (child < 0)
				return 3;
			number++;
			running++;
			continue;
		}
		if (wait(&status) < 0)
			return 4;
		failed += WEXITSTATUS(status) > 100;
		running--;
	}
	/* The last answers, for which nobody waits, are under way. */
	sleep(1);
	return failed > 0;
}
