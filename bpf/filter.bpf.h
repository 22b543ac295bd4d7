/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Whether a destination is wanted, from cheap to dear; what is not configured costs nothing. */
#ifndef FILTER_BPF_H
#define FILTER_BPF_H

/* Where a connection goes, before it is known whether anyone wants to know. */
struct dest {
	__u64 thread; /* tgid and tid of the caller, set by is_wanted */
	__u8 addr[EGRESS_ADDR_BYTES];
	__u32 scope_id; /* interface of a link-local address, where the caller names it */
	__u16 port_be;
	__u8 family;
	__u8 protocol;
};

static __always_inline bool is_mapped(const __u8 *addr)
{
	const __u32 *words = (const __u32 *)addr;

	return !words[0] && !words[1] && words[2] == bpf_htonl(0xffff);
}

static __always_inline void set_v4(struct dest *dest, __u32 addr_be)
{
	__u32 *words = (__u32 *)dest->addr;

	/* To the kernel a destination of 0.0.0.0 is this host. */
	words[0] = words[1] = 0;
	words[2] = bpf_htonl(0xffff);
	words[3] = addr_be ? addr_be : bpf_htonl(0x7f000001);
	dest->family = 4;
}

static __always_inline void set_v6(struct dest *dest, const __u32 *words_be)
{
	__u32 *words = (__u32 *)dest->addr;

	words[0] = words_be[0];
	words[1] = words_be[1];
	words[2] = words_be[2];
	words[3] = words_be[3];
	if (!(words[0] | words[1] | words[2] | words[3]))
		words[3] = bpf_htonl(1);
	dest->family = 6;
}

static __always_inline bool is_loopback(const struct dest *dest)
{
	const __u32 *words = (const __u32 *)dest->addr;

	if (dest->family == 4)
		return dest->addr[12] == 127;
	return !words[0] && !words[1] && !words[2] && words[3] == bpf_htonl(1);
}

static __always_inline void count_rule(__u32 rule)
{
	__u64 *hits = bpf_map_lookup_elem(&rule_hits, &rule);

	if (hits)
		*hits += 1;
}

static __always_inline bool is_hidden(const struct egress_verdict *verdict, bool only)
{
	__u32 flags = 0;

	if (verdict) {
		count_rule(verdict->rule);
		flags = verdict->flags;
	}
	return flags & EGRESS_IGNORE || (only && !(flags & EGRESS_ONLY));
}

static __always_inline const struct egress_verdict *find_cidr(const struct dest *dest)
{
	const __u32 *from = (const __u32 *)dest->addr;

	if (dest->family == 4) {
		struct egress_cidr4_key key = {.prefix_bits = 32};

		*(__u32 *)key.addr = from[3];
		return bpf_map_lookup_elem(&cidrs4, &key);
	} else {
		struct egress_cidr6_key key = {.prefix_bits = 128};
		__u32 *to = (__u32 *)key.addr;

		to[0] = from[0];
		to[1] = from[1];
		to[2] = from[2];
		to[3] = from[3];
		return bpf_map_lookup_elem(&cidrs6, &key);
	}
}

/* Hidden where no only-rule names it. Rules for names of kernel threads leave out a worker's number: user space does. */
static __always_inline bool is_outside(const struct egress_verdict *verdict, bool only, __u32 rule, __u32 flags)
{
	if (verdict || !only || flags & EGRESS_KERNEL_THREAD)
		return false;
	count_rule(rule);
	return true;
}

static __always_inline bool has_process_tables(void)
{
	return cfg.has_comms || cfg.has_uids || cfg.has_cgroups;
}

static __always_inline bool is_process_hidden(const struct egress_process *process)
{
	if (cfg.has_comms) {
		struct egress_verdict *verdict = bpf_map_lookup_elem(&comms, process->comm);

		if (is_outside(verdict, cfg.has_outside_comm, cfg.outside_comm, process->flags) || is_hidden(verdict, false))
			return true;
	}
	if (cfg.has_uids) {
		struct egress_verdict *verdict = bpf_map_lookup_elem(&uids, &process->uid);

		if (is_outside(verdict, cfg.has_outside_uid, cfg.outside_uid, 0) || is_hidden(verdict, false))
			return true;
	}
	return cfg.has_cgroups && is_hidden(bpf_map_lookup_elem(&cgroups, &process->cgroup_id), false);
}

/* Fills `process` where a table needs it; `fill_rest` does so for what is wanted. */
static __always_inline bool is_wanted(struct dest *dest, struct egress_process *process)
{
	if (!dest->port_be)
		return false;
	dest->thread = bpf_get_current_pid_tgid();
	if (dest->thread >> 32 == own.tgid) {
		count(EGRESS_SKIPPED_OWN);
		return false;
	}
	if ((cfg.skip_tcp && dest->protocol == IPPROTO_TCP) || (cfg.skip_udp && dest->protocol == IPPROTO_UDP)) {
		count(EGRESS_SKIPPED_PROTOCOL);
		return false;
	}
	if (!cfg.report_loopback && is_loopback(dest)) {
		count(EGRESS_SKIPPED_LOOPBACK);
		return false;
	}
	if (cfg.has_ports) {
		__u16 key = dest->port_be;

		if (is_hidden(bpf_map_lookup_elem(&ports, &key), cfg.has_only_ports)) {
			count(EGRESS_SKIPPED_PORT);
			return false;
		}
	}
	if (cfg.has_cidrs && is_hidden(find_cidr(dest), cfg.has_only_cidrs)) {
		count(EGRESS_SKIPPED_CIDR);
		return false;
	}
	if (has_process_tables()) {
		fill_process(process);
		if (is_process_hidden(process)) {
			count(EGRESS_SKIPPED_PROCESS);
			return false;
		}
	}
	return true;
}

static __always_inline void fill_rest(struct egress_process *process)
{
	if (!has_process_tables())
		fill_process(process);
}

/* Fills the rest, too. User space judges a program once; until it has, the program's events pass. */
static __always_inline bool is_program_hidden(struct egress_process *process)
{
	struct egress_known *entry;

	fill_rest(process);
	if (!cfg.has_verdicts)
		return false;
	entry = bpf_map_lookup_elem(&known, &process->identity);
	if (!entry || !(entry->flags & EGRESS_KNOWN_HIDDEN) || !is_same(&entry->process, process, true))
		return false;
	count_rule(entry->rule);
	count(EGRESS_SKIPPED_PROCESS);
	return true;
}

static __always_inline __u64 verdicts_so_far(void)
{
	__u32 zero = 0;
	__u64 *value = cfg.has_verdicts ? bpf_map_lookup_elem(&verdicts, &zero) : 0;

	return value ? *value : 0;
}

#endif
