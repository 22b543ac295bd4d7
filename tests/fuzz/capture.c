/* SPDX-License-Identifier: MIT */
/*
 * Any bytes as a capture: read at once, and in pieces that are each in memory of their own size, which has to give
 * the same.
 */
#include "capture.h"

#include <stdlib.h>
#include <string.h>

enum { CAPACITY = 3, MOST_PIECE = 97 };

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size);

struct result {
	struct egress_packet *packets;
	size_t packet_count;
	struct egress_capture *capture;
	int failed;
};

static void keep(struct result *result, const struct egress_packet *packets, int count)
{
	size_t bytes = (result->packet_count + (size_t)count) * sizeof(*packets);

	if (count <= 0)
		return;
	result->packets = realloc(result->packets, bytes);
	memcpy(result->packets + result->packet_count, packets, (size_t)count * sizeof(*packets));
	result->packet_count += (size_t)count;
}

/* As a reader of a file does it: what wasn't used comes again, with at most `piece` bytes more. */
static struct result read_all(const unsigned char *data, size_t size, size_t piece)
{
	struct result result = { .capture = egress_capture_new() };
	struct egress_packet arena[CAPACITY];
	size_t begin = 0, end = 0;
	int last = 0;

	for (;;) {
		unsigned char *window = malloc(end - begin);
		size_t used;
		int made;

		memcpy(window, data + begin, end - begin);
		made = egress_capture_feed(result.capture, window, end - begin, last, &used, arena, CAPACITY);
		free(window);
		if (used > end - begin || made > CAPACITY)
			abort();
		begin += used;
		keep(&result, arena, made);
		result.failed = made < 0;
		if (made > 0)
			continue;
		if (made < 0 || last)
			return result;
		last = end == size;
		end = size - end < piece ? size : end + piece;
	}
}

static void free_result(struct result *result)
{
	egress_capture_free(result->capture);
	free(result->packets);
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size)
{
	struct result whole = read_all(data, size, size + 1);
	struct result pieces = read_all(data, size, 1 + size % MOST_PIECE);

	if (whole.failed != pieces.failed || whole.packet_count != pieces.packet_count)
		abort();
	if (whole.packet_count &&
	    memcmp(whole.packets, pieces.packets, whole.packet_count * sizeof(*whole.packets)))
		abort();
	if (memcmp(egress_capture_counts(whole.capture), egress_capture_counts(pieces.capture),
		   sizeof(struct egress_capture_counts)))
		abort();
	if (strcmp(egress_capture_error(whole.capture), egress_capture_error(pieces.capture)))
		abort();
	for (__u32 number = 0; number < 4; number++)
		(void)strlen(egress_capture_interface(whole.capture, number));
	free_result(&whole);
	free_result(&pieces);
	return 0;
}
