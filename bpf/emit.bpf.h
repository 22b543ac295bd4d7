/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* The one way from a wanted destination to the ring: fill the record, count repeats, submit. */
#ifndef EMIT_BPF_H
#define EMIT_BPF_H

static __always_inline __u32 netns_of(struct sock *sk)
{
	return BPF_CORE_READ(sk, __sk_common.skc_net.net, ns.inum);
}

/* Not the nearer sk_uid: firewalls compare the user of the socket's file, which a chown of it leaves as it was. */
static __always_inline __u32 owner_of(struct sock *sk, bool typed)
{
	struct file *file = typed ? sk->sk_socket->file : BPF_CORE_READ(sk, sk_socket, file);

	if (!file)
		return EGRESS_NO_OWNER;
	return typed ? file->f_cred->fsuid.val : BPF_CORE_READ(file, f_cred, fsuid.val);
}

/* All but process and source. `typed` is a constant at each caller: only fentry and fexit may load from a socket. */
static __always_inline void fill_event(struct egress_event *event, const struct dest *dest, struct sock *sk,
				       __u32 netns, bool typed)
{
	__u32 tid = dest->thread;

	__builtin_memset(event, 0, offsetof(struct egress_event, process));
	event->ts_ns = bpf_ktime_get_boot_ns();
	event->count = 1;
	event->tid = tid;
	event->netns = netns;
	event->socket_uid = owner_of(sk, typed);
	event->dport = bpf_ntohs(dest->port_be);
	event->family = dest->family;
	event->protocol = dest->protocol;
	event->ifindex = dest->scope_id;
	__builtin_memcpy(event->daddr, dest->addr, EGRESS_ADDR_BYTES);
	if (tid != dest->thread >> 32)
		copy_comm(event->thread_comm, current_task(), has_typed_task());
}

static __always_inline void set_source(struct egress_event *event, __u32 saddr_be, __u16 sport, __u32 ifindex)
{
	event->sport = sport;
	if (!event->ifindex)
		event->ifindex = ifindex;
	if (event->family == 4) {
		__u32 *words = (__u32 *)event->saddr;

		words[0] = words[1] = 0;
		words[2] = bpf_htonl(0xffff);
		words[3] = saddr_be;
	}
}

/* Source and bound interface, by plain loads: only fentry and fexit may. */
static __always_inline void fill_source_typed(struct egress_event *event, struct sock *sk)
{
	struct sock_common *common = &sk->__sk_common;
	__u32 *words = (__u32 *)event->saddr;

	set_source(event, common->skc_rcv_saddr, common->skc_num, common->skc_bound_dev_if);
	if (event->family == 6) {
		words[0] = common->skc_v6_rcv_saddr.in6_u.u6_addr32[0];
		words[1] = common->skc_v6_rcv_saddr.in6_u.u6_addr32[1];
		words[2] = common->skc_v6_rcv_saddr.in6_u.u6_addr32[2];
		words[3] = common->skc_v6_rcv_saddr.in6_u.u6_addr32[3];
	}
}

/* An MPTCP program's subflows are the kernel's sockets too, but are the program's doing. */
static __always_inline void mark_kernel_socket(struct egress_event *event, struct sock *sk, bool kernel)
{
	struct tcp_sock *tcp = (void *)sk;
	bool mptcp = false;

	if (!kernel)
		return;
	if (event->protocol == IPPROTO_TCP && bpf_core_field_exists(tcp->is_mptcp))
		mptcp = BPF_CORE_READ_BITFIELD_PROBED(tcp, is_mptcp);
	if (!mptcp)
		event->flags |= EGRESS_KERNEL_SOCKET;
}

/* As the kernels we know begin a socket: one read instead of three, where CO-RE says that it is so. */
struct sock_head {
	__u32 daddr, rcv_saddr, hash;
	__u16 dport, num, family;
	__u8 state, bits;
	__u32 ifindex;
};

static __always_inline bool has_sock_head(void)
{
	return bpf_core_field_offset(struct sock_common, skc_rcv_saddr) == 4 &&
	       bpf_core_field_offset(struct sock_common, skc_num) == 14 &&
	       bpf_core_field_offset(struct sock_common, skc_bound_dev_if) == 20;
}

static __always_inline void fill_source_probed(struct egress_event *event, struct sock *sk)
{
	if (has_sock_head()) {
		struct sock_head head = {};

		bpf_probe_read_kernel(&head, sizeof(head), sk);
		set_source(event, head.rcv_saddr, head.num, head.ifindex);
	} else {
		set_source(event, BPF_CORE_READ(sk, __sk_common.skc_rcv_saddr),
			   BPF_CORE_READ(sk, __sk_common.skc_num),
			   BPF_CORE_READ(sk, __sk_common.skc_bound_dev_if));
	}
	if (event->family == 6)
		BPF_CORE_READ_INTO((struct in6_addr *)event->saddr, sk, __sk_common.skc_v6_rcv_saddr);
}

static __always_inline void fill_source(struct egress_event *event, struct sock *sk, bool typed)
{
	if (typed) {
		fill_source_typed(event, sk);
		mark_kernel_socket(event, sk, BPF_CORE_READ_BITFIELD(sk, sk_kern_sock));
	} else {
		fill_source_probed(event, sk);
		mark_kernel_socket(event, sk, BPF_CORE_READ_BITFIELD_PROBED(sk, sk_kern_sock));
	}
}

/* A wake-up costs more than the record, so one in `wake_ns` is enough; the reader also looks by itself. */
static __always_inline __u64 wake_flag(__u64 now_ns)
{
	if (now_ns - last_wake_ns >= cfg.wake_ns || bpf_ringbuf_query(&events, BPF_RB_AVAIL_DATA) > cfg.wake_bytes) {
		last_wake_ns = now_ns;
		return BPF_RB_FORCE_WAKEUP;
	}
	return BPF_RB_NO_WAKEUP;
}

static __always_inline bool submit(struct egress_event *event)
{
	if (bpf_ringbuf_output(&events, event, sizeof(*event), wake_flag(event->ts_ns)))
		return false;
	count(EGRESS_REPORTED);
	return true;
}

static __always_inline void submit_or_lose(struct egress_event *event)
{
	if (!submit(event))
		count(EGRESS_LOST_RING);
}

/* Only one CPU at a time, so that `reported` is read and written by one. */
static __noinline int report_window(struct egress_flow *flow, __u64 now_ns)
{
	struct egress_event event;
	__u64 seen;

	/* Another CPU may have reported it before we came in. */
	if (!flow || now_ns - flow->window_start_ns < cfg.window_ns || now_ns < flow->window_start_ns)
		return 0;
	seen = flow->seen;
	__builtin_memcpy(&event, &flow->event, sizeof(event));
	event.ts_ns = now_ns;
	event.count = seen - flow->reported;
	if (submit(&event)) {
		flow->reported = seen;
		flow->window_start_ns = now_ns;
	} else {
		count(EGRESS_DEFERRED);
	}
	return 0;
}

/* A datagram of a known flow: count it, and report it when its window is over. */
static __always_inline void repeat_flow(struct egress_flow *flow)
{
	__u64 now_ns = bpf_ktime_get_boot_ns();
	__u64 key = (__u64)flow;
	__u8 taken = 1;

	__sync_fetch_and_add(&flow->seen, 1);
	flow->last_ns = now_ns;
	if (now_ns - flow->window_start_ns < cfg.window_ns)
		return;
	/* Who does not get in is counted in the report of who did, or in the next. */
	if (bpf_map_update_elem(&reporting, &key, &taken, BPF_NOEXIST))
		return;
	fill_process(&flow->event.process);
	know_process(&flow->event.process);
	report_window(flow, now_ns);
	bpf_map_delete_elem(&reporting, &key);
}

static __always_inline void fill_key(struct egress_flow_key *key, const struct dest *dest, __u32 netns)
{
	bool typed = has_typed_task();
	struct task_struct *task = current_task();

	fill_identity(&key->identity, LOAD(typed, task, group_leader), typed);
	key->uid = bpf_get_current_uid_gid();
	key->netns = netns;
	key->ifindex = dest->scope_id;
	key->dport = dest->port_be;
	key->protocol = dest->protocol;
	key->family = dest->family;
	__builtin_memcpy(key->daddr, dest->addr, EGRESS_ADDR_BYTES);
}

/*
 * Functions of their own, because the stack has room for one event at a time. `result` is of a connect that has
 * returned, or NONE.
 */
#define NONE 1

static __always_inline int emit_each(struct sock *sk, const struct dest *dest, const struct egress_process *process,
				     __u32 netns, int result, bool typed)
{
	struct egress_event event;

	event.process = *process;
	fill_event(&event, dest, sk, netns, typed);
	fill_source(&event, sk, typed);
	if (result <= 0) {
		event.flags |= EGRESS_RESULT_KNOWN;
		event.result = result;
	}
	submit_or_lose(&event);
	return 0;
}

static __always_inline int emit_first(struct sock *sk, const struct dest *dest, const struct egress_process *process,
				      const struct egress_flow_key *key, __u64 seen_verdicts, bool typed)
{
	struct egress_flow fresh;
	struct egress_flow *flow;

	fresh.event.process = *process;
	fill_event(&fresh.event, dest, sk, key->netns, typed);
	fill_source(&fresh.event, sk, typed);
	fresh.window_start_ns = fresh.last_ns = fresh.event.ts_ns;
	fresh.seen = fresh.reported = 1;
	/* One more may come from now on, and then it is looked at again. */
	fresh.verdicts = seen_verdicts;
	if (bpf_map_update_elem(&flows, key, &fresh, BPF_NOEXIST)) {
		/* Another CPU was first with the same flow; without any entry it is reported as new again. */
		flow = bpf_map_lookup_elem(&flows, key);
		if (flow) {
			__sync_fetch_and_add(&flow->seen, 1);
			return 0;
		}
	}
	if (!submit(&fresh.event)) {
		count(EGRESS_LOST_FIRST);
		bpf_map_delete_elem(&flows, key);
	}
	return 0;
}

static __noinline int emit_each_typed(struct sock *sk, const struct dest *dest, const struct egress_process *process,
				      __u32 netns, int result)
{
	return emit_each(sk, dest, process, netns, result, true);
}

static __noinline int emit_each_probed(struct sock *sk, const struct dest *dest, const struct egress_process *process,
				       __u32 netns)
{
	return emit_each(sk, dest, process, netns, NONE, false);
}

static __noinline int emit_first_typed(struct sock *sk, const struct dest *dest, const struct egress_process *process,
				       const struct egress_flow_key *key, __u64 seen_verdicts)
{
	return emit_first(sk, dest, process, key, seen_verdicts, true);
}

static __noinline int emit_first_probed(struct sock *sk, const struct dest *dest, const struct egress_process *process,
					const struct egress_flow_key *key, __u64 seen_verdicts)
{
	return emit_first(sk, dest, process, key, seen_verdicts, false);
}

/* A known flow's program is looked up again only when there were verdicts since. */
static __always_inline bool is_flow_hidden(struct egress_flow *flow, struct egress_process *process, __u64 verdicts)
{
	if (flow->verdicts == verdicts)
		return false;
	if (is_program_hidden(process))
		return true;
	flow->verdicts = verdicts;
	return false;
}

static __always_inline void emit_datagram(struct sock *sk, const struct dest *dest, struct egress_process *process,
					  __u32 netns, bool typed)
{
	__u64 verdicts = verdicts_so_far();
	struct egress_flow_key key = {};

	if (cfg.window_ns) {
		struct egress_flow *flow;

		fill_key(&key, dest, netns);
		flow = bpf_map_lookup_elem(&flows, &key);
		if (flow) {
			if (!is_flow_hidden(flow, process, verdicts)) {
				count(EGRESS_DATAGRAMS);
				repeat_flow(flow);
			}
			return;
		}
	}
	if (is_program_hidden(process))
		return;
	know_process(process);
	if (!cfg.window_ns) {
		if (typed)
			emit_each_typed(sk, dest, process, netns, NONE);
		else
			emit_each_probed(sk, dest, process, netns);
		return;
	}
	count(EGRESS_DATAGRAMS);
	if (typed)
		emit_first_typed(sk, dest, process, &key, verdicts);
	else
		emit_first_probed(sk, dest, process, &key, verdicts);
}

#endif
