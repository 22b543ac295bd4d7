/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* The one translation unit: maps, then the body that all hooks share, then the hooks. */
#include "kernel.bpf.h"

#include "maps.bpf.h"

#include "process.bpf.h"

#include "filter.bpf.h"

#include "details.bpf.h"

#include "flows.bpf.h"

#include "emit.bpf.h"

#include "hooks_cgroup.bpf.h"
#include "hooks_trace.bpf.h"

#include "written.bpf.h"

#include "hooks_other.bpf.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

/* Run once by the loader itself: the only way to learn one's tgid outside one's own pid namespace. */
SEC("raw_tp/sys_enter")
int whoami(void *ctx)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct pid *pid = BPF_CORE_READ(task, group_leader, thread_pid);
	struct upid number = {};
	__u32 level = BPF_CORE_READ(pid, level);

	shared.tgid = bpf_get_current_pid_tgid() >> 32;
	shared.pid_level = level;
	bpf_core_read(&number, sizeof(number), &pid->numbers[level]);
	shared.pidns = BPF_CORE_READ(number.ns, ns.inum);
	return 0;
}

/* For tests and benchmarks: puts `ctx[0]` records of the running process into the ring without any traffic. */
SEC("raw_tp/sys_exit")
int synthesize(struct bpf_raw_tracepoint_args *ctx)
{
	struct egress_event event;
	struct dest dest = {.family = 4, .protocol = IPPROTO_TCP, .port_be = bpf_htons(443)};
	__u64 wanted = ctx->args[0];

	dest.task = current_task();
	dest.thread = thread_of(dest.task);
	set_v4(&dest, bpf_htonl(0xc0000200));
	fill_process(&event.process, dest.task);
	know_process(&event.process);
	fill_event(&event, &dest, 0, 4026531840, false);
	set_source(&event, bpf_htonl(0xc0000201), 0, 0);
	for (int i = 0; i < 1024; i++) {
		if ((__u64)i >= wanted)
			break;
		event.daddr[15] = i;
		event.sport = 30000 + i;
		submit_or_lose(&event);
	}
	return 0;
}
