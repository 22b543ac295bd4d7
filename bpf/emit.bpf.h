/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* The one way from a wanted destination to the ring: fill the record, count repeats, submit. */
#ifndef EMIT_BPF_H
#define EMIT_BPF_H

static __always_inline __u32 netns_of(struct sock *sk, bool typed)
{
	struct net *net = LOAD(typed, sk, __sk_common.skc_net.net);

	return LOAD(typed, net, ns.inum);
}

/* Not the nearer sk_uid: firewalls compare the user of the socket's file, which a chown of it leaves as it was. */
static __always_inline __u32 owner_of(struct sock *sk, bool typed)
{
	struct file *file = typed ? sk->sk_socket->file : BPF_CORE_READ(sk, sk_socket, file);

	if (!file)
		return EGRESS_NO_OWNER;
	return typed ? file->f_cred->fsuid.val : BPF_CORE_READ(file, f_cred, fsuid.val);
}

/* All but process and source. `typed` is a constant at each caller: whether the verifier lets us load from the socket. */
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
	event->family = dest->family & DEST_VERSION;
	event->protocol = dest->protocol;
	event->ifindex = dest->scope_id;
	__builtin_memcpy(event->daddr, dest->addr, EGRESS_ADDR_BYTES);
	if (tid != dest->thread >> 32)
		copy_comm(event->thread_comm, dest->task, has_typed_task());
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

/* Source and bound interface, by plain loads. */
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

/*
 * The first datagram of a flow: UDP-Lite is told from UDP here, so that the others cost no more. A raw socket has its
 * protocol for a port, a ping socket its identifier.
 */
static __always_inline void mark_datagram(struct egress_event *event, const struct dest *dest, struct sock *sk,
					  bool typed)
{
	if (event->protocol == IPPROTO_UDP && !(dest->family & DEST_WRITTEN) &&
	    LOAD(typed, sk, sk_protocol) == IPPROTO_UDPLITE)
		event->protocol = IPPROTO_UDPLITE;
	event->flags |= dest->family & DEST_PACKET ? EGRESS_OF_FLOW | EGRESS_PACKET_SOCKET : EGRESS_OF_FLOW;
	if (!dest->port_be || dest->family & DEST_WRITTEN)
		event->sport = 0;
}

/* A wake-up costs more than the record, so one in `wake_ns` is enough; the reader also looks by itself. */
static __always_inline __u64 wake_flag(__u64 now_ns)
{
	/* CPUs that count at the same time may count one record for two. */
	records_since_wake++;
	if (now_ns - last_wake_ns >= cfg.wake_ns || records_since_wake > cfg.wake_records) {
		last_wake_ns = now_ns;
		records_since_wake = 0;
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

/* Only by who holds the lock, so that `reported` is read and written by one. */
static __always_inline bool report_flow(struct egress_flow *flow, __u64 ts_ns)
{
	__u64 seen = flow->seen;

	flow->event.ts_ns = ts_ns;
	flow->event.count = seen - flow->reported;
	if (!submit(&flow->event))
		return false;
	flow->reported = seen;
	return true;
}

static __noinline int report_window(struct egress_flow *flow, __u64 ticks)
{
	__u64 now_ns;

	/* Another CPU may have reported it before we came in. */
	if (!flow || (__s64)(ticks - flow->window_start_ticks) < (__s64)cfg.window_ticks)
		return 0;
	now_ns = bpf_ktime_get_boot_ns();
	if (report_flow(flow, now_ns)) {
		flow->window_start_ns = now_ns;
		flow->window_start_ticks = ticks;
	} else {
		count(EGRESS_DEFERRED);
	}
	return 0;
}

/* A datagram of a known flow: count it, and report it when its window is over. */
static __always_inline void repeat_flow(struct egress_flow *flow, const struct place *place, __u32 way)
{
	__u64 ticks = bpf_jiffies64();

	__sync_fetch_and_add(&flow->seen, 1);
	place->set->slots[way].last = ticks;
	if (ticks - flow->window_start_ticks < cfg.window_ticks)
		return;
	/* Who does not get in is counted in the report of who did, or in the next. */
	if (!try_lock(place->number))
		return;
	fill_process(&flow->event.process, current_task());
	know_process(&flow->event.process);
	report_window(flow, ticks);
	unlock(place->number);
}

/*
 * Functions of their own, because the stack has room for one event at a time. `result` is of a connect that has
 * returned, or one of these.
 */
enum no_result {
	NONE = 1,
	DATAGRAM = 2, /* it is no connect */
};

static __always_inline int emit_each(struct sock *sk, const struct dest *dest, const struct egress_process *process,
				     int result, bool typed)
{
	struct egress_event *event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);

	if (!event) {
		count(cfg.window_ns && result == DATAGRAM ? EGRESS_LOST_FIRST : EGRESS_LOST_RING);
		return 0;
	}
	event->process = *process;
	fill_event(event, dest, sk, netns_of(sk, typed), typed);
	fill_source(event, sk, typed);
	if (result == DATAGRAM) {
		mark_datagram(event, dest, sk, typed);
	} else if (result <= 0) {
		event->flags |= EGRESS_RESULT_KNOWN;
		event->result = result;
	}
	bpf_ringbuf_submit(event, wake_flag(event->ts_ns));
	count(EGRESS_REPORTED);
	return 0;
}

/* A flow stays where it is told to be, or else its key or its tag doesn't fit. */
static __always_inline __u32 *hint_for(const struct dest *dest)
{
	const __u64 *addr = (const __u64 *)dest->addr;
	__u64 mix = dest->thread + addr[0] + addr[1] + dest->port_be;

	return &hints[mix * cfg.hash_factor >> (64 - EGRESS_HINT_BITS)];
}

/* The next datagram of this thread to there asks no table, while no rule names it. */
static __always_inline void hint_at(struct egress_flow *flow, const struct dest *dest, const struct place *place,
				    __u32 way)
{
	if (!cfg.keeps_hints || dest->changes == RULED)
		return;
	flow->changes = dest->changes;
	*hint_for(dest) = place->number * EGRESS_WAYS + way + 1;
}

/* Puts a flow into its set and reports it, under the lock; what it pushes out is told first. */
static __always_inline void put_flow(struct sock *sk, const struct dest *dest, const struct egress_process *process,
				     const struct egress_flow_key *key, const struct place *place, __u64 seen_verdicts,
				     bool typed)
{
	__u64 ticks = bpf_jiffies64();
	__u32 way = way_to_use(place, ticks) % EGRESS_WAYS;
	struct egress_flow *flow = flow_at(place, way);

	if (!flow)
		return;
	if (place->set->slots[way].tag) {
		place->set->slots[way].tag = 0;
		if (flow->seen > flow->reported)
			report_flow(flow, last_ns(flow, place->set->slots[way].last));
	}
	flow->key = *key;
	flow->event.process = *process;
	fill_event(&flow->event, dest, sk, key->netns, typed);
	fill_source(&flow->event, sk, typed);
	mark_datagram(&flow->event, dest, sk, typed);
	flow->window_start_ns = flow->event.ts_ns;
	flow->window_start_ticks = ticks;
	flow->seen = flow->reported = 1;
	/* One more may come from now on, and then it is looked at again. */
	flow->verdicts = seen_verdicts;
	place->set->slots[way].last = ticks;
	if (submit(&flow->event)) {
		place->set->slots[way].tag = place->tag;
		hint_at(flow, dest, place, way);
	} else {
		count(EGRESS_LOST_FIRST);
	}
}

static __always_inline int emit_first(struct sock *sk, const struct dest *dest, const struct egress_process *process,
				      __u64 seen_verdicts, bool typed)
{
	struct egress_flow_key key;
	struct egress_flow *flow;
	struct place place;
	__u32 way;

	fill_key(&key, dest, netns_of(sk, typed));
	if (!find_place(&place, &key))
		return 0;
	/* Another CPU writes to this set: without an entry the flow is reported as new again. */
	if (!try_lock(place.number))
		return emit_each(sk, dest, process, DATAGRAM, typed);
	flow = find_flow(&place, &key, &way);
	if (flow)
		__sync_fetch_and_add(&flow->seen, 1);
	else
		put_flow(sk, dest, process, &key, &place, seen_verdicts, typed);
	unlock(place.number);
	return 0;
}

static __noinline int emit_each_typed(struct sock *sk, const struct dest *dest, const struct egress_process *process,
				      int result)
{
	return emit_each(sk, dest, process, result, true);
}

static __noinline int emit_each_probed(struct sock *sk, const struct dest *dest, const struct egress_process *process,
				       int result)
{
	return emit_each(CAST(struct sock, sk), dest, process, result, HAS_CAST);
}

static __noinline int emit_first_typed(struct sock *sk, const struct dest *dest, const struct egress_process *process,
				       __u64 seen_verdicts)
{
	return emit_first(sk, dest, process, seen_verdicts, true);
}

static __noinline int emit_first_probed(struct sock *sk, const struct dest *dest, const struct egress_process *process,
					__u64 seen_verdicts)
{
	return emit_first(CAST(struct sock, sk), dest, process, seen_verdicts, HAS_CAST);
}

/* A known flow's program is looked up again only when there were verdicts since. */
static __always_inline bool is_flow_hidden(struct egress_flow *flow, struct egress_process *process,
					   struct task_struct *task, __u64 verdicts)
{
	if (flow->verdicts == verdicts)
		return false;
	if (is_program_hidden(process, task))
		return true;
	flow->verdicts = verdicts;
	return false;
}

/* Whether this is a datagram of a flow that was found before, and then all is done. */
static __always_inline bool is_repeat(struct sock *sk, const struct dest *dest, bool typed)
{
	struct egress_flow_key key;
	struct egress_flow *flow;
	struct place place;
	__u32 at, way;

	if (!cfg.keeps_hints)
		return false;
	at = *(volatile __u32 *)hint_for(dest);
	if (!at)
		return false;
	at--;
	flow = bpf_map_lookup_elem(&flows, &at);
	place.number = at / EGRESS_WAYS;
	way = at % EGRESS_WAYS;
	place.set = bpf_map_lookup_elem(&sets, &place.number);
	if (!flow || !place.set || !place.set->slots[way].tag)
		return false;
	fill_key(&key, dest, netns_of(sk, typed));
	if (!has_key(flow, &key) || flow->changes != changes_so_far())
		return false;
	if (cfg.has_verdicts && flow->verdicts != verdicts_so_far())
		return false;
	count(EGRESS_DATAGRAMS);
	repeat_flow(flow, &place, way);
	return true;
}

static __always_inline void emit_datagram(struct sock *sk, const struct dest *dest, struct egress_process *process,
					  bool typed)
{
	__u64 verdicts;

	if (cfg.window_ns) {
		struct egress_flow_key key;
		struct egress_flow *flow;
		struct place place;
		__u32 way;

		fill_key(&key, dest, netns_of(typed ? sk : CAST(struct sock, sk), typed || HAS_CAST));
		if (!find_place(&place, &key))
			return;
		flow = find_flow(&place, &key, &way);
		if (flow) {
			verdicts = verdicts_so_far();
			if (!is_flow_hidden(flow, process, dest->task, verdicts)) {
				hint_at(flow, dest, &place, way);
				count(EGRESS_DATAGRAMS);
				repeat_flow(flow, &place, way);
			}
			return;
		}
	}
	verdicts = verdicts_so_far();
	if (is_program_hidden(process, dest->task))
		return;
	know_process(process);
	if (!cfg.window_ns) {
		if (typed)
			emit_each_typed(sk, dest, process, DATAGRAM);
		else
			emit_each_probed(sk, dest, process, DATAGRAM);
		return;
	}
	count(EGRESS_DATAGRAMS);
	if (typed)
		emit_first_typed(sk, dest, process, verdicts);
	else
		emit_first_probed(sk, dest, process, verdicts);
}

#endif
