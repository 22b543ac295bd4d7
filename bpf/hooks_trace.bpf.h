/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* fentry/fexit and kprobe/kretprobe shims on the kernel's own connect and send functions. */
#ifndef HOOKS_TRACE_BPF_H
#define HOOKS_TRACE_BPF_H

/* A destination of :: is this host: ::1, or for a socket bound to a mapped address 127.0.0.1. */
static __always_inline bool is_bound_to_v4(struct sock *sk)
{
	struct in6_addr bound = {};

	BPF_CORE_READ_INTO(&bound, sk, __sk_common.skc_v6_rcv_saddr);
	return is_mapped((__u8 *)&bound);
}

/* False for a mapped address: the kernel hands it on to the IPv4 function, which reports it. Not inlined for its stack. */
static __noinline int read_sockaddr_v6(struct dest *dest, struct sock *sk, void *uaddr, int bytes)
{
	struct any_sockaddr addr = {};

	if (bytes < SIN6_BYTES_RFC2133 || bpf_probe_read_kernel(&addr, SIN6_BYTES_RFC2133, uaddr))
		return false;
	if (addr.family != AF_INET6 || is_mapped(addr.v6.addr))
		return false;
	dest->port_be = addr.port_be;
	set_v6(dest, (__u32 *)addr.v6.addr);
	if (is_loopback(dest))
		return !is_bound_to_v4(sk);
	if (dest->addr[0] == 0xfe && (dest->addr[1] & 0xc0) == 0x80 && bytes >= SIN6_BYTES)
		bpf_probe_read_kernel(&dest->scope_id, sizeof(dest->scope_id), uaddr + SIN6_BYTES_RFC2133);
	return true;
}

/* What the kernel's own checks refuse is no attempt. */
static __always_inline bool read_tcp_dest(struct dest *dest, struct sock *sk, void *uaddr, int bytes, bool v6)
{
	struct any_sockaddr addr = {};

	dest->protocol = IPPROTO_TCP;
	if (v6)
		return read_sockaddr_v6(dest, sk, uaddr, bytes);
	if (bytes < SIN_BYTES || bpf_probe_read_kernel(&addr, SIN_BYTES, uaddr) || addr.family != AF_INET)
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
	    is_program_hidden(&process))
		return 0;
	know_process(&process);
	return emit_each_typed(sk, &dest, &process, sk->__sk_common.skc_net.net->ns.inum, result);
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

static __always_inline void report_missed(__u64 thread)
{
	struct egress_event *missed = bpf_map_lookup_elem(&pending, &thread);

	if (!missed)
		return;
	submit_unfinished(missed);
	bpf_map_delete_elem(&pending, &thread);
}

static __noinline int keep_pending(struct sock *sk, const struct dest *dest, const struct egress_process *process)
{
	struct egress_event event;
	__u64 thread = dest->thread;

	event.process = *process;
	fill_event(&event, dest, sk, netns_of(sk), false);
	/* Kept as a number only, to find the socket again at return. */
	*(__u64 *)event.saddr = (__u64)sk;
	if (bpf_map_update_elem(&pending, &thread, &event, BPF_ANY))
		submit_unfinished(&event);
	return 0;
}

static __always_inline int tcp_enter(struct sock *sk, void *uaddr, int addr_len, bool v6)
{
	struct dest dest = {};
	struct egress_process process;

	/* Before any filter: else this connect's return would be taken for that of the thread's last one. */
	report_missed(bpf_get_current_pid_tgid());
	if (!read_tcp_dest(&dest, sk, uaddr, addr_len, v6) || !is_wanted(&dest, &process) ||
	    is_program_hidden(&process))
		return 0;
	know_process(&process);
	return keep_pending(sk, &dest, &process);
}

static __always_inline int tcp_return(int result)
{
	__u64 thread = bpf_get_current_pid_tgid();
	struct egress_event *kept = bpf_map_lookup_elem(&pending, &thread);
	struct egress_event event;
	struct sock *sk;

	if (!kept)
		return 0;
	__builtin_memcpy(&event, kept, sizeof(event));
	bpf_map_delete_elem(&pending, &thread);
	sk = (struct sock *)*(__u64 *)event.saddr;
	fill_source(&event, sk, false);
	event.flags |= EGRESS_RESULT_KNOWN;
	event.result = result;
	submit_or_lose(&event);
	return 0;
}

/* Where a connected socket sends to. */
static __always_inline bool read_connected(struct dest *dest, struct sock *sk, bool v6)
{
	struct in6_addr addr = {};

	if (BPF_CORE_READ(sk, __sk_common.skc_state) != TCP_ESTABLISHED)
		return false;
	dest->port_be = BPF_CORE_READ(sk, __sk_common.skc_dport);
	if (!v6) {
		set_v4(dest, BPF_CORE_READ(sk, __sk_common.skc_daddr));
		return true;
	}
	BPF_CORE_READ_INTO(&addr, sk, __sk_common.skc_v6_daddr);
	if (is_mapped((__u8 *)&addr))
		return false;
	set_v6(dest, (__u32 *)&addr);
	return true;
}

/* The message's own address wins over the socket's. */
static __always_inline bool read_udp_dest(struct dest *dest, struct sock *sk, void *name, int bytes, bool v6)
{
	struct any_sockaddr addr = {};

	dest->protocol = IPPROTO_UDP;
	if (!name)
		return read_connected(dest, sk, v6);
	if (bpf_probe_read_kernel(&addr, SIN_BYTES, name))
		return false;
	/* On IPv6 AF_UNSPEC means the connected address, on IPv4 it passes for AF_INET. */
	if (v6)
		return addr.family == AF_UNSPEC ? read_connected(dest, sk, v6) : read_sockaddr_v6(dest, sk, name, bytes);
	if (bytes < SIN_BYTES || (addr.family != AF_INET && addr.family != AF_UNSPEC))
		return false;
	dest->port_be = addr.port_be;
	set_v4(dest, *(__u32 *)addr.v4);
	return true;
}

static __always_inline int udp_enter(struct sock *sk, struct msghdr *msg, bool v6)
{
	struct dest dest = {};
	struct egress_process process;

	if (read_udp_dest(&dest, sk, msg->msg_name, msg->msg_namelen, v6) && is_wanted(&dest, &process))
		emit_datagram(sk, &dest, &process, sk->__sk_common.skc_net.net->ns.inum, true);
	return 0;
}

/* As every kernel we know begins a message. */
struct msg_head {
	void *name;
	int namelen;
};

static __always_inline int udp_probe(struct sock *sk, struct msghdr *msg, bool v6)
{
	struct dest dest = {};
	struct msg_head head = {};
	struct egress_process process;

	if (bpf_core_field_offset(struct msghdr, msg_name) == 0 && bpf_core_field_offset(struct msghdr, msg_namelen) == 8) {
		bpf_probe_read_kernel(&head, 12, msg);
	} else {
		head.name = BPF_CORE_READ(msg, msg_name);
		head.namelen = BPF_CORE_READ(msg, msg_namelen);
	}
	if (read_udp_dest(&dest, sk, head.name, head.namelen, v6) && is_wanted(&dest, &process))
		emit_datagram(sk, &dest, &process, netns_of(sk), false);
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
