/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Maps. Sizes here are the defaults; the loader sets the real ones before load. */
#ifndef MAPS_BPF_H
#define MAPS_BPF_H

const volatile struct egress_config cfg SEC(".rodata.cfg") = {};

/* Set by `whoami` after load, so that they are right in any pid namespace; the loader relies on the order. */
struct {
	__u32 tgid;
	__u32 pidns;
	__u32 pid_level;
} own;

__u64 last_wake_ns;

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4 << 20);
} events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, EGRESS_COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} rule_hits SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, struct egress_cidr4_key);
	__type(value, struct egress_verdict);
} cidrs4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, struct egress_cidr6_key);
	__type(value, struct egress_verdict);
} cidrs6 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, __u16); /* destination port, network byte order */
	__type(value, struct egress_verdict);
} ports SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 32768);
	__type(key, struct egress_flow_key);
	__type(value, struct egress_flow);
} flows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, __u8[EGRESS_COMM_BYTES]);
	__type(value, struct egress_verdict);
} comms SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct egress_verdict);
} uids SEC(".maps");

/* Hidden cgroups: user space writes them as it comes to know them. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, __u64);
	__type(value, struct egress_verdict);
} cgroups SEC(".maps");

/* Programs whose details were sent. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct egress_identity);
	__type(value, struct egress_known);
} known SEC(".maps");

/* How many times user space has hidden a program. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} verdicts SEC(".maps");

/* Cgroups whose paths were sent. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, __u64);
	__type(value, __u8);
} known_cgroups SEC(".maps");

/* Flows being reported, by address of their entry: BPF_NOEXIST lets one CPU in. A spin lock is not for tracing. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__type(key, __u64);
	__type(value, __u8);
} reporting SEC(".maps");

/* TCP connects between entry and return, by thread (kprobe only). */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, struct egress_event);
} pending SEC(".maps");

static __always_inline void count(__u32 counter)
{
	__u64 *value = bpf_map_lookup_elem(&counters, &counter);

	if (value)
		*value += 1;
}

#endif
