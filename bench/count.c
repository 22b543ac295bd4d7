/* SPDX-License-Identifier: MIT */
/*
 * The floor: takes all records from a ring buffer by libbpf and counts them, nothing else.
 *
 *   count FD
 *
 * Prints the number of records, and the CPU time they took in ns.
 */
#include <bpf/libbpf.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static uint64_t records;

static int count(void *context, void *data, size_t size)
{
	(void)context;
	(void)data;
	(void)size;
	records++;
	return 0;
}

static uint64_t cpu_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
	return now.tv_sec * UINT64_C(1000000000) + now.tv_nsec;
}

int main(int argc, char **argv)
{
	struct ring_buffer *ring = argc == 2 ? ring_buffer__new(atoi(argv[1]), count, NULL, NULL) : NULL;
	uint64_t start = cpu_ns();
	int error;

	if (!ring) {
		fputs("count: not the descriptor of a ring buffer\n", stderr);
		return EXIT_FAILURE;
	}
	error = ring_buffer__consume(ring);
	printf("%" PRIu64 " %" PRIu64 "\n", records, cpu_ns() - start);
	ring_buffer__free(ring);
	return error < 0;
}
