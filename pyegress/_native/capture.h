/* SPDX-License-Identifier: MIT */
/*
 * Reads pcap and pcapng as a stream: whoever has the bytes feeds them, in pieces of any size, and gets those
 * packets that may open a connection (TCP with SYN and without ACK, UDP). All others are counted.
 */
#ifndef CAPTURE_H
#define CAPTURE_H

#include "packet.h"

#ifndef __VMLINUX_H__
#include <stddef.h>
#endif

enum egress_capture_limits {
	/* A record that is longer, with its header, is a lie: no capture program takes more of a packet than 1 MiB. */
	EGRESS_MOST_RECORD_BYTES = 1 << 21,
	/* The same of a block that nobody asks for; Wireshark and libpcap take no longer ones either. */
	EGRESS_MOST_BLOCK_BYTES = 1 << 24,
	EGRESS_MOST_INTERFACES = 1 << 16,
};

struct egress_capture;

struct egress_capture_counts {
	__u64 packets;
	__u64 unreadable[EGRESS_UNREADABLES]; /* by enum egress_unreadable */
	__u64 later_tcp; /* TCP that opens nothing */
	__u64 other_protocols;
	__u64 untimed; /* packets that were given without a time */
	__u64 ends_inside; /* 1: the data ended inside a record */
};

/* NULL without memory. */
struct egress_capture *egress_capture_new(void);
void egress_capture_free(struct egress_capture *self);
/*
 * Takes what it can of the next bytes; `*used` tells how many. Returns the number of packets put to `arena`: after
 * some, feed the rest again; after none, feed it with more bytes behind it, until `last` said that there are no more.
 * -1, now and ever after, where the data is no capture or lies: egress_capture_error says how.
 */
int egress_capture_feed(struct egress_capture *self, const void *data, size_t bytes, int last, size_t *used,
			struct egress_packet *arena, int capacity);
const char *egress_capture_error(struct egress_capture *self);
const struct egress_capture_counts *egress_capture_counts(struct egress_capture *self);
/* The name that the capture gives an interface, "" where none; any bytes but NUL. */
const char *egress_capture_interface(struct egress_capture *self, __u32 number);
/* The link types of packets that couldn't be read, one by one from index 0 (at most 16 are kept); -1 at the end. */
int egress_capture_unsupported(struct egress_capture *self, int index);

#endif
