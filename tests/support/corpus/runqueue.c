/* How long tasks wait for a CPU: the tracepoints sched_wakeup and sched_switch. Profiles: bpf-core. */

#include <uapi/linux/bpf.h>
#include <linux/sched.h>

#include "program.h"

MAP(woken, HASH, pid_t, u64, 10240);
MAP(waited, HASH, u32, u64, 64);

static inline __attribute__((always_inline)) int waits(pid_t pid)
{
	u64 now = get_time();

	if (pid)
		update(&woken, &pid, &now, 0);
	return 0;
}

SECTION("raw_tracepoint/sched_wakeup")
int wakes(struct bpf_raw_tracepoint_args *context)
{
	return waits(FETCH((struct task_struct *)context->args[0], pid));
}

SECTION("raw_tracepoint/sched_switch")
int switches(struct bpf_raw_tracepoint_args *context)
{
	struct task_struct *before = (struct task_struct *)context->args[1];
	struct task_struct *after = (struct task_struct *)context->args[2];
	pid_t pid = FETCH(after, pid);
	u64 *since;
	u32 milliseconds;

	if (FETCH(before, __state) == TASK_RUNNING)
		waits(FETCH(before, pid));
	since = lookup(&woken, &pid);
	if (!since)
		return 0;
	milliseconds = (get_time() - *since) / 1000000;
	count(&waited, &milliseconds);
	forget(&woken, &pid);
	return 0;
}
