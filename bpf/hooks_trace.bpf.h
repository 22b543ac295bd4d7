/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* fentry/fexit and kprobe/kretprobe shims on the kernel's own connect and send functions. */
#ifndef HOOKS_TRACE_BPF_H
#define HOOKS_TRACE_BPF_H

/* Family, port and IPv4 address of the name that a caller gave, in the kernel's copy of it. */
static __always_inline bool read_name(struct any_sockaddr *name, void *uaddr)
{
	if (HAS_CAST) {
		/* Any type that begins with as many bytes: each load is checked against user addresses, so one is enough. */
		*(__u64 *)name = CAST(struct timespec64, uaddr)->tv_sec;
		return true;
	}
	return !bpf_probe_read_kernel(name, SIN_BYTES, uaddr);
}

static __always_inline bool read_name_v6(struct any_sockaddr *name, void *uaddr, int bytes)
{
	__u32 *words = (__u32 *)name->v6.addr;

	if (HAS_CAST) {
		struct sockaddr_in6 *in = CAST(struct sockaddr_in6, uaddr);

		name->family = in->sin6_family;
		name->port_be = in->sin6_port;
		words[0] = in->sin6_addr.in6_u.u6_addr32[0];
		words[1] = in->sin6_addr.in6_u.u6_addr32[1];
		words[2] = in->sin6_addr.in6_u.u6_addr32[2];
		words[3] = in->sin6_addr.in6_u.u6_addr32[3];
		name->v6.scope_id = bytes >= SIN6_BYTES ? in->sin6_scope_id : 0;
		return true;
	}
	name->v6.scope_id = 0;
	if (bytes >= SIN6_BYTES)
		return !bpf_probe_read_kernel(name, SIN6_BYTES, uaddr);
	return !bpf_probe_read_kernel(name, SIN6_BYTES_RFC2133, uaddr);
}

/* A destination of :: is this host: ::1, or for a socket bound to a mapped address 127.0.0.1. */
static __always_inline bool is_bound_to_v4(struct sock *sk)
{
	struct in6_addr bound = {};

	BPF_CORE_READ_INTO(&bound, sk, __sk_common.skc_v6_rcv_saddr);
	return is_mapped((__u8 *)&bound);
}

/* False for a mapped address: the kernel hands it on to the IPv4 function, which reports it. Not inlined for its stack. */
static __noinline int read_sockaddr_v6(struct dest *dest, struct sock *sk, void *uaddr, int bytes, bool or_unspec)
{
	struct any_sockaddr addr = {};

	if (bytes < SIN6_BYTES_RFC2133 || !read_name_v6(&addr, uaddr, bytes))
		return false;
	if (!(addr.family == AF_INET6 || (or_unspec && addr.family == AF_UNSPEC)) || is_mapped(addr.v6.addr))
		return false;
	dest->port_be = addr.port_be;
	set_v6(dest, (__u32 *)addr.v6.addr);
	if (is_loopback(dest))
		return !is_bound_to_v4(sk);
	if (dest->addr[0] == 0xfe && (dest->addr[1] & 0xc0) == 0x80)
		dest->scope_id = addr.v6.scope_id;
	return true;
}

/* What the kernel's own checks refuse is no attempt. */
static __always_inline bool read_tcp_dest(struct dest *dest, struct sock *sk, void *uaddr, int bytes, bool v6)
{
	struct any_sockaddr addr = {};

	dest->protocol = IPPROTO_TCP;
	if (v6)
		return read_sockaddr_v6(dest, sk, uaddr, bytes, false);
	if (bytes < SIN_BYTES || !read_name(&addr, uaddr) || addr.family != AF_INET)
		return false;
	dest->port_be = addr.port_be;
	set_v4(dest, *(__u32 *)addr.v4);
	return true;
}

static __always_inline int tcp_exit(struct sock *sk, void *uaddr, int addr_len, int result, bool v6)
{
	struct dest dest = {};
	struct egress_process process;

	if (!read_tcp_dest(&dest, sk, uaddr, addr_len, v6) || !is_wanted(&dest, &process) ||
	    is_program_hidden(&process, dest.task))
		return 0;
	know_process(&process);
	return emit_each_typed(sk, &dest, &process, result);
}

/*
 * kprobe: the whole record is kept from entry on. Under load the kernel skips return probes, and then the reader
 * finds the connect here and reports it without source and result, instead of never.
 */
static __always_inline void submit_unfinished(struct egress_event *event)
{
	__builtin_memset(event->saddr, 0, sizeof(event->saddr));
	count(EGRESS_UNFINISHED);
	submit_or_lose(event);
}

static __always_inline struct egress_waiting *find_waiting(__u32 *set, __u64 thread)
{
	*set = thread * cfg.hash_factor >> 40 & (EGRESS_PENDING_SETS - 1);
	return &shared.waiting[*set];
}

static __always_inline struct egress_event *pending_at(__u32 set, __u32 way)
{
	__u32 at = set * EGRESS_PENDING_WAYS + way;

	return bpf_map_lookup_elem(&pending, &at);
}

/* No thread is in a connect that is to be reported, so this one isn't. */
static __always_inline bool nobody_waits(void)
{
	return HAS_CAST && !*(volatile __u64 *)&shared.pending;
}

/* User space may have taken it meanwhile; who lets go counts. */
static __always_inline void let_go(struct egress_waiting *among, __u32 way, struct egress_event *event)
{
	event->ts_ns = 0;
	give_up(&among->threads[way]);
}

static __always_inline struct egress_event *find_pending(const struct egress_waiting *among, __u32 set, __u64 thread,
							 __u32 *way)
{
#pragma unroll
	for (__u32 i = 0; i < EGRESS_PENDING_WAYS; i++) {
		if (among->threads[i] == thread) {
			*way = i;
			return pending_at(set, i);
		}
	}
	return 0;
}

static __always_inline void report_missed(__u64 thread)
{
	struct egress_waiting *among;
	struct egress_event *missed;
	__u32 set, way;

	if (nobody_waits())
		return;
	among = find_waiting(&set, thread);
	missed = find_pending(among, set, thread, &way);
	if (!missed)
		return;
	submit_unfinished(missed);
	let_go(among, way, missed);
}

/* What is known before a connect returns. */
static __always_inline void fill_entered(struct egress_event *event, struct sock *sk, const struct dest *dest,
					 const struct egress_process *process)
{
	struct sock *typed = CAST(struct sock, sk);

	event->process = *process;
	fill_event(event, dest, typed, netns_of(typed, HAS_CAST), HAS_CAST);
}

static __noinline int fill_pending(struct egress_event *event, struct sock *sk, const struct dest *dest,
				   const struct egress_process *process)
{
	if (!event)
		return 0;
	fill_entered(event, sk, dest, process);
	/* Kept as a number only, to find the socket again at return. */
	*(__u64 *)event->saddr = (__u64)sk;
	return 0;
}

static __noinline int submit_without_return(struct sock *sk, const struct dest *dest,
					    const struct egress_process *process)
{
	struct egress_event event;

	fill_entered(&event, sk, dest, process);
	submit_unfinished(&event);
	return 0;
}

static __always_inline int keep_pending(struct sock *sk, const struct dest *dest, const struct egress_process *process)
{
	__u32 set;
	struct egress_waiting *among = find_waiting(&set, dest->thread);

	for (__u32 way = 0; way < EGRESS_PENDING_WAYS; way++) {
		if (claim(&among->threads[way], dest->thread, set))
			return fill_pending(pending_at(set, way), sk, dest, process);
	}
	return submit_without_return(sk, dest, process);
}

static __always_inline int tcp_enter(struct sock *sk, void *uaddr, int addr_len, bool v6)
{
	struct dest dest = {};
	struct egress_process process;

	identify(&dest);
	/* Before any filter: else this connect's return would be taken for that of the thread's last one. */
	report_missed(dest.thread);
	if (!read_tcp_dest(&dest, sk, uaddr, addr_len, v6) || !is_wanted(&dest, &process) ||
	    is_program_hidden(&process, dest.task))
		return 0;
	know_process(&process);
	return keep_pending(sk, &dest, &process);
}

static __noinline int finish(struct egress_event *event, int result)
{
	if (!event)
		return 0;
	fill_source(event, CAST(struct sock, *(__u64 *)event->saddr), HAS_CAST);
	event->flags |= EGRESS_RESULT_KNOWN;
	event->result = result;
	submit_or_lose(event);
	return 0;
}

static __always_inline int tcp_return(int result)
{
	struct egress_waiting *among;
	struct egress_event *event;
	__u64 thread;
	__u32 set, way;

	if (nobody_waits())
		return 0;
	thread = thread_of(current_task());
	among = find_waiting(&set, thread);
	event = find_pending(among, set, thread, &way);
	if (!event)
		return 0;
	finish(event, result);
	let_go(among, way, event);
	return 0;
}

/* Where a connected socket sends to. */
static __always_inline bool read_connected(struct dest *dest, struct sock *sk, bool v6, bool typed)
{
	struct in6_addr addr = {};

	if (LOAD(typed, sk, __sk_common.skc_state) != TCP_ESTABLISHED)
		return false;
	dest->port_be = LOAD(typed, sk, __sk_common.skc_dport);
	if (!v6) {
		set_v4(dest, LOAD(typed, sk, __sk_common.skc_daddr));
		return true;
	}
	BPF_CORE_READ_INTO(&addr, sk, __sk_common.skc_v6_daddr);
	if (is_mapped((__u8 *)&addr))
		return false;
	set_v6(dest, (__u32 *)&addr);
	return true;
}

/* The message's own address wins over the socket's. */
static __always_inline bool read_addressee(struct dest *dest, struct sock *sk, void *name, int bytes, bool v6,
					   bool typed)
{
	struct any_sockaddr addr = {};

	if (!name)
		return read_connected(dest, sk, v6, typed);
	if (!read_name(&addr, name))
		return false;
	/* On IPv6 AF_UNSPEC means the connected address, on IPv4 it passes for AF_INET. */
	if (v6)
		return addr.family == AF_UNSPEC ? read_connected(dest, sk, v6, typed) :
						  read_sockaddr_v6(dest, sk, name, bytes, false);
	if (bytes < SIN_BYTES || (addr.family != AF_INET && addr.family != AF_UNSPEC))
		return false;
	dest->port_be = addr.port_be;
	set_v4(dest, *(__u32 *)addr.v4);
	return true;
}

/* UDP-Lite's sockets have the same function. To ask each socket would cost UDP: without need mark_datagram does. */
static __always_inline bool read_udp_dest(struct dest *dest, struct sock *sk, void *name, int bytes, bool v6,
					  bool typed)
{
	dest->protocol = cfg.wants ? LOAD(typed, sk, sk_protocol) : IPPROTO_UDP;
	return read_addressee(dest, sk, name, bytes, v6, typed);
}

/*
 * Whether the IPv4 name is of 127/8, before anything is kept of it, as a host may talk to itself a lot. (What the kernel
 * then refuses for its port or length is counted as skipped, too.)
 */
static __always_inline bool is_to_loopback(struct msghdr *msg)
{
	const __u64 family_and_net = bpf_cpu_to_be64(0xffff0000ff000000);
	struct any_sockaddr loopback = {.family = AF_INET, .v4 = {127}};
	struct any_sockaddr addr;

	if (!HAS_CAST || cfg.report_loopback || !msg->msg_name)
		return false;
	read_name(&addr, msg->msg_name);
	return (*(__u64 *)&addr & family_and_net) == *(__u64 *)&loopback;
}

static __always_inline int udp_sent(struct sock *sk, struct msghdr *msg, bool v6)
{
	struct dest dest = {};
	struct egress_process process;

	if (!read_udp_dest(&dest, sk, msg->msg_name, msg->msg_namelen, v6, true) || !dest.port_be ||
	    !is_worth_a_look(&dest))
		return 0;
	if (!is_repeat(sk, &dest, true) && is_wanted_by(&dest, &process, 0))
		emit_datagram(sk, &dest, &process, true);
	return 0;
}

static __always_inline int udp_enter(struct sock *sk, struct msghdr *msg, bool v6)
{
	if (v6 || !is_to_loopback(msg))
		return udp_sent(sk, msg, v6);
	count(EGRESS_SKIPPED_LOOPBACK);
	return 0;
}

/* As every kernel we know begins a message. */
struct msg_head {
	void *name;
	int namelen;
};

static __always_inline void read_message(struct msg_head *head, struct msghdr *msg)
{
	if (HAS_CAST) {
		msg = CAST(struct msghdr, msg);
		head->name = msg->msg_name;
		head->namelen = msg->msg_namelen;
	} else if (bpf_core_field_offset(struct msghdr, msg_name) == 0 &&
		   bpf_core_field_offset(struct msghdr, msg_namelen) == 8) {
		bpf_probe_read_kernel(head, 12, msg);
	} else {
		head->name = BPF_CORE_READ(msg, msg_name);
		head->namelen = BPF_CORE_READ(msg, msg_namelen);
	}
}

static __always_inline int udp_probe(struct sock *sk, struct msghdr *msg, bool v6)
{
	struct sock *typed = CAST(struct sock, sk);
	struct dest dest = {};
	struct msg_head head = {};
	struct egress_process process;

	read_message(&head, msg);
	if (!read_udp_dest(&dest, typed, head.name, head.namelen, v6, HAS_CAST) || !dest.port_be ||
	    !is_worth_a_look(&dest))
		return 0;
	if (!is_repeat(typed, &dest, HAS_CAST) && is_wanted_by(&dest, &process, 0))
		emit_datagram(sk, &dest, &process, false);
	return 0;
}

SEC("fexit/tcp_v4_connect")
int BPF_PROG(exit_tcp_v4, struct sock *sk, struct sockaddr *uaddr, int addr_len, int result)
{
	return tcp_exit(sk, uaddr, addr_len, result, false);
}

SEC("fexit/tcp_v6_connect")
int BPF_PROG(exit_tcp_v6, struct sock *sk, struct sockaddr *uaddr, int addr_len, int result)
{
	return tcp_exit(sk, uaddr, addr_len, result, true);
}

SEC("fentry/udp_sendmsg")
int BPF_PROG(enter_udp_v4, struct sock *sk, struct msghdr *msg)
{
	return udp_enter(sk, msg, false);
}

SEC("fentry/udpv6_sendmsg")
int BPF_PROG(enter_udp_v6, struct sock *sk, struct msghdr *msg)
{
	return udp_enter(sk, msg, true);
}

SEC("kprobe/tcp_v4_connect")
int BPF_KPROBE(probe_tcp_v4, struct sock *sk, struct sockaddr *uaddr, int addr_len)
{
	return tcp_enter(sk, uaddr, addr_len, false);
}

SEC("kretprobe/tcp_v4_connect")
int BPF_KRETPROBE(return_tcp_v4, int result)
{
	return tcp_return(result);
}

SEC("kprobe/tcp_v6_connect")
int BPF_KPROBE(probe_tcp_v6, struct sock *sk, struct sockaddr *uaddr, int addr_len)
{
	return tcp_enter(sk, uaddr, addr_len, true);
}

SEC("kretprobe/tcp_v6_connect")
int BPF_KRETPROBE(return_tcp_v6, int result)
{
	return tcp_return(result);
}

SEC("kprobe/udp_sendmsg")
int BPF_KPROBE(probe_udp_v4, struct sock *sk, struct msghdr *msg)
{
	return udp_probe(sk, msg, false);
}

SEC("kprobe/udpv6_sendmsg")
int BPF_KPROBE(probe_udp_v6, struct sock *sk, struct msghdr *msg)
{
	return udp_probe(sk, msg, true);
}

#endif
