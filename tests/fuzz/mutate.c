/* SPDX-License-Identifier: MIT */
/* Calls the fuzz target with changed seeds, the same ones each time: RUNS FILE... */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_SEEDS = 64, MOST_BYTES = 4096, MOST_CHANGES = 6 };

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size);

struct bytes {
	unsigned char at[MOST_BYTES];
	size_t size;
};

static struct bytes seeds[MOST_SEEDS];
static int seed_count;
static uint64_t state = 88172645463325252ULL;

static size_t below(size_t limit)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return limit ? (size_t)(state >> 11) % limit : 0;
}

static void put_number(struct bytes *input, size_t width)
{
	static const uint32_t numbers[] = { 0, 1, 2, 4, 8, 12, 16, 20, 28, 32, 64, 0x7f, 0x80, 0xff, 0x100, 0xffff,
					    0x10000, 0x200000, 0x7fffffff, 0x80000000, 0xfffffffc, 0xffffffff };
	uint32_t number = numbers[below(sizeof(numbers) / sizeof(*numbers))];
	size_t at = below(input->size);

	if (below(2))
		number = __builtin_bswap32(number) >> (32 - 8 * width);
	if (input->size - at >= width)
		memcpy(input->at + at, &number, width);
}

/* Puts a part of a seed in place of a part of the input; either may be empty. */
static void splice(struct bytes *input, const struct bytes *from)
{
	size_t at = below(input->size + 1), removed = below(input->size - at + 1) >> below(8);
	size_t source = below(from->size + 1), added = below(from->size - source + 1) >> below(8);
	size_t behind = input->size - at - removed;

	if (at + added + behind > MOST_BYTES)
		return;
	memmove(input->at + at + added, input->at + at + removed, behind);
	memcpy(input->at + at, from->at + source, added);
	input->size = at + added + behind;
}

static void change(struct bytes *input)
{
	if (!input->size || below(4) == 0) {
		splice(input, &seeds[below((size_t)seed_count)]);
		return;
	}
	switch (below(6)) {
	case 0:
		input->at[below(input->size)] ^= (unsigned char)(1 << below(8));
		return;
	case 1:
		input->at[below(input->size)] = (unsigned char)below(256);
		return;
	case 2:
		input->size = below(input->size + 1);
		return;
	default:
		put_number(input, (size_t)1 << below(3));
	}
}

int main(int argc, char **argv)
{
	long runs = argc > 1 ? atol(argv[1]) : 0;

	for (int i = 2; i < argc && seed_count < MOST_SEEDS; i++) {
		FILE *file = fopen(argv[i], "rb");

		if (!file)
			return 2;
		seeds[seed_count].size = fread(seeds[seed_count].at, 1, MOST_BYTES, file);
		seed_count++;
		fclose(file);
	}
	if (!seed_count)
		return 2;
	for (long run = 0; run < runs; run++) {
		static struct bytes input;
		unsigned char *exact;

		input = seeds[below((size_t)seed_count)];
		for (size_t changes = 1 + below(MOST_CHANGES); changes; changes--)
			change(&input);
		/* Of its own size, so that a read behind it is seen. */
		exact = malloc(input.size);
		memcpy(exact, input.at, input.size);
		LLVMFuzzerTestOneInput(exact, input.size);
		free(exact);
	}
	printf("%ld\n", runs);
	return 0;
}
