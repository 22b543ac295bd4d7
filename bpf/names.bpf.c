/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * DNS questions that leave this host's sockets and answers that reach them, payload and all, into a ring of their own;
 * if asked for, what names the server at the beginning of TLS and QUIC too. What is not to or from port 53 costs a look
 * at the headers. Always 1: audit lets everything through.
 */
#include <linux/bpf.h>
#include <linux/types.h>
#include "egress.h"

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

typedef _Bool bool;
#define true 1
#define false 0

#define IPPROTO_TCP 6
#define IPPROTO_UDP 17
#define DNS_PORT_BE bpf_htons(53)
#define PIECES 16 /* of the largest segment that there is, 64 KiB */
#define FIN_SYN_RST 0x07
#define SYN 0x02
#define MOST_HELLO 16384
#define LEAST_INITIAL 1200 /* RFC 9000, 14.1 */
#define WAITING 256
#define FRAGMENT_OFFSET_BE bpf_htons(0x1fff)

const volatile struct egress_dns_config names_cfg SEC(".rodata.names") = {};
/* Seldom counted, so not per CPU; user space reads it without a system call, for which it may lack the rights. */
struct egress_dns_lost names_lost SEC(".data.names") = {};

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20);
} names_ring SEC(".maps");

/* Space in the ring must be of a constant size; straight into it, since another packet may come in between. */
#define PUT(ctx, head, offset, room)                                                                        \
	do {                                                                                                \
		struct egress_dns *record = bpf_ringbuf_reserve(&names_ring, sizeof(*record) + (room), 0);  \
		__u64 last = (head)->bytes > (room) ? (room) : (head)->bytes;                               \
                                                                                                            \
		if (!record) {                                                                              \
			__sync_fetch_and_add(&names_lost.ring_full, 1);                                     \
			break;                                                                              \
		}                                                                                           \
		__builtin_memcpy(record, (head), sizeof(*record));                                          \
		record->used = last;                                                                        \
		if (last--) {                                                                               \
			/* What the verifier can follow: a power of two as a mask. */                       \
			asm volatile("" : "+r"(last));                                                      \
			last &= (room) - 1;                                                                 \
			if (bpf_skb_load_bytes((ctx), (offset), record->data, last + 1))                    \
				record->used = 0;                                                           \
		}                                                                                           \
		bpf_ringbuf_submit(record, BPF_RB_NO_WAKEUP);                                               \
	} while (0)

static __noinline int put_dns(struct __sk_buff *ctx, struct egress_dns *head, __u32 offset)
{
	__u32 left = head->bytes;

	for (int i = 0; i < PIECES; i++) {
		head->bytes = left;
		if (left <= EGRESS_DNS_SHORT) {
			PUT(ctx, head, offset, EGRESS_DNS_SHORT);
			break;
		}
		/* A stream's reader puts pieces together. */
		if (head->protocol == IPPROTO_TCP && left > EGRESS_DNS_LONG)
			head->bytes = EGRESS_DNS_LONG;
		PUT(ctx, head, offset, EGRESS_DNS_LONG);
		if (head->protocol != IPPROTO_TCP || left <= EGRESS_DNS_LONG)
			break;
		left -= EGRESS_DNS_LONG;
		offset += EGRESS_DNS_LONG;
		head->seq += EGRESS_DNS_LONG;
	}
	return 1;
}

/*
 * A question leaves with the address that NAT has given it, and its answer comes with the one that was asked: which a
 * connected socket knows.
 */
static __always_inline void undo_nat(struct __sk_buff *ctx, struct egress_dns *head)
{
	struct bpf_sock *sk = ctx->sk;
	__u32 word;

	if (!sk)
		return;
	sk = bpf_sk_fullsock(sk);
	if (!sk)
		return;
	if (head->family == 4) {
		word = sk->dst_ip4;
		if (word)
			__builtin_memcpy(head->daddr + 12, &word, 4);
	} else if (sk->dst_ip6[0]) {
		word = sk->dst_ip6[0];
		__builtin_memcpy(head->daddr, &word, 4);
		word = sk->dst_ip6[1];
		__builtin_memcpy(head->daddr + 4, &word, 4);
		word = sk->dst_ip6[2];
		__builtin_memcpy(head->daddr + 8, &word, 4);
		word = sk->dst_ip6[3];
		__builtin_memcpy(head->daddr + 12, &word, 4);
	}
}

/* Of a packet whose ports were looked at; by itself, so that others don't pay for its place on the stack. */
static __noinline int tell(struct __sk_buff *ctx, bool is_answer, __u32 most)
{
	__u8 *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u32 offset, header = 8, length = ctx->len;
	struct egress_dns head = {};
	__u8 *transport;

	if (data + 28 > end)
		return 1;
	head.family = data[0] >> 4;
	head.is_answer = is_answer;
	if (head.family == 4) {
		head.protocol = data[9];
		offset = (data[0] & 15) * 4;
		head.saddr[10] = head.saddr[11] = head.daddr[10] = head.daddr[11] = 0xff;
		__builtin_memcpy(head.saddr + 12, data + 12, 4);
		__builtin_memcpy(head.daddr + 12, data + 16, 4);
	} else {
		if (data + 40 > end)
			return 1;
		head.protocol = data[6];
		offset = 40;
		__builtin_memcpy(head.saddr, data + 8, 16);
		__builtin_memcpy(head.daddr, data + 24, 16);
	}
	transport = data + offset;
	if (transport + 8 > end)
		return 1;
	head.sport = bpf_ntohs(((__be16 *)transport)[0]);
	head.dport = bpf_ntohs(((__be16 *)transport)[1]);
	if (head.protocol == IPPROTO_TCP) {
		if (transport + 20 > end)
			return 1;
		head.seq = bpf_ntohl(*(__be32 *)(transport + 4));
		head.tcp_flags = transport[13] & FIN_SYN_RST;
		header = (transport[12] >> 4) * 4;
	}
	if (length < offset + header)
		return 1;
	head.bytes = length - offset - header;
	if (head.bytes > most)
		head.bytes = most;
	if (!head.bytes && !head.tcp_flags)
		return 1;
	if (!is_answer)
		undo_nat(ctx, &head);
	head.ts_ns = bpf_ktime_get_boot_ns();
	head.socket = bpf_get_socket_cookie(ctx);
	/* A datagram leaves in the hands of who sends it; a segment may be sent by whatever interrupts. */
	if (!is_answer && head.protocol == IPPROTO_UDP && names_cfg.tells_asker)
		head.tgid = bpf_get_current_pid_tgid() >> 32;
	return put_dns(ctx, &head, offset + header);
}

/* Segments that the rest of a ClientHello is awaited in, by socket; a race of two costs one of them its name. */
static struct {
	__u64 socket;
	__u32 seq;
	__u32 left;
} waiting[WAITING];

/* A TLS handshake record that begins with a ClientHello, or the next part of one. */
static __noinline int tap_tls(struct __sk_buff *ctx, __u32 offset, __u32 seq, bool is_syn)
{
	__u32 length = ctx->len, bytes, whole;
	__u64 socket;
	__u8 first[6];

	if (length <= offset)
		return 1;
	bytes = length - offset;
	socket = bpf_get_socket_cookie(ctx);
	seq += is_syn;
	if (bytes >= sizeof(first) && !bpf_skb_load_bytes(ctx, offset, first, sizeof(first)) && first[0] == 0x16 &&
	    first[1] == 3 && first[5] == 1) {
		whole = 5 + (first[3] << 8 | first[4]);
		if (whole <= MOST_HELLO && bytes < whole) {
			waiting[socket % WAITING].socket = socket;
			waiting[socket % WAITING].seq = seq + bytes;
			waiting[socket % WAITING].left = whole - bytes;
		}
		return tell(ctx, false, MOST_HELLO);
	}
	if (!waiting[socket % WAITING].left || waiting[socket % WAITING].socket != socket ||
	    waiting[socket % WAITING].seq != seq)
		return 1;
	whole = waiting[socket % WAITING].left;
	waiting[socket % WAITING].seq = seq + bytes;
	waiting[socket % WAITING].left = whole > bytes ? whole - bytes : 0;
	return tell(ctx, false, MOST_HELLO);
}

/* An Initial packet of QUIC's versions 1 or 2. */
static __noinline int tap_quic(struct __sk_buff *ctx, __u32 offset)
{
	__u8 first[5];

	if (ctx->len < offset + LEAST_INITIAL || bpf_skb_load_bytes(ctx, offset, first, sizeof(first)))
		return 1;
	first[0] &= 0xf0;
	if ((first[0] == 0xc0 && !first[1] && !first[2] && !first[3] && first[4] == 1) ||
	    (first[0] == 0xd0 && first[1] == 0x6b && first[2] == 0x33 && first[3] == 0x43 && first[4] == 0xcf))
		tell(ctx, false, EGRESS_DNS_LONG);
	return 1;
}

static __always_inline int tap_dns(struct __sk_buff *ctx, bool is_answer)
{
	__u8 *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end, *transport;
	__u32 offset = 40;
	__u8 protocol;

	/* Headers are never in pages of their own: what is too short for them is none of ours. */
	if (data + 28 > end)
		return 1;
	if (data[0] >> 4 == 4) {
		if (*(__be16 *)(data + 6) & FRAGMENT_OFFSET_BE)
			return 1;
		protocol = data[9];
		offset = (data[0] & 15) * 4;
	} else {
		protocol = data[6];
	}
	transport = data + offset;
	if (protocol != IPPROTO_UDP && protocol != IPPROTO_TCP)
		return 1;
	if (transport + 8 > end)
		return 1;
	if (((__be16 *)transport)[!is_answer] == DNS_PORT_BE)
		return tell(ctx, is_answer, 1 << 16);
	if (is_answer || !names_cfg.hellos)
		return 1;
	if (protocol == IPPROTO_UDP)
		return tap_quic(ctx, offset + 8);
	if (transport + 20 > end)
		return 1;
	return tap_tls(ctx, offset + (transport[12] >> 4) * 4, bpf_ntohl(*(__be32 *)(transport + 4)),
		       transport[13] & SYN);
}

SEC("cgroup_skb/egress")
int names_egress(struct __sk_buff *ctx)
{
	tap_dns(ctx, false);
	return 1;
}

SEC("cgroup_skb/ingress")
int names_ingress(struct __sk_buff *ctx)
{
	tap_dns(ctx, true);
	return 1;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
