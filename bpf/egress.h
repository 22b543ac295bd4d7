/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * The only definition of what crosses between the kernel and Python: build.py makes cffi's cdef from it,
 * the decoder its formats from cffi. Members are ordered by size, nothing is packed, padding is named.
 * `_be` is network byte order; times are ns of CLOCK_BOOTTIME. An IPv4 address is stored as ::ffff:a.b.c.d.
 */
#ifndef EGRESS_H
#define EGRESS_H

#ifndef __VMLINUX_H__
#include <linux/types.h>
#endif

enum egress_sizes {
	EGRESS_COMM_BYTES = 16,
	EGRESS_ADDR_BYTES = 16,
};

enum egress_event_flags {
	EGRESS_RESULT_KNOWN = 1, /* `result` is what the kernel function returned */
};

enum egress_process_flags {
	EGRESS_KERNEL_THREAD = 1,
};

/* Everything that is the same for all events of one process, in one piece: the decoder's cache key. */
struct egress_process {
	__u64 start_ns;
	__u64 parent_start_ns;
	__u64 cgroup_id;
	__u32 tgid;
	__u32 exec_id;
	__u32 uid;
	__u32 gid;
	__u32 parent_tgid;
	__u32 flags;
	__u8 comm[EGRESS_COMM_BYTES];
	__u8 parent_comm[EGRESS_COMM_BYTES];
};

struct egress_event {
	__u64 ts_ns;
	__u64 count;
	__u32 tid;
	__u32 netns;
	__u32 ifindex;
	__s32 result;
	__u16 sport;
	__u16 dport;
	__u8 family; /* 4 or 6 */
	__u8 protocol;
	__u8 flags;
	__u8 pad;
	__u8 saddr[EGRESS_ADDR_BYTES];
	__u8 daddr[EGRESS_ADDR_BYTES];
	struct egress_process process;
};

struct egress_flow_key {
	__u64 start_ns;
	__u32 tgid;
	__u32 exec_id;
	__u8 daddr[EGRESS_ADDR_BYTES];
	__u16 dport;
	__u8 protocol;
	__u8 family;
	__u32 netns;
	__u32 ifindex;
	__u32 pad;
};

/* `seen` only grows, so that no two CPUs can lose a datagram between them by a reset. */
struct egress_flow {
	__u64 window_start_ns;
	__u64 last_ns;
	__u64 seen;
	__u64 reported;
	struct egress_event event;
};

struct egress_cidr4_key {
	__u32 prefix_bits;
	__u8 addr[4];
};

struct egress_cidr6_key {
	__u32 prefix_bits;
	__u8 addr[16];
};

enum egress_verdict_flags {
	EGRESS_IGNORE = 1,
	EGRESS_ONLY = 2,
};

/* Value of the filter maps. `rule` numbers the rule that decides, for its hit counter. */
struct egress_verdict {
	__u32 rule;
	__u32 flags;
};

/* Constant once loaded: the verifier removes what is not configured. */
struct egress_config {
	__u64 window_ns; /* 0: every datagram is an event */
	__u64 wake_ns;   /* the reader is woken at most this often */
	__u64 wake_bytes; /* or when this much waits in the ring */
	__u8 report_loopback;
	__u8 skip_tcp;
	__u8 skip_udp;
	__u8 has_ports;
	__u8 has_only_ports;
	__u8 has_cidrs;
	__u8 has_only_cidrs;
	__u8 pad;
};

/* Per-CPU counters. */
enum egress_counter {
	EGRESS_REPORTED,       /* records put into the ring */
	EGRESS_DATAGRAMS,      /* datagrams that passed the filters, with a window */
	EGRESS_LOST_RING,      /* connects, or datagrams without a window, the full ring had no room for */
	EGRESS_LOST_FIRST,     /* and first datagrams of a flow */
	EGRESS_DEFERRED,       /* repeats the full ring had no room for: counted in a later record */
	EGRESS_UNFINISHED,     /* connects reported without what their return would tell (kprobe) */
	EGRESS_SKIPPED_OWN,
	EGRESS_SKIPPED_PROTOCOL,
	EGRESS_SKIPPED_LOOPBACK,
	EGRESS_SKIPPED_PORT,
	EGRESS_SKIPPED_CIDR,
	EGRESS_COUNTERS,
};

#endif
