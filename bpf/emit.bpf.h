/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* The one way from a wanted destination to the ring: fill the record, count repeats, submit. */
#ifndef EMIT_BPF_H
#define EMIT_BPF_H

static __always_inline void fill_process(struct egress_process *process)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct task_struct *leader = BPF_CORE_READ(task, group_leader);
	struct task_struct *parent = BPF_CORE_READ(leader, real_parent, group_leader);
	__u64 ids = bpf_get_current_uid_gid();

	process->start_ns = BPF_CORE_READ(leader, start_boottime);
	process->parent_start_ns = BPF_CORE_READ(parent, start_boottime);
	process->cgroup_id = bpf_get_current_cgroup_id();
	process->tgid = bpf_get_current_pid_tgid() >> 32;
	process->exec_id = BPF_CORE_READ(leader, self_exec_id);
	process->uid = ids;
	process->gid = ids >> 32;
	process->parent_tgid = BPF_CORE_READ(parent, tgid);
	process->flags = BPF_CORE_READ(leader, flags) & PF_KTHREAD ? EGRESS_KERNEL_THREAD : 0;
	/* The main thread's name: an io_uring worker or a named thread still is that program. */
	BPF_CORE_READ_STR_INTO(&process->comm, leader, comm);
	BPF_CORE_READ_STR_INTO(&process->parent_comm, parent, comm);
}

static __always_inline void fill_event(struct egress_event *event, const struct dest *dest)
{
	__builtin_memset(event, 0, sizeof(*event));
	event->ts_ns = bpf_ktime_get_boot_ns();
	event->count = 1;
	event->tid = bpf_get_current_pid_tgid();
	event->dport = bpf_ntohs(dest->port_be);
	event->family = dest->family;
	event->protocol = dest->protocol;
	event->ifindex = dest->scope_id;
	__builtin_memcpy(event->daddr, dest->addr, EGRESS_ADDR_BYTES);
	fill_process(&event->process);
}

/* Source, namespace and bound interface; a port of 0 is none. */
static __always_inline void fill_source(struct egress_event *event, struct sock *sk)
{
	__u32 *words = (__u32 *)event->saddr;

	event->netns = BPF_CORE_READ(sk, __sk_common.skc_net.net, ns.inum);
	if (!event->ifindex)
		event->ifindex = BPF_CORE_READ(sk, __sk_common.skc_bound_dev_if);
	event->sport = bpf_ntohs(BPF_CORE_READ((struct inet_sock *)sk, inet_sport));
	if (event->family == 4) {
		words[0] = words[1] = 0;
		words[2] = bpf_htonl(0xffff);
		words[3] = BPF_CORE_READ(sk, __sk_common.skc_rcv_saddr);
	} else {
		BPF_CORE_READ_INTO((struct in6_addr *)words, sk, __sk_common.skc_v6_rcv_saddr);
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

/* A datagram of a known flow: count it, and report it when its window is over. */
static __always_inline void repeat_flow(struct egress_flow *flow)
{
	__u64 now_ns = bpf_ktime_get_boot_ns();

	__sync_fetch_and_add(&flow->seen, 1);
	flow->last_ns = now_ns;
	if (now_ns - flow->window_start_ns >= cfg.window_ns) {
		struct egress_event event;
		__u64 seen = flow->seen;

		__builtin_memcpy(&event, &flow->event, sizeof(event));
		event.ts_ns = now_ns;
		event.count = seen - flow->reported;
		if (submit(&event)) {
			flow->reported = seen;
			flow->window_start_ns = now_ns;
		} else {
			count(EGRESS_DEFERRED);
		}
	}
}

static __always_inline void emit_datagram(struct sock *sk, const struct dest *dest, __u32 netns)
{
	struct egress_flow_key key = {};
	struct egress_flow fresh = {};
	struct egress_flow *flow;
	struct task_struct *leader;

	if (!cfg.window_ns) {
		fill_event(&fresh.event, dest);
		fresh.event.netns = netns;
		if (sk)
			fill_source(&fresh.event, sk);
		submit_or_lose(&fresh.event);
		return;
	}
	count(EGRESS_DATAGRAMS);
	leader = BPF_CORE_READ((struct task_struct *)bpf_get_current_task(), group_leader);
	key.start_ns = BPF_CORE_READ(leader, start_boottime);
	key.exec_id = BPF_CORE_READ(leader, self_exec_id);
	key.tgid = bpf_get_current_pid_tgid() >> 32;
	key.netns = netns;
	key.ifindex = dest->scope_id;
	key.dport = dest->port_be;
	key.protocol = dest->protocol;
	key.family = dest->family;
	__builtin_memcpy(key.daddr, dest->addr, EGRESS_ADDR_BYTES);
	flow = bpf_map_lookup_elem(&flows, &key);
	if (flow) {
		repeat_flow(flow);
		return;
	}
	fill_event(&fresh.event, dest);
	fresh.event.netns = netns;
	if (sk)
		fill_source(&fresh.event, sk);
	fresh.window_start_ns = fresh.last_ns = fresh.event.ts_ns;
	fresh.seen = fresh.reported = 1;
	if (bpf_map_update_elem(&flows, &key, &fresh, BPF_NOEXIST)) {
		/* Another CPU was first with the same flow; without any entry it is reported as new again. */
		flow = bpf_map_lookup_elem(&flows, &key);
		if (flow) {
			repeat_flow(flow);
			return;
		}
	}
	if (!submit(&fresh.event)) {
		count(EGRESS_LOST_FIRST);
		bpf_map_delete_elem(&flows, &key);
	}
}

#endif
