/* SPDX-License-Identifier: MIT */
#include "names.h"

#include "loader.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { TAPS = 2, READ_BYTES = 1 << 20, MOST_RECORD = 1 << 13 };

static const char *const TAP_PROGRAMS[TAPS] = {"names_egress", "names_ingress"};

struct egress_tap {
	struct bpf_object *object;
	struct bpf_link *links[TAPS];
	struct ring_buffer *ring;
	unsigned char *read;
	size_t used;
	const struct egress_dns_lost *lost;
	long page_bytes;
};

static int on_dns(void *context, void *data, size_t bytes)
{
	struct egress_tap *self = context;
	const struct egress_dns *dns = data;
	size_t used;

	if (bytes < sizeof(*dns) || dns->used > bytes - sizeof(*dns))
		return -EPROTO;
	used = sizeof(*dns) + dns->used;
	memcpy(self->read + self->used, dns, used);
	self->used += (used + 7) & ~(size_t)7;
	return self->used + MOST_RECORD <= READ_BYTES ? 0 : -ENOBUFS;
}

static int prepare(struct egress_tap *self, __u32 ring_bytes, int tells_asker, int hellos)
{
	struct egress_dns_config config = {.tells_asker = tells_asker, .hellos = hellos};
	struct bpf_map *map, *settings = egress_section(self->object, ".rodata.names");

	if (!settings)
		return -ENOENT;
	if (bpf_map__set_initial_value(settings, &config, sizeof(config)))
		return -errno;
	map = bpf_object__find_map_by_name(self->object, "names_ring");
	if (!map)
		return -ENOENT;
	return bpf_map__set_max_entries(map, ring_bytes) ? -errno : 0;
}

static int start(struct egress_tap *self, int cgroup_fd)
{
	struct bpf_map *lost = egress_section(self->object, ".data.names");
	void *page;

	if (bpf_object__load(self->object))
		return -errno;
	/* libbpf shows it only since 1.5. */
	self->page_bytes = sysconf(_SC_PAGESIZE);
	page = mmap(NULL, self->page_bytes, PROT_READ, MAP_SHARED, lost ? bpf_map__fd(lost) : -1, 0);
	if (page == MAP_FAILED)
		return -errno;
	self->lost = page;
	self->ring = ring_buffer__new(bpf_object__find_map_fd_by_name(self->object, "names_ring"), on_dns, self, NULL);
	if (!self->ring)
		return -errno;
	for (int i = 0; i < TAPS; i++) {
		struct bpf_program *program = bpf_object__find_program_by_name(self->object, TAP_PROGRAMS[i]);

		if (!program)
			return -ENOENT;
		self->links[i] = bpf_program__attach_cgroup(program, cgroup_fd);
		if (!self->links[i])
			return -errno;
	}
	return 0;
}

struct egress_tap *egress_tap_open(const char *path, int cgroup_fd, __u32 ring_bytes, int tells_asker, int hellos,
				   int *error)
{
	struct egress_tap *self = calloc(1, sizeof(*self));

	*error = -ENOMEM;
	if (!self)
		return NULL;
	self->read = malloc(READ_BYTES);
	if (self->read) {
		self->object = egress_open_object(path, error);
		if (self->object)
			*error = prepare(self, ring_bytes, tells_asker, hellos);
		if (!*error)
			*error = start(self, cgroup_fd);
	}
	if (*error) {
		egress_tap_close(self);
		return NULL;
	}
	return self;
}

const void *egress_tap_read(struct egress_tap *self, size_t *bytes)
{
	self->used = 0;
	ring_buffer__consume(self->ring);
	*bytes = self->used;
	return self->read;
}

__u64 egress_tap_lost(struct egress_tap *self)
{
	return __atomic_load_n(&self->lost->ring_full, __ATOMIC_RELAXED);
}

void egress_tap_close(struct egress_tap *self)
{
	for (int i = 0; i < TAPS; i++)
		bpf_link__destroy(self->links[i]);
	ring_buffer__free(self->ring);
	if (self->lost)
		munmap((void *)self->lost, self->page_bytes);
	bpf_object__close(self->object);
	free(self->read);
	free(self);
}
