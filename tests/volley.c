/* SPDX-License-Identifier: MIT */
/*
 * Lives for one volley: sends COUNT empty datagrams from one socket and ends, as `tests.soak` has it do all day.
 *
 *   volley FIRST COUNT PORT OTHER EVERY
 *
 * Datagram number n, from FIRST on, goes to address 198.18.0.0 + n mod 65,536; to port OTHER where EVERY divides n,
 * else to PORT. It prints nothing.
 *
 * Exit status: 0 when the kernel took them all; 1 when it did not; 2 for bad arguments.
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/socket.h>

enum { EXIT_USAGE = 2, NETWORK = 198 << 24 | 18 << 16, ADDRESSES = 1 << 16 };

int main(int argc, char **argv)
{
	struct sockaddr_in to = {.sin_family = AF_INET};
	unsigned long first, count, port, other, every, n;
	int fd;

	if (argc != 6)
		return EXIT_USAGE;
	first = strtoul(argv[1], NULL, 10);
	count = strtoul(argv[2], NULL, 10);
	port = strtoul(argv[3], NULL, 10);
	other = strtoul(argv[4], NULL, 10);
	every = strtoul(argv[5], NULL, 10);
	if (!count || !port || port > 65535 || !other || other > 65535 || !every)
		return EXIT_USAGE;
	fd = socket(AF_INET, SOCK_DGRAM, 0);
	for (n = first; n < first + count; n++) {
		to.sin_addr.s_addr = htonl((unsigned)NETWORK + n % ADDRESSES);
		to.sin_port = htons(n % every ? port : other);
		if (sendto(fd, "", 0, 0, (struct sockaddr *)&to, sizeof to))
			return EXIT_FAILURE;
	}
	return EXIT_SUCCESS;
}
