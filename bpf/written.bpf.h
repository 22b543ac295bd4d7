/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * Packets whose IP header the program wrote itself, by IP_HDRINCL or AF_PACKET: what is on the wire stands there,
 * not in the socket or the message's name.
 */
#ifndef WRITTEN_BPF_H
#define WRITTEN_BPF_H

enum written_sizes {
	WRITTEN_BYTES = 64, /* the longest IPv4 header, and the ports behind it */
	WRITTEN_PIECES = 4,
	IPV4_BYTES = 20,
	IPV6_BYTES = 40,
	PORTS_BYTES = 4,
	ETHERNET_BYTES = 14,
	VLAN_BYTES = 4,
};

enum ether_types {
	TYPE_IPV4 = 0x0800,
	TYPE_VLAN = 0x8100,
	TYPE_IPV6 = 0x86dd,
	TYPE_PROVIDER_VLAN = 0x88a8,
};

/* The beginning of a packet; twice as large as what is read, so that the verifier sees each piece end inside. */
struct written {
	__u8 bytes[2 * WRITTEN_BYTES];
	__u32 used;
};

static __always_inline bool has_ports(__u8 protocol)
{
	return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP || protocol == IPPROTO_UDPLITE ||
	       protocol == IPPROTO_SCTP || protocol == IPPROTO_DCCP;
}

/* Offsets are constants: kernels before 5.12 read the stack at no others. */
static __always_inline __u16 port_behind(const struct written *from, __u32 header_words)
{
	__u16 port_be = 0;

#pragma unroll
	for (__u32 words = IPV4_BYTES / 4; words <= 15; words++) {
		if (words == header_words && from->used >= words * 4 + PORTS_BYTES)
			port_be = *(const __u16 *)(from->bytes + words * 4 + 2);
	}
	return port_be;
}

/* False where it is no IP packet, or cut. A packet with IPv6's extension headers has the first one's number. */
static __always_inline bool read_written(struct dest *dest, const struct written *from)
{
	const __u8 *bytes = from->bytes;

	dest->port_be = 0;
	if (bytes[0] >> 4 == 4 && from->used >= IPV4_BYTES) {
		dest->protocol = bytes[9];
		set_v4(dest, *(const __u32 *)(bytes + 16));
		/* A later fragment has no ports. */
		if (has_ports(dest->protocol) && !(*(const __u16 *)(bytes + 6) & bpf_htons(0x1fff)))
			dest->port_be = port_behind(from, bytes[0] & 15);
		return true;
	}
	if (bytes[0] >> 4 == 6 && from->used >= IPV6_BYTES) {
		dest->protocol = bytes[6];
		set_v6(dest, (const __u32 *)(bytes + 24));
		if (has_ports(dest->protocol))
			dest->port_be = port_behind(from, IPV6_BYTES / 4);
		return true;
	}
	return false;
}

/* Whether the memory is the program's, and not a page or the kernel's: ITER_IOVEC, or before 5.14 its old value. */
static __always_inline bool is_iovec(struct iov_iter *iter)
{
	struct iov_iter___before_5_14 *old = (void *)iter;

	if (bpf_core_field_exists(old->type))
		return (BPF_CORE_READ(old, type) & ~1U) == bpf_core_enum_value(enum iter_type, ITER_IOVEC);
	return BPF_CORE_READ(iter, iter_type) == bpf_core_enum_value(enum iter_type, ITER_IOVEC);
}

static __always_inline bool is_ubuf(struct iov_iter *iter)
{
	return bpf_core_enum_value_exists(enum iter_type, ITER_UBUF) &&
	       BPF_CORE_READ(iter, iter_type) == bpf_core_enum_value(enum iter_type, ITER_UBUF);
}

static __always_inline const struct iovec *pieces_of(struct iov_iter *iter)
{
	struct iov_iter___since_6_4 *newer = (void *)iter;

	if (bpf_core_field_exists(newer->__iov))
		return BPF_CORE_READ(newer, __iov);
	return BPF_CORE_READ(iter, iov);
}

/* A program may change its memory between this and the kernel's own copy. */
static __always_inline void read_message_data(struct written *to, struct msghdr *msg)
{
	struct iov_iter *iter = &msg->msg_iter;
	struct iovec piece = {};
	const struct iovec *pieces = 0;
	__u64 left = BPF_CORE_READ(iter, count);
	__u32 used = 0;

	if (is_ubuf(iter)) {
		piece.iov_base = BPF_CORE_READ(iter, ubuf);
		piece.iov_len = left;
	} else if (is_iovec(iter)) {
		pieces = pieces_of(iter);
	} else {
		return;
	}
	for (int i = 0; i < WRITTEN_PIECES; i++) {
		__u64 size;

		if (pieces && bpf_probe_read_kernel(&piece, sizeof(piece), &pieces[i]))
			break;
		size = piece.iov_len < left ? piece.iov_len : left;
		if (size > WRITTEN_BYTES)
			size = WRITTEN_BYTES;
		barrier_var(used);
		if (used >= WRITTEN_BYTES || bpf_probe_read_user(to->bytes + used, size, piece.iov_base))
			break;
		used += size;
		left -= size;
		if (!left || !pieces)
			break;
	}
	to->used = used < WRITTEN_BYTES ? used : WRITTEN_BYTES;
}

static __noinline int read_message_packet(struct dest *dest, struct msghdr *msg)
{
	struct written written = {};
	struct dest found = *dest;

	read_message_data(&written, msg);
	if (!read_written(&found, &written))
		return false;
	*dest = found;
	return true;
}

static __always_inline __u16 type_before(const unsigned char *at)
{
	__u16 type_be = 0;

	bpf_probe_read_kernel(&type_be, sizeof(type_be), at - sizeof(type_be));
	return bpf_ntohs(type_be);
}

/* False for what is no IP, which nobody asks for, and counted where it can't be read: pages of a ring of frames. */
static __noinline int read_frame(struct dest *dest, struct sk_buff *skb, bool has_link_header)
{
	struct written written = {};
	unsigned char *data = BPF_CORE_READ(skb, data);
	unsigned char *at = BPF_CORE_READ(skb, head) + BPF_CORE_READ(skb, network_header);
	__s64 left = (__s64)BPF_CORE_READ(skb, len) - BPF_CORE_READ(skb, data_len) - (at - data);
	__u16 type = bpf_ntohs(BPF_CORE_READ(skb, protocol));
	__u64 size;

	if (has_link_header && at - data >= ETHERNET_BYTES) {
		type = type_before(at);
		for (int i = 0; i < 2 && (type == TYPE_VLAN || type == TYPE_PROVIDER_VLAN); i++) {
			at += VLAN_BYTES;
			left -= VLAN_BYTES;
			type = type_before(at);
		}
		if (type != TYPE_IPV4 && type != TYPE_IPV6)
			return false;
	} else if (!has_link_header && type != TYPE_IPV4 && type != TYPE_IPV6) {
		return false;
	}
	if (left <= 0) {
		count(EGRESS_UNREADABLE);
		return false;
	}
	size = left < WRITTEN_BYTES ? left : WRITTEN_BYTES;
	barrier_var(size);
	if (size > WRITTEN_BYTES || bpf_probe_read_kernel(written.bytes, size, at))
		return false;
	written.used = size;
	return read_written(dest, &written);
}

#endif
