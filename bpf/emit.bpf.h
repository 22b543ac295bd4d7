/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* The one way from a wanted destination to the ring: fill the record, count repeats, submit. */
#ifndef EMIT_BPF_H
#define EMIT_BPF_H

/* A load through a typed pointer is one instruction, a probe read sixty; since 5.11 a helper gives such a pointer. */
static __always_inline bool has_typed_task(void)
{
	return bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_get_current_task_btf);
}

static __always_inline void copy_comm(__u8 *to, const char *comm)
{
	((__u64 *)to)[0] = ((const __u64 *)comm)[0];
	((__u64 *)to)[1] = ((const __u64 *)comm)[1];
}

static __always_inline void fill_process_typed(struct egress_process *process)
{
	struct task_struct *leader = bpf_get_current_task_btf()->group_leader;
	struct task_struct *parent = leader->real_parent->group_leader;

	process->start_ns = leader->start_boottime;
	process->parent_start_ns = parent->start_boottime;
	process->exec_id = leader->self_exec_id;
	process->parent_tgid = parent->tgid;
	process->flags = leader->flags & PF_KTHREAD ? EGRESS_KERNEL_THREAD : 0;
	copy_comm(process->comm, leader->comm);
	copy_comm(process->parent_comm, parent->comm);
}

static __always_inline void fill_process_probed(struct egress_process *process)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct task_struct *leader = BPF_CORE_READ(task, group_leader);
	struct task_struct *parent = BPF_CORE_READ(leader, real_parent, group_leader);

	process->start_ns = BPF_CORE_READ(leader, start_boottime);
	process->parent_start_ns = BPF_CORE_READ(parent, start_boottime);
	process->exec_id = BPF_CORE_READ(leader, self_exec_id);
	process->parent_tgid = BPF_CORE_READ(parent, tgid);
	process->flags = BPF_CORE_READ(leader, flags) & PF_KTHREAD ? EGRESS_KERNEL_THREAD : 0;
	BPF_CORE_READ_STR_INTO(&process->comm, leader, comm);
	BPF_CORE_READ_STR_INTO(&process->parent_comm, parent, comm);
}

/* Names are the main threads': an io_uring worker or a named thread still is that program. */
static __always_inline void fill_process(struct egress_process *process, __u32 tgid)
{
	__u64 ids = bpf_get_current_uid_gid();

	process->cgroup_id = bpf_get_current_cgroup_id();
	process->tgid = tgid;
	process->uid = ids;
	process->gid = ids >> 32;
	if (has_typed_task())
		fill_process_typed(process);
	else
		fill_process_probed(process);
}

static __always_inline void fill_event(struct egress_event *event, const struct dest *dest, __u32 netns)
{
	__builtin_memset(event, 0, sizeof(*event));
	event->ts_ns = bpf_ktime_get_boot_ns();
	event->count = 1;
	event->tid = dest->thread;
	event->netns = netns;
	event->dport = bpf_ntohs(dest->port_be);
	event->family = dest->family;
	event->protocol = dest->protocol;
	event->ifindex = dest->scope_id;
	__builtin_memcpy(event->daddr, dest->addr, EGRESS_ADDR_BYTES);
	fill_process(&event->process, dest->thread >> 32);
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

/* `typed` is a constant at each caller; a cgroup hook has no socket to read from. */
static __always_inline void fill_source(struct egress_event *event, struct sock *sk, bool typed)
{
	if (!sk)
		return;
	if (typed)
		fill_source_typed(event, sk);
	else
		fill_source_probed(event, sk);
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
static __always_inline void report_window(struct egress_flow *flow, __u64 now_ns)
{
	struct egress_event event;
	__u64 seen;

	/* Another CPU may have reported it before we came in. */
	if (now_ns - flow->window_start_ns < cfg.window_ns || now_ns < flow->window_start_ns)
		return;
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
	report_window(flow, now_ns);
	bpf_map_delete_elem(&reporting, &key);
}

static __always_inline void fill_key(struct egress_flow_key *key, const struct dest *dest, __u32 netns)
{
	struct task_struct *leader;

	if (has_typed_task()) {
		leader = bpf_get_current_task_btf()->group_leader;
		key->start_ns = leader->start_boottime;
		key->exec_id = leader->self_exec_id;
	} else {
		leader = BPF_CORE_READ((struct task_struct *)bpf_get_current_task(), group_leader);
		key->start_ns = BPF_CORE_READ(leader, start_boottime);
		key->exec_id = BPF_CORE_READ(leader, self_exec_id);
	}
	key->tgid = dest->thread >> 32;
	key->netns = netns;
	key->ifindex = dest->scope_id;
	key->dport = dest->port_be;
	key->protocol = dest->protocol;
	key->family = dest->family;
	__builtin_memcpy(key->daddr, dest->addr, EGRESS_ADDR_BYTES);
}

static __always_inline void emit_datagram(struct sock *sk, const struct dest *dest, __u32 netns, bool typed)
{
	struct egress_flow_key key = {};
	struct egress_flow fresh;
	struct egress_flow *flow;

	if (!cfg.window_ns) {
		fill_event(&fresh.event, dest, netns);
		fill_source(&fresh.event, sk, typed);
		submit_or_lose(&fresh.event);
		return;
	}
	count(EGRESS_DATAGRAMS);
	fill_key(&key, dest, netns);
	flow = bpf_map_lookup_elem(&flows, &key);
	if (flow) {
		repeat_flow(flow);
		return;
	}
	fill_event(&fresh.event, dest, netns);
	fill_source(&fresh.event, sk, typed);
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
