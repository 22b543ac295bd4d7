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
	EGRESS_PACKET_SOCKET = 4, /* a frame of AF_PACKET: `protocol` is what it carries */
	EGRESS_OF_FLOW = 8,       /* of a flow: `count` is a part of the counter `datagrams` */
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

/* Made of whole words without padding: it is hashed and compared as such. */
struct egress_flow_key {
	struct egress_identity identity;
	__u8 daddr[EGRESS_ADDR_BYTES];
	__u16 dport;
	__u8 protocol;
	__u8 family; /* with `enum dest_family_bits` */
	__u32 netns;
	__u32 ifindex;
	__u32 uid; /* who drops rights starts anew */
};

/*
 * `seen` only grows, so that no two CPUs can lose a datagram between them by a reset. A tick is the kernel's (HZ): to
 * read its number costs one instruction, to read the time a hundred.
 */
struct egress_flow {
	struct egress_flow_key key;
	__u64 window_start_ns;
	__u64 window_start_ticks;
	__u64 seen;
	__u64 reported;
	__u64 verdicts; /* how many there were when its program was last found not to be hidden */
	__u64 changes;  /* of the tables, when no rule was last found for it */
	struct egress_event event;
};

enum egress_table_sizes {
	EGRESS_WAYS = 8,
	EGRESS_PENDING_WAYS = 4,
	EGRESS_PENDING_SETS = 4096,
	EGRESS_TOLD_SLOTS = 4096,
	EGRESS_DECISION_BITS = 12,
	EGRESS_HINT_BITS = 12,
	EGRESS_RULE_BITS = 24,
};

/* Where a flow may be: one of the entries of `flows` that belong to its set, where the tags are alike. */
struct egress_set {
	struct {
		__u32 tag;  /* 0: free; written last, and only by who holds the set's lock */
		__u32 last; /* the lowest bits of the tick of the newest datagram */
	} slots[EGRESS_WAYS];
};

/* Threads in a connect, each for the entry of `pending` with the same number; 0: free (kprobe only). */
struct egress_waiting {
	__u64 threads[EGRESS_PENDING_WAYS];
};

/* First in .bss, which user space has in its memory, too. */
struct egress_shared {
	__u32 tgid, pidns, pid_level; /* ours, set by `whoami` after load, so that they are right in any pid namespace */
	__u32 pad;
	__u64 changes;  /* how often user space changed ports and networks */
	__u64 verdicts; /* and how many times it has hidden a program */
	__u64 pending;  /* how many threads `waiting` has; only where words are compared and swapped */
	struct egress_waiting waiting[EGRESS_PENDING_SETS];
	/* Marks of callers of whom all was sent, by program: a short cut past the table of the known ones. */
	__u64 told[EGRESS_TOLD_SLOTS];
};

/* What the tables say of an address and port. `check` is no other's, and not one that is half written. */
struct egress_decision {
	__u64 addr[2];
	__u64 verdict;
	__u64 check;
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

/* Protocols that an audit may be limited to. */
enum egress_wants {
	EGRESS_WANTS_TCP = 1,
	EGRESS_WANTS_UDP = 2,
	EGRESS_WANTS_UDPLITE = 4,
	EGRESS_WANTS_ICMP = 8, /* and ICMPv6 */
	EGRESS_WANTS_SCTP = 16,
	EGRESS_WANTS_OTHER = 32,  /* any other IP protocol */
	EGRESS_WANTS_PACKET = 64, /* frames of AF_PACKET, whatever they carry */
};

/* Constant once loaded: the verifier removes what is not configured. */
struct egress_config {
	__u64 window_ns; /* 0: every datagram is an event */
	__u64 window_ticks;
	__u64 tick_ns;
	__u64 hash_factor; /* odd, and nobody else's to know */
	__u64 wake_ns;   /* the reader is woken at most this often */
	__u64 wake_records; /* or after so many records */
	__u8 report_loopback;
	__u8 wants; /* enum egress_wants; 0: all */
	__u8 has_destinations; /* any of the next two */
	__u8 has_ports;
	__u8 has_only_ports;
	__u8 has_cidrs;
	__u8 has_only_cidrs;
	__u8 has_processes; /* any of the next three */
	__u8 has_comms;
	__u8 has_uids;
	__u8 has_cgroups;
	__u8 has_verdicts; /* user space judges programs and writes to `known` */
	__u8 has_outside_comm;
	__u8 has_outside_uid;
	__u8 has_cgroup_v1; /* `pids` or `memory` are v1 */
	__u8 may_change; /* tables change while they are used */
	__u8 keeps_hints; /* datagrams are counted by flow, and no table of processes is to be asked for each */
	__u8 pad[3];
	__u32 flow_sets;
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
	EGRESS_UNREADABLE, /* frames of AF_PACKET whose IP header is out of reach */
	EGRESS_COUNTERS,
};

enum egress_dns_sizes {
	EGRESS_DNS_SHORT = 512, /* as without EDNS */
	EGRESS_DNS_LONG = 4096, /* as much as anybody lets a datagram have */
};

/*
 * A datagram to or from port 53, or a piece of a TCP stream; or, to another port, what begins a TLS or QUIC connection.
 */
struct egress_dns {
	__u64 ts_ns;
	__u64 socket; /* cookie */
	__u32 tgid;   /* of who asks, over UDP; 0 where the kernel doesn't tell */
	__u32 seq;    /* of the first byte in `data`, or of the SYN */
	__u32 bytes;  /* of payload; fewer may be in `data` */
	__u32 used;
	__u16 sport;
	__u16 dport;
	__u8 family;
	__u8 protocol;
	__u8 tcp_flags;
	__u8 is_answer;
	__u8 saddr[EGRESS_ADDR_BYTES];
	__u8 daddr[EGRESS_ADDR_BYTES];
	__u8 data[];
};

struct egress_dns_config {
	__u8 tells_asker; /* the kernel lets these programs know the process */
	__u8 hellos;      /* TLS and QUIC too */
	__u8 pad[6];
};

struct egress_dns_lost {
	__u64 ring_full;
};

#endif
