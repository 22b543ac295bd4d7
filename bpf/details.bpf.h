/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * What is sent once of a program and of a cgroup. Written into the ring in place: a buffer of one's own would have to
 * be shared by all that run on a CPU, and hooks can be preempted.
 */
#ifndef DETAILS_BPF_H
#define DETAILS_BPF_H

#define NAME_BYTES 255 /* NAME_MAX */
#define MOST_CGROUPS 32

/* Two sizes of record: most programs fit the small one, and then the ring holds seven times as many. */
#define SMALL_PATH 256
#define SMALL_ARGS 768
#define SMALL_NAMES 16
#define LARGE_PATH EGRESS_PATH_BYTES
#define LARGE_ARGS EGRESS_ARGS_BYTES
#define LARGE_NAMES 24

enum outcome {
	SENT,
	TOO_SMALL, /* try the larger record */
	LOST,
};

/* As the kernels we know lay out a directory entry: one read instead of two. */
struct dentry_head {
	struct dentry *parent;
	struct qstr name;
};

/* The same for a mount: three in one. */
struct mount_head {
	struct mount *parent;
	struct dentry *mountpoint;
	struct dentry *top;
};

static __always_inline void read_mount(struct mount_head *head, struct mount *mount)
{
	__u32 parent = bpf_core_field_offset(struct mount, mnt_parent);

	if (bpf_core_field_offset(struct mount, mnt_mountpoint) == parent + 8 &&
	    bpf_core_field_offset(struct mount, mnt.mnt_root) == parent + 16) {
		bpf_core_read(head, sizeof(*head), &mount->mnt_parent);
	} else {
		head->parent = BPF_CORE_READ(mount, mnt_parent);
		head->mountpoint = BPF_CORE_READ(mount, mnt_mountpoint);
		head->top = BPF_CORE_READ(mount, mnt.mnt_root);
	}
}

static __always_inline void read_dentry(struct dentry_head *head, struct dentry *dentry)
{
	if (bpf_core_field_offset(struct dentry, d_name) == bpf_core_field_offset(struct dentry, d_parent) + 8) {
		bpf_core_read(head, sizeof(*head), &dentry->d_parent);
	} else {
		head->parent = BPF_CORE_READ(dentry, d_parent);
		head->name.hash_len = BPF_CORE_READ(dentry, d_name.hash_len);
		head->name.name = BPF_CORE_READ(dentry, d_name.name);
	}
}

/*
 * How much of the path is there already is read from the record each time: of a number in memory the verifier knows
 * nothing, and so it takes all ways through the loop for one.
 */
static __always_inline __u32 path_bytes(const struct egress_details *details)
{
	return *(volatile const __u32 *)&details->path_bytes;
}

/* Ends the name whose bytes end at `used`; false when there is no room. */
static __always_inline bool end_name(struct egress_details *details, __u32 used, __u32 limit)
{
	if (used >= limit)
		return false;
	details->data[used] = '/';
	details->path_bytes = used + 1;
	return true;
}

/* False when there is no room, or nothing to be read. */
static __always_inline bool put_name(struct egress_details *details, const struct qstr *name, __u32 limit)
{
	__u32 bytes = name->hash_len >> 32 & NAME_BYTES;
	__u32 used = path_bytes(details);

	if (used >= limit || bpf_probe_read_kernel(details->data + used, bytes, name->name))
		return false;
	return end_name(details, used + bytes, limit);
}

/* The path up to the root of its mount namespace, over mount points. */
static __always_inline bool put_path(struct egress_details *details, struct path at, __u32 limit, int names)
{
	struct mount *mount = (void *)at.mnt - bpf_core_field_offset(struct mount, mnt);
	struct dentry_head head;
	struct mount_head above;

	read_mount(&above, mount);
#pragma clang loop unroll(disable)
	for (int i = 0; i < names; i++) {
		if (at.dentry == above.top) {
			if (above.parent == mount)
				return true;
			at.dentry = above.mountpoint;
			mount = above.parent;
			read_mount(&above, mount);
			continue;
		}
		read_dentry(&head, at.dentry);
		if (!put_name(details, &head.name, limit))
			return false;
		/* A file without a folder (memfd) is its own parent. */
		if (head.parent == at.dentry)
			return true;
		at.dentry = head.parent;
	}
	return false;
}

static __always_inline void put_args(struct egress_details *details, __u64 bytes, __u32 path_limit, __u32 limit)
{
	__u64 start = details->arg_start;
	__u32 at = path_bytes(details);
	__u8 end = 0;

	if (!start || at > path_limit)
		return;
	if (bytes > limit) {
		bytes = limit;
		details->flags |= EGRESS_ARGS_CUT;
	}
	if (bpf_probe_read_user(details->data + at, bytes, (void *)start)) {
		details->flags |= EGRESS_FAULT;
		return;
	}
	details->flags |= EGRESS_HAS_ARGS;
	details->args_bytes = bytes;
	/* setproctitle(3) writes over the last NUL and goes on into what was the environment. */
	if (bytes && bytes < limit && !bpf_probe_read_user(&end, 1, (void *)(start + bytes - 1)) && end) {
		long title = bpf_probe_read_user_str(details->data + at, limit, (void *)start);

		if (title > 0)
			details->args_bytes = title;
	}
}

/* What a program's memory tells. Kept while the record is written, so read before it is begun. */
struct program {
	struct mm_struct *mm;
	struct path file;
	__u64 arg_start, arg_bytes;
};

static __always_inline void read_program(struct program *program, struct task_struct *task, bool typed)
{
	struct mm_struct *mm = LOAD(typed, task, mm);
	struct file *file;

	program->mm = mm;
	/* A kernel thread may have borrowed a program's memory for a while. */
	if (!mm || LOAD(typed, task, flags) & PF_KTHREAD)
		return;
	program->arg_start = LOAD(typed, mm, arg_start);
	program->arg_bytes = LOAD(typed, mm, arg_end) - program->arg_start;
	file = LOAD(typed, mm, exe_file);
	if (file) {
		program->file.mnt = LOAD(typed, file, f_path.mnt);
		program->file.dentry = LOAD(typed, file, f_path.dentry);
	}
}

/* Addresses of a program's memory are taken twice: in between it may have run another one, or ended. */
static __always_inline bool put_program(struct egress_details *details, const struct program *program,
					struct task_struct *task, __u32 limit, int names)
{
	bool fits = true;

	details->arg_start = program->arg_start;
	if (program->file.mnt)
		fits = put_path(details, program->file, limit, names);
	/* Asked twice, because the answer would not fit on the stack. */
	if (!fits || BPF_CORE_READ(task, mm) != program->mm) {
		details->path_bytes = 0;
		details->flags |= EGRESS_FAULT;
	}
	if (BPF_CORE_READ(task, mm) != program->mm)
		details->arg_start = 0;
	if (path_bytes(details))
		details->flags |= EGRESS_HAS_PATH;
	return fits;
}

static __always_inline void put_namespaces(struct egress_details *details, struct task_struct *task)
{
	struct pid *pid = BPF_CORE_READ(task, thread_pid);
	__u32 level = BPF_CORE_READ(pid, level), own_level = shared.pid_level;
	struct upid number = {};

	bpf_core_read(&number, sizeof(number), &pid->numbers[level]);
	details->pidns = BPF_CORE_READ(number.ns, ns.inum);
	details->netns = BPF_CORE_READ(task, nsproxy, net_ns, ns.inum);
	details->local_pid = details->process.identity.tgid;
	if (own_level) {
		pid = BPF_CORE_READ(task, group_leader, thread_pid);
		if (level >= own_level)
			bpf_core_read(&number, sizeof(number), &pid->numbers[own_level]);
		details->local_pid = level >= own_level && BPF_CORE_READ(number.ns, ns.inum) == shared.pidns ? number.nr : 0;
	}
}

/* The leader may have gone, its number then still is the session's. */
static __always_inline void put_session(struct egress_details *details, struct task_struct *task)
{
	struct signal_struct *signal = BPF_CORE_READ(task, signal);
	struct pid *pid = 0;
	void *node;

	bpf_core_read(&pid, sizeof(pid), &signal->pids[bpf_core_enum_value(enum pid_type, PIDTYPE_SID)]);
	details->session_pid = BPF_CORE_READ(pid, numbers[0].nr);
	bpf_core_read(&node, sizeof(node), &pid->tasks[bpf_core_enum_value(enum pid_type, PIDTYPE_TGID)].first);
	if (node) {
		struct task_struct *leader = node - bpf_core_field_offset(struct task_struct, pid_links) -
					     bpf_core_enum_value(enum pid_type, PIDTYPE_TGID) * sizeof(struct hlist_node);

		BPF_CORE_READ_STR_INTO(&details->session_comm, leader, comm);
	}
}

static __always_inline void put_rest(struct egress_details *details, struct task_struct *task, __u64 parent_start_ns,
				     __u64 parent)
{
	details->kind = EGRESS_PROCESS_DETAILS;
	details->parent.start_ns = parent_start_ns;
	details->parent.tgid = parent >> 32;
	details->parent.exec_id = parent;
	details->loginuid = -1;
	if (bpf_core_field_exists(task->loginuid))
		details->loginuid = BPF_CORE_READ(task, loginuid.val);
	put_namespaces(details, task);
	put_session(details, task);
}

static __always_inline enum outcome send_sized(__u64 parent_start_ns, __u64 parent, __u32 path_limit, __u32 args_limit,
					       int names, bool last)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct program program = {};
	struct egress_details *details;

	read_program(&program, current_task(), has_typed_task());
	if (program.arg_bytes > args_limit && !last)
		return TOO_SMALL;
	details = bpf_ringbuf_reserve(&events, sizeof(*details) + path_limit + args_limit, 0);
	if (!details)
		return LOST;
	__builtin_memset(details, 0, sizeof(*details));
	fill_process(&details->process, current_task());
	if (!put_program(details, &program, task, path_limit, names) && !last) {
		bpf_ringbuf_discard(details, BPF_RB_NO_WAKEUP);
		return TOO_SMALL;
	}
	put_args(details, program.arg_bytes, path_limit, args_limit);
	put_rest(details, task, parent_start_ns, parent);
	bpf_ringbuf_submit(details, BPF_RB_NO_WAKEUP);
	return SENT;
}

/*
 * Functions that are not inlined and take only numbers: the verifier looks at each once for a program, and not once for
 * each way to it. `parent` is tgid and exec_id. The caller's main thread may have ended before it: memory and namespaces
 * are the thread's.
 */
__noinline int send_small(__u64 parent_start_ns, __u64 parent)
{
	return send_sized(parent_start_ns, parent, SMALL_PATH, SMALL_ARGS, SMALL_NAMES, false);
}

__noinline int send_large(__u64 parent_start_ns, __u64 parent)
{
	return send_sized(parent_start_ns, parent, LARGE_PATH, LARGE_ARGS, LARGE_NAMES, true);
}

/* An ancestor's arguments can't be read, so a small record has room for a long path; /proc has longer ones. */
__noinline int send_ancestor(__u64 leader, __u64 parent_start_ns, __u64 parent)
{
	struct task_struct *task = (void *)leader;
	struct program program = {};
	struct egress_details *details =
		bpf_ringbuf_reserve(&events, sizeof(*details) + SMALL_PATH + SMALL_ARGS, 0);

	if (!details)
		return LOST;
	__builtin_memset(details, 0, sizeof(*details));
	fill_ancestor(&details->process, task);
	read_program(&program, task, false);
	put_program(details, &program, task, SMALL_ARGS, LARGE_NAMES);
	put_rest(details, task, parent_start_ns, parent);
	bpf_ringbuf_submit(details, BPF_RB_NO_WAKEUP);
	return SENT;
}

static __always_inline struct kernfs_node *parent_of(struct kernfs_node *node)
{
	struct kernfs_node___since_6_15 *newer = (void *)node;

	if (bpf_core_field_exists(newer->__parent))
		return BPF_CORE_READ(newer, __parent);
	return BPF_CORE_READ(node, parent);
}

static __always_inline bool put_cgroup_path(struct egress_details *details, struct kernfs_node *node, __u32 limit)
{
#pragma clang loop unroll(disable)
	for (int i = 0; i < MOST_CGROUPS; i++) {
		struct kernfs_node *parent = parent_of(node);
		__u32 used = path_bytes(details);
		long bytes;

		if (!parent)
			return true;
		if (used >= limit)
			return false;
		bytes = bpf_probe_read_kernel_str(details->data + used, NAME_BYTES + 1, BPF_CORE_READ(node, name));
		if (bytes <= 0 || !end_name(details, used + bytes - 1, limit))
			return false;
		node = parent;
	}
	return false;
}

/* A path too long for the record stays unknown. */
__noinline int send_cgroup(__u64 id)
{
	struct egress_details *details;
	struct task_struct *task = (void *)bpf_get_current_task();
	struct kernfs_node *node;

	if (id & CGROUP_V1_MEMORY)
		node = memory_node(task);
	else if (id & CGROUP_V1)
		node = pids_node(task);
	else
		node = BPF_CORE_READ(task, cgroups, dfl_cgrp, kn);
	details = bpf_ringbuf_reserve(&events, sizeof(*details) + EGRESS_PATH_BYTES + NAME_BYTES + 1, 0);
	if (!details)
		return LOST;
	__builtin_memset(details, 0, sizeof(*details));
	details->kind = EGRESS_CGROUP_DETAILS;
	details->process.cgroup_id = id;
	if (!put_cgroup_path(details, node, EGRESS_PATH_BYTES)) {
		bpf_ringbuf_discard(details, BPF_RB_NO_WAKEUP);
		return SENT;
	}
	bpf_ringbuf_submit(details, BPF_RB_NO_WAKEUP);
	return SENT;
}

static __always_inline struct egress_known *find_known(const struct egress_process *process)
{
	struct egress_known *entry = bpf_map_lookup_elem(&known, &process->identity);

	return entry && is_same(&entry->process, process, false) ? entry : 0;
}

/* `sent` is what the entry holds: anything, the stack is full. */
static __always_inline bool know_cgroup(const __u64 *id, const void *sent)
{
	if (bpf_map_lookup_elem(&known_cgroups, id))
		return true;
	if (send_cgroup(*id) == LOST)
		return false;
	bpf_map_update_elem(&known_cgroups, id, sent, BPF_ANY);
	return true;
}

/* The main thread of the caller's process, or of one `level`s above it. A number: typed loads are slow to verify. */
__noinline __u64 ancestor_at(__u32 level)
{
	struct task_struct *leader = (void *)bpf_get_current_task();

	leader = BPF_CORE_READ(leader, group_leader);
	for (__u32 i = 0; i <= EGRESS_ANCESTORS && i < level; i++)
		leader = BPF_CORE_READ(leader, real_parent, group_leader);
	return (__u64)leader;
}

static __always_inline __u64 numbers_of(const struct egress_identity *identity)
{
	return (__u64)identity->tgid << 32 | identity->exec_id;
}

static __always_inline bool send_caller(const struct egress_identity *parent)
{
	enum outcome outcome = send_small(parent->start_ns, numbers_of(parent));

	if (outcome == TOO_SMALL)
		outcome = send_large(parent->start_ns, numbers_of(parent));
	return outcome == SENT;
}

/* Sends an ancestor unless it is known; false when the ring is full. `entry` has its parent, then itself. */
static __always_inline bool know_ancestor(struct egress_known *entry, __u64 leader, int ancestors)
{
	struct egress_identity parent = entry->process.identity;
	struct egress_known *before;

	fill_ancestor(&entry->process, (void *)leader);
	before = find_known(&entry->process);
	if (before) {
		before->ancestors = ancestors;
		return true;
	}
	if (send_ancestor(leader, parent.start_ns, numbers_of(&parent)) == LOST)
		return false;
	/* If its arguments were sent before, they still hold. */
	before = bpf_map_lookup_elem(&known, &entry->process.identity);
	entry->flags = before ? before->flags & EGRESS_KNOWN_WHOLE : 0;
	entry->ancestors = ancestors;
	bpf_map_update_elem(&known, &entry->process.identity, entry, BPF_ANY);
	return true;
}

static __always_inline int one_more(int ancestors)
{
	return ancestors < EGRESS_ANCESTORS ? ancestors + 1 : EGRESS_ANCESTORS;
}

/*
 * Up to an ancestor that is known with enough of its own, then down: so that what an entry says of ancestors is true,
 * also when the ring is full half-way. Arguments are sent only when a program connects itself. `entry` is left with the
 * caller's parent, and how many the caller has.
 */
static __always_inline bool know_ancestors(struct egress_known *entry)
{
	/* How many the next one down has; of the last level none are sent. */
	int level, ancestors = 0;

#pragma clang loop unroll(disable)
	for (level = 1; level <= EGRESS_ANCESTORS + 1; level++) {
		struct egress_known *before;

		fill_ancestor(&entry->process, (void *)ancestor_at(level));
		if (!entry->process.identity.tgid) {
			ancestors = EGRESS_ANCESTORS;
			break;
		}
		before = find_known(&entry->process);
		if (before && level + before->ancestors >= EGRESS_ANCESTORS) {
			ancestors = one_more(before->ancestors);
			break;
		}
	}
	if (level > EGRESS_ANCESTORS)
		level = EGRESS_ANCESTORS + 1;
#pragma clang loop unroll(disable)
	while (--level > 0) {
		if (!know_ancestor(entry, ancestor_at(level), ancestors))
			return false;
		ancestors = one_more(ancestors);
	}
	entry->ancestors = ancestors;
	return true;
}

/* Not inlined for its stack. */
static __noinline int fill_caller(struct egress_process *process)
{
	fill_process(process, current_task());
	return 0;
}

static __always_inline bool is_known_whole(const struct egress_process *process)
{
	struct egress_known *before = find_known(process);

	return before && before->flags & EGRESS_KNOWN_WHOLE && before->process.cgroup_id == process->cgroup_id;
}

/* Of all that has a caller sent anew when it changes, by a factor that nobody knows. */
static __always_inline __u64 mark_of(const struct egress_process *process, __u32 *slot)
{
	const __u64 *words = (const __u64 *)process;
	__u64 factor = cfg.hash_factor, mix = (words[0] * factor + words[1]) * factor;

	/* By identity alone: the loader finds it, too. */
	if (slot)
		*slot = mix >> 40 & (EGRESS_TOLD_SLOTS - 1);
#pragma unroll
	for (int i = 2; i < (int)(sizeof(*process) / sizeof(__u64)); i++)
		mix = mix * factor + words[i];
	return mix | 1;
}

/*
 * Sends what the reader doesn't know of the caller, in records that are in the ring before the event, and returns the
 * caller's mark. It is noted as known last: where the ring had no room (0), the next event tries again. Without
 * arguments a function is verified once, not at each call.
 */
__noinline __u64 learn_process(void)
{
	struct egress_known entry = {};

	fill_caller(&entry.process);
	if (!is_known_whole(&entry.process)) {
		if (!know_cgroup(&entry.process.cgroup_id, &entry) || !know_ancestors(&entry) ||
		    !send_caller(&entry.process.identity))
			return 0;
		fill_caller(&entry.process);
		entry.flags = EGRESS_KNOWN_WHOLE;
		bpf_map_update_elem(&known, &entry.process.identity, &entry, BPF_ANY);
	}
	return mark_of(&entry.process, 0);
}

/* Sees to it that the reader knows the caller. */
static __always_inline void know_process(const struct egress_process *self)
{
	__u32 slot;
	__u64 mark = mark_of(self, &slot);

	/* A hidden program that the table of the known ones has lost is hidden again only when it is met again. */
	if (cfg.has_verdicts)
		learn_process();
	else if (*(volatile __u64 *)&shared.told[slot] != mark && learn_process() == mark)
		*(volatile __u64 *)&shared.told[slot] = mark;
}

#endif
