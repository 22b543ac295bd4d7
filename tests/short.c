/* SPDX-License-Identifier: MIT */
/*
 * Lives as briefly as a process can: sends one datagram of one byte, or starts one connect, and ends.
 *
 *   short udp|tcp V4ADDR PORT [EXTRA...]
 *
 * Ignores EXTRA arguments, which tell one such process from another. It prints nothing.
 *
 * Exit status: 0 when the call was made, and a connect started or refused; 1 when it failed; 2 for bad arguments.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { EXIT_USAGE = 2 };

static bool started(int fd, const struct sockaddr_in *to)
{
	return !connect(fd, (const struct sockaddr *)to, sizeof *to) || errno == EINPROGRESS ||
	       errno == ECONNREFUSED;
}

static bool sent(int fd, const struct sockaddr_in *to)
{
	return sendto(fd, "x", 1, 0, (const struct sockaddr *)to, sizeof *to) == 1;
}

int main(int argc, char **argv)
{
	struct sockaddr_in to = {.sin_family = AF_INET};
	bool tcp = argc > 1 && !strcmp(argv[1], "tcp");
	char *end;
	long port;
	int fd;

	if (argc < 4 || (!tcp && strcmp(argv[1], "udp")) || inet_pton(AF_INET, argv[2], &to.sin_addr) != 1)
		_exit(EXIT_USAGE);
	port = strtol(argv[3], &end, 10);
	if (end == argv[3] || *end || port < 0 || port > 65535)
		_exit(EXIT_USAGE);
	to.sin_port = htons(port);
	fd = socket(AF_INET, (tcp ? SOCK_STREAM : SOCK_DGRAM) | SOCK_NONBLOCK, 0);
	_exit(fd >= 0 && (tcp ? started : sent)(fd, &to) ? EXIT_SUCCESS : EXIT_FAILURE);
}
