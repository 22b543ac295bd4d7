/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * cgroup shims: they see what is asked for, not what comes of it, and a connected UDP socket at its connect.
 * They always return 1: audit lets everything through.
 */
#ifndef HOOKS_CGROUP_BPF_H
#define HOOKS_CGROUP_BPF_H

#define ALLOW 1

/* The verifier forbids arithmetic on this pointer; a helper's copy of it is a number, which may be read from. */
static __always_inline struct sock *socket_of(struct bpf_sock_addr *ctx)
{
	struct bpf_sock *kept = ctx->sk;
	struct sock *sk = 0;

	bpf_probe_read_kernel(&sk, sizeof(sk), &kept);
	return sk;
}

static __always_inline int seen_by_cgroup(struct bpf_sock_addr *ctx, bool v6)
{
	struct sock *sk = socket_of(ctx);
	struct sock *typed = CAST(struct sock, sk);
	struct egress_process process;
	struct dest dest = {};

	dest.port_be = ctx->user_port;
	if (ctx->type == SOCK_STREAM)
		dest.protocol = IPPROTO_TCP;
	else if (ctx->type == SOCK_DGRAM && (ctx->protocol == IPPROTO_UDP || ctx->protocol == IPPROTO_UDPLITE))
		dest.protocol = ctx->protocol;
	else
		return ALLOW;
	if (v6) {
		/* Each word is its own context access: the verifier takes no other. */
		__u32 words[4] = {ctx->user_ip6[0], ctx->user_ip6[1], ctx->user_ip6[2], ctx->user_ip6[3]};

		if (is_mapped((__u8 *)words))
			set_v4(&dest, words[3]);
		else
			set_v6(&dest, words);
	} else {
		set_v4(&dest, ctx->user_ip4);
	}
	if (!dest.port_be || !is_worth_a_look(&dest))
		return ALLOW;
	/* Probe reads take more of the stack than is left for it. */
	if (HAS_CAST && dest.protocol != IPPROTO_TCP && is_repeat(typed, &dest, true))
		return ALLOW;
	if (!is_wanted_by(&dest, &process, 0))
		return ALLOW;
	if (dest.protocol == IPPROTO_TCP) {
		if (is_program_hidden(&process, dest.task))
			return ALLOW;
		know_process(&process);
		emit_each_probed(sk, &dest, &process, NONE);
	} else {
		emit_datagram(sk, &dest, &process, false);
	}
	return ALLOW;
}

SEC("cgroup/connect4")
int connect4(struct bpf_sock_addr *ctx)
{
	return seen_by_cgroup(ctx, false);
}

SEC("cgroup/connect6")
int connect6(struct bpf_sock_addr *ctx)
{
	return seen_by_cgroup(ctx, true);
}

SEC("cgroup/sendmsg4")
int sendmsg4(struct bpf_sock_addr *ctx)
{
	return seen_by_cgroup(ctx, false);
}

SEC("cgroup/sendmsg6")
int sendmsg6(struct bpf_sock_addr *ctx)
{
	return seen_by_cgroup(ctx, true);
}

#endif
