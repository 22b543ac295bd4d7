/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * cgroup shims: they see what is asked for, not what comes of it, and a connected UDP socket at its connect.
 * They always return 1: audit lets everything through.
 */
#ifndef HOOKS_CGROUP_BPF_H
#define HOOKS_CGROUP_BPF_H

#define ALLOW 1

static __always_inline int seen_by_cgroup(struct bpf_sock_addr *ctx, bool v6)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	__u32 netns = BPF_CORE_READ(task, nsproxy, net_ns, ns.inum);
	struct egress_process process;
	struct dest dest = {};

	dest.port_be = ctx->user_port;
	if (ctx->type == SOCK_STREAM)
		dest.protocol = IPPROTO_TCP;
	else if (ctx->type == SOCK_DGRAM && ctx->protocol == IPPROTO_UDP)
		dest.protocol = IPPROTO_UDP;
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
	if (!is_wanted(&dest, &process))
		return ALLOW;
	if (dest.protocol == IPPROTO_TCP) {
		if (is_program_hidden(&process))
			return ALLOW;
		know_process(&process);
		emit_each_probed(0, &dest, &process, netns);
	} else {
		emit_datagram(0, &dest, &process, netns, false);
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
