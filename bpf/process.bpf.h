/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Who calls: read anew at each event, because a name, a user and a cgroup change while a program runs. */
#ifndef PROCESS_BPF_H
#define PROCESS_BPF_H

#define CGROUP_ROOT 1
/* Numbers of different hierarchies may be the same. */
#define CGROUP_V1 (1ULL << 63)
#define CGROUP_V1_MEMORY (1ULL << 62)

/* A load through a typed pointer is one instruction, a probe read sixty; since 5.11 a helper gives such a pointer. */
static __always_inline bool has_typed_task(void)
{
	return bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_get_current_task_btf);
}

/* `typed` is a constant: the pointer is one that the verifier knows, and not just a number. */
#define LOAD(typed, pointer, field) ((typed) ? (pointer)->field : BPF_CORE_READ(pointer, field))

static __always_inline struct task_struct *current_task(void)
{
	return has_typed_task() ? bpf_get_current_task_btf() : (struct task_struct *)bpf_get_current_task();
}

/* tgid and tid of the running task, as bpf_get_current_pid_tgid has them. */
static __always_inline __u64 thread_of(struct task_struct *task)
{
	if (!has_typed_task())
		return bpf_get_current_pid_tgid();
	return (__u64)(__u32)task->tgid << 32 | (__u32)task->pid;
}

/* Before 5.17 (strscpy_pad) the rest of an older name may follow the NUL; names are keys, so it must not be there. */
static __always_inline void copy_comm(__u8 *to, struct task_struct *task, bool typed)
{
	__u64 *words = (__u64 *)to;

	if (typed && LINUX_KERNEL_VERSION >= KERNEL_VERSION(5, 17, 0)) {
		words[0] = ((const __u64 *)task->comm)[0];
		words[1] = ((const __u64 *)task->comm)[1];
	} else {
		words[0] = words[1] = 0;
		BPF_CORE_READ_STR_INTO((char(*)[EGRESS_COMM_BYTES])to, task, comm);
	}
}

static __always_inline void fill_identity(struct egress_identity *identity, struct task_struct *leader, bool typed)
{
	identity->start_ns = LOAD(typed, leader, start_boottime);
	identity->tgid = LOAD(typed, leader, tgid);
	identity->exec_id = LOAD(typed, leader, self_exec_id);
}

/* Its place in the v1 hierarchy of a controller. */
static __always_inline struct kernfs_node *cgroup_v1_node(struct task_struct *task, int controller)
{
	struct css_set *set = BPF_CORE_READ(task, cgroups);
	struct cgroup_subsys_state *state = 0;

	bpf_core_read(&state, sizeof(state), &set->subsys[controller]);
	return BPF_CORE_READ(state, cgroup, kn);
}

static __always_inline struct kernfs_node *pids_node(struct task_struct *task)
{
	return cgroup_v1_node(task, bpf_core_enum_value(enum cgroup_subsys_id, pids_cgrp_id));
}

static __always_inline struct kernfs_node *memory_node(struct task_struct *task)
{
	return cgroup_v1_node(task, bpf_core_enum_value(enum cgroup_subsys_id, memory_cgrp_id));
}

/* Where the unified hierarchy doesn't tell, those of `pids` and `memory` may: systemd and engines use them. */
static __always_inline __u64 place_in_v1(struct task_struct *task, __u64 id)
{
	__u64 other;

	if (!cfg.has_cgroup_v1 || id != CGROUP_ROOT)
		return id;
	if (bpf_core_enum_value_exists(enum cgroup_subsys_id, pids_cgrp_id)) {
		other = BPF_CORE_READ(pids_node(task), id);
		if (other > CGROUP_ROOT)
			return other | CGROUP_V1;
	}
	if (bpf_core_enum_value_exists(enum cgroup_subsys_id, memory_cgrp_id)) {
		other = BPF_CORE_READ(memory_node(task), id);
		if (other > CGROUP_ROOT)
			return other | CGROUP_V1 | CGROUP_V1_MEMORY;
	}
	return id;
}

/* As the initial user namespace counts them; the helper for it takes sixty instructions. */
static __always_inline void fill_user(struct egress_process *process, struct task_struct *task, bool typed)
{
	__u64 ids;

	if (typed) {
		process->uid = task->cred->uid.val;
		process->gid = task->cred->gid.val;
	} else {
		ids = bpf_get_current_uid_gid();
		process->uid = ids;
		process->gid = ids >> 32;
	}
}

/* Names are the main threads': an io_uring worker or a named thread still is that program. */
static __always_inline void fill_process(struct egress_process *process, struct task_struct *task)
{
	bool typed = has_typed_task();
	struct task_struct *leader = LOAD(typed, task, group_leader);

	fill_identity(&process->identity, leader, typed);
	process->cgroup_id = place_in_v1(task, bpf_get_current_cgroup_id());
	fill_user(process, task, typed);
	process->flags = LOAD(typed, leader, flags) & PF_KTHREAD ? EGRESS_KERNEL_THREAD : 0;
	process->pad = 0;
	copy_comm(process->comm, leader, typed);
}

/* All but the cgroup, which nobody asks for of an ancestor that does not connect itself. */
static __always_inline void fill_ancestor(struct egress_process *process, struct task_struct *leader)
{
	const struct cred *cred = BPF_CORE_READ(leader, real_cred);

	fill_identity(&process->identity, leader, false);
	process->cgroup_id = 0;
	process->uid = BPF_CORE_READ(cred, uid.val);
	process->gid = BPF_CORE_READ(cred, gid.val);
	process->flags = BPF_CORE_READ(leader, flags) & PF_KTHREAD ? EGRESS_KERNEL_THREAD : 0;
	process->pad = 0;
	copy_comm(process->comm, leader, false);
}

static __always_inline bool is_same(const struct egress_process *a, const struct egress_process *b, bool cgroup_too)
{
	const __u64 *one = (const __u64 *)a->comm, *other = (const __u64 *)b->comm;

	return a->uid == b->uid && a->gid == b->gid && one[0] == other[0] && one[1] == other[1] &&
	       (!cgroup_too || a->cgroup_id == b->cgroup_id);
}

#endif
