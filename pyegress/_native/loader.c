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
#include <sys/mman.h>
#include <unistd.h>

enum { MAX_PROGRAMS = 64, MAX_LINKS = 64, LOG_BYTES = 1 << 16, DETAILS_BYTES = 1 << 20, MOST_DETAILS = 1 << 14 };

struct egress {
	struct bpf_object *object;
	struct bpf_program *programs[MAX_PROGRAMS];
	int program_count;
	struct bpf_link *links[MAX_LINKS];
	int linked[MAX_LINKS]; /* the program of each */
	int link_count;
	struct ring_buffer *ring;
	struct egress_event *arena;
	int used, capacity;
	unsigned char *details;
	size_t details_used;
	__u64 counted;
	struct egress_set *sets, *sets_before; /* the kernel's, and as they were when last looked at */
	struct egress_shared *shared; /* with the kernel */
	int flows_fd, locks_fd;
	__u32 set_count, next_slot;
	__u64 tick_ns;
	__u64 hash_factor;
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

struct bpf_object *egress_open_object(const char *path, int *error)
{
	struct bpf_object *object;

	set_up();
	object = bpf_object__open_file(path, NULL);
	/* libbpf has errnos of its own, from 4000, for an object that is none. */
	*error = object ? 0 : errno < 4000 ? -errno : -EINVAL;
	return object;
}

struct bpf_map *egress_section(struct bpf_object *object, const char *name)
{
	struct bpf_map *map;

	bpf_object__for_each_map(map, object) {
		if (strstr(bpf_map__name(map), name))
			return map;
	}
	return NULL;
}

static struct bpf_map *find_map(struct egress *self, const char *name)
{
	return bpf_object__find_map_by_name(self->object, name);
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
	self->object = egress_open_object(path, error);
	if (!self->object) {
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
	if (self->sets)
		munmap(self->sets, self->set_count * sizeof(*self->sets));
	if (self->shared)
		munmap(self->shared, sizeof(*self->shared));
	bpf_object__close(self->object);
	free(self->sets_before);
	free(self->details);
	free(self);
}

int egress_configure(struct egress *self, const struct egress_config *config)
{
	struct bpf_map *map = egress_section(self->object, ".rodata.cfg");

	self->tick_ns = config->tick_ns;
	self->hash_factor = config->hash_factor;
	self->set_count = config->flow_sets;
	if (!map)
		return -ENOENT;
	return bpf_map__set_initial_value(map, config, sizeof(*config)) ? -errno : 0;
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

/* What is or may be a module has BTF of its own. */
static int module_has(const char *function)
{
	static const char *const modules[] = {"ipv6", "sctp", "af_packet"};
	int found = 0;

	for (size_t i = 0; i < sizeof(modules) / sizeof(*modules) && !found; i++) {
		struct btf *module = btf__load_module_btf(modules[i], kernel);

		found = module && btf__find_by_name_kind(module, function, BTF_KIND_FUNC) > 0;
		btf__free(module);
	}
	return found;
}

static int learn_kernel(void)
{
	set_up();
	if (!kernel)
		kernel = btf__load_vmlinux_btf();
	if (kernel)
		return 0;
	return errno ? -errno : -ENOENT;
}

int egress_try_tracing(const char *function)
{
	static const struct bpf_insn nothing[] = {{.code = BPF_ALU64 | BPF_MOV | BPF_K}, {.code = BPF_JMP | BPF_EXIT}};
	LIBBPF_OPTS(bpf_prog_load_opts, opts, .expected_attach_type = BPF_TRACE_FENTRY);
	int fd;

	if (learn_kernel())
		return 0;
	fd = btf__find_by_name_kind(kernel, function, BTF_KIND_FUNC);
	if (fd <= 0)
		return 0;
	opts.attach_btf_id = fd;
	fd = bpf_prog_load(BPF_PROG_TYPE_TRACING, "try_tracing", "GPL", nothing,
			   sizeof(nothing) / sizeof(*nothing), &opts);
	if (fd < 0)
		return fd;
	close(fd);
	return 0;
}

int egress_kernel_has(const char *function)
{
	int error = learn_kernel();

	if (error)
		return error;
	return btf__find_by_name_kind(kernel, function, BTF_KIND_FUNC) > 0 || module_has(function);
}

static void count_datagrams(struct egress *self, const struct egress_event *event)
{
	if (event->flags & EGRESS_OF_FLOW)
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

/* What an array of the kernel holds, to be read and written in place; NULL with errno. */
static void *map_memory(struct bpf_map *map, size_t bytes)
{
	void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, bpf_map__fd(map), 0);

	return memory == MAP_FAILED ? NULL : memory;
}

int egress_load(struct egress *self)
{
	struct bpf_map *events = find_map(self, "events"), *globals = egress_section(self->object, ".bss");

	if (!events || !globals)
		return -ENOENT;
	if (bpf_object__load(self->object))
		return -errno;
	self->ring = ring_buffer__new(bpf_map__fd(events), on_record, self, NULL);
	if (!self->ring)
		return -errno;
	self->sets_before = calloc(self->set_count, sizeof(*self->sets_before));
	if (!self->sets_before)
		return -ENOMEM;
	self->sets = map_memory(find_map(self, "sets"), self->set_count * sizeof(*self->sets));
	self->flows_fd = bpf_map__fd(find_map(self, "flows"));
	self->locks_fd = bpf_map__fd(find_map(self, "locks"));
	self->shared = map_memory(globals, sizeof(*self->shared));
	malloc_trim(0); /* libbpf had all types of the kernel in memory, and the heap would keep that */
	return self->sets && self->shared ? 0 : -errno;
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

int egress_forget_program(struct egress *self, const struct egress_identity *identity)
{
	__u64 words[2];

	memcpy(words, identity, sizeof(words));
	/* Where mark_of of the BPF side has it. */
	words[0] = (words[0] * self->hash_factor + words[1]) * self->hash_factor >> 40 & (EGRESS_TOLD_SLOTS - 1);
	__atomic_store_n(&self->shared->told[words[0]], 0, __ATOMIC_RELAXED);
	return egress_forget(self, "known", identity, sizeof(*identity));
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
	if (run_once(self, "whoami", 0))
		self->shared->tgid = getpid();
	return (int)self->shared->tgid;
}

struct egress_shared *egress_shared(struct egress *self)
{
	return self->shared;
}

static int begins(const char *text, const char *with)
{
	return strncmp(text, with, strlen(with)) == 0;
}

/* Another on the same function that isn't of this way makes both dear, and a return probe is dearer in this way. */
static int has_return(struct egress *self, const char *function)
{
	for (int i = 0; i < self->program_count; i++) {
		const char *section = bpf_program__section_name(self->programs[i]);

		if (begins(section, "kretprobe/") && strcmp(strchr(section, '/') + 1, function) == 0)
			return 1;
	}
	return 0;
}

void egress_use_multi(struct egress *self)
{
	for (int i = 0; i < self->program_count; i++) {
		const char *section = bpf_program__section_name(self->programs[i]);

		if (begins(section, "kprobe/") && !has_return(self, strchr(section, '/') + 1))
			bpf_program__set_expected_attach_type(self->programs[i], BPF_TRACE_KPROBE_MULTI);
	}
}

static struct bpf_link *attach_multi(struct bpf_program *program, const char *function)
{
	LIBBPF_OPTS(bpf_kprobe_multi_opts, opts, .syms = &function, .cnt = 1);

	return bpf_program__attach_kprobe_multi_opts(program, NULL, &opts);
}

int egress_attach(struct egress *self, int program, const char *function, int cgroup_fd)
{
	struct bpf_program *wanted = self->programs[program];
	struct bpf_link *link;

	if (self->link_count == MAX_LINKS)
		return -E2BIG;
	if (bpf_program__expected_attach_type(wanted) == BPF_TRACE_KPROBE_MULTI)
		link = attach_multi(wanted, function);
	else if (bpf_program__type(wanted) == BPF_PROG_TYPE_CGROUP_SOCK_ADDR)
		link = bpf_program__attach_cgroup(wanted, cgroup_fd);
	else if (strchr(bpf_program__section_name(wanted), ','))
		link = bpf_program__attach_kprobe(wanted, false, function);
	else
		link = bpf_program__attach(wanted);
	if (!link)
		return -errno;
	self->linked[self->link_count] = program;
	self->links[self->link_count++] = link;
	return 0;
}

void egress_detach(struct egress *self)
{
	while (self->link_count)
		bpf_link__destroy(self->links[--self->link_count]);
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

/* Takes one flow out under its set's lock; false where the kernel has the lock, or has just counted for it. */
static int take_flow(struct egress *self, __u32 at, struct egress_flow *flow, __u32 *last)
{
	__u32 set = at / EGRESS_WAYS, way = at % EGRESS_WAYS;
	__u32 *tag = &self->sets[set].slots[way].tag;
	__u8 taken = 1;
	int done = 0;

	if (bpf_map_update_elem(self->locks_fd, &set, &taken, BPF_NOEXIST))
		return 0;
	*last = __atomic_load_n(&self->sets[set].slots[way].last, __ATOMIC_RELAXED);
	if (*tag == self->sets_before[set].slots[way].tag && *last == self->sets_before[set].slots[way].last) {
		__atomic_store_n(tag, 0, __ATOMIC_SEQ_CST);
		done = !bpf_map_lookup_elem(self->flows_fd, &at, flow);
	}
	bpf_map_delete_elem(self->locks_fd, &set);
	return done;
}

int egress_take_flows(struct egress *self, int all, struct egress_event *arena, int capacity)
{
	__u32 slots = self->set_count * EGRESS_WAYS;
	struct egress_flow flow;
	int used = 0;

	for (; self->next_slot < slots && used < capacity; self->next_slot++) {
		__u32 set = self->next_slot / EGRESS_WAYS, way = self->next_slot % EGRESS_WAYS, last;
		__u32 tag = __atomic_load_n(&self->sets[set].slots[way].tag, __ATOMIC_ACQUIRE);
		__u32 tag_before = self->sets_before[set].slots[way].tag;
		__u32 last_before = self->sets_before[set].slots[way].last;

		last = __atomic_load_n(&self->sets[set].slots[way].last, __ATOMIC_RELAXED);
		self->sets_before[set].slots[way].tag = tag;
		self->sets_before[set].slots[way].last = last;
		if (!tag || !(all || (tag == tag_before && last == last_before)) ||
		    !take_flow(self, self->next_slot, &flow, &last) || flow.seen <= flow.reported)
			continue;
		arena[used] = flow.event;
		arena[used].ts_ns = flow.window_start_ns +
				    (__u64)(last - (__u32)flow.window_start_ticks) * self->tick_ns;
		arena[used].count = flow.seen - flow.reported;
		count_datagrams(self, &arena[used]);
		used++;
	}
	if (self->next_slot == slots)
		self->next_slot = 0;
	return used;
}

int egress_take_pending(struct egress *self, __u64 before_ns, struct egress_event *arena, int capacity)
{
	int fd = bpf_map__fd(find_map(self, "pending"));
	int used = 0;

	for (__u32 at = 0; at < EGRESS_PENDING_SETS * EGRESS_PENDING_WAYS && used < capacity; at++) {
		__u64 *thread = &self->shared->waiting[at / EGRESS_PENDING_WAYS].threads[at % EGRESS_PENDING_WAYS];
		struct egress_event *event = &arena[used];
		__u64 waits = __atomic_load_n(thread, __ATOMIC_ACQUIRE);

		if (!waits || bpf_map_lookup_elem(fd, &at, event))
			continue;
		/* 0: it is being written. */
		if (!event->ts_ns || event->ts_ns >= before_ns)
			continue;
		if (!__atomic_compare_exchange_n(thread, &waits, 0, 0, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED))
			continue;
		__atomic_fetch_sub(&self->shared->pending, 1, __ATOMIC_SEQ_CST);
		memset(event->saddr, 0, sizeof(event->saddr));
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

	for (int i = 0; i < self->link_count; i++) {
		struct bpf_prog_info info = {};
		__u32 size = sizeof(info);

		/* Links of one program stand side by side. */
		if ((!i || self->linked[i] != self->linked[i - 1]) &&
		    !bpf_obj_get_info_by_fd(bpf_program__fd(self->programs[self->linked[i]]), &info, &size))
			misses += info.recursion_misses;
	}
	return misses;
}
