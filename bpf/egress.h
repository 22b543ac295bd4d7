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
	EGRESS_PATH_BYTES = 4096,
	EGRESS_ARGS_BYTES = 4096,
	EGRESS_ANCESTORS = 8,
};

enum egress_event_flags {
	EGRESS_RESULT_KNOWN = 1, /* `result` is what the kernel function returned */
	EGRESS_KERNEL_SOCKET = 2,
};

#define EGRESS_NO_OWNER ((__u32)-1) /* no user has that number */

/* One program run by one process: a number is reused, a process runs another program. */
struct egress_identity {
	__u64 start_ns;
	__u32 tgid;
	__u32 exec_id;
};

enum egress_process_flags {
	EGRESS_KERNEL_THREAD = 1,
};

/* What may change while a program runs, and who it is; the decoder's cache key. */
struct egress_process {
	struct egress_identity identity;
	__u64 cgroup_id; /* with the highest bit for one of v1's `pids`, the two highest for `memory` */
	__u32 uid;
	__u32 gid;
	__u32 flags;
	__u32 pad;
	__u8 comm[EGRESS_COMM_BYTES];
};

struct egress_event {
	__u64 ts_ns;
	__u64 count;
	__u32 tid;
	__u32 netns;
	__u32 ifindex;
	__s32 result;
	__u32 socket_uid; /* that of the socket's file, or EGRESS_NO_OWNER */
	__u16 sport;
	__u16 dport;
	__u8 family; /* 4 or 6 */
	__u8 protocol;
	__u16 flags;
	__u32 pad;
	__u8 saddr[EGRESS_ADDR_BYTES];
	__u8 daddr[EGRESS_ADDR_BYTES];
	__u8 thread_comm[EGRESS_COMM_BYTES]; /* empty for a main thread */
	struct egress_process process;
};

enum egress_details_kind {
	EGRESS_PROCESS_DETAILS,
	EGRESS_CGROUP_DETAILS,
};

enum egress_details_flags {
	EGRESS_HAS_ARGS = 1,
	EGRESS_ARGS_CUT = 2,
	EGRESS_FAULT = 4,    /* memory was not there to read, or the path is too long */
	EGRESS_HAS_PATH = 8, /* a program file */
};

/*
 * Sent once per program, and per cgroup (then only `process.cgroup_id` counts), before the first event that needs it.
 * `data` is the path, last component first, each ended by '/', then the arguments.
 */
struct egress_details {
	__u32 kind;
	__u32 flags;
	struct egress_process process;
	struct egress_identity parent; /* all 0: it has none */
	__u64 arg_start;
	__u32 local_pid;   /* in the reader's pid namespace; 0: it has no number there */
	__u32 session_pid; /* the session leader's */
	__u32 loginuid;
	__u32 netns;
	__u32 pidns;
	__u32 path_bytes;
	__u32 args_bytes;
	__u32 pad; /* so that `data` begins where the struct ends */
	__u8 session_comm[EGRESS_COMM_BYTES];
	__u8 data[];
};

/* Programs whose details were sent, and how user space judged them. */
struct egress_known {
	struct egress_process process; /* as it was then: details are sent again when it changes */
	__u16 flags;
	__u16 ancestors; /* that were sent too; EGRESS_ANCESTORS also where there are no more */
	__u32 rule;      /* what hides it */
};

enum egress_known_flags {
	EGRESS_KNOWN_WHOLE = 1,  /* with arguments: it was not sent as an ancestor */
	EGRESS_KNOWN_HIDDEN = 2, /* user space hides it, by `rule` */
};

struct egress_flow_key {
	struct egress_identity identity;
	__u8 daddr[EGRESS_ADDR_BYTES];
	__u16 dport;
	__u8 protocol;
	__u8 family;
	__u32 netns;
	__u32 ifindex;
	__u32 uid; /* who drops rights starts anew */
};

/* `seen` only grows, so that no two CPUs can lose a datagram between them by a reset. */
struct egress_flow {
	__u64 window_start_ns;
	__u64 last_ns;
	__u64 seen;
	__u64 reported;
	__u64 verdicts; /* how many there were when its program was last found not to be hidden */
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
	__u8 has_comms;
	__u8 has_uids;
	__u8 has_cgroups;
	__u8 has_verdicts; /* user space judges programs and writes to `known` */
	__u8 has_outside_comm;
	__u8 has_outside_uid;
	__u8 has_cgroup_v1; /* `pids` or `memory` are v1 */
	__u8 pad[2];
	__u32 outside_comm; /* number of the rule that hides what no only-comm names */
	__u32 outside_uid;
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
	EGRESS_SKIPPED_PROCESS,
	EGRESS_COUNTERS,
};

#endif
