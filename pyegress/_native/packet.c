/* SPDX-License-Identifier: MIT */
#include "packet.h"

#include <stddef.h>
#include <string.h>

/* More of either is no packet that anybody sends. */
enum { MOST_TAGS = 8, MOST_EXTENSIONS = 32 };

enum ether_types {
	TYPE_IPV4 = 0x0800,
	TYPE_IPV6 = 0x86dd,
	TYPE_VLAN = 0x8100,
	TYPE_PROVIDER_VLAN = 0x88a8,
	TYPE_OLD_VLAN = 0x9100,
	TYPE_OLDER_VLAN = 0x9200,
	TYPE_PPPOE_SESSION = 0x8864,
};

enum protocols {
	HOP_BY_HOP = 0,
	TCP = 6,
	UDP = 17,
	DCCP = 33,
	ROUTING = 43,
	FRAGMENT = 44,
	AUTHENTICATION = 51,
	DESTINATION = 60,
	SCTP = 132,
	MOBILITY = 135,
	UDP_LITE = 136,
	HIP = 139,
	SHIM6 = 140,
};

/* What of a transport header has to be there: ports, and of TCP all up to the flags. */
enum { PORTS_BYTES = 4, TCP_BYTES = 14 };

_Static_assert(sizeof(struct egress_packet_flow) == 40 && sizeof(struct egress_packet) == 64, "sizes");

static __u16 get16(const __u8 *at)
{
	return (__u16)(at[0] << 8 | at[1]);
}

static __u32 get32(const __u8 *at)
{
	return (__u32)get16(at) << 16 | get16(at + 2);
}

/* `cut`: the packet goes on behind `end`. */
static int missing(int cut)
{
	return cut ? EGRESS_CUT : EGRESS_MALFORMED;
}

static int parse_transport(const __u8 *at, const __u8 *end, int cut, struct egress_packet *out)
{
	int tcp = out->flow.protocol == TCP;

	switch (out->flow.protocol) {
	case TCP:
	case UDP:
	case DCCP:
	case SCTP:
	case UDP_LITE:
		break;
	default:
		return 0;
	}
	if (end - at < (tcp ? TCP_BYTES : PORTS_BYTES))
		return missing(cut);
	out->flow.sport = get16(at);
	out->flow.dport = get16(at + 2);
	out->flags |= EGRESS_PACKET_HAS_PORTS;
	if (tcp) {
		out->tcp_seq = get32(at + 4);
		out->tcp_flags = at[13];
		out->flags |= EGRESS_PACKET_HAS_TCP_FLAGS;
	}
	return 0;
}

static void put_ipv4(__u8 *to, const __u8 *address)
{
	to[10] = to[11] = 0xff;
	memcpy(to + 12, address, 4);
}

static int parse_ipv4(const __u8 *at, const __u8 *end, struct egress_packet *out)
{
	ptrdiff_t captured = end - at, header = (at[0] & 15) * 4, total;
	int cut;

	if (header < 20)
		return EGRESS_MALFORMED;
	if (captured < header)
		return EGRESS_CUT;
	/* 0 is what segmentation offload leaves there. */
	total = get16(at + 2);
	if (total && total < header)
		return EGRESS_MALFORMED;
	cut = !total || total > captured;
	if (!cut)
		end = at + total;
	if (get16(at + 6) & 0x1fff)
		return EGRESS_LATER_FRAGMENT;
	out->flow.family = 4;
	out->flow.protocol = at[9];
	put_ipv4(out->flow.saddr, at + 12);
	put_ipv4(out->flow.daddr, at + 16);
	return parse_transport(at + header, end, cut, out);
}

static int is_extension(__u8 protocol)
{
	switch (protocol) {
	case HOP_BY_HOP:
	case ROUTING:
	case FRAGMENT:
	case AUTHENTICATION:
	case DESTINATION:
	case MOBILITY:
	case HIP:
	case SHIM6:
		return 1;
	}
	return 0;
}

static int parse_ipv6(const __u8 *at, const __u8 *end, struct egress_packet *out)
{
	ptrdiff_t payload;
	__u8 next;
	int cut;

	if (end - at < 40)
		return EGRESS_CUT;
	payload = get16(at + 4);
	next = at[6];
	out->flow.family = 6;
	memcpy(out->flow.saddr, at + 8, 16);
	memcpy(out->flow.daddr, at + 24, 16);
	at += 40;
	/* 0 is a jumbogram's, and what offload leaves there. */
	cut = !payload || payload > end - at;
	if (!cut)
		end = at + payload;
	for (int passed = 0; is_extension(next); passed++) {
		ptrdiff_t bytes = 8;

		if (passed == MOST_EXTENSIONS)
			return EGRESS_MALFORMED;
		if (end - at < bytes)
			return missing(cut);
		if (next == FRAGMENT) {
			if (get16(at + 2) & 0xfff8)
				return EGRESS_LATER_FRAGMENT;
		} else {
			bytes = next == AUTHENTICATION ? (at[1] + 2) * 4 : (at[1] + 1) * 8;
		}
		if (end - at < bytes)
			return missing(cut);
		next = at[0];
		at += bytes;
	}
	out->flow.protocol = next;
	return parse_transport(at, end, cut, out);
}

/* `family` as the link layer says, 0 where it doesn't. */
static int parse_ip(const __u8 *at, const __u8 *end, int family, struct egress_packet *out)
{
	int version;

	if (at == end)
		return EGRESS_CUT;
	version = at[0] >> 4;
	if (family && version != family)
		return EGRESS_MALFORMED;
	switch (version) {
	case 4:
		return parse_ipv4(at, end, out);
	case 6:
		return parse_ipv6(at, end, out);
	}
	return EGRESS_NOT_IP;
}

static int parse_ppp(const __u8 *at, const __u8 *end, struct egress_packet *out)
{
	__u16 protocol;

	if (end - at >= 2 && at[0] == 0xff && at[1] == 3)
		at += 2;
	if (end - at < 2)
		return EGRESS_CUT;
	/* A protocol below 256 may be sent as one odd byte. */
	protocol = at[0] & 1 ? at[0] : get16(at);
	at += at[0] & 1 ? 1 : 2;
	switch (protocol) {
	case 0x21:
		return parse_ip(at, end, 4, out);
	case 0x57:
		return parse_ip(at, end, 6, out);
	}
	return EGRESS_NOT_IP;
}

static int parse_ether_type(__u16 type, const __u8 *at, const __u8 *end, struct egress_packet *out)
{
	for (int tags = 0; tags <= MOST_TAGS; tags++) {
		switch (type) {
		case TYPE_IPV4:
			return parse_ip(at, end, 4, out);
		case TYPE_IPV6:
			return parse_ip(at, end, 6, out);
		case TYPE_PPPOE_SESSION:
			return end - at < 6 ? EGRESS_CUT : parse_ppp(at + 6, end, out);
		case TYPE_VLAN:
		case TYPE_PROVIDER_VLAN:
		case TYPE_OLD_VLAN:
		case TYPE_OLDER_VLAN:
			if (end - at < 4)
				return EGRESS_CUT;
			type = get16(at + 2);
			at += 4;
			break;
		default:
			return EGRESS_NOT_IP;
		}
	}
	return EGRESS_MALFORMED;
}

/* The address family of the writing machine, in its byte order: each BSD has its own number for IPv6. */
static int parse_bsd_loopback(const __u8 *at, const __u8 *end, struct egress_packet *out)
{
	__u32 family;

	if (end - at < 4)
		return EGRESS_CUT;
	family = get32(at);
	if (family > 0xffff)
		family = __builtin_bswap32(family);
	switch (family) {
	case 2:
		return parse_ip(at + 4, end, 4, out);
	case 10:
	case 24:
	case 28:
	case 30:
		return parse_ip(at + 4, end, 6, out);
	}
	return EGRESS_NOT_IP;
}

/* Packet types of Linux; 3 is a packet between others, seen by a promiscuous interface. */
static __u8 direction(unsigned packet_type)
{
	if (packet_type == 4)
		return EGRESS_PACKET_SENT;
	return packet_type < 3 ? EGRESS_PACKET_RECEIVED : 0;
}

static int parse_sll(const __u8 *at, const __u8 *end, struct egress_packet *out)
{
	if (end - at < 16)
		return EGRESS_CUT;
	out->flags |= direction(get16(at));
	return parse_ether_type(get16(at + 14), at + 16, end, out);
}

static int parse_sll2(const __u8 *at, const __u8 *end, struct egress_packet *out)
{
	if (end - at < 20)
		return EGRESS_CUT;
	out->flags |= direction(at[10]);
	return parse_ether_type(get16(at), at + 20, end, out);
}

/* Attributes of nfnetlink_log, in the byte order of the writing machine: a type above 255 is read the wrong way. */
static int parse_nflog(const __u8 *at, const __u8 *end, struct egress_packet *out)
{
	enum { PACKET_HEADER = 1, PAYLOAD = 9 };
	enum { LOCAL_IN = 1, LOCAL_OUT = 3 };
	int family;

	if (end - at < 4)
		return EGRESS_CUT;
	family = at[0] == 2 ? 4 : at[0] == 10 ? 6 : 0;
	if (!family)
		return EGRESS_NOT_IP;
	at += 4;
	while (end - at >= 4) {
		__u16 bytes = get16(at), type = get16(at + 2);

		if (type > 255) {
			bytes = __builtin_bswap16(bytes);
			type = __builtin_bswap16(type);
		}
		if (bytes < 4)
			return EGRESS_MALFORMED;
		if (type == PAYLOAD)
			return parse_ip(at + 4, bytes < end - at ? at + bytes : end, family, out);
		if (type == PACKET_HEADER && bytes >= 7 && end - at >= 7) {
			if (at[6] == LOCAL_OUT)
				out->flags |= EGRESS_PACKET_SENT;
			else if (at[6] <= LOCAL_IN)
				out->flags |= EGRESS_PACKET_RECEIVED;
		}
		bytes = (bytes + 3) & ~3;
		if (bytes < 4 || end - at < bytes)
			return EGRESS_CUT;
		at += bytes;
	}
	return EGRESS_CUT;
}

int egress_parse_packet(const void *data, __u32 captured, int link_type, struct egress_packet *out)
{
	const __u8 *at = data, *end = at + captured;

	memset(out, 0, sizeof(*out));
	switch (link_type) {
	case EGRESS_LINK_NULL:
	case EGRESS_LINK_LOOP:
		return parse_bsd_loopback(at, end, out);
	case EGRESS_LINK_ETHERNET:
		return captured < 14 ? EGRESS_CUT : parse_ether_type(get16(at + 12), at + 14, end, out);
	case EGRESS_LINK_PPP:
		return parse_ppp(at, end, out);
	case EGRESS_LINK_RAW_OF_BSD:
	case EGRESS_LINK_RAW_OF_OPENBSD:
	case EGRESS_LINK_RAW:
		return parse_ip(at, end, 0, out);
	case EGRESS_LINK_IPV4:
		return parse_ip(at, end, 4, out);
	case EGRESS_LINK_IPV6:
		return parse_ip(at, end, 6, out);
	case EGRESS_LINK_SLL:
		return parse_sll(at, end, out);
	case EGRESS_LINK_SLL2:
		return parse_sll2(at, end, out);
	case EGRESS_LINK_NFLOG:
		return parse_nflog(at, end, out);
	}
	return EGRESS_UNSUPPORTED_LINK;
}
