/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * The table of flows. A look-up takes no lock: a tag that is there belongs to a whole entry. Who writes one holds the
 * lock of its set; a datagram counted while its flow is pushed out is missing in the sum, and told as lost.
 */
#ifndef FLOWS_BPF_H
#define FLOWS_BPF_H

struct place {
	struct egress_set *set;
	__u32 number; /* of the set, and of its lock */
	__u32 tag;
};

static __always_inline bool find_place(struct place *place, const struct egress_flow_key *key)
{
	const __u64 *words = (const __u64 *)key;
	__u64 factor = cfg.hash_factor, hash = words[0];

#pragma unroll
	for (int i = 1; i < (int)(sizeof(*key) / sizeof(__u64)); i++)
		hash = hash * factor + words[i];
	hash *= factor;
	place->number = (hash >> 32) * cfg.flow_sets >> 32;
	place->tag = hash >> 16 | 1;
	place->set = bpf_map_lookup_elem(&sets, &place->number);
	return place->set;
}

static __always_inline struct egress_flow *flow_at(const struct place *place, __u32 way)
{
	__u32 at = place->number * EGRESS_WAYS + way;

	return bpf_map_lookup_elem(&flows, &at);
}

static __always_inline bool has_key(const struct egress_flow *flow, const struct egress_flow_key *key)
{
	const __u64 *one = (const __u64 *)&flow->key, *other = (const __u64 *)key;

	return one[0] == other[0] && one[1] == other[1] && one[2] == other[2] && one[3] == other[3] &&
	       one[4] == other[4] && one[5] == other[5];
}

static __always_inline struct egress_flow *find_flow(const struct place *place, const struct egress_flow_key *key,
						     __u32 *way)
{
#pragma unroll
	for (__u32 i = 0; i < EGRESS_WAYS; i++) {
		struct egress_flow *flow;

		if (place->set->slots[i].tag != place->tag)
			continue;
		flow = flow_at(place, i);
		if (flow && has_key(flow, key)) {
			*way = i;
			return flow;
		}
	}
	return 0;
}

/* Of the newest datagram, to a tick. */
static __always_inline __u64 last_ns(const struct egress_flow *flow, __u32 last)
{
	return flow->window_start_ns + (__u64)(last - (__u32)flow->window_start_ticks) * cfg.tick_ns;
}

/* A free one, or the one that was quiet for longest. */
static __always_inline __u32 way_to_use(const struct place *place, __u32 now)
{
	__u32 way = 0, age, oldest = 0;

	for (__u32 i = 0; i < EGRESS_WAYS; i++) {
		if (!place->set->slots[i].tag)
			return i;
		age = now - place->set->slots[i].last;
		if (age > oldest) {
			oldest = age;
			way = i;
		}
	}
	return way;
}

static __always_inline void fill_key(struct egress_flow_key *key, const struct dest *dest, __u32 netns)
{
	bool typed = has_typed_task();
	struct task_struct *task = dest->task;

	fill_identity(&key->identity, LOAD(typed, task, group_leader), typed);
	key->uid = typed ? task->cred->uid.val : (__u32)bpf_get_current_uid_gid();
	key->netns = netns;
	key->ifindex = dest->scope_id;
	key->dport = dest->port_be;
	key->protocol = dest->protocol;
	key->family = dest->family;
	__builtin_memcpy(key->daddr, dest->addr, EGRESS_ADDR_BYTES);
}

#endif
