/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * What is neither TCP nor UDP: ping and raw sockets, SCTP, AF_PACKET. The functions are these protocols' own, so nobody
 * else pays. Kprobes serve both kinds of hooks: one program, which takes long to verify, does for several functions.
 */
#ifndef HOOKS_OTHER_BPF_H
#define HOOKS_OTHER_BPF_H

/* `bits` of `enum dest_family_bits`; `by` as for is_wanted_by. */
static __always_inline int tell_datagram(struct sock *sk, struct dest *dest, __u32 bits, __u32 by)
{
	struct egress_process process;

	if (!is_worth_a_look(dest) || !is_wanted_by(dest, &process, by))
		return 0;
	dest->family |= bits;
	emit_datagram(sk, dest, &process, false);
	return 0;
}

/* Only raw sockets can be told to. */
static __always_inline bool writes_header(struct sock *sk)
{
	struct inet_sock___since_6_6 *newer = (void *)sk;
	struct inet_sock *inet = (void *)sk;

	if (bpf_core_field_exists(newer->inet_flags))
		return BPF_CORE_READ(newer, inet_flags) & 1UL << INET_FLAGS_HDRINCL;
	return BPF_CORE_READ_BITFIELD_PROBED(inet, hdrincl);
}

/*
 * The name's address and the socket's protocol. A function of its own, which has returned before the record is made: the
 * stack has no room for both. On IPv6 AF_UNSPEC passes for AF_INET6 with raw sockets.
 */
static __noinline int read_sent(struct dest *dest, struct sock *sk, struct msghdr *msg)
{
	struct sock *typed = CAST(struct sock, sk);
	bool v6 = LOAD(HAS_CAST, typed, __sk_common.skc_family) == AF_INET6;
	bool raw = LOAD(HAS_CAST, typed, sk_type) == SOCK_RAW;
	struct msg_head head = {};

	read_message(&head, msg);
	if (raw)
		dest->protocol = LOAD(HAS_CAST, typed, __sk_common.skc_num);
	else
		dest->protocol = v6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP;
	if (v6 && head.name)
		return read_sockaddr_v6(dest, typed, head.name, head.namelen, raw);
	return read_addressee(dest, typed, head.name, head.namelen, v6, HAS_CAST);
}

static __always_inline int message_sent(struct sock *sk, struct msghdr *msg)
{
	struct dest dest = {};
	__u32 bits = 0;

	if (!read_sent(&dest, sk, msg))
		return 0;
	if (writes_header(sk) && read_message_packet(&dest, msg)) {
		bits = DEST_WRITTEN;
	} else {
		/* A socket for any protocol takes it from there. */
		if (dest.family == 6 && dest.protocol == IPPROTO_RAW && dest.port_be)
			dest.protocol = bpf_ntohs(dest.port_be);
		dest.port_be = 0;
	}
	return tell_datagram(sk, &dest, bits, 0);
}

/* Where the kernel has the whole frame, and has not sent it. */
static __always_inline int frame_sent(struct sk_buff *skb, struct socket *socket)
{
	struct dest dest = {};

	if (!read_frame(&dest, skb, BPF_CORE_READ(socket, type) == SOCK_RAW))
		return 0;
	dest.scope_id = BPF_CORE_READ(skb, dev, ifindex);
	return tell_datagram(BPF_CORE_READ(socket, sk), &dest, DEST_PACKET | DEST_WRITTEN, EGRESS_WANTS_PACKET);
}

static __noinline int read_association(struct dest *dest, struct sctp_association *association)
{
	struct any_sockaddr addr = {};

	if (bpf_probe_read_kernel(&addr, SIN6_BYTES, &association->peer.primary_addr))
		return false;
	dest->protocol = IPPROTO_SCTP;
	dest->port_be = addr.port_be;
	if (addr.family == AF_INET6) {
		set_v6(dest, (__u32 *)addr.v6.addr);
		if (dest->addr[0] == 0xfe && (dest->addr[1] & 0xc0) == 0x80)
			dest->scope_id = addr.v6.scope_id;
	} else {
		set_v4(dest, *(__u32 *)addr.v4);
	}
	return true;
}

/* Once for each association that is begun, by connect, connectx or the first message. */
static __always_inline int associates(struct sctp_association *association)
{
	struct egress_process process;
	struct dest dest = {};
	struct sock *sk;

	if (!bpf_core_field_exists(association->base.sk) || !read_association(&dest, association))
		return 0;
	if (!is_wanted(&dest, &process) || is_program_hidden(&process, dest.task))
		return 0;
	know_process(&process);
	sk = BPF_CORE_READ(association, base.sk);
	return emit_each_probed(sk, &dest, &process, NONE);
}

/* All these take a socket and a message first. */
SEC("kprobe/ping_v4_sendmsg,ping_v6_sendmsg,raw_sendmsg,rawv6_sendmsg")
int BPF_KPROBE(other_message, struct sock *sk, struct msghdr *msg)
{
	return message_sent(sk, msg);
}

SEC("kprobe/packet_parse_headers")
int BPF_KPROBE(other_packet, struct sk_buff *skb, struct socket *socket)
{
	return frame_sent(skb, socket);
}

SEC("kprobe/sctp_primitive_ASSOCIATE")
int BPF_KPROBE(other_sctp, struct net *net, struct sctp_association *association)
{
	return associates(association);
}

#endif
