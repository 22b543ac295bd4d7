/* SPDX-License-Identifier: MIT */
#include "loader.h"

#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <malloc.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_PROGRAMS = 64, LOG_BYTES = 1 << 16, DETAILS_BYTES = 1 << 20, MOST_DETAILS = 1 << 14 };

struct egress {
	struct bpf_object *object;
	struct bpf_program *programs[MAX_PROGRAMS];
	struct bpf_link *links[MAX_PROGRAMS];
	int program_count;
	struct ring_buffer *ring;
	struct egress_event *arena;
	int used, capacity;
	unsigned char *details;
	size_t details_used;
	__u64 counted;
};

static char log_text[LOG_BYTES], log_copy[LOG_BYTES];
static size_t log_used;

static int keep_log(enum libbpf_print_level level, const char *format, va_list args)
{
	int wrote;

	if (level == LIBBPF_DEBUG)
		return 0;
	if (log_used > LOG_BYTES / 2)
		log_used = 0;
	wrote = vsnprintf(log_text + log_used, LOG_BYTES - log_used, format, args);
	if (wrote > 0)
		log_used += (size_t)wrote < LOG_BYTES - log_used ? (size_t)wrote : LOG_BYTES - log_used - 1;
	return wrote;
}

static void set_up(void)
{
	libbpf_set_print(keep_log);
#ifdef __GLIBC__
	/* Without this, glibc keeps the kernel's BTF in the heap of the thread that loaded it: 17 MB for good. */
	mallopt(M_MMAP_THRESHOLD, 1 << 18);
#endif
}

const char *egress_log(void)
{
	memcpy(log_copy, log_text, log_used);
	log_copy[log_used] = 0;
	log_used = 0;
	return log_copy;
}

struct egress *egress_open(const char *path, int *error)
{
	struct egress *self = calloc(1, sizeof(*self));
	struct bpf_program *program;

	if (self)
		self->details = malloc(DETAILS_BYTES);
	if (!self || !self->details) {
		free(self);
		*error = -ENOMEM;
		return NULL;
	}
	set_up();
	self->object = bpf_object__open_file(path, NULL);
	if (!self->object) {
		/* libbpf has errnos of its own, from 4000, for an object that is none. */
		*error = errno < 4000 ? -errno : -EINVAL;
		free(self->details);
		free(self);
		return NULL;
	}
	bpf_object__for_each_program(program, self->object) {
		if (self->program_count < MAX_PROGRAMS)
			self->programs[self->program_count++] = program;
	}
	*error = 0;
	return self;
}

void egress_close(struct egress *self)
{
	egress_detach(self);
	ring_buffer__free(self->ring);
	bpf_object__close(self->object);
	free(self->details);
	free(self);
}

int egress_configure(struct egress *self, const struct egress_config *config)
{
	struct bpf_map *map;

	bpf_object__for_each_map(map, self->object) {
		if (strstr(bpf_map__name(map), ".rodata.cfg"))
			return bpf_map__set_initial_value(map, config, sizeof(*config)) ? -errno : 0;
	}
	return -ENOENT;
}

static struct bpf_map *find_map(struct egress *self, const char *name)
{
	return bpf_object__find_map_by_name(self->object, name);
}

int egress_size_map(struct egress *self, const char *name, __u32 entries)
{
	struct bpf_map *map = find_map(self, name);

	if (!map)
		return -ENOENT;
	return bpf_map__set_max_entries(map, entries) ? -errno : 0;
}

int egress_program_count(struct egress *self)
{
	return self->program_count;
}

const char *egress_program_name(struct egress *self, int program)
{
	return bpf_program__name(self->programs[program]);
}

const char *egress_program_section(struct egress *self, int program)
{
	return bpf_program__section_name(self->programs[program]);
}

void egress_autoload(struct egress *self, int program, int wanted)
{
	bpf_program__set_autoload(self->programs[program], wanted);
}

static struct btf *kernel;

void egress_forget_kernel(void)
{
	btf__free(kernel);
	kernel = NULL;
}

/* Some distributions build IPv6 as a module, which has BTF of its own. */
static int ipv6_module_has(const char *function)
{
	struct btf *module = btf__load_module_btf("ipv6", kernel);
	int found = module && btf__find_by_name_kind(module, function, BTF_KIND_FUNC) > 0;

	btf__free(module);
	return found;
}

int egress_kernel_has(const char *function)
{
	set_up();
	if (!kernel) {
		kernel = btf__load_vmlinux_btf();
		if (!kernel)
			return errno ? -errno : -ENOENT;
	}
	return btf__find_by_name_kind(kernel, function, BTF_KIND_FUNC) > 0 || ipv6_module_has(function);
}

static void count_datagrams(struct egress *self, const struct egress_event *event)
{
	if (event->protocol == IPPROTO_UDP)
		self->counted += event->count;
}

__u64 egress_counted(struct egress *self)
{
	return self->counted;
}

/* Details come in records of two sizes, mostly empty: what is used of them is kept, at a multiple of 8. */
static int keep_details(struct egress *self, const struct egress_details *details, size_t bytes)
{
	size_t used;

	if (bytes < sizeof(*details))
		return -EPROTO;
	used = sizeof(*details) + (size_t)details->path_bytes + details->args_bytes;
	if (used > bytes)
		return -EPROTO;
	memcpy(self->details + self->details_used, details, used);
	self->details_used += (used + 7) & ~(size_t)7;
	return self->details_used + MOST_DETAILS <= DETAILS_BYTES ? 0 : -ENOBUFS;
}

const void *egress_details(struct egress *self, size_t *bytes)
{
	*bytes = self->details_used;
	return self->details;
}

static int on_record(void *context, void *data, size_t bytes)
{
	struct egress *self = context;

	if (bytes != sizeof(struct egress_event))
		return keep_details(self, data, bytes);
	memcpy(&self->arena[self->used++], data, bytes);
	count_datagrams(self, data);
	/* libbpf has moved past this record already, so stopping here loses nothing. */
	return self->used < self->capacity ? 0 : -ENOBUFS;
}

int egress_load(struct egress *self)
{
	struct bpf_map *events = find_map(self, "events");

	if (!events)
		return -ENOENT;
	if (bpf_object__load(self->object))
		return -errno;
	self->ring = ring_buffer__new(bpf_map__fd(events), on_record, self, NULL);
	return self->ring ? 0 : -errno;
}

int egress_set(struct egress *self, const char *name, const void *key, unsigned key_bytes, const void *value,
	       unsigned value_bytes)
{
	struct bpf_map *map = find_map(self, name);

	if (!map)
		return -ENOENT;
	return bpf_map__update_elem(map, key, key_bytes, value, value_bytes, BPF_ANY) ? -errno : 0;
}

int egress_forget(struct egress *self, const char *name, const void *key, unsigned key_bytes)
{
	struct bpf_map *map = find_map(self, name);

	if (!map)
		return -ENOENT;
	return bpf_map__delete_elem(map, key, key_bytes, 0) ? -errno : 0;
}

static int run_once(struct egress *self, const char *name, __u64 argument)
{
	struct bpf_program *program = bpf_object__find_program_by_name(self->object, name);
	__u64 context[12] = {argument};
	LIBBPF_OPTS(bpf_test_run_opts, run, .ctx_in = context, .ctx_size_in = sizeof(context));

	if (!program)
		return -ENOENT;
	return bpf_prog_test_run_opts(bpf_program__fd(program), &run) ? -errno : 0;
}

int egress_learn_own_tgid(struct egress *self)
{
	struct bpf_map *map;
	int error, unknown = run_once(self, "whoami", 0);

	bpf_object__for_each_map(map, self->object) {
		if (strstr(bpf_map__name(map), ".bss")) {
			__u32 zero = 0, tgid;
			size_t size = bpf_map__value_size(map);
			char *value = malloc(size);

			if (!value)
				return -ENOMEM;
			error = bpf_map__lookup_elem(map, &zero, sizeof(zero), value, size, 0) ? -errno : 0;
			if (!error && unknown) {
				tgid = getpid();
				memcpy(value, &tgid, sizeof(tgid));
				error = bpf_map__update_elem(map, &zero, sizeof(zero), value, size, 0) ? -errno : 0;
			}
			memcpy(&tgid, value, sizeof(tgid)); /* own.tgid is the first variable of .bss */
			free(value);
			return error ? error : (int)tgid;
		}
	}
	return -ENOENT;
}

int egress_attach(struct egress *self, int program, int cgroup_fd)
{
	struct bpf_program *wanted = self->programs[program];

	if (bpf_program__type(wanted) == BPF_PROG_TYPE_CGROUP_SOCK_ADDR)
		self->links[program] = bpf_program__attach_cgroup(wanted, cgroup_fd);
	else
		self->links[program] = bpf_program__attach(wanted);
	return self->links[program] ? 0 : -errno;
}

void egress_detach(struct egress *self)
{
	for (int i = 0; i < self->program_count; i++) {
		bpf_link__destroy(self->links[i]);
		self->links[i] = NULL;
	}
}

int egress_synthesize(struct egress *self, unsigned records)
{
	return run_once(self, "synthesize", records);
}

static int is_empty(struct egress *self)
{
	return self->used == 0 && self->details_used == 0;
}

int egress_read(struct egress *self, int timeout_ms, struct egress_event *arena, int capacity)
{
	int result;

	self->arena = arena;
	self->capacity = capacity;
	self->used = 0;
	self->details_used = 0;
	/* What waits comes first: most records are put in the ring without waking us. */
	result = ring_buffer__consume(self->ring);
	if (is_empty(self) && result >= 0)
		result = ring_buffer__poll(self->ring, timeout_ms);
	/* A time-out also may have left records that were no reason to wake us. */
	if (is_empty(self) && result == 0)
		result = ring_buffer__consume(self->ring);
	if (!is_empty(self))
		return self->used;
	return result < 0 ? result : 0;
}

int egress_take_flows(struct egress *self, __u64 idle_since_ns, struct egress_event *arena, int capacity)
{
	struct bpf_map *map = find_map(self, "flows");
	int fd = bpf_map__fd(map);
	/* An eviction under our feet makes the walk start anew, so it is bounded. */
	__u64 steps = 2ULL * bpf_map__max_entries(map);
	struct egress_flow_key key, next;
	struct egress_flow flow;
	int used = 0;
	int more = bpf_map_get_next_key(fd, NULL, &next) == 0;

	while (more && used < capacity && steps--) {
		key = next;
		/* The next key is asked for first: after a delete the walk would start anew. */
		more = bpf_map_get_next_key(fd, &key, &next) == 0;
		if (bpf_map_lookup_elem(fd, &key, &flow) || flow.last_ns >= idle_since_ns)
			continue;
		/* Taken and read in one step, so that a datagram counted meanwhile is in it; 5.8 to 5.13 can't. */
		if (bpf_map_lookup_and_delete_elem(fd, &key, &flow) && bpf_map_delete_elem(fd, &key))
			continue;
		if (flow.seen > flow.reported) {
			arena[used] = flow.event;
			arena[used].ts_ns = flow.last_ns;
			arena[used].count = flow.seen - flow.reported;
			count_datagrams(self, &arena[used]);
			used++;
		}
	}
	return used;
}

int egress_take_pending(struct egress *self, __u64 before_ns, struct egress_event *arena, int capacity)
{
	int fd = bpf_map__fd(find_map(self, "pending"));
	__u64 key, next;
	int used = 0;
	int more = bpf_map_get_next_key(fd, NULL, &next) == 0;

	while (more && used < capacity) {
		key = next;
		more = bpf_map_get_next_key(fd, &key, &next) == 0;
		if (bpf_map_lookup_elem(fd, &key, &arena[used]) || arena[used].ts_ns >= before_ns)
			continue;
		if (bpf_map_delete_elem(fd, &key))
			continue;
		memset(arena[used].saddr, 0, sizeof(arena[used].saddr));
		used++;
	}
	return used;
}

int egress_sum(struct egress *self, const char *name, __u64 *values, int entries)
{
	struct bpf_map *map = find_map(self, name);
	int cpus = libbpf_num_possible_cpus();
	__u64 *per_cpu;
	int error = 0;

	if (!map)
		return -ENOENT;
	if (cpus < 0)
		return cpus;
	per_cpu = calloc(cpus, sizeof(*per_cpu));
	if (!per_cpu)
		return -ENOMEM;
	for (__u32 i = 0; i < (__u32)entries && !error; i++) {
		values[i] = 0;
		if (bpf_map_lookup_elem(bpf_map__fd(map), &i, per_cpu))
			error = -errno;
		for (int cpu = 0; cpu < cpus; cpu++)
			values[i] += per_cpu[cpu];
	}
	free(per_cpu);
	return error;
}

__u64 egress_misses(struct egress *self)
{
	__u64 misses = 0;

	for (int i = 0; i < self->program_count; i++) {
		struct bpf_prog_info info = {};
		__u32 size = sizeof(info);

		if (self->links[i] &&
		    !bpf_obj_get_info_by_fd(bpf_program__fd(self->programs[i]), &info, &size))
			misses += info.recursion_misses;
	}
	return misses;
}
