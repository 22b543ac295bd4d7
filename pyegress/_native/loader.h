/* SPDX-License-Identifier: MIT */
/*
 * libbpf for Python: open, configure, load, attach, read. Everything returns 0 or a count, or -errno; nothing
 * prints. build.py feeds this file, after egress.h, to cffi.
 */
#ifndef LOADER_H
#define LOADER_H

#include "egress.h"

#ifndef __VMLINUX_H__
#include <stddef.h>
#endif

struct egress;

struct bpf_object;
struct bpf_map;

/* For all sessions: opens an object, NULL with *error set, and finds the map of a section by a part of its name. */
struct bpf_object *egress_open_object(const char *path, int *error);
struct bpf_map *egress_section(struct bpf_object *object, const char *name);

/* Reads an object; NULL with *error set. What libbpf and the verifier say is kept for egress_log. */
struct egress *egress_open(const char *path, int *error);
void egress_close(struct egress *self);
/* The newest text of libbpf and the verifier, emptied by the call. */
const char *egress_log(void);

/* Before load. */
int egress_configure(struct egress *self, const struct egress_config *config);
int egress_size_map(struct egress *self, const char *map, __u32 entries);
int egress_program_count(struct egress *self);
const char *egress_program_name(struct egress *self, int program);
const char *egress_program_section(struct egress *self, int program);
void egress_autoload(struct egress *self, int program, int wanted);
/* 1 where the running kernel's BTF has that function, 0 where not, -errno without BTF. */
int egress_kernel_has(const char *function);
/* -errno where the kernel refuses even an empty fentry program on that function, else 0, also without BTF. */
int egress_try_tracing(const char *function);
/* Gives back the memory of that BTF, some 17 MB. */
void egress_forget_kernel(void);

/*
 * Have kprobes attached in the way of kprobe.multi where that costs less; before load. It also asks for less: a plain
 * one takes perf_event_open, which Debian's kernels keep for CAP_SYS_ADMIN.
 */
void egress_use_multi(struct egress *self);
int egress_load(struct egress *self);

/* After load. */
int egress_set(struct egress *self, const char *map, const void *key, unsigned key_bytes, const void *value,
	       unsigned value_bytes);
int egress_forget(struct egress *self, const char *map, const void *key, unsigned key_bytes);
int egress_forget_program(struct egress *self, const struct egress_identity *identity);
/* Runs `whoami`: our tgid as the initial pid namespace counts it (before 5.10, as getpid() does). */
int egress_learn_own_tgid(struct egress *self);
struct egress_shared *egress_shared(struct egress *self);
int egress_attach(struct egress *self, int program, const char *function, int cgroup_fd);
void egress_detach(struct egress *self);
/* Runs `synthesize`: `records` (at most 1024) records of this thread. */
int egress_synthesize(struct egress *self, unsigned records);

/*
 * Waits up to `timeout_ms` and copies what the ring holds to `arena`; returns how many records. When the arena is
 * full the rest stays in the ring. -EINTR when a signal came.
 */
int egress_read(struct egress *self, int timeout_ms, struct egress_event *arena, int capacity);
/* Details (struct egress_details, each at a multiple of 8) that the last read found; 0 events may come with some. */
const void *egress_details(struct egress *self, size_t *bytes);
/*
 * Takes flows without a datagram since the last look, or all, out of the table; those with unreported repeats are
 * written to `arena`. Returns how many; call again while it returns `capacity`. A busy flow is left to the kernel,
 * which reports it by itself: its entry must not be taken from under a counting CPU.
 */
int egress_take_flows(struct egress *self, int all, struct egress_event *arena, int capacity);
/* Takes connects that entered before `before_ns` and whose return was missed. */
int egress_take_pending(struct egress *self, __u64 before_ns, struct egress_event *arena, int capacity);
/* Datagrams that all UDP records read so far stand for. */
__u64 egress_counted(struct egress *self);
/* Sums of a per-CPU map's first `entries` values. */
int egress_sum(struct egress *self, const char *map, __u64 *values, int entries);
/* How often the kernel skipped our attached programs because one was already running on that CPU. */
__u64 egress_misses(struct egress *self);

#endif
