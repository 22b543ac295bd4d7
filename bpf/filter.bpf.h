/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Whether a destination is wanted, from cheap to dear; what is not configured costs nothing. */
#ifndef FILTER_BPF_H
#define FILTER_BPF_H

/* Where a connection goes, before it is known whether anyone wants to know. */
struct dest {
	struct task_struct *task; /* the caller, and its tgid and tid */
	__u64 thread;
	__u64 changes; /* of the tables when it was looked up; RULED: a rule names it, whose hits are counted */
	__u8 addr[EGRESS_ADDR_BYTES];
	__u32 scope_id; /* interface of a link-local address, where the caller names it */
	__u16 port_be; /* 0 for protocols without ports */
	__u8 family;   /* once it is wanted with `enum dest_family_bits` */
	__u8 protocol;
};

#define RULED (~0ULL)

/* Beside 4 or 6: there they cost those nothing who have none. */
enum dest_family_bits {
	DEST_VERSION = 15,
	DEST_WRITTEN = 64, /* the program wrote the IP header itself, so the socket's source is not the packet's */
	DEST_PACKET = 128, /* a frame of AF_PACKET */
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

#define RULE_MASK ((1U << EGRESS_RULE_BITS) - 1)

/* Bits of a decision, above them the rule of the port, then that of the network. */
enum {
	BY_PORT = 1,
	BY_CIDR = 2,
	HAS_PORT_RULE = 4,
	HAS_CIDR_RULE = 8,
	PORT_RULE_SHIFT = 4,
	CIDR_RULE_SHIFT = PORT_RULE_SHIFT + EGRESS_RULE_BITS,
};

static __always_inline bool is_hidden(const struct egress_verdict *verdict)
{
	if (!verdict)
		return false;
	count_rule(verdict->rule);
	return verdict->flags & EGRESS_IGNORE;
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

static __always_inline bool hides(const struct egress_verdict *verdict, bool only)
{
	__u32 flags = verdict ? verdict->flags : 0;

	return flags & EGRESS_IGNORE || (only && !(flags & EGRESS_ONLY));
}

static __always_inline __u64 look_up(const struct dest *dest)
{
	const struct egress_verdict *verdict;
	__u16 port = dest->port_be;
	__u64 found = 0;

	if (cfg.has_ports) {
		verdict = bpf_map_lookup_elem(&ports, &port);
		if (verdict)
			found |= HAS_PORT_RULE | (__u64)(verdict->rule & RULE_MASK) << PORT_RULE_SHIFT;
		if (hides(verdict, cfg.has_only_ports))
			return found | BY_PORT;
	}
	if (cfg.has_cidrs) {
		verdict = find_cidr(dest);
		if (verdict)
			found |= HAS_CIDR_RULE | (__u64)(verdict->rule & RULE_MASK) << CIDR_RULE_SHIFT;
		if (hides(verdict, cfg.has_only_cidrs))
			return found | BY_CIDR;
	}
	return found;
}

static __always_inline __u64 changes_so_far(void)
{
	return cfg.may_change ? *(volatile __u64 *)&shared.changes : 0;
}

/* Looked up once: who writes an entry may be interrupted by others who do, and then `check` fits nothing. */
static __always_inline __u64 decide(const struct dest *dest)
{
	const __u64 *addr = (const __u64 *)dest->addr;
	__u64 last = dest->changes << 16 | dest->port_be;
	__u64 factor = cfg.hash_factor;
	__u64 mix = ((addr[0] * factor + addr[1]) * factor + last) * factor;
	struct egress_decision *kept = &decisions[mix >> (64 - EGRESS_DECISION_BITS)];
	__u64 verdict;

	verdict = *(volatile __u64 *)&kept->verdict;
	if (kept->addr[0] == addr[0] && kept->addr[1] == addr[1] && kept->check == (mix ^ verdict))
		return verdict;
	verdict = look_up(dest);
	kept->addr[0] = addr[0];
	kept->addr[1] = addr[1];
	kept->verdict = verdict;
	kept->check = mix ^ verdict;
	return verdict;
}

static __always_inline bool is_dest_hidden(struct dest *dest)
{
	__u64 verdict = decide(dest);

	if (!verdict)
		return false;
	dest->changes = RULED;
	if (verdict & HAS_PORT_RULE)
		count_rule(verdict >> PORT_RULE_SHIFT & RULE_MASK);
	if (verdict & HAS_CIDR_RULE)
		count_rule(verdict >> CIDR_RULE_SHIFT & RULE_MASK);
	if (verdict & BY_CIDR) {
		count(EGRESS_SKIPPED_CIDR);
		return true;
	}
	if (verdict & BY_PORT) {
		count(EGRESS_SKIPPED_PORT);
		return true;
	}
	return false;
}

/* Hidden where no only-rule names it. Rules for names of kernel threads leave out a worker's number: user space does. */
static __always_inline bool is_outside(const struct egress_verdict *verdict, bool only, __u32 rule, __u32 flags)
{
	if (verdict || !only || flags & EGRESS_KERNEL_THREAD)
		return false;
	count_rule(rule);
	return true;
}

static __always_inline bool is_process_hidden(const struct egress_process *process)
{
	if (cfg.has_comms) {
		struct egress_verdict *verdict = bpf_map_lookup_elem(&comms, process->comm);

		if (is_outside(verdict, cfg.has_outside_comm, cfg.outside_comm, process->flags) || is_hidden(verdict))
			return true;
	}
	if (cfg.has_uids) {
		struct egress_verdict *verdict = bpf_map_lookup_elem(&uids, &process->uid);

		if (is_outside(verdict, cfg.has_outside_uid, cfg.outside_uid, 0) || is_hidden(verdict))
			return true;
	}
	return cfg.has_cgroups && is_hidden(bpf_map_lookup_elem(&cgroups, &process->cgroup_id));
}

static __always_inline __u32 wanted_by(__u8 protocol)
{
	switch (protocol) {
	case IPPROTO_TCP:
		return EGRESS_WANTS_TCP;
	case IPPROTO_UDP:
		return EGRESS_WANTS_UDP;
	case IPPROTO_UDPLITE:
		return EGRESS_WANTS_UDPLITE;
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		return EGRESS_WANTS_ICMP;
	case IPPROTO_SCTP:
		return EGRESS_WANTS_SCTP;
	}
	return EGRESS_WANTS_OTHER;
}

static __always_inline void identify(struct dest *dest)
{
	dest->task = current_task();
	dest->thread = thread_of(dest->task);
}

/* What no settings let through, or else who calls. */
static __always_inline bool is_worth_a_look(struct dest *dest)
{
	if (!cfg.report_loopback && is_loopback(dest)) {
		count(EGRESS_SKIPPED_LOOPBACK);
		return false;
	}
	if (!dest->task)
		identify(dest);
	return true;
}

/*
 * Fills `process` where a table needs it; `fill_rest` does so for what is wanted. `by`: what of `enum egress_wants`
 * it is, 0: its protocol's, which is only looked for where it is asked for.
 */
static __always_inline bool is_wanted_by(struct dest *dest, struct egress_process *process, __u32 by)
{
	if (dest->thread >> 32 == shared.tgid) {
		count(EGRESS_SKIPPED_OWN);
		return false;
	}
	if (cfg.wants && !(cfg.wants & (by ? by : wanted_by(dest->protocol)))) {
		count(EGRESS_SKIPPED_PROTOCOL);
		return false;
	}
	dest->changes = changes_so_far();
	if (cfg.has_destinations && is_dest_hidden(dest))
		return false;
	if (cfg.has_processes) {
		fill_process(process, dest->task);
		if (is_process_hidden(process)) {
			count(EGRESS_SKIPPED_PROCESS);
			return false;
		}
	}
	return true;
}

/* The same of a protocol with ports: port 0 is no connection. */
static __always_inline bool is_wanted(struct dest *dest, struct egress_process *process)
{
	return dest->port_be && is_worth_a_look(dest) && is_wanted_by(dest, process, 0);
}

static __always_inline void fill_rest(struct egress_process *process, struct task_struct *task)
{
	if (!cfg.has_processes)
		fill_process(process, task);
}

/* Fills the rest, too. User space judges a program once; until it has, the program's events pass. */
static __always_inline bool is_program_hidden(struct egress_process *process, struct task_struct *task)
{
	struct egress_known *entry;

	fill_rest(process, task);
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
	return cfg.has_verdicts ? *(volatile __u64 *)&shared.verdicts : 0;
}

#endif
