/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Maps. Sizes here are the defaults; the loader sets the real ones before load. */
#ifndef MAPS_BPF_H
#define MAPS_BPF_H

const volatile struct egress_config cfg SEC(".rodata.cfg") = {};

struct egress_shared shared;

__u64 last_wake_ns;
__u32 records_since_wake;

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

/* Verdicts of these tables that were looked up before. */
struct egress_decision decisions[1 << EGRESS_DECISION_BITS];

/* Where in `flows` the last datagram's flow was, plus one: by thread and destination, and to be compared with it. */
__u32 hints[1 << EGRESS_HINT_BITS];

/* A hash table of our own: the kernel's takes three hundred instructions for a look-up. User space reads the tags. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct egress_set);
} sets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, EGRESS_WAYS);
	__type(key, __u32);
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

/* Cgroups whose paths were sent. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, __u64);
	__type(value, __u8);
} known_cgroups SEC(".maps");

/* Sets that someone writes to: BPF_NOEXIST lets one in. A spin lock is not for tracing. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__type(key, __u32);
	__type(value, __u8);
} locks SEC(".maps");

/* TCP connects between entry and return (kprobe only); `ts_ns` is 0 until one is whole. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, EGRESS_PENDING_SETS * EGRESS_PENDING_WAYS);
	__type(key, __u32);
	__type(value, struct egress_event);
} pending SEC(".maps");

static __always_inline void count(__u32 counter)
{
	__u64 *value = bpf_map_lookup_elem(&counters, &counter);

	if (value)
		*value += 1;
}

/* Never waited for: who does not get in does without. `lock` is a number below 2^31 in each of two families. */
static __always_inline bool try_lock(__u32 lock)
{
	__u8 taken = 1;

	return !bpf_map_update_elem(&locks, &lock, &taken, BPF_NOEXIST);
}

static __always_inline void unlock(__u32 lock)
{
	bpf_map_delete_elem(&locks, &lock);
}

#define CONNECT_LOCK (1U << 31)

/* Takes a free word for oneself. */
static __always_inline bool claim(__u64 *word, __u64 value, __u32 lock)
{
#ifdef EGRESS_CAST
	if (*word || __sync_val_compare_and_swap(word, 0, value))
		return false;
	__sync_fetch_and_add(&shared.pending, 1);
	return true;
#else
	bool done = false;

	if (*word || !try_lock(lock | CONNECT_LOCK))
		return false;
	if (!*word) {
		*word = value;
		done = true;
	}
	unlock(lock | CONNECT_LOCK);
	return done;
#endif
}

static __always_inline void give_up(__u64 *word)
{
#ifdef EGRESS_CAST
	__u64 value = *(volatile __u64 *)word;

	if (value && __sync_val_compare_and_swap(word, value, 0) == value)
		__sync_fetch_and_add(&shared.pending, -1);
#else
	*(volatile __u64 *)word = 0;
#endif
}

#endif
