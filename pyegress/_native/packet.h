/* SPDX-License-Identifier: MIT */
/* One packet, from whatever link layer, as the flow it belongs to. Needs no privileges and keeps nothing. */
#ifndef PACKET_H
#define PACKET_H

#ifndef __VMLINUX_H__
#include <linux/types.h>
#endif

/* Equal for all packets of one 5-tuple and direction: a key as it is. */
struct egress_packet_flow {
	__u8 saddr[16]; /* IPv4 as ::ffff:a.b.c.d */
	__u8 daddr[16];
	__u16 sport; /* host order, 0 without ports */
	__u16 dport;
	__u8 protocol; /* behind the extension headers of IPv6 */
	__u8 family; /* 4 or 6 */
	__u8 pad[2];
};

enum egress_packet_flags {
	EGRESS_PACKET_HAS_PORTS = 1,
	EGRESS_PACKET_HAS_TCP_FLAGS = 2,
	EGRESS_PACKET_HAS_TIME = 4,
	EGRESS_PACKET_SENT = 8, /* the link layer says that the capturing machine sent it */
	EGRESS_PACKET_RECEIVED = 16, /* or that it came from another one; maybe neither */
};

struct egress_packet {
	struct egress_packet_flow flow;
	__u64 ts_ns; /* since the epoch */
	__u32 tcp_seq;
	__u32 interface; /* number of the interface in the capture, over all sections */
	__u8 tcp_flags;
	__u8 flags;
	__u8 pad[6];
};

/* Why there is no flow. */
enum egress_unreadable {
	EGRESS_NOT_IP = 1,
	EGRESS_MALFORMED,
	EGRESS_CUT, /* addresses, ports or TCP flags are not in what was captured */
	EGRESS_LATER_FRAGMENT,
	EGRESS_UNSUPPORTED_LINK,
	EGRESS_UNREADABLES,
};

enum egress_link_types {
	EGRESS_LINK_NULL = 0,
	EGRESS_LINK_ETHERNET = 1,
	EGRESS_LINK_PPP = 9,
	EGRESS_LINK_RAW_OF_BSD = 12,
	EGRESS_LINK_RAW_OF_OPENBSD = 14,
	EGRESS_LINK_RAW = 101,
	EGRESS_LINK_LOOP = 108,
	EGRESS_LINK_SLL = 113,
	EGRESS_LINK_IPV4 = 228,
	EGRESS_LINK_IPV6 = 229,
	EGRESS_LINK_NFLOG = 239,
	EGRESS_LINK_SLL2 = 276,
};

/*
 * Reads no byte behind `captured`. Returns 0, or one of enum egress_unreadable, and `out` means nothing then.
 * Link types are those of tcpdump.org/linktypes.html.
 */
int egress_parse_packet(const void *data, __u32 captured, int link_type, struct egress_packet *out);

#endif
